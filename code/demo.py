"""Two minutes on a drawn data set: a semi-supervised run against a supervised one of the same labels, tested, with a table and a picture.

`python code/demo.py` is what `make demo` runs, `python code/demo.py --data defects` what `make demo DATA=defects` does. Both sides have the
same steps, size of images and batch; results/phantom.md has the settings over three seeds. All methods: `make comparison`.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import nibabel
import numpy as np
import tyro
from PIL import Image

from dataloaders import catalog
from dataloaders.description import DataSet
from dataloaders.reading import informative_slice
from evaluation.export import file_name
from pictures.curves import read_curves
from pictures.flat import grey, overlay
from pictures.sheets import legend, plt, save_figure
from storage.folders import REPOSITORY, model_folder, result_path
from system.ending import finish_with
from system.jobs import run_all

CODE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Show:
    """What is shown on a data set."""

    data_set: str
    method: str
    labeled: str
    things: str
    """What is labelled: patients, photographs."""
    options: Mapping[str, tuple[str, ...]]
    """Common options of both runs, in the order in which a run's name has them."""
    own: str
    """What tells its picture from the others'."""
    note: str = ""
    """What should be known of the figures."""

    @property
    def data(self) -> DataSet:
        return catalog.DATA_SETS[self.data_set]

    @property
    def words(self) -> list[str]:
        return [word for name, values in self.options.items() for word in (f"--{name}", *values)]


SHOWS = {
    "phantom": Show("Phantom", "FixMatch", "7", "patients", {"max_iterations": ("150",)}, ""),
    "defects": Show("PhantomDefect", "FixMatch", "20", "photographs", {"max_iterations": ("150",), "patch_size": ("64", "64")}, "_defects",
                    "Too few steps for a gain by unlabelled photographs here: on validation cases FixMatch had 0.19, supervised 0.25."),
}


@dataclass
class Demo:
    data: Literal["phantom", "defects"] = "phantom"
    """phantom: slices of a heart; defects: photographs of a surface with scratches, spots and inclusions."""
    seed: int = 2
    """Seed of both runs; of seeds 1, 2 and 3 the one with the middle gap on validation cases."""


def folder(method: str, show: Show, seed: int) -> Path:
    """Of the run, below model/demo/."""
    own = "".join(f"_{name}={'x'.join(values)}" for name, values in show.options.items())
    return model_folder() / "demo" / show.data_set / f"{method}_{show.labeled}_labeled" / "unet" / f"official_seed{seed}{own}"


def command(method: str, show: Show, seed: int) -> list[str]:
    """Of a training."""
    return [sys.executable, str(CODE / f"train_{method}.py"), "--dataset", show.data_set, "--labeled_num", show.labeled, *show.words,
            "--seed", str(seed), "--exp", f"demo/{show.data_set}/{method}"]


def train(methods: tuple[str, ...], show: Show, seed: int) -> None:
    """Trains with the same labels, side by side."""
    failed = run_all([(method, command(method, show, seed)) for method in methods])
    if failed:
        raise catalog.UserError("\n".join(failed), 3)


def test(run: Path) -> None:
    command = [sys.executable, str(CODE / "test_2D.py"), "--run", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise catalog.UserError(f"The test of {run} failed:\n{done.stdout}{done.stderr}", 3)


def result(run: Path) -> dict[str, Any]:
    return json.loads(result_path(run).read_text(encoding="utf-8"))


def median_case(run: Path) -> str:
    """The name of the test case with the median score."""
    dice: dict[str, list[float]] = {}
    for row in result(run)["cases"]:
        dice.setdefault(row["name"], []).append(row["dice"] or 0.0)
    return sorted(dice, key=lambda name: mean(dice[name]))[len(dice) // 2]


def picture(path: Path, show: Show, runs: Mapping[str, Path]) -> None:
    """Image, reference and both predictions of the median case, and both learning curves."""
    case = median_case(runs[show.method])

    def read(method: str, kind: str) -> np.ndarray:
        """(S, H, W)."""
        stem = runs[method] / "predictions" / f"{file_name(case)}_{kind}"
        if show.data.intensities == "8-bit":
            return np.asarray(Image.open(f"{stem}.png").convert("L") if kind == "img" else Image.open(f"{stem}.png"))[None]
        return np.asarray(nibabel.load(f"{stem}.nii.gz").dataobj).T  # type: ignore[attr-defined]

    image, reference = read(show.method, "img"), read(show.method, "gt")
    k = informative_slice(reference)
    panels = {"image": grey(image[None, k]), "reference": overlay(image[None, k], reference[k])}
    for method in ("Supervised", show.method):
        title = f"{'supervised' if method == 'Supervised' else method}, {show.labeled} {show.things}"
        panels[title] = overlay(image[None, k], read(method, "pred")[k])
    figure = plt.figure(figsize=(11, 6.2))
    for i, (title, panel) in enumerate(panels.items()):
        axis = figure.add_subplot(2, 4, i + 1)
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    for i, (method, run) in enumerate(runs.items()):
        losses, validated, _ = read_curves(run / "metrics.jsonl")
        for j, (curves, title) in enumerate((({"loss": losses["total"]}, f"{method}: loss"), (validated, f"{method}: validation Dice"))):
            axis = figure.add_subplot(2, 4, 5 + 2 * i + j)
            for name, points in curves.items():
                axis.plot(*zip(*points), label=name, marker="o" if len(points) == 1 else None, linewidth=1.2)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("step", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
            if j:
                axis.set_ylim(0, 1)
                axis.legend(fontsize=6, frameon=False)
    legend(figure, show.data.classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def table(show: Show, runs: Mapping[str, Path], seconds: float) -> str:
    """The scores on the screen."""
    cases = len({row["name"] for row in result(runs["Supervised"])["cases"]})
    lines = [f"{show.data_set} (synthetic), {cases} test cases, {show.labeled} labelled {show.things} ({seconds:.0f} s). One seed: "
             f"differences of a few points mean little{'; results/phantom.md has three' if show.data_set == 'Phantom' else ''}.",
             f"{'':<24}{'Dice':>8}{'HD95 vox':>10}   " + "  ".join(show.data.classes[1:])]
    for method, run in runs.items():
        summary = result(run)["summary"]
        classes = "  ".join(f"{summary[name]['dice']:>{len(name)}.3f}" for name in show.data.classes[1:])
        title = "supervised" if method == "Supervised" else method
        lines.append(f"{title:<24}{summary['mean']['dice']:>8.3f}{summary['mean']['hd95_vox']:>10.2f}   {classes}")
    return "\n".join([*lines, show.note] if show.note else lines)


def demo(options: Demo) -> None:
    began, show = time.time(), SHOWS[options.data]
    catalog.open_source(*catalog.resolve(show.data_set, None, REPOSITORY)[:2])  # drawn once, before two processes want it
    counts = "of 70" if options.data == "phantom" else "of 200"
    print(f"Two trainings side by side on {show.data_set} (synthetic, drawn by this program), {show.labeled} labelled {show.things} "
          f"{counts}: {show.method}, and supervised.", flush=True)
    methods = ("Supervised", show.method)
    train(methods, show, options.seed)
    runs = {method: folder(method, show, options.seed) for method in methods}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(test, runs.values()))
    path = REPOSITORY / "results" / f"demo{show.own}.png"
    picture(path, show, runs)
    print("\n" + table(show, runs, time.time() - began))
    print(f"\nPicture: {os.path.relpath(path)}")
    print("Next, with ACDC in data/ACDC (data/README.md says how):  .venv/bin/python code/train_simEps.py --labeled_num 7")
    print("Or with your own images, images/ and masks/ in D:        .venv/bin/python code/train_FixMatch.py --dataset folder --root_path D")


if __name__ == "__main__":
    sys.exit(finish_with(lambda: demo(tyro.cli(Demo, use_underscores=True, description=__doc__))))
