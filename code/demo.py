"""Five minutes on Phantom: simEps against a supervised run of the same budget, tested, with a table and a picture.

`python code/demo.py` is what `make demo` runs. All methods, over three seeds and beside fair opponents: `make comparison`.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import nibabel
import numpy as np
import tyro

from dataloaders import catalog
from dataloaders.reading import informative_slice
from pictures.curves import read_curves
from pictures.flat import grey, overlay
from pictures.sheets import legend, plt, save_figure
from storage.folders import REPOSITORY, model_folder, result_path
from system.ending import finish_with
from system.jobs import run_all

CODE = Path(__file__).resolve().parent
HEART = catalog.DATA_SETS["Phantom"].classes
SEED = 1337


def folder(method: str) -> Path:
    return model_folder() / "Phantom" / f"{method}_7_labeled" / "unet" / f"official_seed{SEED}"


def train(methods: tuple[str, ...]) -> None:
    """Trains with 7 labelled patients, side by side."""
    words = ["--dataset", "Phantom", "--labeled_num", "7", "--seed", str(SEED)]
    failed = run_all([(method, [sys.executable, str(CODE / f"train_{method}.py"), *words]) for method in methods])
    if failed:
        raise catalog.UserError("\n".join(failed), 3)


def test(method: str) -> None:
    command = [sys.executable, str(CODE / "test_2D.py"), "--run", str(folder(method))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise catalog.UserError(f"The test of {method} failed:\n{done.stdout}{done.stderr}", 3)


def scores(method: str, predictor: str = "") -> dict[str, dict[str, float]]:
    return json.loads(result_path(folder(method), predictor).read_text())["summary"]


def picture(path: Path) -> None:
    """Image, reference and both predictions of the median case, and both learning curves."""
    rows = json.loads(result_path(folder("simEps")).read_text())["cases"]
    dice: dict[str, list[float]] = {}
    for row in rows:
        dice.setdefault(row["name"], []).append(row["dice"] or 0.0)
    case = sorted(dice, key=lambda name: mean(dice[name]))[len(dice) // 2]

    def read(method: str, kind: str) -> np.ndarray:
        return np.asarray(nibabel.load(folder(method) / "predictions" / f"{case}_{kind}.nii.gz").dataobj).T  # type: ignore[attr-defined]

    image, reference = read("simEps", "img"), read("simEps", "gt")
    k = informative_slice(reference)
    panels = {"image": grey(image[None, k]), "reference": overlay(image[None, k], reference[k])}
    for method, title in (("Supervised", "supervised, 7 patients"), ("simEps", "simEps, 7 patients")):
        panels[title] = overlay(image[None, k], read(method, "pred")[k])
    figure = plt.figure(figsize=(11, 6.2))
    for i, (title, panel) in enumerate(panels.items()):
        axis = figure.add_subplot(2, 4, i + 1)
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    for i, method in enumerate(("Supervised", "simEps")):
        losses, validated, _ = read_curves(folder(method) / "metrics.jsonl")
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
    legend(figure, HEART)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def demo() -> None:
    began = time.time()
    print("Two trainings side by side on Phantom (synthetic, drawn by this program), 7 labelled patients of 70: "
          "simEps, and supervised.", flush=True)
    catalog.open_source(*catalog.resolve("Phantom", None, REPOSITORY)[:2])  # drawn once, before two processes want it
    train(("simEps", "Supervised"))
    for method in ("Supervised", "simEps"):
        test(method)
    path = REPOSITORY / "results" / "demo.png"
    picture(path)
    lines = (("supervised", scores("Supervised")), ("one simEps branch alone", scores("simEps", "branch1")),
             ("simEps (mean of 3 branches)", scores("simEps")))
    print(f"\nPhantom (synthetic), 20 test patients, 7 labelled patients ({time.time() - began:.0f} s). "
          "One seed: differences of a few points mean little; results/phantom.md has all methods.")
    print(f"{'':<30}{'Dice':>8}{'HD95 vox':>10}   " + "  ".join(HEART[1:]))
    for title, summary in lines:
        classes = "  ".join(f"{summary[name]['dice']:>{len(name)}.3f}" for name in HEART[1:])
        print(f"{title:<30}{summary['mean']['dice']:>8.3f}{summary['mean']['hd95_vox']:>10.2f}   {classes}")
    print(f"\nPicture: {os.path.relpath(path)}")
    print("Next, with ACDC in data/ACDC (data/README.md says how):  .venv/bin/python code/train_simEps.py --labeled_num 7")
    print("Or with your own images, images/ and masks/ in D:        .venv/bin/python code/train_simEps.py --dataset folder --root_path D")


if __name__ == "__main__":
    sys.exit(finish_with(lambda: tyro.cli(demo, description=__doc__)))
