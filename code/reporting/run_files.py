"""What a report needs of the runs themselves: their folders, learning curves and predictions, where these are still there."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from evaluation.export import file_name
from reporting.records import Record
from storage.folders import model_folder

ENDINGS = (".nii.gz", ".png")


def run_folder(record: Record) -> Path | None:
    """The folder of a result's run: the same path below model/ ($SEMISEG_MODEL); None where it is not there."""
    parts = record.path.resolve().with_name(record.path.name.removesuffix(".json")).parts
    for start in range(1, len(parts)):
        folder = model_folder().joinpath(*parts[start:])
        if (folder / "config.json").is_file():
            return folder
    return None


def predictions(record: Record) -> dict[str, dict[str, Path]]:
    """By case: its `img`, `pred` and `gt` files, where all three are there. One listing of a folder, whatever it holds."""
    folder = run_folder(record)
    if folder is None or not (folder / "predictions").is_dir():
        return {}
    there = {path.name for path in (folder / "predictions").iterdir()}
    found = {}
    for case in dict.fromkeys(case["name"] for case in record.cases):
        for ending in ENDINGS:
            names = {kind: f"{file_name(case)}_{kind}{ending}" for kind in ("img", "pred", "gt")}
            if there.issuperset(names.values()):
                found[case] = {kind: folder / "predictions" / name for kind, name in names.items()}
    return found


@dataclass(frozen=True)
class Curves:
    """Of a run's last stage: what was logged, by step."""

    loss: dict[int, float]
    """The total loss."""
    dice: dict[int, float]
    """Mean validation Dice of the predictor that the result quotes, 0 to 1; where that was scored at the end alone (an ensemble), the mean
    over its networks."""


def curves(record: Record) -> Curves | None:
    """From metrics.jsonl of the run's folder; None where there is none. Lines that are no JSON (a run cut off) are left out."""
    folder = run_folder(record)
    if folder is None or not (folder / "metrics.jsonl").is_file():
        return None
    lines: list[dict[str, Any]] = []
    for text in (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            lines.append(value)
    last = lines[-1].get("stage") if lines else None
    lines = [line for line in lines if line.get("stage") == last]
    loss = {line["step"]: line["total"] for line in lines if line.get("kind") == "train" and _is_number(line.get("total"))}
    scores: dict[str, dict[int, float]] = {}
    for line in lines:
        kind = str(line.get("kind"))
        if kind.startswith("validation/") and _is_number(line.get("dice/mean")):
            scores.setdefault(kind.removeprefix("validation/"), {})[line["step"]] = line["dice/mean"]
    quoted = scores.pop(record.run["predictor"], {})
    by_step: dict[int, list[float]] = {}
    for one in scores.values():
        for step, dice in one.items():
            by_step.setdefault(step, []).append(dice)
    networks = {step: mean(found) for step, found in by_step.items()}
    return Curves(loss, networks if len(quoted) < len(networks) else quoted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")
