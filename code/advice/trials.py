"""Trials: runs of flat scripts on pieces of the labelled images, begun as a sweep begins them, and their scores."""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advice.arms import Arm
from advice.folds import Piece
from advice.question import Question
from advice.schedule import Size
from dataloaders.errors import UserError
from reporting.records import Record, group_of, read_one
from sweeps.planning import plan
from sweeps.work import Job, Outcome, read_json, tested, work


@dataclass(frozen=True)
class Trial:
    """An arm on a piece; what a sweep asks its runs for is `method`, `title` and `words`."""

    arm: Arm
    piece: Piece
    file: Path
    size: Size
    steps: int
    seed: int
    probe: bool = False
    """Whether only its time is wanted."""
    scaled: bool = True
    """Whether ramps are given the length of the trial."""

    @property
    def method(self) -> str:
        return self.arm.method

    @property
    def title(self) -> str:
        return f"{self.arm.name}, {self.piece.name}"

    def words(self, folds: int | None, name: str) -> list[str]:
        return ["--split_file", str(self.file), "--labeled_num", "all", "--seed", str(self.seed),
                "--exp", f"{name}/{'probe' if self.probe else self.arm.name}", *self.size.words, "--max_iterations", str(self.steps),
                "--schedule", "poly", "--val_every", str(self.steps), "--save_every", str(max(self.steps // 4, 50)),
                "--log_every", str(max(self.steps // 10, 1)), *self.arm.words,
                *(self.arm.scaled if self.scaled else ())]


Runner = Callable[[Job, Callable[[], object]], Outcome]


def run_job(job: Job, tick: Callable[[], object]) -> Outcome:
    """Trains and tests in processes of their own; what is done is skipped."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("SEMISEG_")}
    return work(job, f"advise-{os.getpid()}", ours, str(Path.cwd()), tick)


@dataclass
class Trials:
    """All trials of a question: planned once each, run in turn."""

    question: Question
    device: str
    runner: Runner = run_job

    def __post_init__(self) -> None:
        self.jobs: dict[Trial, Job] = {}
        self._records: dict[Trial, Record] = {}

    def prepare(self, trials: Sequence[Trial]) -> None:
        """Asks the scripts about those that are new. Raises `UserError` with what they would refuse."""
        new = [trial for trial in trials if trial not in self.jobs]
        if not new:
            return
        common = [*self.question.common, "--device", self.device]
        found = plan(new, common, [], None, self.question.name, os.cpu_count() or 1)
        self.jobs.update(zip(new, found.jobs))

    def run(self, trial: Trial, tick: Callable[[], object] = lambda: None) -> tuple[Outcome, float | None]:
        """(how it ended, seconds where it was run now, None where it was done before). Raises KeyboardInterrupt when told to stop."""
        self.prepare([trial])
        job = self.jobs[trial]
        if tested(job):
            return Outcome("skipped"), None
        began = time.monotonic()
        outcome = self.runner(job, tick)
        if outcome.state == "interrupted":
            raise KeyboardInterrupt
        return outcome, time.monotonic() - began

    def training_seconds(self, trial: Trial) -> float:
        return float(read_json(Path(self.jobs[trial].folder) / "status.json").get("seconds") or 0.0)

    def record(self, trial: Trial) -> Record | None:
        """The result of a trial; None where there is none yet. Raises `UserError` for a file that is no result."""
        job = self.jobs.get(trial)
        if trial in self._records or job is None or not tested(job):
            return self._records.get(trial)
        found = read_one(Path(job.result))
        if not isinstance(found, Record):
            raise UserError(f"{found.path}: {found.reason}. Remove it; the same command makes it again.", 3)
        self._records[trial] = found
        return found


def by_image(records: Sequence[Record | None], groups: Sequence[str]) -> np.ndarray:
    """(arms, groups): the score of each held-out group under each arm, of results on the same piece; NaN where there is none.

    That of an image is the mean Dice over the classes that it has, or that the arm found in it, as the test scripts count. An image that
    has no class counts where some arm found one in it: 1 for those that did not.
    """
    of = {case["name"]: group_of(case) for record in records if record is not None for case in record.cases}
    place = {group: number for number, group in enumerate(groups)}
    found = np.full((len(records), len(groups)), np.nan)
    every = [case for record in records if record is not None for case in record.cases]
    alarms = {case["name"] for case in every if case["empty"] == "false"}
    alarms -= {case["name"] for case in every if case["empty"] in ("", "missed")}
    for arm, record in enumerate(records):
        images: dict[str, list[float]] = {}
        for case in record.cases if record is not None else ():
            images.setdefault(case["name"], []).extend([] if case["dice"] is None else [float(case["dice"])])
        pieces: dict[str, list[float]] = {}
        for name, values in images.items():
            if values or name in alarms:
                pieces.setdefault(of[name], []).append(sum(values) / len(values) if values else 1.0)
        for group, values in pieces.items():
            if group in place:
                found[arm, place[group]] = sum(values) / len(values)
    return found
