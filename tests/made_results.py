"""Result files of runs that never were: plausible scores, for tests of the report and its page.

Cases have a difficulty that all methods share, so that scores are paired; methods, seeds and draws have effects of their own.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from command_line.declarations import harmless, option_names
from command_line.options import Options
from dataloaders.catalog import DATA_SETS
from metrics import summarize


@dataclass(frozen=True)
class Scene:
    """Test cases of a data set."""

    groups: int
    cases: int
    """Of a group."""
    diagonal: float
    spacing: float | None
    """Mm of a voxel, None where it is unknown."""
    absent: float
    """Share of classes that a case lacks."""


SCENES = {"Phantom": Scene(20, 2, 90.5, 1.5, 0.0), "ACDC": Scene(20, 2, 300.0, None, 0.0), "NEU-Seg": Scene(60, 1, 282.8, None, 0.6),
          "Phantom3D": Scene(20, 1, 96.0, 1.0, 0.0)}
STRENGTH = {"Supervised": 0.0, "MeanTeacher": 0.03, "UAMT": 0.02, "FixMatch": 0.05, "simEps": 0.06, "CPS": 0.045, "SemSim": -0.02}
"""What a method adds to Supervised in Dice; unknown ones 0.01."""
OWN: dict[str, dict[str, object]] = {
    "Supervised": {"augment": "published"},
    "MeanTeacher": {"consistency": 0.1, "ema_decay": 0.99},
    "simEps": {"variant": "paper", "sim_weight": 1.0},
}
FURTHER = {"MeanTeacher": ("student", ("teacher",)), "simEps": ("ensemble", ("branch1", "branch2", "branch3"))}
"""The quoted predictor, and the others."""


def make_results(folder: Path, methods: Sequence[str] = ("Supervised", "MeanTeacher", "simEps"), budgets: Sequence[str] = ("3", "7"),
                 folds: int | None = 5, seeds: Sequence[int] = (0, 1), draws: Sequence[int] = (), data_set: str = "Phantom",
                 upper: bool = True, scale: float = 1.0, **options: object) -> list[Path]:
    """Writes a file a predictor of every run, as a sweep lays them out in `folder` (results/NAME); gives their paths.

    folds: every fold of so many (None: the official split); draws: seeds of the draw of labelled cases (none: the first in the list).
    upper: Supervised with all labels too. scale: multiplies the strengths of the methods, 0 makes them equal but for chance.
    options: values that differ from the defaults, of all runs (`max_iterations=100`). The same arguments give the same bytes.
    """
    runs = [(method, budget) for budget in budgets for method in methods] + ([("Supervised", "all")] if upper else [])
    places: list[int | None] = [None] if folds is None else list(range(folds))
    written = []
    for method, budget in runs:
        for fold in places:
            for draw in (draws if draws and budget != "all" else (None,)):
                for seed in seeds:
                    written += _run(folder, data_set, method, budget, fold, folds or 5, draw, seed, scale, options)
    return written


def _run(folder: Path, name: str, method: str, budget: str, fold: int | None, folds: int, draw: int | None, seed: int, scale: float,
         given: dict[str, object]) -> list[Path]:
    data, scene = DATA_SETS[name], SCENES[name]
    groups = [g for g in range(scene.groups) if fold is None or g % folds == fold]
    common = {name: getattr(Options, name) for name in option_names(Options) if name not in harmless(Options)}
    options: dict[str, Any] = {**common, "protocol": data.protocols[0], **data.defaults, "deterministic": 1, "device": "cpu",
                               "labeled_num": budget, "fold": fold, "folds": folds, "seed": seed, **OWN.get(method, {}), **given}
    if draw is not None:
        options |= {"labeled_choice": "random", "labeled_seed": draw}
    number = 60 if budget == "all" else max(1, round(float(budget.rstrip("%")) * (0.6 if budget.endswith("%") else 1)))
    level = 0.62 + 0.07 * np.log2(1 + number) + (0 if budget == "all" else scale * STRENGTH.get(method, 0.01))
    level += 0.012 * _noise(name, method, budget, fold, draw, seed) + (0.02 * _noise(name, budget, fold, draw) if draw is not None else 0)
    labeled = [f"patient{100 + k:03d}" for k in range(number)]
    quoted, others = FURTHER.get(method, ("network", ()))
    place = folder / f"{method}_{budget}_labeled" / str(options["model"])
    split = options["protocol"] if fold is None else f"fold{fold}of{folds}"
    stem = split + (f"_draw{draw}" if draw is not None else "") + f"_seed{seed}"
    stem += "".join(f"_{key}={value}" for key, value in given.items())
    root = f" --fold {fold} --folds {folds}" if fold is not None else ""
    drawn = f" --labeled_choice random --labeled_seed {draw}" if draw is not None else ""
    more = "".join(f" --{key} {value}" for key, value in given.items())
    run: dict[str, Any] = {
        "method": method, "data_set": name, "dimensions": data.dimensions, "options": options,
        "split": {"name": split, "labeled": labeled, "unlabeled": 60 - number, "val": [f"patient{k:03d}" for k in range(90, 96)]},
        "remarks": [data.note] if data.note else [], "code": "0123456789abcdef", "commit": "0" * 40,
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.4.6"},
        "machine": {"host": "made", "device": "x86_64", "threads": 1, "system": "Linux"},
        "command": f"code/train_{method}.py --dataset {name} --labeled_num {budget}{root}{drawn} --seed {seed}{more} "
                   f"--exp {folder.name}/{method}",
        "changes": [], "selection": "best on validation cases",
        "selected": {one: {"step": 300, "validation_dice": round(level, 4)} for one in (quoted, *others)},
    }
    written = []
    for index, predictor in enumerate((quoted, *others)):
        rows, cases = _scores(data.classes[1:], scene, groups, name, level - 0.01 * index, (method, budget, fold, draw, seed, predictor))
        value = {
            "schema": 1,
            "run": {**run, "predictor": predictor,
                    "training": {"step": options["max_iterations"], "seconds": 60 + 20 * len(others) + 5 * _noise(method, fold, seed),
                                 "waited": 0.5, "validation_seconds": 2.0, "peak_memory": 400_000_000 + 10**8 * len(others)},
                    "test": {"date": "2026-11-21", "commit": "0" * 40, "empty": "penalty", "metrics": "numba", "seconds": 1.0,
                             "peak_memory": 300_000_000, "device": "cpu"}},
            "summary": summarize(rows, data.classes[1:]), "cases": cases,
        }
        path = place / f"{stem}{f'_{predictor}' if index else ''}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        written.append(path)
    return written


def _scores(classes: Sequence[str], scene: Scene, groups: Sequence[int], name: str, level: float,
            words: tuple[object, ...]) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Scores of every class of every case, and the same as the list `cases` of a result file."""
    rng = _stream("scores", name, *words)
    rows, cases = [], []
    for group in groups:
        for k in range(scene.cases):
            hard, lacking = _difficulty(name, group, k, len(classes), scene.absent)
            row = []
            for index, of in enumerate(classes):
                dice = float(np.clip(level - 0.04 * index + hard[index] + rng.normal(0, 0.03), 0, 0.995))
                kind = ("false" if rng.random() < 0.05 else "both") if lacking[index] else "missed" if rng.random() < 0.01 else ""
                score: dict[str, Any] = {"dice": dice, "jaccard": dice / (2 - dice), "hd95_vox": 20 * (1 - dice), "asd_vox": 6 * (1 - dice)}
                if kind:
                    overlap, distance = (None, None) if kind == "both" else (0.0, scene.diagonal)
                    score = {"dice": overlap, "jaccard": overlap, "hd95_vox": distance, "asd_vox": distance}
                if scene.spacing:
                    score |= {f"{key}_mm": None if score[f"{key}_vox"] is None else score[f"{key}_vox"] * scene.spacing
                              for key in ("hd95", "asd")}
                row.append({**score, "empty": kind})
                cases.append({"name": f"patient{group:03d}_frame{k + 1:02d}", "group": f"patient{group:03d}", "class": of, **row[-1]})
            rows.append(row)
    return rows, cases


@cache
def _difficulty(name: str, group: int, k: int, classes: int, absent: float) -> tuple[np.ndarray, np.ndarray]:
    """What all methods share of a case: how hard each class is, and which it lacks."""
    rng = _stream("difficulty", name, group, k)
    return rng.normal(0, 0.06, classes), rng.random(classes) < absent


def _stream(*words: object) -> np.random.Generator:
    return np.random.default_rng(list("/".join(map(str, words)).encode()))


def _noise(*words: object) -> float:
    return float(_stream(*words).normal())
