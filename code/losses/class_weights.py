"""Weights of classes that follow training (DHC; Wang and Li, MICCAI 2023), and how often a class is asked for (C3PS).

The first two give C weights a step, the largest of which is C, (C,) float32 without gradient. Several processes count the pixels of all.
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from losses.overlap import one_hot, summed_errors
from losses.ranks import batch_sums

SMALLEST = 1e-8


def hard_dice(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(2 TP + s) / (2 TP + FP + FN + 2 s) of each class over all pixels that are not ignored, (C,), s = 1e-8: 1/2 for a class that is
    neither predicted nor there."""
    truth, counted = one_hot(labels, num_classes)
    found = one_hot(predicted, num_classes)[0] * counted
    space = [0, *range(2, truth.dim())]
    overlap, total = batch_sums((found * truth).sum(space), found.sum(space) + truth.sum(space))
    return (2 * overlap + SMALLEST) / (total + 2 * SMALLEST)


def by_frequency(counts: Tensor) -> Tensor:
    """C r_c / max r with r_c = ln(max n / n_c): 0 for the most frequent class, C for the rarest; (C,) counts of pixels.

    Of classes that are all as frequent each weighs 1.
    """
    counts = counts.float() + SMALLEST
    rarity = (counts.max() / counts).log()
    return torch.where(rarity.max() > 0, len(counts) * rarity / rarity.max().clamp(min=SMALLEST), 1.0)


class DifficultyWeights:
    """A class weighs the more the lower its Dice on labels stands, and the more it has fallen rather than risen of late."""

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", keep: float = 49 / 50):
        self.keep = keep
        """Share of the past in all moving averages."""
        start = {"dice": SMALLEST, "rise": 0.0, "fall": 0.0, "error": 1.0}
        self.state = {name: torch.full((num_classes,), value, device=device) for name, value in start.items()}

    @torch.no_grad()
    def seen(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weights after these labelled images: (B, C, *spatial) and (B, *spatial)."""
        state, before = self.state, self.state["dice"]
        dice = hard_dice(logits.argmax(1), labels, logits.shape[1])
        change = (dice - before) * (dice / before).log()  # never negative
        for name, value in (("rise", change * (dice > before)), ("fall", change * (dice <= before)), ("error", 1 - dice)):
            state[name] = self.keep * state[name] + (1 - self.keep) * value
        state["dice"] = dice
        weights = ((state["fall"] + SMALLEST) / (state["rise"] + SMALLEST)) ** (1 / 5) * state["error"]
        return len(weights) * weights / weights.max()

    def state_dict(self) -> dict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name: state[name].to(value.device) for name, value in self.state.items()}


class FrequencyWeights:
    """A class weighs the more the rarer it is: at first in the labels, then more and more in the pseudo-labels.

    Args:
        counts: (C,) pixels of each class in all labelled images.
        keep: share of the past in the moving average.
        least: what a count of pseudo-labels is raised to. With 0 (published) a class that one batch lacks takes almost all the weight.
    """

    def __init__(self, counts: Tensor, keep: float = 0.99, least: float = 0.0):
        self.keep, self.least, self.weights = keep, least, by_frequency(counts)

    @torch.no_grad()
    def seen(self, logits: Tensor) -> Tensor:
        """The weights after what is said of these unlabelled images, (B, C, *spatial)."""
        found = logits.argmax(1)  # bincount would have the host wait for the largest
        (counts,) = batch_sums(torch.stack([(found == c).sum() for c in range(logits.shape[1])]))
        self.weights = self.keep * self.weights + (1 - self.keep) * by_frequency(counts.clamp(min=self.least))
        return self.weights

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.weights = state["weights"].to(self.weights.device)


class RecentDice:
    """How well each foreground class is segmented of late, by a network that is asked for one class a row; the worse, the more it is asked.

    Args:
        num_classes: background included.
        keep: share of the past in the moving averages.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", keep: float = 0.98):
        self.keep, self.dice = keep, torch.zeros(num_classes - 1, device=device)

    @torch.no_grad()
    def seen(self, logits: Tensor, labels: Tensor, classes: Tensor) -> None:
        """Takes what is said of labelled images: (B, 2, *sides), labels (B, *sides) of 0 and 1, and the class of each row (B,) from 1."""
        truth, counted = one_hot(labels, 2)
        found = one_hot(logits.argmax(1), 2)[0] * counted
        space = list(range(1, labels.dim()))
        rows = one_hot(classes - 1, len(self.dice))[0].T
        overlap, total = batch_sums(rows @ (found * truth)[:, 1].sum(space), rows @ (found + truth)[:, 1].sum(space))
        dice = self.keep * self.dice + (1 - self.keep) * 2 * overlap / total.clamp(min=1)
        self.dice = torch.where(total > 0, dice, self.dice)

    def shares(self, focused: bool) -> np.ndarray:
        """Probabilities of the foreground classes, (C - 1,): in proportion to 1 - Dice where `focused`, else all alike."""
        wanted = (1 - self.dice).cpu().double().numpy() * focused + SMALLEST
        return wanted / wanted.sum()

    def state_dict(self) -> dict[str, Tensor]:
        return {"dice": self.dice}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.dice = state["dice"].to(self.dice.device)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """sum v[y] (-log softmax(z)[y]) / sum v[y], over pixels that are not ignored; 0 where all of these weigh nothing."""
    errors = summed_errors(logits, labels, weights)
    counted = one_hot(labels, logits.shape[1])[0].sum([0, *range(2, logits.dim())])
    errors, mass = batch_sums(errors, (counted * weights).sum())
    return errors / mass.clamp(min=SMALLEST)


def weighted_dice(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """-mean over the foreground of v_c (2 sum p y + 1) / (sum (p + y) + 1 + 1e-8), sums over batch and space: at best minus their mean."""
    target, counted = one_hot(labels, logits.shape[1])
    probabilities = logits.softmax(1) * counted
    space = [0, *range(2, logits.dim())]
    overlap, total = batch_sums((probabilities * target).sum(space), (probabilities + target).sum(space))
    return -(weights * (2 * overlap + 1) / (total + 1 + SMALLEST))[1:].mean()
