"""What the stages of self-training learn from: lists of images, their repetitions, and when snapshots are kept (ST++)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

FEW_STEPS = 100
"""With fewer a first stage learns next to nothing."""


def first_steps(given: int | None, share: int, say: Callable[[str], object]) -> int:
    """Steps of the first stage: those that were given, or as many epochs as the last has. Says where they are few: published runs have
    thousands, short ones with few labels a handful."""
    steps = given or share
    if steps < FEW_STEPS:
        say(f"The first stage has {steps} steps" + ("" if given else ", as many epochs as the last") + ": few to learn from, and what its "
            "network says is what later stages are taught. --pre_iterations 300 gives it more, a larger --max_iterations all stages.")
    return steps


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
