"""Every method under one schedule, beside honest baselines, in one table.

`make comparison` is `python code/compare.py`: Phantom, 7 labelled patients, three seeds, results/phantom.md. `--table acdc_small` makes
results/acdc_small.md: real ACDC at 64x64 and 2,000 steps. `--table neu_seg` is the table of simEps's paper, every method on the schedule
on which its authors ran it on NEU-Seg, a matter of days on a GPU; `--table neu_seg_small` the same methods at 64x64 and 944 steps.
Every row is a flat script, trained and tested; a row that is done is not run again, so the command can be stopped and given again. What
stands in the page below its marker line is kept.

    python code/compare.py --methods CPS URPC --seeds 1
"""
from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
import tyro

from command_line.options import Options
from dataloaders import catalog
from dataloaders.splits.split import SplitRequest, test_cases
from evaluation import results
from inference import Validator, inference_of
from networks.ensembles import MeanLogits
from reporting.rows import RECONSTRUCTIONS
from storage.folders import REPOSITORY, model_folder, result_path
from system.ending import finish_with
from system.jobs import run_all

CODE = Path(__file__).resolve().parent
ORDER = ("MeanTeacher", "UAMT", "ACMT", "URPC", "CPS", "CCT", "ICT", "CrossTeaching", "FixMatch", "FixMatchStandardAugs", "FixMatchCTA",
         "UniMatch", "DSSN", "SemSim", "BCP", "ABD", "ABDCrossTeaching", "MCF", "DHC", "ADMT", "CrossMatch", "SCPNet", "CAML", "CoBioNet",
         "C3PS", "DCNet", "CRIINet", "FSSLPLD", "MLBSeg", "PatchCL",
         "EntMin", "DAN", "DCT", "RDrop", "ReCo", "UCC", "UAPS", "CDMA", "IIU", "HCE", "simEps")
OF_SIMEPS = ("MeanTeacher", "CPS", "CCT", "DAN", "DCT", "ICT", "ReCo", "UCC", "UAPS", "simEps")
"""What simEps's authors compare, beside a supervised network."""
OF_VOLUMES = ("DeSCO",)
"""Scripts that take no images, and have no row here."""
MARKER = "<!-- What stands below this line is written by hand and kept. -->"


@dataclass(frozen=True)
class Score:
    """A number of a result file."""

    place: str
    """The keys that lead to it."""
    name: str
    digits: int

    def of(self, result: dict[str, Any]) -> float:
        found: Any = result
        for key in self.place.split():
            found = found[key]
        return found


@dataclass(frozen=True)
class Table:
    """What all rows of a page share."""

    title: str
    said: str
    data_set: str
    budget: str = "7"
    words: tuple[str, ...] = ()
    own: dict[str, str] = field(default_factory=dict)
    """Options that only some scripts have, for those."""
    seeds: tuple[int, ...] = (1, 2, 3)
    averaged: bool = True
    """Whether three supervised networks are trained for every seed, and averaged: the fair opponent of methods of several networks."""
    methods: tuple[str, ...] = ()
    """The scripts beside a supervised network; without it all, and further baselines."""
    scores: tuple[Score, Score] = (Score("summary mean dice", "Dice", 3), Score("summary mean hd95_vox", "HD95 (voxels)", 2))
    """What is told of a result, the first of each seed too."""
    own_schedules: bool = False
    """Whether each method has the schedule on which it was published, so that steps and batch are told row by row."""


PER_IMAGE = (Score("images training_size per_image miou", "mIoU", 3), Score("images training_size per_image mdice", "Dice", 3))
"""As simEps's authors score: of each image over its own classes, at the size at which it is trained."""
TABLES = {
    "phantom": Table(
        "Phantom: every method, one schedule",
        "Phantom is synthetic: these figures say that the program works, and nothing about patients.", "Phantom"),
    "acdc_small": Table(
        "ACDC at a small schedule",
        "This is no published protocol: 64x64 pixels, batches of 8, 2,000 steps, one seed, on CPU cores. The figures say that the methods "
        "run and learn on real images; they are not to be put beside published ones.", "ACDC", "7",
        ("--patch_size", "64", "64", "--batch_size", "8", "--labeled_bs", "4", "--max_iterations", "2000"),
        {"consistency_rampup": "13", "consistency_start": "67", "pre_iterations": "667", "displaced_until": "1333"}, seeds=(1337,),
        averaged=False),
    "neu_seg": Table(
        "NEU-Seg: the table of simEps, on the published schedules",
        "The official split of NEU-Seg, of whose 840 test images 570 have turned copies in the training part. Each method as simEps's "
        "authors ran it, with its own number of steps, so part of a difference is length of training.",
        "NEU-Seg", "10%", ("--protocol", "official"), seeds=(1337,), averaged=False, methods=OF_SIMEPS, scores=PER_IMAGE,
        own_schedules=True),
    "neu_seg_small": Table(
        "NEU-Seg: the table of simEps, at a small schedule",
        "This is no published protocol: the official split of NEU-Seg at 64x64 pixels, batches of 8 labelled and 8 unlabelled images, 944 "
        "steps, on CPU cores. The figures say that the methods run and learn on real images; they are not to be put beside published ones.",
        "NEU-Seg", "10%",
        ("--protocol", "official", "--patch_size", "64", "64", "--batch_size", "16", "--labeled_bs", "8", "--max_iterations", "944",
         "--steps_per_epoch", "59", "--val_every", "59"),
        {"consistency_rampup": "6", "consistency_start": "27"}, seeds=(1, 2), averaged=False, methods=OF_SIMEPS, scores=PER_IMAGE),
}


@dataclass(frozen=True)
class Row:
    title: str
    script: str
    words: tuple[str, ...] = ()
    labeled: str = ""
    """Label budget; without it the page's."""

    @property
    def key(self) -> str:
        """Tells the row from the others of its script, as a word for the run's folder."""
        return "_".join([self.script, *(word.removeprefix("--") for word in self.words)])


SUPERVISED = Row("supervised", "Supervised")
BASELINES = (
    SUPERVISED,
    Row("supervised, strong augmentation", "Supervised", ("--augment", "strong")),
    Row("supervised with all labels", "Supervised", labeled="all"),
)


RELATIVES = {"DCNet": (Row("CPS on two heads", "DCNet", ("--second", "plain")),)}
"""By method: rows of the same script that stand beside it, its nearest relative where that is no script of its own."""


@dataclass
class Compare:
    table: Literal["phantom", "acdc_small", "neu_seg", "neu_seg_small"] = "phantom"
    """Which page."""
    methods: tuple[str, ...] = ()
    """Only these scripts (Supervised is one of them). Without it: all."""
    seeds: tuple[int, ...] = ()
    """Without it: the table's own (1 2 3 on Phantom)."""
    root_path: Path | None = None
    """Folder of the data set."""
    jobs: int = 2
    """Runs at a time."""


def three(seed: int) -> list[int]:
    """Seeds of the networks that are averaged: that of the row, and two that no other row has."""
    return [seed, seed + 100, seed + 200]


def rows_of(options: Compare) -> list[Row]:
    """The rows to train: baselines, and methods in the order of this page."""
    table = TABLES[options.table]
    there = [path.stem.removeprefix("train_") for path in sorted(CODE.glob("train_*.py"))]
    for name in options.methods:
        if name not in there:
            raise catalog.UserError(f"--methods {name}: there is no code/train_{name}.py; there are {', '.join(there)}.")
    methods = [name for name in table.methods or (*ORDER, *there) if name in there and name not in ("Supervised", *OF_VOLUMES)]
    rows = [SUPERVISED] if table.methods else [*BASELINES]
    for name in dict.fromkeys(methods):
        rows += [Row(f"{name} (a reconstruction)" if name in RECONSTRUCTIONS else name, name), *RELATIVES.get(name, ())]
    return [row for row in rows if not options.methods or row.script in options.methods]


def command(row: Row, table: Table, seed: int, options: Compare, where: str) -> list[str]:
    """The training command of a row."""
    script = CODE / f"train_{row.script}.py"
    text = script.read_text()
    own = [word for name, value in table.own.items() if f"    {name}:" in text for word in (f"--{name}", value)]
    root = ["--root_path", str(options.root_path)] if options.root_path else []
    return [sys.executable, str(script), "--dataset", table.data_set, *root, "--labeled_num", row.labeled or table.budget, *table.words,
            *own, *row.words, "--seed", str(seed), "--exp", f"{where}/{row.key}"]


def folder(row: Row, seed: int, where: str, budget: str) -> Path | None:
    """The finished run of a row, None where there is none."""
    runs = [path.parent for path in (model_folder() / where).glob(f"{row.key}_{row.labeled or budget}_labeled/*/*/status.json")
            if re.search(rf"_seed{seed}(_|$)", path.parent.name) and json.loads(path.read_text())["state"] == "done"]
    return max(runs, key=lambda path: path.stat().st_mtime) if runs else None


def scores(run: Path) -> dict[str, dict[str, Any]]:
    """Result files of a run by predictor, the quoted one first; tested first where it is not yet."""
    file = result_path(run)
    if not file.exists() or file.stat().st_mtime < (run / "status.json").stat().st_mtime:
        failed = run_all([("test", [sys.executable, str(CODE / "test_2D.py"), "--run", str(run)])], 1)
        if failed:
            raise catalog.UserError(f"{run}: the test failed.", 3)
    found = [json.loads(path.read_text()) for path in (file, *sorted(file.parent.glob(f"{file.stem}_*.json")))]
    return {one["run"]["predictor"]: one for one in found}


def averaged(runs: list[Path]) -> tuple[float, float]:
    """(Dice, HD95 in voxels) of the mean of several runs' networks on the test cases."""
    config = json.loads((runs[0] / "config.json").read_text())
    data, root, _ = catalog.resolve(config["data_set"], Path(config["root"]), REPOSITORY)
    source, settings = catalog.open_source(data, root), config["options"]
    cases = test_cases(source, SplitRequest.of(settings))
    device = torch.device("cpu")
    members = [results.trained(results.TestedRun(run, {}, {}), "best", device).predictors["network"] for run in runs]
    with torch.no_grad():
        inference = inference_of(source.data, settings["patch_size"], None, device)
        row = Validator(source, cases, inference)(MeanLogits(members).eval())["mean"]
    return row["dice"], row["hd95_vox"]


def main(options: Compare) -> None:
    table, where = TABLES[options.table], options.table
    seeds = options.seeds or table.seeds
    rows = rows_of(options)
    catalog.open_source(*catalog.resolve(table.data_set, options.root_path, REPOSITORY)[:2])  # Phantom is drawn once, not by every run
    trainings = [(row, seed) for seed in seeds for row in rows if row != SUPERVISED]
    if SUPERVISED in rows:
        trainings = [(SUPERVISED, one) for seed in seeds for one in (three(seed) if table.averaged else [seed])] + trainings
    jobs = [(f"{row.title}, seed {seed}", command(row, table, seed, options, where)) for row, seed in trainings]
    failed = run_all(jobs, options.jobs, go_on=True)
    write(REPOSITORY / "results" / f"{options.table}.md", table, where, seeds, rows_of(Compare(options.table)))
    if failed:
        raise catalog.UserError("\n".join(failed), 3)


def write(path: Path, table: Table, where: str, seeds: tuple[int, ...], rows: list[Row]) -> None:
    """The page, from the runs that are there."""
    lines, parts, settings = [], [], []
    common = {one.name for one in fields(Options)}
    for row in rows:
        runs = {seed: run for seed in seeds if (run := folder(row, seed, where, table.budget))}
        if not runs:
            lines.append(line(row.title, [], "", table))
            continue
        found = {seed: scores(run) for seed, run in runs.items()}
        quoted = [next(iter(one.values())) for one in found.values()]
        names = ", ".join(dict.fromkeys(one["run"]["predictor"] for one in quoted))
        lines.append(line(row.title, [mean_of(one, table) for one in quoted], names, table))
        if row == SUPERVISED and table.averaged:
            groups = [[folder(row, one, where, table.budget) for one in three(seed)] for seed in runs]
            whole = [[run for run in group if run] for group in groups]
            lines.append(line("mean of three supervised networks", [averaged(group) for group in whole if len(group) == 3],
                              "ensemble", table))
        for name in next(iter(found.values())):
            if len(next(iter(found.values()))) > 1:
                there = [one[name] for one in found.values() if name in one]
                validated = [one["run"]["selected"].get(name, {}).get("validation_dice") for one in there]
                known = [value for value in validated if value is not None]
                parts.append(f"| {row.title} | {name} | {spread([mean_of(one, table)[0] for one in there], 3)} | "
                             f"{f'{mean(known):.3f}' if known else ''} |")
        options = quoted[0]["run"]["options"]
        own = {name: value for name, value in options.items() if name not in common}
        schedule = f"{options['max_iterations']} | {options['batch_size']} | " if table.own_schedules else ""
        settings.append(f"| {row.title} | {schedule}{options['base_lr']:g} | "
                        f"{', '.join(f'{name} {value}' for name, value in own.items() if value is not None)} |")
    kept = path.read_text().split(MARKER, 1)[1] if path.exists() and MARKER in path.read_text() else "\n"
    size = "x".join(map(str, options["patch_size"]))
    typed = "python code/compare.py" + ("" if where == "phantom" else f" --table {where}")
    labeled = f"{table.budget} of the images" if table.budget.endswith("%") else f"{table.budget} patients"
    schedule = (f"Images of {size} pixels; steps and batch stand in the last table (supervised: all of it labelled; the others: half)."
                if table.own_schedules else
                f"Steps: {options['max_iterations']}; batch: {options['batch_size']} images of {size} pixels "
                f"(supervised: all labelled; the others: {options['labeled_bs']} labelled).")
    first, second = (score.name for score in table.scores)
    text = "\n".join([
        f"# {table.title}", "",
        f"{table.said} Made by `{typed}` with the options of the last table.", "",
        f"Labelled: {labeled}. {schedule} Checkpoints are "
        "chosen on validation cases; a method of several networks quotes what is best there. "
        f"Mean over the test cases; mean ± standard deviation over seeds {', '.join(map(str, seeds))}, and each seed.", "",
        f"| | {first} | each seed | {second} | quoted |", "|---|---|---|---|---|", *lines, "",
        "## Networks of a method", "", f"| method | network | {first} | its validation Dice |", "|---|---|---|---|", *parts, "",
        "## Settings of each method", "",
        *(("| | steps | batch | rate | options |", "|---|---|---|---|---|") if table.own_schedules else
          ("| | rate | options |", "|---|---|---|")), *settings, "", MARKER]) + kept
    path.write_text(text)
    print(f"Written to {os.path.relpath(path)}")


def mean_of(result: dict[str, Any], table: Table) -> tuple[float, float]:
    first, second = table.scores
    return first.of(result), second.of(result)


def spread(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def line(title: str, values: list[tuple[float, float]], quoted: str, table: Table) -> str:
    if not values:
        return f"| {title} | not run | | | |"
    firsts, seconds = zip(*values)
    first, second = table.scores
    each = ", ".join(f"{one:.{first.digits}f}" for one in firsts)
    return f"| {title} | {spread(firsts, first.digits)} | {each} | {spread(seconds, second.digits)} | {quoted} |"


if __name__ == "__main__":
    sys.exit(finish_with(lambda: main(tyro.cli(Compare, use_underscores=True, description=__doc__))))
