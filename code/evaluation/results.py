"""Finished runs, and the files that say how good they are (schema in README.md, "How to read results")."""
from __future__ import annotations

import dataclasses
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import path
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import networks
from command_line.declarations import fate_of
from command_line.options import Options
from dataloaders.description import Case, DataSet
from dataloaders.errors import UserError
from networks.ensembles import ENSEMBLES
from networks.folding import for_inference
from storage import checkpoint, provenance
from storage.checkpoint import write_json
from storage.folders import REPOSITORY, find_run, model_folder, result_path
from storage.sealed import read_sealed, sealed

SCHEMA = 1


@dataclass(frozen=True)
class TestedRun:
    """A finished run: its folder, configuration and last status."""

    folder: Path
    config: dict[str, Any]
    status: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The options of the training that a test has to know. One that came after the run was made has the value that is the default now:
        so it is for all older runs, here and nowhere else."""
        known = [name for name, fate in fate_of(Options).items() if fate.tested]
        defaults = {field.name: field.default for field in dataclasses.fields(Options)}
        return {name: defaults[name] for name in known} | self.config["options"]


class Wanted(Protocol):
    """The options by which a tester is told what to test."""

    run: Path | None
    exp: str | None
    model: str | None
    labeled_num: str | None
    fold: int | None
    seed: int | None


NEEDED: dict[str, type] = {"method": str, "data_set": str, "dimensions": int, "root": str, "options": dict, "split": dict, "command": str}
"""What a config.json must have for a test, and of which kind."""


def _opened(folder: Path) -> TestedRun:
    """The run of a folder, whatever its state. Raises OSError, and `UserError` (code 4) for files that cannot be trusted."""
    config, status = (read_sealed(folder / name, "Bring the file back, or train again with --fresh.")
                      for name in ("config.json", "status.json"))
    wrong = [name for name, kind in NEEDED.items() if not isinstance(config.get(name), kind)]
    if wrong:
        raise UserError(f"{folder / 'config.json'}: no configuration of a run (missing or of another kind: {', '.join(wrong)}). Bring the "
                        "file back, or train again with --fresh.", 4)
    return TestedRun(folder, config, status)


def _read(folder: Path) -> TestedRun | None:
    try:
        return _opened(folder)
    except (OSError, UserError):
        return None


def finished(folder: Path) -> TestedRun:
    """The finished run in a folder, or below model/ by that path. Raises `UserError`."""
    try:
        run: TestedRun | None = _opened(find_run(str(folder)))
    except OSError:
        run = None
    if run is None or run.status.get("state") != "done":
        state = run.status.get("state", "unknown") if run else "unreadable"
        again = f" Run its command again: python {run.config['command']}" if run else ""
        raise UserError(f"{folder}: this run is not finished ({state}).{again}")
    return run


def choose(wanted: Wanted, dimensions: int) -> TestedRun:
    """The run of --run, else the newest finished one of these dimensions that fits the other options. Raises `UserError`."""
    if wanted.run is not None:
        return _of_dimensions(finished(wanted.run), dimensions)
    fitting = [run for status in model_folder().rglob("status.json") if (run := _read(status.parent)) and _fits(run, wanted, dimensions)]
    if not fitting:
        asked = ", ".join(f"--{name} {getattr(wanted, name)}" for name in ("exp", "model", "labeled_num", "fold", "seed")
                          if getattr(wanted, name) is not None)
        raise UserError(f"{model_folder()}: there is no finished {dimensions}D run{' with ' + asked if asked else ''}. "
                        "Train one first: python code/train_simEps.py --labeled_num 7")
    return max(fitting, key=lambda run: (run.folder / "status.json").stat().st_mtime)


def _of_dimensions(run: TestedRun, dimensions: int) -> TestedRun:
    if run.config["dimensions"] != dimensions:
        raise UserError(f"{run.folder}: this is a {run.config['dimensions']}D run; test it with test_{run.config['dimensions']}D.py.")
    return run


def _fits(run: TestedRun, wanted: Wanted, dimensions: int) -> bool:
    options = run.config["options"]
    exp = wanted.exp is None or run.folder.relative_to(model_folder()).as_posix().startswith(f"{wanted.exp.rstrip('/')}_")
    rest = all(getattr(wanted, name) is None or options[name] == getattr(wanted, name) for name in ("model", "labeled_num", "fold", "seed"))
    return run.status.get("state") == "done" and run.config["dimensions"] == dimensions and exp and rest


@dataclass(frozen=True)
class Trained:
    """What the checkpoints of a run hold, read once."""

    predictors: dict[str, nn.Module]
    """What the run evaluates, by name, its own first: networks at their best (or last) step, and their ensembles."""
    chosen: dict[str, tuple[int | None, float | None]]
    """By network: the best step, and its score on validation cases (None where nothing was validated)."""
    weights: str
    """SHA-256 of the file that the weights come from."""

    @property
    def quoted(self) -> str:
        """The run's own predictor."""
        return next(iter(self.predictors))


def trained(run: TestedRun, which: str, device: torch.device) -> Trained:
    """The networks of a run on a device, as testers call them. `which`: best or last.

    Raises `Damaged` (exit code 4) where the checkpoint cannot be trusted.
    """
    again = "Train again with --fresh, or test --checkpoint last."
    best, weights = checkpoint.load_known(run.folder / "best.pt", again)
    if best.get("options", run.config["options"]) != run.config["options"]:
        raise UserError(f"{run.folder / 'config.json'}: not the configuration of these weights (best.pt was made by other options). Bring "
                        "the file back, or train again with --fresh.", 4)
    saved = best["predictors"]
    if which == "last":
        if "weights" in run.config:
            raise UserError(f"{run.folder}: these weights are of another program, which gave one state. Leave out --checkpoint last.")
        last, weights = checkpoint.load_known(run.folder / "last.pt", "Train again with --fresh.")
        state_of = {**{name: entry["state"] for name, entry in last["networks"].items()}, **last["kept"]}
        saved = {name: {**entry, "state": state_of[name]} for name, entry in saved.items()}
    modules: dict[str, nn.Module] = {}
    for name, entry in saved.items():
        network = networks.build(entry["network"]["name"], **entry["network"]["arguments"])
        network.load_state_dict(entry["state"])
        if getattr(network, "dimensions", None) == 2:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        modules[name] = for_inference(network.to(device))
    for name, how in best["ensembles"].items():
        modules[name] = ENSEMBLES[how]([modules[role] for role in saved]).eval()
    chosen = {name: (entry["step"], entry["score"]) for name, entry in saved.items()}
    return Trained({name: modules[name] for name in best["order"]}, chosen, weights)


def check_same_kind(found: Trained, data: DataSet, root: str) -> None:
    """Raises `UserError` where a data set has other classes or channels than the networks, as own files may have by now: a class that no
    network knows would be scored as missed everywhere."""
    network = next((one for one in found.predictors.values() if hasattr(one, "spec")), None)
    arguments: dict[str, int] = vars(network)["spec"]["arguments"] if network is not None else {}
    for what, key, now in ((f"classes ({', '.join(data.classes)})", "num_classes", data.num_classes),
                           ("channels", "in_channels", data.channels)):
        if arguments.get(key, now) != now:
            raise UserError(f"{root}: has {now} {what} now, and had {arguments[key]} when the run was made. Train anew, or bring the files "
                            "of then back.")


def check_names(config: Mapping[str, Any], data: DataSet) -> str:
    """"", or a sentence for the result where the classes of own files are called otherwise than when the run was made. Raises `UserError`
    where the same names stand in another order: the ids in masks then mean other classes than the networks learned."""
    then, now = [str(name) for name in config.get("classes", ())], list(data.classes)
    if not then or then == now or len(then) != len(now):  # another number is `check_same_kind`'s
        return ""
    if sorted(then) == sorted(now):
        raise UserError(f"{config['root']}: its classes are {', '.join(now)} now, and were {', '.join(then)} when the run was made: the "
                        "same names in another order. Bring the order of then back (classes.txt), or train anew.")
    return (f"The classes are called {', '.join(now)} now, and were {', '.join(then)} when the run was made; what has the same id is taken "
            "to be the same.")


def as_typed(command: str) -> str:
    """A recorded command with its script as one types it in the repository, wherever that lay: results travel, and its place does not."""
    words = provenance.words_of(command)
    return shlex.join([words[0].removeprefix(f"{REPOSITORY}/"), *words[1:]]) if words else ""


def record(run: TestedRun, found: Trained, predictor: str, options: Any, best_by: str, summary: Mapping[str, Any],
           further: Mapping[str, Any], cases: Sequence[Case], classes: Sequence[str], rows: Sequence[Sequence[Mapping[str, Any]]],
           cost: Mapping[str, Any]) -> str:
    """Writes the result of one predictor; gives its path. The method's own predictor has no suffix. further: figures of the whole set that
    only some data sets have, by their name in the file."""
    config = run.config
    by_validation = all(score is not None for _, score in found.chosen.values()) and options.checkpoint == "best"
    by_test = by_validation and config["split"].get("selection") == "test"
    how = "selected on test (best on the fold that is tested)" if by_test else "best on validation cases" if by_validation else "last step"
    kept = ("method", "data_set", "dimensions", "options", "split", "remarks", "code", "commit", "versions", "machine", "command")
    value = {
        "schema": SCHEMA,
        "run": {
            **{key: config[key] for key in kept}, "command": as_typed(config["command"]),
            "folder": Path(config["root"]).name,  # own folders of one kind are told apart by it
            "changes": config.get("changes", []),
            "processes": config.get("processes", 1),
            "predictor": predictor,
            "selection": config.get("selection") or how,
            "selected": {name: {"step": step, f"validation_{best_by}": score} for name, (step, score) in found.chosen.items()},
            "training": training_of(run.status),
            "test": {"date": time.strftime("%Y-%m-%d"), "commit": provenance.commit(), "empty": options.empty,
                     "metrics": options.metric_backend, **cost},
        },
        "summary": summary,
        **further,
        "cases": [{"name": case.name, "group": case.group, "class": of, **score}
                  for case, scores in zip(cases, rows) for of, score in zip(classes, scores)],
    }
    file = result_path(run.folder, "" if predictor == found.quoted else predictor)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, sealed(json.loads(json.dumps(value, default=_plain), parse_constant=lambda _: None)))
    return path.relpath(file)


def training_of(status: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, seconds and memory of a training, of all its stages together (as status.json has them since there are stages), and of each
    where there are several."""
    stages = status.get("stages", [])
    whole = {key: status.get(key) for key in ("step", "seconds", "waited", "validation_seconds", "peak_memory")}
    return {**whole, "stages": stages} if len(stages) > 1 else whole


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.item() if hasattr(value, "item") else str(value)


def case_dice(scores: Sequence[Mapping[str, Any]]) -> float:
    """Mean Dice of a case over the classes that it has; NaN where it has none."""
    known = [score["dice"] for score in scores if score["dice"] is not None]
    return sum(known) / len(known) if known else math.nan


def _number(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def overlap_table(summaries: Mapping[str, Mapping[str, Any]], cases: int, config: Mapping[str, Any]) -> str:
    """The scores of photographs as they appear on the screen: an image has few of the classes, so distances to missing ones say little."""
    lines = [f"{config['method']} on {config['data_set']}, {config['split']['name']} split, {cases} test images; mean over the images that "
             "have the class, or in which it is predicted:", f"{'predictor':<12} {'class':<18} {'Dice':>7} {'Jaccard':>8} {'images':>7}"]
    for name, summary in summaries.items():
        for of in [*(key for key in summary if key != "mean"), "mean"]:
            row = summary[of]
            images = row["n"] if of != "mean" else ""
            lines.append(f"{name:<12} {of:<18} {_number(row['dice'], 4):>7} {_number(row['jaccard'], 4):>8} {images:>7}")
    lines.append("Distances, missed classes and every image are in the result files.")
    return "\n".join(lines)


def table(summaries: Mapping[str, Mapping[str, Any]], spacings: Sequence[Any], cases: int, config: Mapping[str, Any]) -> str:
    """The scores of volumes as they appear on the screen."""
    metric = "hd95_mm" if all(spacings) else ""
    header = f"{'predictor':<12} {'class':<18} {'Dice':>7} {'Jaccard':>8} {'HD95 vox':>9} {'found':>7} {'ASD vox':>8}"
    lines = [f"{config['method']} on {config['data_set']}, {config['split']['name']} split, {cases} test cases:",
             header + (f" {'HD95 mm':>8}" if metric else "") + f" {'missed':>7}"]
    for name, summary in summaries.items():
        for of in [*(key for key in summary if key != "mean"), "mean"]:
            row = summary[of]
            cells = (f"{name:<12} {of:<18} {_number(row['dice'], 4):>7} {_number(row['jaccard'], 4):>8} {_number(row['hd95_vox'], 2):>9} "
                     f"{_number(row['hd95_vox_found'], 2):>7} {_number(row['asd_vox'], 2):>8}")
            lines.append(cells + (f" {_number(row.get(metric), 2):>8}" if metric else "") + f" {row['missed']:>7}")
    lines.append("HD95 and ASD (prediction to reference) count a missed class as the image's diagonal; 'found' leaves missed ones out.")
    return "\n".join(lines)


def matrix_table(summaries: Mapping[str, Mapping[str, Any]], cases: int, config: Mapping[str, Any]) -> str:
    """The scores of one confusion matrix over the whole set, as they appear on the screen."""
    labeled = len(config["split"]["labeled"])  # none where the weights are another program's
    lines = [f"{config['method']} on {config['data_set']}, {config['split']['name']} split, {f'{labeled} labelled, ' if labeled else ''}"
             f"one confusion matrix of {cases} test images:",
             f"{'predictor':<12} {'class':<18} {'IoU':>7} {'Dice':>7}"]
    for name, summary in summaries.items():
        for of in [*(key for key in summary if key != "mean"), "mean"]:
            row = summary[of]
            lines.append(f"{name:<12} {of:<18} {_number(row['jaccard'], 4):>7} {_number(row['dice'], 4):>7}")
        mean = summary["mean"]
        lines.append(f"{name:<12} mIoU {_number(mean['miou'], 4)} without classes that are nowhere, in reference or prediction; "
                     f"{_number(mean['miou_absent_zero'], 4)} where those count 0")
    return "\n".join(lines)


def defect_lines(images: Mapping[str, Any]) -> str:
    """The figures of defect papers, a line a size."""
    lines = []
    for size, found in images.items():
        one, whole, any_defect = found["per_image"], found["data_set"]["mean"], found["detection"]["any"]
        lines.append(
            f"  {size.replace('_', ' '):<14} per image: mIoU {_number(one['miou'], 4)}, mDice {_number(one['mdice'], 4)}, "
            f"accuracy {_number(one['accuracy'], 4)};  whole set: IoU {_number(whole['iou'], 4)}, Dice {_number(whole['dice'], 4)};  "
            f"images found {_number(any_defect['recall'], 3)}, false alarms {_number(any_defect['false_alarms'], 3)}")
    return "\n".join(lines)


def object_lines(summary: Mapping[str, Mapping[str, Any]], objects: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The scores of objects, a line a class, over images and over all objects of the set, and of what stands apart."""
    lines = []
    for of in objects["data_set"]:
        lines.append(_objects(of, "mean of images", summary[of]))
        lines += [_objects(of, "all objects" if part == "data_set" else part, figures[of]) for part, figures in objects.items()]
    return "\n".join(lines)


def _objects(of: str, over: str, row: Mapping[str, Any]) -> str:
    counts = f"; {row['reference']} objects, {row['predicted']} predicted" if "reference" in row else ""
    return (f"  {of}, {over}: object F1 {_number(row['object_f1'], 4)}, Dice {_number(row['object_dice'], 4)}, "
            f"Hausdorff {_number(row['object_hausdorff'], 2)} px;  AJI {_number(row['aji'], 4)};  "
            f"PQ {_number(row['pq'], 4)} (SQ {_number(row['sq'], 4)}, RQ {_number(row['rq'], 4)}){counts}")
