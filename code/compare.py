"""Every method under one schedule, beside honest baselines, in one table.

`make comparison` is `python code/compare.py`: Phantom, 7 labelled patients, results/phantom.md. `--table phantom3d` is the same on drawn
volumes. Every row has one seed; the baselines, and the five methods that are best on validation cases, three. `--table acdc_small` makes
results/acdc_small.md: real ACDC at 64x64 and 2,000 steps; `--table originals` that schedule with three seeds, beside what the programs of
SSL4MIS scored. `--table neu_seg` is the table of simEps's paper, every method on the schedule on which its authors ran it on NEU-Seg, a
matter of days on a GPU; `--table neu_seg_small` the same methods at 64x64 and 944 steps. `--table phantom_scenes` has
methods for photographs on drawn ones, `--table pretrained` a backbone with and without ImageNet weights on three data sets,
`--table histology` glands and nuclei with scores of objects.

Every row is a flat script, trained and tested. A row that is done, or whose result files lie in results/, is not run again, so the command
can be stopped and given again, and goes on from what is in the repository; --again trains what is only there. What stands in the page
below its marker line is kept.

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
from statistics import mean, mode, stdev
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
from storage.checkpoint import write_json
from storage.folders import REPOSITORY, model_folder, result_path, results_folder
from storage.sealed import read_sealed
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
"""Scripts that take no images."""
OF_IMAGES = ("ABDCrossTeaching", "CCT", "CDMA", "CrossTeaching", "DSSN", "FixMatch", "FixMatchCTA", "FixMatchStandardAugs", "HCE", "STI",
             "STPlusPlus", "SemSim", "UAPS", "UCC", "UniMatch")
"""Scripts that take no volumes."""
FURTHER = 5
"""So many methods, the best on validation cases, have the further seeds of a table, as the baselines have."""
SCHEDULE = ("max_iterations", "batch_size", "labeled_bs")
MAKE_AGAIN = "Delete the file: its row is then tested, or trained, again."
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
class Row:
    title: str
    script: str
    words: tuple[str, ...] = ()
    labeled: str = ""
    """Label budget; without it the page's."""
    data_set: str = ""
    """Without it the page's."""

    @property
    def key(self) -> str:
        """Tells the row from the others of its script, as a word for the run's folder."""
        return "_".join([*filter(None, [self.data_set]), self.script, *(word.removeprefix("--") for word in self.words)])


SUPERVISED = Row("supervised", "Supervised")
ALL_LABELS = Row("supervised with all labels", "Supervised", labeled="all")
BASELINES = (
    SUPERVISED,
    Row("supervised, strong augmentation", "Supervised", ("--augment", "strong")),
    ALL_LABELS,
)


@dataclass(frozen=True)
class Table:
    """What all rows of a page share."""

    title: str
    said: str
    data_set: str
    """Of rows that name none."""
    budget: str = "7"
    words: tuple[str, ...] = ()
    own: dict[str, str] = field(default_factory=dict)
    """Options that only some scripts have, for those."""
    instead: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By script: options that take the place of the table's, which it refuses."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """The first for every row; the others for the baselines and the best methods, or for all (`every_seed`)."""
    every_seed: bool = False
    averaged: bool = True
    """Whether three supervised networks are trained for every seed, and averaged: the fair opponent of methods of several networks."""
    methods: tuple[str, ...] = ()
    """The scripts beside a supervised network; without it all, and further baselines."""
    scores: tuple[Score, Score] = (Score("summary mean dice", "Dice", 3), Score("summary mean hd95_vox", "HD95 (voxels)", 2))
    """What is told of a result, the first of each seed too."""
    further: tuple[Row, ...] = ()
    """Rows below those of the scripts."""
    rows: tuple[Row, ...] = ()
    """All rows, where they are not a supervised network and scripts."""
    beside: str = ""
    """A file of results/ with scores of other programs: a list of {method, seed, test_dice_best}, one figure a network."""
    own_schedules: bool = False
    """Whether each method has the schedule on which it was published, so that steps and batch are told row by row."""


PER_IMAGE = (Score("images training_size per_image miou", "mIoU", 3), Score("images training_size per_image mdice", "Dice", 3))
"""As simEps's authors score: of each image over its own classes, at the size at which it is trained."""
OVERLAP = (Score("summary mean jaccard", "IoU", 3), Score("summary mean dice", "Dice", 3))
ON_SCENES = (
    SUPERVISED, ALL_LABELS, *(Row(name, name) for name in ("MeanTeacher", "CPS", "FixMatch", "UniMatch", "DSSN")),
    Row("ST", "STPlusPlus", ("--variant", "st")), Row("ST++", "STPlusPlus"),
    Row("CISC-R", "STI", ("--pooling", "mean")), Row("STI", "STI"),
)
LITE0 = {"VOC2012": ("--protocol", "standin", "--model", "deeplabv3plus_lite0"), "NEU-Seg": ("--model", "unet_lite0"),
         "GlaS": ("--model", "unet_lite0")}
"""By data set: the split and the network on EfficientNet-Lite0."""
ON_WEIGHTS = tuple(
    Row(f"{data_set}: {name}, {title}", script, (*words, *start), data_set=data_set)
    for data_set, words in LITE0.items()
    for name, script in (("supervised", "Supervised"), ("MeanTeacher", "MeanTeacher"), ("FixMatch", "FixMatch"))
    for title, start in (("from scratch", ()), ("pretrained", ("--pretrained", "imagenet"))))
ON_TISSUE = tuple(
    Row(f"{data_set}: {title}", script, data_set=data_set) for data_set in ("GlaS", "DSB2018")
    for title, script in (("supervised", "Supervised"), ("MeanTeacher", "MeanTeacher"), ("HCE (a reconstruction)", "HCE"), ("IIU", "IIU")))
TABLES = {
    "phantom": Table(
        "Phantom: every method, one schedule",
        "Phantom is synthetic: these figures say that the program works, and nothing about patients.", "Phantom"),
    "phantom3d": Table(
        "Phantom3D: every method that takes volumes, one schedule",
        "Phantom3D is synthetic: these figures say that the program works, and nothing about patients. Trained in bfloat16, which takes "
        "half the time on a processor that has it (MLB-Seg in 32 bits: its second derivatives would be rounded away).", "Phantom3D", "4",
        ("--max_iterations", "200", "--val_every", "100", "--precision", "bf16-mixed"), {"pre_iterations": "100"},
        {"MLBSeg": ("--precision", "32")},
        further=(Row("supervised, unet_3D (near the network of URPC and IIU)", "Supervised", ("--model", "unet_3D")),)),
    "phantom_scenes": Table(
        "PhantomScenes: methods for photographs, one short schedule",
        "PhantomScenes is synthetic: these figures say that the methods run to their last stage, and nothing about photographs. 60 steps a "
        "stage (the self-trainers fewer where a stage is a share of the last) are far too few for any to have learned much.",
        "PhantomScenes", "16", ("--max_iterations", "60", "--val_every", "30"), {"pre_iterations": "60", "scales": "1"}, every_seed=True,
        averaged=False, rows=ON_SCENES, scores=OVERLAP),
    "pretrained": Table(
        "ImageNet weights or none: EfficientNet-Lite0, 30 labelled images",
        "This is no published protocol: 64x64 pixels, batches of 8, 120 steps, on CPU cores. It asks what weights from ImageNet are worth "
        "where labels are few, and whether methods of semi-supervision still add to them.", "VOC2012", "30",
        ("--patch_size", "64", "64", "--batch_size", "8", "--labeled_bs", "4", "--max_iterations", "120", "--val_every", "60",
         "--optimizer", "sgd", "--base_lr", "0.01", "--schedule", "poly"),
        {"consistency_rampup": "1", "consistency_start": "10"}, every_seed=True, averaged=False, rows=ON_WEIGHTS, scores=OVERLAP),
    "histology": Table(
        "Glands and nuclei: scores of pixels and of objects, a short schedule",
        "This is no published protocol: crops of 96x96 pixels, batches of 8, 400 steps, on CPU cores, and few of the sets' images (GlaS "
        "85 + 8, nuclei 74). The Dice is over inside and contour, the F1 over glands or nuclei.", "GlaS", "10",
        ("--patch_size", "96", "96", "--batch_size", "8", "--labeled_bs", "4", "--max_iterations", "400", "--val_every", "200"),
        {"consistency_rampup": "2", "consistency_start": "0"}, seeds=(1,), every_seed=True, averaged=False, rows=ON_TISSUE,
        scores=(Score("summary mean dice", "Dice", 3), Score("summary mean object_f1", "object F1", 3))),
    "acdc_small": Table(
        "ACDC at a small schedule",
        "This is no published protocol: 64x64 pixels, batches of 8, 2,000 steps, one seed, on CPU cores. The figures say that the methods "
        "run and learn on real images; they are not to be put beside published ones.", "ACDC", "7",
        ("--patch_size", "64", "64", "--batch_size", "8", "--labeled_bs", "4", "--max_iterations", "2000"),
        {"consistency_rampup": "13", "consistency_start": "67", "pre_iterations": "667", "displaced_until": "1333"}, seeds=(1337,),
        averaged=False),
    "originals": Table(
        "Beside the original programs",
        "The scripts of SSL4MIS and ours on the same ACDC, at the same small schedule: 64x64 pixels, batches of 8, 2,000 steps, on CPU "
        "cores. This is no published protocol; it asks whether a script lands where the program does for which it stands.", "ACDC", "7",
        ("--patch_size", "64", "64", "--batch_size", "8", "--labeled_bs", "4", "--max_iterations", "2000"),
        {"consistency_rampup": "13"}, every_seed=True, averaged=False,
        methods=("MeanTeacher", "CPS", "URPC", "EntMin", "ICT", "CCT", "DCT"), beside="originals.json"),
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
        {"consistency_rampup": "6", "consistency_start": "27"}, seeds=(1, 2), every_seed=True, averaged=False,
        methods=OF_SIMEPS, further=(Row("simEps, weight rising over the run", "simEps", ("--sim_rise", "run")),), scores=PER_IMAGE),
}


RELATIVES = {"DCNet": (Row("CPS on two heads", "DCNet", ("--second", "plain")),)}
"""By method: rows of the same script that stand beside it, its nearest relative where that is no script of its own."""


@dataclass
class Compare:
    table: Literal["phantom", "phantom3d", "phantom_scenes", "histology", "acdc_small", "originals", "neu_seg", "neu_seg_small",
                   "pretrained"] = "phantom"
    """Which page."""
    methods: tuple[str, ...] = ()
    """Only these scripts (Supervised is one of them). Without it: all."""
    seeds: tuple[int, ...] = ()
    """For every row that is asked for. Without it: the table's own (on Phantom 1; for the baselines and the five best also 2 and 3)."""
    again: bool = False
    """Train rows again of which there are results but no run."""
    root_path: Path | None = None
    """Folder of the data set; of a table of several, the folder that holds those of all."""
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
    without = OF_IMAGES if dimensions_of(table) == 3 else OF_VOLUMES
    methods = [name for name in table.methods or (*ORDER, *there) if name in there and name not in ("Supervised", *without)]
    rows = [SUPERVISED] if table.methods else [*BASELINES]
    for name in dict.fromkeys(methods):
        title, instead = f"{name} (a reconstruction)" if name in RECONSTRUCTIONS else name, table.instead.get(name, ())
        rows += [Row(" ".join([title, *instead]), name, instead), *RELATIVES.get(name, ())]
    rows = list(table.rows) or [*rows, *table.further]
    return [row for row in rows if not options.methods or row.script in options.methods]


def dimensions_of(table: Table) -> int:
    return catalog.named(table.data_set).dimensions


def words_of(row: Row, table: Table) -> list[str]:
    """The options of a row that change what is computed, but for its seed and its label budget."""
    text = (CODE / f"train_{row.script}.py").read_text()
    own = [word for name, value in table.own.items() if f"    {name}:" in text for word in (f"--{name}", value)]
    return [*table.words, *own, *row.words]


def command(row: Row, table: Table, seed: int, options: Compare, where: str) -> list[str]:
    """The training command of a row."""
    place = options.root_path / row.data_set if options.root_path and row.data_set else options.root_path
    root = ["--root_path", str(place)] if place else []
    return [sys.executable, str(CODE / f"train_{row.script}.py"), "--dataset", row.data_set or table.data_set, *root,
            "--labeled_num", row.labeled or table.budget, *words_of(row, table), "--seed", str(seed), "--exp", f"{where}/{row.key}"]


def asked_for(words: Sequence[str], options: dict[str, Any]) -> bool:
    """Whether a run with these options is what `words` ask for; options that it does not name may be anything."""
    wanted: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--")
            wanted[name] = []
        else:
            wanted[name].append(word)
    return all(same(values, options.get(name)) for name, values in wanted.items())


def same(words: list[str], value: Any) -> bool:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return len(words) == len(values) and all(word == str(one) or number(word) == number(one) is not None
                                             for word, one in zip(words, values))


def number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def folder(row: Row, seed: int, table: Table, where: str) -> Path | None:
    """The finished run of a row, None where there is none."""
    runs = [path.parent for path in (model_folder() / where).glob(f"{row.key}_{row.labeled or table.budget}_labeled/*/*/status.json")
            if re.search(rf"_seed{seed}(_|$)", path.parent.name) and json.loads(path.read_text())["state"] == "done"
            and asked_for(words_of(row, table), json.loads((path.parent / "config.json").read_text())["options"])]
    return max(runs, key=lambda path: path.stat().st_mtime) if runs else None


def kept(row: Row, seed: int, table: Table, where: str) -> dict[str, dict[str, Any]]:
    """Results of a row that lie in results/, by predictor, the quoted one first; empty where there are none."""
    found: list[tuple[bool, int, dict[str, Any]]] = []
    for path in sorted((results_folder() / where).glob(f"{row.key}_{row.labeled or table.budget}_labeled/*/*.json")):
        result = read_sealed(path, MAKE_AGAIN)
        if result["run"]["options"]["seed"] == seed and asked_for(words_of(row, table), result["run"]["options"]):
            found.append((path.stem.endswith(f"_{result['run']['predictor']}"), len(found), result))
    return {result["run"]["predictor"]: result for *_, result in sorted(found, key=lambda one: one[:2])}


def scores(row: Row, seed: int, table: Table, where: str) -> dict[str, dict[str, Any]]:
    """Results of a row by predictor, the quoted one first; tested first where its run is not yet, and empty where it is not trained."""
    run = folder(row, seed, table, where)
    if run is None:
        return kept(row, seed, table, where)
    file = result_path(run)
    late = not file.exists() or file.stat().st_mtime < (run / "status.json").stat().st_mtime
    if late and run_all([(f"{row.title}, seed {seed}", test_of(run, table))], 1):
        raise catalog.UserError(f"{run}: the test failed.", 3)
    found = [read_sealed(path, MAKE_AGAIN) for path in (file, *sorted(file.parent.glob(f"{file.stem}_*.json")))]
    return {one["run"]["predictor"]: one for one in found}


def test_of(run: Path, table: Table) -> list[str]:
    """The command that tests a run."""
    return [sys.executable, str(CODE / f"test_{dimensions_of(table)}D.py"), "--run", str(run)]


def validated(found: dict[str, dict[str, Any]]) -> float:
    """The best validation score of a row's networks."""
    chosen = [score for result in found.values() for of in result["run"]["selected"].values() for name, score in of.items()
              if name.startswith("validation_") and score is not None]
    return max(chosen, default=0.0)


def mean_of_three(seed: int, table: Table, where: str) -> tuple[float, float] | None:
    """(Dice, HD95 in voxels) of the mean of three supervised networks; kept in results/, None where a network is missing."""
    path = results_folder() / where / "mean_of_three" / f"{table.budget}_labeled_seed{seed}.json"
    runs = [folder(SUPERVISED, one, table, where) for one in three(seed)]
    there = [run for run in runs if run]
    if len(there) == len(runs):
        names = [run.name for run in there]
        if not path.exists() or path.stat().st_mtime < max((run / "status.json").stat().st_mtime for run in there):
            dice, hd95 = averaged(there)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"runs": names, "dice": dice, "hd95_vox": hd95})
    if not path.exists():
        return None
    of = json.loads(path.read_text())
    return of["dice"], of["hd95_vox"]


def averaged(runs: list[Path]) -> tuple[float, float]:
    """(Dice, HD95 in voxels) of the mean of several runs' networks on the test cases."""
    config = json.loads((runs[0] / "config.json").read_text())
    data, root, _ = catalog.resolve(config["data_set"], Path(config["root"]), REPOSITORY)
    source, settings = catalog.open_source(data, root), config["options"]
    cases = test_cases(source, SplitRequest.of(settings))
    device = torch.device("cpu")
    members = [results.trained(results.finished(run), "best", device).predictors["network"] for run in runs]
    with torch.no_grad():
        inference = inference_of(source.data, settings["patch_size"], settings["stride"], device)
        row = Validator(source, cases, inference)(MeanLogits(members).eval())["mean"]
    return row["dice"], row["hd95_vox"]


def main(options: Compare) -> None:
    table, where = TABLES[options.table], options.table
    rows = rows_of(options)
    if not any(row.data_set for row in rows):
        catalog.open_source(*catalog.resolve(table.data_set, options.root_path, REPOSITORY)[:2])  # Phantom is drawn once, not by every run
    first = options.seeds or (table.seeds if table.every_seed else table.seeds[:1])
    failed = train([(row, seed) for seed in first for row in rows], table, options)
    if not options.seeds and first != table.seeds:
        best = {row.key: validated(scores(row, table.seeds[0], table, where)) for row in rows if row not in BASELINES}
        chosen = sorted(best, key=lambda key: -best[key])[:FURTHER]
        failed += train([(row, seed) for seed in table.seeds[1:] for row in rows if row in BASELINES or row.key in chosen], table, options)
    write(REPOSITORY / "results" / f"{options.table}.md", table, where, options.seeds or table.seeds, rows_of(Compare(options.table)))
    if failed:
        raise catalog.UserError("\n".join(failed), 3)


def train(rows: Sequence[tuple[Row, int]], table: Table, options: Compare) -> list[str]:
    """Trains (row, seed) pairs that are not done; gives a sentence for every one that failed."""
    where = options.table
    missing = [(row, seed) for row, seed in rows if options.again or not kept(row, seed, table, where)]
    further = [(SUPERVISED, one) for row, seed in rows if row == SUPERVISED and table.averaged
               and (options.again or mean_of_three(seed, table, where) is None) for one in three(seed)]
    jobs = [(f"{row.title}, seed {seed}", command(row, table, seed, options, where))
            for row, seed in dict.fromkeys([*further, *missing]) if not folder(row, seed, table, where)]
    rows_by_title = {f"{row.title}, seed {seed}": (row, seed) for row, seed in missing}

    def tested(title: str) -> list[str]:
        """A row is tested as soon as it is trained, so that it counts where the others do not come to their end."""
        found = folder(*rows_by_title[title], table, where) if title in rows_by_title else None
        return test_of(found, table) if found else []

    return run_all(jobs, options.jobs, go_on=True, then=tested)


def write(path: Path, table: Table, where: str, seeds: tuple[int, ...], rows: list[Row]) -> None:
    """The page, from the runs and results that are there."""
    lines, parts, settings, beside = [], [], list[tuple[str, dict[str, Any]]](), []
    others = json.loads((path.parent / table.beside).read_text()) if table.beside else []
    for row in rows:
        found = {seed: there for seed in seeds if (there := scores(row, seed, table, where))}
        if not found:
            lines.append(line(row.title, {}, "", table))
            continue
        quoted = {seed: next(iter(one.values())) for seed, one in found.items()}
        names = ", ".join(dict.fromkeys(one["run"]["predictor"] for one in quoted.values()))
        lines.append(line(row.title, {seed: mean_of(one, table) for seed, one in quoted.items()}, names, table))
        if row == SUPERVISED and table.averaged:
            means = {seed: both for seed in found if (both := mean_of_three(seed, table, where))}
            lines.append(line("mean of three supervised networks", means, "ensemble", table))
        for name in dict.fromkeys(name for one in found.values() for name in one):
            of_it = [one[name] for one in found.values() if name in one]
            if len(next(iter(found.values()))) > 1:
                known = [value for one in of_it for key, value in one["run"]["selected"].get(name, {}).items()
                         if key.startswith("validation_") and value is not None]
                parts.append(f"| {row.title} | {name} | {spread([mean_of(one, table)[0] for one in of_it], 3)} | "
                             f"{f'{mean(known):.3f}' if known else ''} |")
        settings.append((row.title, next(iter(quoted.values()))["run"]["options"]))
        theirs = {one["seed"]: one["test_dice_best"] for one in others if one["method"] == row.script}
        if theirs:
            beside.append(put_beside(row.title, theirs, found, table))
    if not settings:
        raise catalog.UserError(f"{os.path.relpath(path)} is not written: there is no finished row.")
    below = path.read_text().split(MARKER, 1)[1] if path.exists() and MARKER in path.read_text() else "\n"
    usual = {name: mode(options[name] for _, options in settings) for name in SCHEDULE}
    size, kind = "x".join(map(str, settings[-1][1]["patch_size"])), "images" if dimensions_of(table) == 2 else "volumes"
    voxels = "pixels" if dimensions_of(table) == 2 else "voxels"
    typed = "python code/compare.py" + ("" if where == "phantom" else f" --table {where}")
    counted = "volumes" if kind == "volumes" else f"{catalog.named(table.data_set).unit}s"
    labeled = table.budget + (" of the images" if table.budget.endswith("%") else f" {counted}")
    schedule = (f"Images of {size} {voxels}; steps and batch stand in the last table (supervised: all of it labelled; the others: half)."
                if table.own_schedules else
                f"Steps: {usual['max_iterations']}; batch: {usual['batch_size']} {kind} of {size} {voxels} "
                f"(supervised: all labelled; the others: {usual['labeled_bs']} labelled); where a method differs, its settings tell.")
    which = "" if table.every_seed or len(seeds) == 1 else (f" Further seeds: the baselines, and the {FURTHER} methods that are best on "
                                                            "validation cases with the first one.")
    first, second = (score.name for score in table.scores)
    text = "\n".join([
        f"# {table.title}", "",
        f"{table.said} Made by `{typed}` with the options of the last table.", "",
        f"Labelled: {labeled}. {schedule} Checkpoints are "
        "chosen on validation cases; a method of several networks quotes what is best there. "
        f"Mean over the test cases; mean ± standard deviation over seeds {', '.join(map(str, seeds))}, and each seed.{which}", "",
        f"| | {first} | each seed | {second} | quoted |", "|---|---|---|---|---|", *lines, "",
        *(["## Theirs and ours", "", BESIDE, "", "| | theirs | ours | difference | spread of seeds | |", "|---|---|---|---|---|---|",
           *beside, ""] if beside else []),
        "## Networks of a method", "", f"| method | network | {first} | its validation score |", "|---|---|---|---|", *parts, "",
        "## Settings of each method", "",
        *(("| | steps | batch | rate | options |", "|---|---|---|---|---|") if table.own_schedules else
          ("| | rate | options |", "|---|---|---|")), *(set_as(title, options, usual, table) for title, options in settings), "",
        MARKER]) + below
    path.write_text(text)
    print(f"Written to {os.path.relpath(path)}")


def set_as(title: str, options: dict[str, Any], usual: dict[str, Any], table: Table) -> str:
    """The settings of a row: its rate, the options of its script, and what of the schedule is not as in most rows."""
    common = {one.name for one in fields(Options)}
    schedule = f"{options['max_iterations']} | {options['batch_size']} | " if table.own_schedules else ""
    other = {name: options[name] for name in SCHEDULE if options[name] != usual[name] and not table.own_schedules}
    own = {name: value for name, value in options.items() if name not in common and value is not None}
    return f"| {title} | {schedule}{options['base_lr']:g} | {', '.join(f'{name} {value}' for name, value in (other | own).items())} |"


BESIDE = ("Test Dice of the checkpoint that was best on validation cases, each seed; of two networks their mean. Ours minus theirs, of the "
          "means over seeds. The spread is twice the standard error of that difference, from the pooled deviation of seeds; a method of "
          "which there is one run on a side takes it from the other side.")


def put_beside(title: str, theirs: dict[int, list[float]], found: dict[int, dict[str, Any]], table: Table) -> str:
    """A row that puts the scores of another program (by seed, one a network) beside ours."""
    networks = max(len(values) for values in theirs.values())
    their = [mean(values) for values in theirs.values()]
    our = [mean(mean_of(one, table)[0] for name, one in of.items() if networks == 1 or name != "ensemble") if networks > 1 else
           mean_of(next(iter(of.values())), table)[0] for of in found.values()]
    difference = mean(our) - mean(their)
    squares = sum((value - mean(group)) ** 2 for group in (their, our) for value in group)
    free = len(their) + len(our) - 2
    if free:
        limit = 2 * (squares / free) ** 0.5 * (1 / len(their) + 1 / len(our)) ** 0.5
        verdict = "within" if abs(difference) <= limit else "outside"
    each = [", ".join(f"{value:.3f}" for value in group) for group in (their, our)]
    return f"| {title} | {each[0]} | {each[1]} | {difference:+.3f} |" + (f" {limit:.3f} | {verdict} |" if free else " | one run each |")


def mean_of(result: dict[str, Any], table: Table) -> tuple[float, float]:
    first, second = table.scores
    return first.of(result), second.of(result)


def spread(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def line(title: str, values: dict[int, tuple[float, float]], quoted: str, table: Table) -> str:
    """A row of the table from its scores by seed."""
    if not values:
        return f"| {title} | not run | | | |"
    firsts, seconds = zip(*values.values())
    first, second = table.scores
    each = ", ".join(f"{one:.{first.digits}f}" for one in firsts)
    return f"| {title} | {spread(firsts, first.digits)} | {each} | {spread(seconds, second.digits)} | {quoted} |"


if __name__ == "__main__":
    sys.exit(finish_with(lambda: main(tyro.cli(Compare, use_underscores=True, description=__doc__))))
