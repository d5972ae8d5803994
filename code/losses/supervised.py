"""The supervised term that nearly all methods share."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from losses.overlap import cross_entropy, dice_loss, halved_dice_loss, sample_dice_loss, unsquared_dice_loss
from losses.ranks import batch_sum

DICE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": dice_loss, "foreground": partial(dice_loss, foreground_only=True), "linear": unsquared_dice_loss,
    "smooth": partial(dice_loss, smooth=1e-4), "batch": partial(dice_loss, smooth=1e-10), "sample": sample_dice_loss,
    "halved": halved_dice_loss,
}
"""The published forms of the Dice loss: SSL4MIS; UA-MT on LA (class 0 left out); simEps; CrossMatch on ACDC; BCP on ACDC, and on LA;
SCP-Net."""


def supervised_loss(logits: Tensor, labels: Tensor, dice: str = "squared") -> Tensor:
    """(cross-entropy + Dice) / 2 of logits (B, C, *spatial) and labels (B, *spatial); a scalar.

    Label 255 is ignored; with no counted pixel the loss is 0. `dice` is a name in `DICE`.
    """
    loss = (cross_entropy(logits, labels) + DICE[dice](logits, labels)) / 2
    return loss * (batch_sum((labels != 255).sum()) > 0)
