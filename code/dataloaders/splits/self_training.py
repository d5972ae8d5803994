"""What the stages of self-training learn from: lists of images, their repetitions, and when snapshots are kept (ST++)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def supervised_list(labeled: Sequence[T]) -> list[T]:
    """What an epoch on labelled images is: each once, or twice where they are fewer than 200."""
    return [*labeled] * (2 if len(labeled) < 200 else 1)


def retraining_list(labeled: Sequence[T], unlabeled: Sequence[T]) -> list[T]:
    """What an epoch on both is: the labelled ones repeated until they are no fewer, then the unlabelled ones; empty without these."""
    return [*labeled] * -(-len(unlabeled) // len(labeled)) + [*unlabeled]


def thirds(steps: int) -> list[int]:
    """The steps, counted from 1, after which snapshots are kept: at each third, the end included; fewer of fewer than three steps."""
    return sorted({steps // 3, 2 * steps // 3, steps} - {0})


def lower_half(things: Sequence[T], scores: Sequence[float]) -> tuple[list[T], list[T]]:
    """(the half of the things with the lower scores, rounded down; the others), each the lowest score first."""
    ranked = by_score(things, scores)
    return ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]


def by_score(things: Sequence[T], scores: Sequence[float]) -> list[T]:
    """The things, the lowest score first; equal ones stay in order."""
    return [things[k] for k in sorted(range(len(things)), key=scores.__getitem__)]
