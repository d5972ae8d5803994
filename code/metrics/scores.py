"""Scores of a case, class by class, and their summary over cases; what a missing structure counts is said here alone.

House convention (`empty="penalty"`): a class absent from prediction and reference is flagged "both" and left out of every mean.
Absent from one: Dice and Jaccard 0, each distance the image's diagonal in its unit, flagged "missed" (no prediction) or
"false" (no reference); the summary counts both as missed. `empty="published"` is the field's older convention, zeros
(also for the distances, hence a perfect one) that enter the means, for comparison with published tables.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metrics.overlap import abs_ravd, dice, dice_of_counts, jaccard, jaccard_of_counts
from metrics.surface import SurfaceSweep, binary_metrics, checked_spacing, sweep

Score = dict[str, float | str | None]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    num_classes: int,
    spacing: Sequence[float] | None = None,
    ignored: int | None = None,
    empty: str = "penalty",
    only_fast: bool = False,
    backend: str = "numba",
) -> list[Score]:
    """One dict for each foreground class 1..C-1 of two label maps (Y, X) or (Z, Y, X).

    Keys: `dice`, `jaccard`, `hd95_vox`, `asd_vox`, with `spacing` (mm per voxel in the array's axis order) also `hd95_mm` and
    `asd_mm`, and `empty`: "", "both", "missed" or "false". Values are None for "both" under the house convention.
    Positions whose reference is `ignored` count as background in both maps. `only_fast` gives `dice`, `hd95_vox` and `empty`
    alone. `backend="medpy"` computes the same with medpy, which is GPL and must be installed by hand.
    ValueError for maps of different shapes, labels outside 0..C-1, or an unknown `empty` or `backend`.
    """
    if empty not in ("penalty", "published") or backend not in ("numba", "medpy"):
        raise ValueError(f"empty={empty!r}, backend={backend!r}: expected 'penalty' or 'published', and 'numba' or 'medpy'.")
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if ignored is not None and prediction.shape == reference.shape:
        dropped = reference == ignored
        if dropped.any():
            prediction, reference = np.where(dropped, 0, prediction), np.where(dropped, 0, reference)
    found = sweep(prediction, reference)
    for name, voxels in (("prediction", found.voxels_prediction), ("reference", found.voxels_reference)):
        if voxels[num_classes:].any():
            raise ValueError(f"{name} holds label {int(np.flatnonzero(voxels).max())}: expected 0..{num_classes - 1}.")
    units: dict[str, Sequence[float] | None] = {"vox": None}
    if spacing is not None:
        checked_spacing(spacing, prediction.ndim)
        if not only_fast:
            units["mm"] = spacing
    scores = []
    for label in range(1, num_classes):
        n_prediction, n_reference = found.voxels_prediction[label], found.voxels_reference[label]
        if n_prediction and n_reference:
            measure = _measure_medpy if backend == "medpy" else _measure
            score = {**measure(found, prediction, reference, label, units), "empty": ""}
        else:
            kind = "missed" if n_reference else "false" if n_prediction else "both"
            score = _empty_score(kind, empty, found.shape, units)
        scores.append({key: score[key] for key in ("dice", "hd95_vox", "empty")} if only_fast else score)
    return scores


def _measure(found: SurfaceSweep, prediction: np.ndarray, reference: np.ndarray, label: int, units: dict[str, Any]) -> Score:
    counts = found.voxels_prediction[label], found.voxels_reference[label], found.voxels_both[label]
    score: Score = {"dice": dice_of_counts(*counts), "jaccard": jaccard_of_counts(*counts)}
    for unit, spacing in units.items():
        distances = found.metrics(label, spacing)
        score[f"hd95_{unit}"], score[f"asd_{unit}"] = distances.hd95, distances.asd
    return score


def _measure_medpy(found: SurfaceSweep, prediction: np.ndarray, reference: np.ndarray, label: int, units: dict[str, Any]) -> Score:
    try:
        from medpy.metric import binary
    except ImportError as error:
        raise ValueError("the metric backend medpy is not installed: type `pip install medpy` (GPL-3), or leave it out.") from error
    p, r = prediction == label, reference == label
    score: Score = {"dice": float(binary.dc(p, r)), "jaccard": float(binary.jc(p, r))}
    for unit, spacing in units.items():
        score[f"hd95_{unit}"] = float(binary.hd95(p, r, voxelspacing=spacing))
        score[f"asd_{unit}"] = float(binary.asd(p, r, voxelspacing=spacing))
    return score


def _empty_score(kind: str, empty: str, shape: tuple[int, ...], units: dict[str, Any]) -> Score:
    none: dict[str, float | None] = {"dice": 0.0, "jaccard": 0.0}
    for unit, spacing in units.items():
        diagonal = math.hypot(*(n * step for n, step in zip(shape, checked_spacing(spacing, len(shape)))))
        none[f"hd95_{unit}"] = none[f"asd_{unit}"] = 0.0 if empty == "published" else diagonal
    if kind == "both" and empty == "penalty":
        none = dict.fromkeys(none)
    return {**none, "empty": kind}


def score_counts(counts: np.ndarray) -> list[Score]:
    """What `score_case` gives, from pixel counts (C, C) of a case, rows reference, columns prediction: for every class, background first,
    `dice`, `jaccard` and `empty`; distances, which counts do not tell, are None."""
    scores: list[Score] = []
    for label in range(len(counts)):
        found, there, both = float(counts[:, label].sum()), float(counts[label].sum()), float(counts[label, label])
        kind = "" if found and there else "missed" if there else "false" if found else "both"
        overlap = (None, None) if kind == "both" else (dice_of_counts(found, there, both), jaccard_of_counts(found, there, both))
        scores.append({"dice": overlap[0], "jaccard": overlap[1], "hd95_vox": None, "asd_vox": None, "empty": kind})
    return scores


def summarize(case_scores: Sequence[Sequence[Score]], class_names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Means over cases for each class, and under "mean" the mean over the classes of those means (as published).

    `case_scores`: for each case what `score_case` gave; `class_names`: the foreground classes in the same order. For each class:
    the metrics that all cases have, `hd95_vox_found` (over cases where both have the class), `missed` (absent from exactly one),
    `both_empty`, and `n`, the number of cases in the means. Under "mean" the last three are sums over classes. A mean over nothing is None.
    """
    wrong = {len(scores) for scores in case_scores} - {len(class_names)}
    if wrong or not class_names:
        raise ValueError(f"cases with {sorted(wrong)} scores for the {len(class_names)} classes {list(class_names)}.")
    usual = ["dice", "jaccard", "hd95_vox", "asd_vox"]
    metrics = [key for key in case_scores[0][0] if key != "empty" and all(key in rows[0] for rows in case_scores)] if case_scores else usual
    summary: dict[str, dict[str, float | int | None]] = {"mean": {}}
    for index, name in enumerate(class_names):
        rows = [scores[index] for scores in case_scores]
        entry: dict[str, float | int | None] = {key: _mean([row[key] for row in rows]) for key in metrics}
        entry["hd95_vox_found"] = _mean([row["hd95_vox"] for row in rows if row["empty"] == ""])
        entry["missed"] = sum(row["empty"] in ("missed", "false") for row in rows)
        entry["both_empty"] = sum(row["empty"] == "both" for row in rows)
        entry["n"] = sum(row["dice"] is not None for row in rows)
        summary[name] = entry
    classes = [summary[name] for name in class_names]
    for key in (*metrics, "hd95_vox_found"):
        summary["mean"][key] = _mean([entry[key] for entry in classes])
    for key in ("missed", "both_empty", "n"):
        summary["mean"][key] = sum(int(entry[key] or 0) for entry in classes)
    return summary


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


_ORDER: dict[str, tuple[str, ...]] = {
    "val_2d": ("dice", "hd95"),
    "val_3d": ("dice", "hd95"),
    "test_2d": ("dice", "hd95", "asd"),
    "test_3d": ("dice", "ravd", "hd95", "asd"),
    "test_urpc": ("dice", "ravd", "hd95", "asd"),
    "test_la": ("dice", "jaccard", "hd95", "asd"),
}


def published_convention(name: str, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    """What a published evaluation reports for two masks, in its order and in voxels.

    `val_2d`, `val_3d`: Dice, HD95. `test_2d`: Dice, HD95, ASD. `test_3d`, `test_urpc`: Dice, |RAVD|, HD95, ASD. `test_la`: Dice,
    Jaccard, HD95, ASD. Zeros where the prediction is empty (`val_2d`, `test_la`) or either is (`val_3d`, `test_urpc`).
    ValueError where the original raises: one mask is empty and it has no guard; also for an unknown name.
    """
    if name not in _ORDER:
        raise ValueError(f"evaluation {name!r}: expected one of {', '.join(_ORDER)}.")
    no_prediction, no_reference = not np.any(prediction), not np.any(reference)
    guarded = {"val_2d": no_prediction, "test_la": no_prediction, "val_3d": no_prediction or no_reference}
    guarded["test_urpc"] = guarded["val_3d"]
    if guarded.get(name, False):
        return (0.0,) * len(_ORDER[name])
    distances = binary_metrics(prediction, reference)
    values: dict[str, Callable[[], float]] = {
        "dice": lambda: dice(prediction, reference),
        "jaccard": lambda: jaccard(prediction, reference),
        "ravd": lambda: abs_ravd(prediction, reference),
        "hd95": lambda: distances.hd95,
        "asd": lambda: distances.asd,
    }
    return tuple(values[key]() for key in _ORDER[name])
