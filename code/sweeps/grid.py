"""Which runs a sweep has: every method with every budget, fold or draw, and seed."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Combination:
    """One run, by what makes it another than its neighbours."""

    method: str
    labeled: str
    fold: int | None
    """None: the official split."""
    draw: int | None
    """None: the labelled ones are the first of the published order."""
    seed: int

    @property
    def title(self) -> str:
        """MeanTeacher, 7 labelled, fold 0, draw 2, seed 1"""
        parts = [self.method, f"{self.labeled} labelled"]
        parts += [f"fold {self.fold}"] if self.fold is not None else []
        parts += [f"draw {self.draw}"] if self.draw is not None else []
        return ", ".join([*parts, f"seed {self.seed}"])

    def words(self, folds: int | None, name: str) -> list[str]:
        """The options of the script that say so. `name`: the sweep's."""
        words = ["--labeled_num", self.labeled, "--seed", str(self.seed), "--exp", f"{name}/{self.method}"]
        if self.fold is not None:
            words += ["--fold", str(self.fold), "--folds", str(folds)]
        if self.draw is not None:
            words += ["--labeled_choice", "random", "--labeled_seed", str(self.draw)]
        return words


def combinations(methods: Sequence[str], budgets: Sequence[str], folds: Sequence[int], draws: int | None, seeds: Sequence[int],
                 baselines: bool) -> list[Combination]:
    """Every run once, those that are compared with each other side by side, so that the first results are a comparison.

    `folds` empty: the official split. `baselines` adds Supervised with each budget and with all labels. Where all are labelled there
    is nothing to draw: such a run is made once, whatever `draws`.
    """
    pairs = [("Supervised", budget) for budget in (*budgets, "all")] if baselines else []
    pairs += [(method, budget) for budget in budgets for method in methods]
    parts: Sequence[int | None] = folds or [None]
    labels: Sequence[int | None] = range(draws) if draws else [None]
    found = [Combination(method, budget, fold, None if budget == "all" else draw, seed)
             for seed in seeds for fold in parts for draw in labels for method, budget in pairs]
    return list(dict.fromkeys(found))
