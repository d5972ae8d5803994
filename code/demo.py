"""Five minutes on Phantom: simEps against a supervised run of the same budget, tested, with a table and a picture.

`python code/demo.py` is what `make demo` runs. `python code/demo.py --comparison` makes results/phantom.md: three seeds, and the
mean of three supervised networks as the fair opponent of a method that averages three (about half an hour on two cores).
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import nibabel
import numpy as np
import torch
import tyro

from dataloaders import catalog
from dataloaders.splits import test_cases
from engine import results
from engine.ensembles import MeanLogits
from engine.folders import model_folder, result_path
from engine.options import REPOSITORY
from engine.pictures import grey, informative_slice, legend, overlay, plt, read_curves, save_figure
from engine.run import finish_with
from val_2D import Validator

CODE = Path(__file__).resolve().parent
HEART = catalog.DATA_SETS["Phantom"].classes
SEED = 1337


@dataclass
class Demo:
    comparison: bool = False
    """Make results/phantom.md: the honest comparison over three seeds."""


def folder(method: str, budget: str = "7", seed: int = SEED) -> Path:
    return model_folder() / "Phantom" / f"{method}_{budget}_labeled" / "unet" / f"official_seed{seed}"


def train(jobs: list[tuple[str, str, int]]) -> None:
    """Trains (method, budget, seed) runs, two at a time, each with half of the cores; their lines appear with the method's name."""
    waiting = list(reversed(jobs))
    failed: list[str] = []
    cores = max((os.cpu_count() or 2) // 2, 1)

    def worker() -> None:
        while waiting and not failed:
            method, budget, seed = waiting.pop()
            title = f"{method}" + (f" ({budget} labelled, seed {seed})" if len(jobs) > 2 else "")
            script = str(CODE / f"train_{method}.py")
            command = [sys.executable, script, "--dataset", "Phantom", "--labeled_num", budget, "--seed", str(seed)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
            assert process.stdout is not None
            for line in process.stdout:
                print(f"[{title}] {line.rstrip()}", flush=True)
            if process.wait():
                failed.append(f"{title} ended with code {process.returncode}; its last lines are above.")

    workers = [threading.Thread(target=worker) for _ in range(2)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
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
        losses, validated = read_curves(folder(method) / "metrics.jsonl")
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
    train([("simEps", "7", SEED), ("Supervised", "7", SEED)])
    for method in ("Supervised", "simEps"):
        test(method)
    path = REPOSITORY / "results" / "demo.png"
    picture(path)
    lines = (("supervised", scores("Supervised")), ("one simEps branch alone", scores("simEps", "branch1")),
             ("simEps (mean of 3 branches)", scores("simEps")))
    print(f"\nPhantom (synthetic), 20 test patients, 7 labelled patients ({time.time() - began:.0f} s). "
          "One seed: differences of a few points mean little; results/phantom.md has three seeds.")
    print(f"{'':<30}{'Dice':>8}{'HD95 vox':>10}   " + "  ".join(HEART[1:]))
    for title, summary in lines:
        classes = "  ".join(f"{summary[name]['dice']:>{len(name)}.3f}" for name in HEART[1:])
        print(f"{title:<30}{summary['mean']['dice']:>8.3f}{summary['mean']['hd95_vox']:>10.2f}   {classes}")
    print(f"\nPicture: {os.path.relpath(path)}")
    print("Next, with ACDC in data/ACDC (data/README.md says how):  .venv/bin/python code/train_simEps.py --labeled_num 7")
    print("Or with your own images, images/ and masks/ in D:        .venv/bin/python code/train_simEps.py --dataset folder --root_path D")


SEEDS = (1, 2, 3)


def comparison() -> None:
    """Trains 9 supervised runs with 7 patients (three groups of three), 3 with all, 3 simEps; tests on Phantom's test patients."""
    nine = [10 * seed + i for seed in SEEDS for i in range(3)]
    data, root, _ = catalog.resolve("Phantom", None, REPOSITORY)
    source = catalog.open_source(data, root)
    jobs = [("simEps", "7", seed) for seed in SEEDS]
    train([*jobs, *(("Supervised", "all", seed) for seed in SEEDS), *(("Supervised", "7", seed) for seed in nine)])
    device = torch.device("cpu")
    settings = json.loads((folder("simEps", seed=SEEDS[0]) / "config.json").read_text())["options"]
    validator = Validator(source, test_cases(source, "official", None, 5, 0), settings["patch_size"], device)

    def networks(method: str, budget: str, seed: int) -> dict:
        run = results.TestedRun(folder(method, budget, seed), {}, {})
        return results.predictors(run, "best", device)

    @torch.no_grad()
    def tested(network) -> tuple[float, float]:
        row = validator(network)["mean"]
        return row["dice"], row["hd95_vox"]

    table: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        group = [networks("Supervised", "7", 10 * seed + i)["network"] for i in range(3)]
        branches = networks("simEps", "7", seed)
        for title, network in (
            ("supervised, 7 patients", group[0]),
            ("mean of three supervised networks, 7 patients", MeanLogits(group).eval()),
            ("one simEps branch alone, 7 patients", branches["branch1"]),
            ("simEps (mean of 3 branches), 7 patients", branches["ensemble"]),
            ("supervised, all 70 patients", networks("Supervised", "all", seed)["network"]),
        ):
            table.setdefault(title, []).append(tested(network))
    write_comparison(REPOSITORY / "results" / "phantom.md", table, settings)


def write_comparison(path: Path, table: dict[str, list[tuple[float, float]]], settings: dict) -> None:
    def cell(values: list[float], digits: int) -> str:
        return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"

    rows = [f"| {title} | {cell([dice for dice, _ in values], 3)} | {', '.join(f'{dice:.3f}' for dice, _ in values)} | "
            f"{cell([distance for _, distance in values], 2)} |" for title, values in table.items()]
    text = "\n".join([
        "# Phantom: the honest comparison", "",
        "Phantom is synthetic: these figures say that the program works, and nothing about patients. "
        "Made by `python code/demo.py --comparison`.", "",
        f"20 test patients (40 volumes), {settings['max_iterations']} steps, batch {settings['batch_size']} (supervised: all labelled; "
        f"simEps: {settings['labeled_bs']} labelled), 64x64, best step by validation Dice. Mean ± standard deviation over seeds 1, 2, 3, "
        f"and each seed. simEps: similarity weight {settings['sim_weight']:g}, consistency {settings['consistency']:g}.", "",
        "| | Dice | each seed | HD95 (voxels) |", "|---|---|---|---|", *rows, "",
        "The fair opponent of simEps, which averages three networks, is the mean of three supervised networks.", ""])
    path.write_text(text)
    print(text)
    print(f"Written to {os.path.relpath(path)}")


def main(options: Demo) -> None:
    comparison() if options.comparison else demo()


if __name__ == "__main__":
    sys.exit(finish_with(lambda: main(tyro.cli(Demo, use_underscores=True, description=__doc__))))
