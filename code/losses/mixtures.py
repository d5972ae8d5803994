"""Images pasted together of two, of which each part is learned from labels of its own (BCP, ABD)."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from losses.overlap import IGNORED, dice_per_class
from losses.supervised import supervised_loss


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of the rows of a batch; of an odd number both have the middle one, so that they are equally long."""
    return rows[: (len(rows) + 1) // 2], rows[len(rows) // 2 :]


def mixture_loss(logits: Tensor, outside: Tensor, inside: Tensor, box: Tensor, weights: tuple[float, float], dice: str) -> Tensor:
    """w_o S(logits, outside) where the box is not, plus w_i S(logits, inside) where it is; S = (CE + Dice) / 2, a scalar.

    logits (B, C, *sides); outside, inside (B, *sides): the labels of the two images; box (*sides) bool; weights (w_o, w_i). `dice` is a
    name in `supervised.DICE`, or "unmasked": as "batch", with the whole image's Dice of class 0 for either part, as in the code that BCP
    published first.
    """
    total = logits.new_zeros(())
    for weight, labels, other in ((weights[0], outside, box), (weights[1], inside, ~box)):
        part = labels.masked_fill(other, IGNORED)
        loss = supervised_loss(logits, part, "batch" if dice == "unmasked" else dice)
        if dice == "unmasked":
            p = logits.softmax(1)
            masked, whole = dice_per_class(p, part, 1e-10)[0], dice_per_class(p, labels, 1e-10)[0]
            loss = loss + (whole - masked) / (2 * p.shape[1])
        total = total + weight * loss
    return total


def labeled_mixture_loss(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, box: Tensor, dice: str) -> dict[str, Tensor]:
    """The terms of BCP's first stage: of labelled images (B, C, *sides) the first half, pasted through the box into the second.

    With the Dice of a "sample" the mixed label map is learned as a whole, else part by part.
    """
    (a, b), (inside, outside) = halves(images), halves(labels)
    mixed_images, mixed_labels = torch.where(box, a, b), torch.where(box, inside, outside)
    logits = network(mixed_images)
    loss = supervised_loss(logits, mixed_labels, dice) if dice == "sample" else mixture_loss(logits, outside, inside, box, (1, 1), dice)
    return {"total": loss, "mixed_images": mixed_images, "mixed_labels": mixed_labels}
