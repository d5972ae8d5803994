"""Files damaged, one byte, one line or one field at a time, and read by what reads them in earnest.

The outcome is "refused" (a sentence that names the file), "unharmed" (all that was read is as before), "told" (another one was taken, or
something else differs, and it is said); what may not be is "silent" (something else was read and nothing said), "unnamed" (a sentence that
does not name the file), "traceback", "crash", "hang".
"""
from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from harness import Bench, leave_undrawn, plain
from made_results import make_results
from tiny import write_acdc, write_balls, write_folder

from campaigns.harm import BYTES, FIELDS, LINES, Harm
from campaigns.ledger import Fault, Finding
from dataloaders.batches.store import build_store
from dataloaders.catalog import named, open_source
from dataloaders.description import Case, Item, Source
from dataloaders.errors import UserError
from dataloaders.layouts import checksums
from dataloaders.splits.split import SplitRequest, make_split, test_cases
from engine import claim, saving
from evaluation import results
from pictures.curves import read_curves
from prediction.record import Folder
from preparation.convert import write_h5
from reporting.records import Record, read_one
from storage.sealed import sealed
from sweeps import board, splits_file, work

GOOD = ("refused", "unharmed", "told")
BAD = ("silent", "unnamed", "traceback", "crash", "hang")


@dataclass(frozen=True)
class Target:
    """A kind of file, and what reads it. `read` gives (what was read, what was said); it raises `UserError`."""

    kind: str
    files: Sequence[Path]
    harms: dict[str, Harm]
    read: Callable[[Path], tuple[Any, str]]
    folder: Path | None = None
    """What reading may change, and is put back as it was."""
    partners: bool = True
    """Whether one file may take another's place."""
    share: float = 1.0
    named: Callable[[Path], str] = field(default=lambda file: file.name)
    """What a sentence must hold."""


def digest(*values: Any) -> str:
    """Of arrays and plain values."""
    told = hashlib.sha256()
    for value in values:
        told.update(value.tobytes() + repr((value.shape, value.dtype)).encode() if isinstance(value, np.ndarray) else repr(value).encode())
    return told.hexdigest()


def faults(targets: Sequence[Target], count: int) -> Iterator[tuple[str, str, Fault]]:
    """(name, kind, fault), `count` in all, dealt out to the targets by their shares."""
    whole = sum(target.share for target in targets)
    for target in targets:
        names = [*target.harms, *(["exchanged"] if target.partners and len(target.files) > 1 else [])]
        for k in range(round(count * target.share / whole)):
            draw = random.Random(f"{target.kind}/{k}")
            harm = names[k % len(names)]
            yield f"{target.kind}/{k}", target.kind, partial(strike, target, draw.choice(target.files), harm, draw)


def strike(target: Target, file: Path, harm: str, draw: random.Random) -> Finding:
    """Damages a file, has it read, and puts it back."""
    content = file.read_bytes()
    kept = {path: path.read_bytes() for path in target.folder.rglob("*") if path.is_file()} if target.folder else {}
    before, said_before = target.read(file)
    restore(target, file, content, kept)
    others = [other for other in target.files if other != file]
    partner = draw.choice(others) if harm == "exchanged" else None
    new = partner.read_bytes() if partner else target.harms[harm](content, draw)
    try:
        file.write_bytes(new)
        if partner:
            kept[partner] = new
            partner.write_bytes(content)
        checksums._digest.cache_clear()
        try:
            after, said = target.read(file)
        except UserError as error:
            known = any(target.named(one) in str(error) for one in filter(None, (file, partner)))
            return ("refused" if known else "unnamed"), f"{file.name} {harm}: {error}"
        outcome = "unharmed" if after == before else "told" if said and said != said_before else "silent"
        return outcome, f"{file.name} {harm}: {said}"
    finally:
        restore(target, file, content, kept)
        checksums._digest.cache_clear()


def restore(target: Target, file: Path, content: bytes, kept: dict[Path, bytes]) -> None:
    file.write_bytes(content)
    for path in target.folder.rglob("*") if target.folder else ():
        if path.is_file() and path not in kept:
            path.unlink()
    for path, was in kept.items():
        if not path.exists() or path.read_bytes() != was:
            path.write_bytes(was)


# Data


def opened(name: str, root: Path) -> Source:
    return open_source(named(name), root)


def as_items(source: Source) -> dict[Path, Item | Case]:
    """What each file of images or labels is read as."""
    found: dict[Path, Item | Case] = {}
    train = source.cases("train")
    for item in source.items(train):
        found[item.image] = item
        if item.label is not None:
            found[item.label] = item
    for case in [*source.cases("val"), *source.cases("test")]:
        found[case.image] = case
        if case.label is not None:
            found[case.label] = case
    return found


def of_one(name: str, root: Path, known: dict[Path, Item | Case], file: Path) -> tuple[Any, str]:
    """Image, label and place of the one case or slice that a file is of."""
    source, of = opened(name, root), known[file]
    case = of.case if isinstance(of, Item) else of
    return digest(source.image(of), source.label(of), source.spacing(case), source.affine(case), source.data.classes, source.data.white), ""


def of_set(name: str, root: Path, file: Path) -> tuple[Any, str]:
    """Which cases are trained, validated and tested, in their order."""
    source, request = opened(name, root), SplitRequest(labeled_num="2")
    split = make_split(source, request)
    names = [[case.name for case in cases] for cases in (split.labeled, split.unlabeled, split.val, test_cases(source, request))]
    items = [item.name for item in source.items([*split.labeled, *split.unlabeled])]
    return (names, items), " ".join(source.remarks)


def sums_of(root: Path) -> None:
    """Writes SHA256SUMS as sha256sum does."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(root).as_posix()}\n" for path in files]
    (root / "SHA256SUMS").write_text("".join(lines))


def write_plain_nifti(root: Path) -> Path:
    """The volumes of `write_balls`, not packed."""
    write_balls(root)
    for packed in sorted(root.rglob("*.nii.gz")):
        nibabel.save(nibabel.load(packed), packed.with_suffix(""))
        packed.unlink()
    told = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(told | {"file_ending": ".nii"}))
    return root


def write_checked_acdc(root: Path) -> Path:
    """The tiny ACDC in files as prepare.py writes them, with checksums of their own."""
    write_acdc(root)
    import h5py
    for file in sorted((root / "data").rglob("*.h5")):
        with h5py.File(file) as h5:
            image, label = h5["image"][()], h5["label"][()]
        write_h5(file, image, label, {})
    return root


def data_targets(place: Path) -> list[Target]:
    """The formats of images, as they are passed around and with SHA256SUMS beside them; lists of names."""
    found = []
    kinds: list[tuple[str, str, Callable[[Path], Path], str, float]] = [
        ("h5, as downloaded", "ACDC", write_acdc, ".h5", 1.0), ("h5, by prepare.py", "ACDC", write_checked_acdc, ".h5", 1.0),
        ("PNG", "folder", write_folder, ".png", 1.5), ("NIfTI, packed", "nnunet", write_balls, ".nii.gz", 1.0),
        ("NIfTI, not packed", "nnunet", write_plain_nifti, ".nii", 0.7),
    ]
    for kind, name, write, ending, share in kinds:
        for guarded in (False, True):
            root = place / f"{kind} {'guarded' if guarded else ''}".strip() / ("ACDC" if name == "ACDC" else "set")
            if not root.exists():
                write(root)
                if guarded:
                    sums_of(root)
            known = as_items(opened(name, root))
            files = sorted(file for file in known if file.name.endswith(ending))
            label = f"{kind}, SHA256SUMS" if guarded else kind
            found.append(Target(label, files, BYTES, partial(of_one, name, root, known), share=share * (0.4 if guarded else 1)))
    for guarded in (False, True):
        root = place / f"lists {'guarded' if guarded else ''}".strip() / "ACDC"
        if not root.exists():
            write_acdc(root)
            if guarded:
                sums_of(root)
        found.append(Target("lists, SHA256SUMS" if guarded else "lists", sorted(root.glob("*.list")), LINES | BYTES,
                            partial(of_set, "ACDC", root), share=0.4 if guarded else 1.0))
    return found


def cache_target(place: Path) -> Target:
    """The cache of decoded values: another one is decoded where it is damaged."""
    root, folder = place / "cached" / "ACDC", place / "cache"
    if not root.exists():
        write_acdc(root)

    def read(_: Path) -> tuple[Any, str]:
        source = opened("ACDC", root)
        items = source.items(source.cases("train"))
        store = build_store(source, items, [k < 6 for k in range(len(items))], progress=False)
        return digest(*(np.array(store.image(k)) for k in range(len(items))), *(np.array(store.label(k)) for k in range(6))), ""

    read(root)
    return Target("cache of decoded images", sorted(path for path in folder.iterdir()), BYTES, read, folder)


# A run, its results, its notes


def make_runs(place: Path) -> dict[int, Path]:
    """Two finished and tested runs, of two seeds, in place/model; gives their folders."""
    bench = Bench(place / "runs", write_acdc(place / "runs" / "ACDC"), narrow=True)
    for seed in (1, 2):
        end = bench.train("Supervised", "--seed", str(seed))
        assert end.code == 0, end
    found = {json.loads(file.read_text())["options"]["seed"]: file.parent for file in (place / "runs" / "model").rglob("config.json")}
    return dict(sorted(found.items()))


def read_weights(folder: Path, file: Path) -> tuple[Any, str]:
    """What a test reads of a run: its configuration and the weights that are quoted."""
    import torch
    run = results.finished(folder)
    trained = results.trained(run, "best", torch.device("cpu"))
    return digest(run.config, run.status, plain({name: dict(module.state_dict()) for name, module in trained.predictors.items()}),
                  trained.chosen), ""


def read_last(folder: Path, file: Path) -> tuple[Any, str]:
    """What a run that goes on reads."""
    said: list[str] = []
    state, bests = saving.read(folder, "", said.append)
    return digest(plain(state), plain(bests)), " ".join(said)


def read_claim(folder: Path, wanted: dict[str, Any], file: Path) -> tuple[Any, str]:
    """What the command of a run that has ended finds: that it has; or that it goes on from its last checkpoint."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            taken = claim.claim(folder, dict(wanted), {}, False, False)
        except claim.Leave as leave:
            return str(leave), ""
        taken.lock.release()
    return "it goes on", out.getvalue()


def read_sweep(folder: Path, result: Path, file: Path) -> tuple[Any, str]:
    """What a sweep makes of a run: whether it is trained and tested, and its row."""
    job = work.Job("run", "Supervised", str(folder), str(result), (), (), 12)
    row = board.look(job, "s")
    said = "" if row.state == "done" else f"it is {row.state}"
    return (work.trained(job), work.tested(job), row.test if not said else None), said


def read_result(file: Path) -> tuple[Any, str]:
    found = read_one(file)
    if isinstance(found, Record):
        return digest(found.run, found.summary, found.cases), ""
    return "", f"Not counted: {found.path}: {found.reason}"


def read_pair(folder: Path, file: Path) -> tuple[Any, str]:
    """All results of a folder, by what they say that they are."""
    found = {path: read_one(path) for path in sorted(folder.rglob("*.json"))}
    skipped = [f"{path}: {one.reason}" for path, one in found.items() if not isinstance(one, Record)]
    rows = sorted(digest(one.run, one.summary, one.cases) for one in found.values() if isinstance(one, Record))
    return rows, " ".join(skipped)


def read_splits(root: Path, file: Path) -> tuple[Any, str]:
    """What is written when the splits of a sweep are made once more."""
    splits_file.write_splits(file, opened("ACDC", root), [SplitRequest(fold=0, folds=3, labeled_num="2")])
    return file.read_bytes(), ""


ROWS = {f"image {k}.png": {"file": f"image {k}.png", "stamp": [[k, k, k, k]], "stem": f"image {k}", "written": [],
                           "confidence": 0.5 + k / 20, "entropy": 0.1 * k} for k in range(6)}
SETTINGS = {"run": "/model/run", "weights": "0123", "predictor": "network", "input": "/images", "save": ["masks"], "window": {},
            "classes": ["background", "one"], "checkpoint": "best"}


def write_predicted(folder: Path) -> Path:
    made = Folder(folder, SETTINGS)
    for row in ROWS.values():
        made.finished(dict(row))
    made.remembered("training", lambda: {"cases": 3, "mean": 0.25})
    made.close()
    return folder


def read_rows(folder: Path, file: Path) -> tuple[Any, str]:
    """No row may be another one than was written; one that is gone is predicted again."""
    found = Folder(folder, SETTINGS)
    try:
        trained = found.remembered("training", lambda: {"cases": 3, "mean": 0.25})
    finally:
        found.close()
    changed = [name for name, row in found.rows.items() if row != ROWS.get(name)]
    return (changed, trained), ""


def read_log(folder: Path, file: Path) -> tuple[Any, str]:
    """What curves are drawn of: nothing is promised of its numbers, but that it can be read."""
    read_curves(file)
    board.last_validation(folder)
    return [], ""


def run_targets(place: Path) -> list[Target]:
    runs = make_runs(place)
    first, second = runs.values()
    wanted = json.loads((first / "config.json").read_text())
    wanted.pop("sha256", None)
    tested = place / "runs" / "results"
    import test_2D
    from pytest import MonkeyPatch
    with MonkeyPatch.context() as patch:
        leave_undrawn(patch)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for folder in (first, second):
                test_2D.main(test_2D.Test(run=folder, device="cpu"))
    files = sorted(tested.rglob("*.json"))
    checkpoints = [path for folder in (first, second) for path in (folder / "best.pt", folder / "best.pt.sha256")]
    last = [first / name for name in ("last.pt", "last.pt.sha256", "last.prev.pt", "last.prev.pt.sha256", "best.pt", "best.pt.sha256")]
    configs = [first / "config.json", second / "config.json"]
    statuses = [first / "status.json", second / "status.json"]
    json_harms = FIELDS | {"a letter": LINES["a letter"]} | BYTES
    made = place / "made"
    if not made.exists():
        for path in make_results(made, methods=("Supervised", "MeanTeacher"), folds=None, seeds=(0, 1), budgets=("7",), upper=False):
            value = json.loads(path.read_text())
            value["cases"] = value["cases"][:18]
            path.write_text(json.dumps(sealed(value), indent=1))
    splits = place / "splits.json"
    splits_root = write_acdc(place / "splits" / "ACDC")
    splits_file.write_splits(splits, opened("ACDC", splits_root), [SplitRequest(fold=0, folds=3, labeled_num="2"),
                                                                   SplitRequest(fold=1, folds=3, labeled_num="1")])
    predicted = write_predicted(place / "predicted")
    of = {first: files[0], second: files[-1]}
    return [
        Target("best.pt", checkpoints, BYTES, lambda file: read_weights(file.parent, file), share=1.5,
               named=lambda file: file.name.removesuffix(".sha256")),
        Target("last.pt", last, BYTES, partial(read_last, first), first, named=lambda file: file.parent.name, share=1.5),
        Target("config.json", configs, json_harms, lambda file: read_weights(file.parent, file), share=1.5),
        Target("config.json, the command again", configs[:1], json_harms, partial(read_claim, first, wanted), first),
        Target("status.json, tested", statuses, json_harms, lambda file: read_weights(file.parent, file)),
        Target("status.json, the command again", statuses[:1], json_harms, partial(read_claim, first, wanted), first),
        Target("status.json and results, in a sweep", [statuses[0], of[first]], json_harms, partial(read_sweep, first, of[first]),
               partners=False),
        Target("results", files, json_harms, read_result, partners=False, share=1.5),
        Target("results of a folder", sorted(made.rglob("*.json")), json_harms, partial(read_pair, made)),
        Target("splits.json", [splits], json_harms, partial(read_splits, splits_root)),
        Target("prediction.json and done.jsonl", [predicted / "prediction.json", predicted / "done.jsonl"], {"a letter": LINES["a letter"]}
               | BYTES, partial(read_rows, predicted), predicted, partners=False),
        Target("metrics.jsonl", [first / "metrics.jsonl"], LINES | BYTES, partial(read_log, first), partners=False),
    ]


def settings(place: Path, put: Callable[[str, str], object] = os.environ.__setitem__) -> None:
    """Where runs, results and caches lie, in this process."""
    for name, folder in (("MODEL", "runs/model"), ("RESULTS", "runs/results"), ("CACHE", "cache")):
        put(f"SEMISEG_{name}", str(place / folder))


def targets(place: Path) -> list[Target]:
    """All of them, made below a folder. Networks of this process are narrow, and `settings` were put."""
    shutil.rmtree(place, ignore_errors=True)
    return [*run_targets(place), *data_targets(place), cache_target(place)]
