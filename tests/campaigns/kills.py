"""Processes killed at places that are drawn, or when the clock says so, and started again by the same command.

The outcome of a chain of kills, after each of which the same command is given again, is "same" (all files end as those of an uninterrupted
one, to the bit); what may not be is "differs", "fell back" (to an older checkpoint), "failed".
"""
from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness
from fake_run import fake
from harness import Bench, outcome
from made_results import make_results
from narrow import make_narrow
from tiny import write_acdc, write_folder

from campaigns.ledger import Ledger

Finding = tuple[str, str, int]
"""(outcome, words, kills)."""
GOOD, BAD = ("same",), ("differs", "fell back", "failed")
PLATEAU = ("--schedule", "plateau", "--steps_per_epoch", "2", "--val_every", "2", "--patience", "0")
METHODS = {
    "Supervised": (), "MeanTeacher": ("--consistency_start", "2", "--consistency", "5"), "simEps": (*PLATEAU, "--num_branches", "2"),
    "awkward_stages": (), "awkward_critic": (), "awkward_policy": (), "two_stages": (),
}
METHODS_OF = {"training": ("Supervised", "MeanTeacher", "simEps", "awkward_critic", "awkward_policy"),
              "stages": ("awkward_stages", "two_stages")}
PLACES = ("step", "write", "half", "rename", "between", "swap", "validation", "validated")
LENGTHS = {"training": (6, 10), "stages": (6, 10), "sweep": (3, 5), "report": (2, 3), "predict": (2, 4)}
"""How many kills a chain has; fewer where the work has ended before."""


def faults(count: int) -> list[tuple[str, str]]:
    """(name, kind) of chains of kills, of about `count` kills in all."""
    found = []
    for kind, share in (("training", 0.6), ("stages", 0.2), ("sweep", 0.08), ("report", 0.04), ("predict", 0.08)):
        chains = max(1, round(count * share / (sum(LENGTHS[kind]) / 2)))
        found += [(f"{kind}/{k}", kind) for k in range(chains)]
    random.Random(0).shuffle(found)
    return found


class Killer:
    """Runs, sweeps, reports and predictions of one place, and what they come to when nobody disturbs them."""

    def __init__(self, place: Path):
        shutil.rmtree(place, ignore_errors=True)
        self.place, self.clean = place, dict[str, Any]()
        self.bench = Bench(place / "bench", write_acdc(place / "ACDC"), narrow=True)
        self.pictures = write_folder(place / "own", images=8, masks=6)
        self._run: Path | None = None

    # Training

    def expected(self, method: str) -> dict[str, Any]:
        if method not in self.clean:
            end = self.bench.train(method, *METHODS[method], model=f"clean {method}")
            assert end.code == 0, end
            self.clean[method] = outcome(self.bench.run_folder(f"clean {method}"))
        return self.clean[method]

    def training(self, name: str, kind: str) -> Finding:
        draw = random.Random(name)
        method = draw.choice(METHODS_OF[kind])
        expected, model, kills, rules = self.expected(method), name.replace("/", " "), 0, list[str]()
        for _ in range(draw.randint(*LENGTHS[kind])):
            if draw.random() < 0.35:
                rules.append("by the clock")
                started = self.bench.start(method, *METHODS[method], model=model)
                with contextlib.suppress(AssertionError):
                    started.said("Folder:")
                    time.sleep(draw.uniform(0, 1.0))
                started.process.kill()
                end = started.end()
            else:
                rules.append(f"kill@{draw.choice(PLACES)}:{draw.randint(1, 8)}")
                end = self.bench.train(method, *METHODS[method], model=model, fault=rules[-1])
            kills += end.code == -signal.SIGKILL
            if end.code not in (0, -signal.SIGKILL):
                return "failed", f"{method} {rules}: {end}", kills
            if end.code == 0:
                break
        end = self.bench.train(method, *METHODS[method], model=model)
        folder = self.bench.run_folder(model)
        found = outcome(folder)
        wrong = [key for key in expected if found.get(key) != expected[key]]
        left = [path.name for path in folder.iterdir() if ".tmp-" in path.name]
        shutil.rmtree(self.bench.folder / model)
        if end.code:
            return "failed", f"{method} {rules}: {end}", kills
        if wrong or left:
            return "differs", f"{method} {rules}: {wrong} {left}\n{end.out}", kills
        return ("fell back" if "WARNING" in end.out else "same"), f"{method} {' '.join(rules)}", kills

    # A sweep of fake runs, a report, a prediction: killed by the clock

    def by_clock(self, name: str, make: Callable[[Path], object], told: Callable[[Path], Any], longest: float) -> Finding:
        """Starts `make` in a child, kills it, starts it again until it ends; what it leaves must be what one leaves that is not killed."""
        draw, kind = random.Random(name), name.split("/")[0]
        if kind not in self.clean:
            folder = self.place / f"clean {kind}"
            assert self.called(make, folder, None) == 0, (folder / "said").read_text()
            self.clean[kind] = told(folder)
        folder, kills = self.place / name.replace("/", " "), 0
        for _ in range(draw.randint(*LENGTHS[kind])):
            kills += self.called(make, folder, draw.uniform(0.0, longest)) == -signal.SIGKILL
        code = self.called(make, folder, None)
        found, said = told(folder), (folder / "said").read_text()[-800:]
        shutil.rmtree(folder)
        if code:
            return "failed", said, kills
        return ("differs" if found != self.clean[kind] else "same"), said, kills

    def called(self, make: Callable[[Path], object], folder: Path, kill_after: float | None) -> int:
        folder.mkdir(exist_ok=True)
        process = harness.server().Process(target=in_child, args=(make, folder))
        process.start()
        if kill_after is not None:
            limit = time.monotonic() + 60
            while not (folder / "begun").exists() and process.is_alive() and time.monotonic() < limit:
                time.sleep(0.002)
            process.join(kill_after)
            process.kill()
        process.join(120)
        (folder / "begun").unlink(missing_ok=True)
        return process.exitcode if process.exitcode is not None else 99

    def find(self, name: str, kind: str) -> Finding:
        """What comes of one chain."""
        if kind in METHODS_OF:
            return self.training(name, kind)
        if kind == "sweep":
            return self.by_clock(name, sweep, told_of_sweep, 0.7)
        if kind == "report":
            return self.by_clock(name, report_on, all_files, 1.5)
        if self._run is None:
            end = self.bench.train("Supervised", "--dataset", "folder", "--labeled_num", "2", model="own", data=self.pictures)
            assert end.code == 0, end
            self._run = self.bench.run_folder("own")
        return self.by_clock(name, partial(predict_with, self._run, self.pictures / "images"), all_files, 1.0)


def in_child(make: Callable[[Path], object], folder: Path) -> None:
    """What a child does: its screen to a file, then its work."""
    import torch
    handle = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number in (1, 2):
        os.dup2(handle, number)
    torch.set_num_threads(1)
    make_narrow()
    from matplotlib.figure import Figure
    if make is not report_on:  # its page holds its figures
        Figure.savefig = Figure.tight_layout = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    (folder / "begun").touch()
    sys.exit(make(folder) or 0)


def sweep(folder: Path) -> int:
    """Three runs one after another, of which one fails once."""
    from sweeps.work import work
    ended = [work(fake(folder, name, codes), "s", {}, str(folder)).state for name, codes in (("a", "0"), ("b", "3,0"), ("c", "75,0"))]
    return int(not set(ended) <= {"done", "skipped"})


def told_of_sweep(folder: Path) -> Any:
    results = sorted(path.relative_to(folder).as_posix() for path in (folder / "results").rglob("*.json"))
    return results, [(folder / name / "status.json").read_text().partition('"step"')[0] for name in "abc"]


def report_on(folder: Path) -> int:
    import report

    from system.ending import finish_with
    results = folder / "results" / "Phantom"
    if not results.exists():
        make_results(folder / "aside", methods=("Supervised", "MeanTeacher"), folds=None, seeds=(0, 1), budgets=("7",), upper=False)
        results.parent.mkdir()
        (folder / "aside").rename(results)
    return finish_with(lambda: report.main(report.Report((results,), folder / "report")))


def predict_with(run: Path, images: Path, folder: Path) -> int:
    import predict

    from system.ending import finish_with
    return finish_with(lambda: predict.main(predict.Predict(run, images, folder / "out", device="cpu")))


def all_files(folder: Path) -> dict[str, str]:
    """A digest of each file that is left; not of what tells times or places of its own."""
    def told(path: Path) -> str:
        content = path.read_bytes().replace(str(folder).encode(), b"")
        return hashlib.sha256(content).hexdigest()
    untold = ("lock", "done.jsonl", "prediction.json")
    found = [path for name in ("report", "out") for path in sorted((folder / name).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): told(path) for path in found if path.name not in untold}


def run(place: Path, ledger: Ledger, count: int) -> None:
    """About `count` kills, as far as the ledger does not know them."""
    for module in ("report", "predict", "campaigns.kills"):
        if module not in harness.PRELOAD:
            harness.PRELOAD.append(module)
    killer: Killer | None = None
    for name, kind in faults(count):
        if name in ledger.found:
            continue
        killer = killer or Killer(place)
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                found, said, number = killer.find(name, kind)
            except AssertionError as error:
                found, said, number = "failed", str(error), 1
        ledger.add(name, kind, found, said, number)
