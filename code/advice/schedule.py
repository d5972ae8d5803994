"""A plan that fits the time: at which size and for how many steps each arm is tried, in how many rounds.

Pure arithmetic on what was measured: the seconds of a supervised step at each size, and what a run costs beside its steps.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from advice.arms import Arm
from dataloaders.errors import UserError

WANTED, LEAST = 300, 60
"""Steps that are worth a smaller image size, and below which nothing would be learned."""
USED = 0.9
"""Share of the time that is planned; the rest is for what takes longer than it did when it was measured."""
FINALISTS = 3
"""Arms of the last planned round."""
SIDES = (128, 96, 64)
"""Smaller sizes that are tried for images."""
SMALL_BATCH = (8, 4)
"""Rows, and labelled ones among them, at smaller sizes."""


@dataclass(frozen=True)
class Size:
    """Of the training images, and rows of a batch."""

    patch: tuple[int, ...]
    batch: int
    labeled: int
    """Labelled rows of a batch."""

    @property
    def said(self) -> str:
        """64x64, 8 images a step"""
        return f"{'x'.join(map(str, self.patch))}, {self.batch} {'images' if len(self.patch) == 2 else 'crops'} a step"

    @property
    def words(self) -> list[str]:
        return ["--patch_size", *map(str, self.patch), "--batch_size", str(self.batch), "--labeled_bs", str(self.labeled)]


@dataclass(frozen=True)
class Plan:
    """What will be tried."""

    size: Size
    steps: int
    arms: tuple[str, ...]
    left_out: tuple[str, ...]
    """Arms for which there is no time."""
    rounds: int
    """Divisions of the labelled images that are planned; more where time is left."""
    folds: int
    runs: int
    seconds: float
    """That all this is expected to take."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Plan:
        size = value["size"]
        known = {**value, "size": Size(tuple(size["patch"]), size["batch"], size["labeled"]), "arms": tuple(value["arms"]),
                 "left_out": tuple(value["left_out"])}
        return cls(**known)


def sizes_for(defaults: Mapping[str, object], dimensions: int, patch: Sequence[int] | None) -> list[Size]:
    """The sizes that come into question, the dearest first: the data set's own, then smaller ones; one that is given is the only one."""
    own = tuple(int(str(side)) for side in (defaults.get("patch_size") or (256, 256)))  # type: ignore[attr-defined]
    batch, labeled = int(str(defaults.get("batch_size", 24))), int(str(defaults.get("labeled_bs", 12)))
    wanted = tuple(patch) if patch else own
    small = (min(batch, SMALL_BATCH[0]), min(labeled, SMALL_BATCH[1]))
    found = [Size(wanted, batch, labeled), Size(wanted, *small)]
    if not patch and dimensions == 2:
        found += [Size((side, side), *small) for side in SIDES if side < min(own)]
    elif not patch:
        found.append(Size(tuple(max(32, side // 32 * 16) for side in own), *small))
    return list(dict.fromkeys(found))


def programme(arms: Sequence[Arm], folds: int, budgets: int, rounds: int) -> list[tuple[Arm, int]]:
    """(arm, runs) of all rounds, as many arms surviving as halving leaves: the dearest, since nobody knows yet which."""
    supervised, others = [arm for arm in arms if not arm.unlabeled], [arm for arm in arms if arm.unlabeled]
    found = [(arm, folds) for arm in arms] + [(supervised[0], folds * budgets)]
    dear = sorted(others, key=lambda arm: -arm.cost)
    if rounds > 1:
        found += [(arm, folds) for arm in (supervised[-1], *dear[: -(-len(dear) // 2)])]
    if rounds > 2:
        found += [(arm, folds) for arm in (supervised[-1], *dear[: FINALISTS - 1])]
    return found


def seconds_of(runs: Sequence[tuple[Arm, int]], step: float, beside: float, steps: int) -> float:
    """That the runs take; step: of a supervised one; beside: what each run costs more."""
    return sum(count * (beside + steps * step * arm.cost) for arm, count in runs)


def steps_within(runs: Sequence[tuple[Arm, int]], step: float, beside: float, seconds: float) -> int:
    """How many steps each run may have."""
    left = seconds - beside * sum(count for _, count in runs)
    return int(left / (step * sum(count * arm.cost for arm, count in runs)))


def planned(seconds: float, arms: Sequence[Arm], folds: int, budgets: int, step: Mapping[Size, float], beside: float, most: int,
            steps: int | None = None, used: float = 0.0) -> Plan:
    """The largest size at which `WANTED` steps fit all rounds; else the smallest with what fits, then fewer rounds, then fewer arms.

    step: seconds of a supervised step by size, the dearest first; most: steps of the data set's own training; steps: those that were asked
    for; used: seconds of the time that are over already. Raises `UserError` with the time that the least would take.
    """
    usable, smallest = USED * seconds, list(step)[-1]
    wanted, least = (steps, steps) if steps else (min(WANTED, most), min(LEAST, most))
    for size, cost in step.items():
        runs = programme(arms, folds, budgets, 3)
        if (fitting := steps_within(runs, cost, beside, usable)) >= wanted:
            return _plan(size, steps or min(fitting, most), arms, arms, 3, folds, runs, cost, beside)
    cost, fewest = step[smallest], 2 + min(1, sum(arm.unlabeled for arm in arms))
    for rounds, count in [(3, len(arms)), (2, len(arms)), *((1, count) for count in range(len(arms), fewest - 1, -1))]:
        runs = programme(arms[:count], folds, budgets, rounds)
        if (fitting := steps_within(runs, cost, beside, usable)) >= least:
            return _plan(smallest, steps or min(fitting, most), arms[:count], arms, rounds, folds, runs, cost, beside)
    needed = seconds_of(runs, cost, beside, least) / USED + used
    raise UserError(f"--hours {(seconds + used) / 3600:.3g}: too little for an answer on this machine, where a step at {smallest.said} "
                    f"takes {cost:.2g} s and a run {beside:.0f} s more. Supervised training and one other method over {folds} parts take "
                    f"about --hours {max(needed / 3600, 0.01):.2f}.")


def widened(plan: Plan, arms: Sequence[Arm], budgets: int, seconds: float, step: float, beside: float) -> Plan:
    """The plan with arms that were left out of it, as many as `seconds` altogether allow; itself where none fits. arms: all, in the order
    in which they are left out from the end."""
    for count in range(len(arms), len(plan.arms), -1):
        runs = programme(arms[:count], plan.folds, budgets, plan.rounds)
        if seconds_of(runs, step, beside, plan.steps) <= USED * seconds:
            return _plan(plan.size, plan.steps, arms[:count], arms, plan.rounds, plan.folds, runs, step, beside)
    return plan


def _plan(size: Size, steps: int, arms: Sequence[Arm], every: Sequence[Arm], rounds: int, folds: int, runs: Sequence[tuple[Arm, int]],
          step: float, beside: float) -> Plan:
    names = tuple(arm.name for arm in arms)
    return Plan(size, steps, names, tuple(arm.name for arm in every if arm.name not in names), rounds, folds,
                sum(count for _, count in runs), seconds_of(runs, step, beside, steps))
