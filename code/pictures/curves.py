"""Learning curves of a run."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pictures.sheets import plt, save_figure

Series = dict[str, list[tuple[int, float]]]
"""By name: (step, value), in order."""
NOT_LOSSES = ("step", "kind", "stage", "wait_share", "mask_share")


def logged(metrics: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl; those that are no line of a run (damaged, cut off) are left out."""
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and isinstance(entry.get("kind"), str):
            yield entry


def read_curves(metrics: Path) -> tuple[Series, Series, dict[str, int]]:
    """(losses, validation Dice, ends of stages) from a metrics.jsonl; a stage goes on where the one before it ended.

    What two stages call by one name is told apart: the earlier stage's is "name (stage)".
    """
    losses: Series = {}
    scores: Series = {}
    ends: dict[str, int] = {}
    stage, begin, last = "", 0, 0
    for entry in logged(metrics):
        if entry.get("stage", "") != stage:
            if stage:
                ends[stage] = begin + last
            stage, begin, last = entry.get("stage", ""), begin + last, 0
        last, suffix = max(last, entry["step"]), f" ({stage})" if stage else ""
        step = begin + entry["step"]
        if entry["kind"] == "train":
            for name, value in entry.items():
                if isinstance(value, int | float) and name not in NOT_LOSSES and not name.startswith(("lr_", "pseudo_labels")):
                    losses.setdefault(name + suffix, []).append((step, value))
        elif entry["kind"].startswith("validation/"):
            scores.setdefault(entry["kind"].removeprefix("validation/") + suffix, []).append((step, entry.get("dice/mean") or 0.0))
    return losses, scores, ends


def learning_curves(metrics: Path, path: Path) -> bool:
    """A PNG of a run's losses and validation Dice; False where there is nothing to draw."""
    if not metrics.exists():
        return False
    losses, scores, ends = read_curves(metrics)
    if not losses and not scores:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, curves, title in ((left, losses, "losses"), (right, scores, "validation Dice")):
        for name, points in curves.items():
            axis.plot(*zip(*points), label=name, linewidth=1.2, marker="o" if len(points) == 1 else None)
        for name, step in ends.items():
            axis.axvline(step, color="grey", linewidth=0.8, linestyle=":")
            axis.annotate(f"{name} ends", (step, 1), xycoords=("data", "axes fraction"), fontsize=6, rotation=90, va="top", ha="right")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
        if curves:
            axis.legend(fontsize=7, frameon=False)
    right.set_ylim(0, 1)
    save_figure(figure, path)
    return True
