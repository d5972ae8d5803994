"""The table of a sweep on the screen: what runs, waits, is done, failed. Read from the files in the run folders, wherever they run."""
from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from sweeps.work import NOTE, Job, read_json, tested, trained

SHOWN = ("training", "testing", "in use", "failed", "interrupted", "done", "waiting")
"""Which rows are kept where not all fit."""
TAIL = 2**16


@dataclass(frozen=True)
class Row:
    """What a run stands at."""

    state: str
    step: int = 0
    of: int = 0
    validation: float | None = None
    """Mean Dice at the last validation."""
    test: float | None = None
    left: float | None = None
    """Seconds of training."""
    seconds: float | None = None
    """What the whole training took."""
    tries: int = 1


def look(job: Job, sweep: str) -> Row:
    """Reads a run's row. `sweep` tells the notes of this process from older ones."""
    folder = Path(job.folder)
    told, status = read_json(folder / NOTE), read_json(folder / "status.json")
    state = told.get("state", "") if told.get("sweep") == sweep else ""
    if tested(job) and state != "testing":
        summary = read_json(Path(job.result)).get("summary", {})
        seconds = (status.get("seconds") or 0) + (status.get("validation_seconds") or 0)
        return Row("done", status.get("step", 0), status.get("of", job.steps), last_validation(folder)[1],
                   summary.get("mean", {}).get("dice"), seconds=seconds)
    step, of = int(status.get("step", 0)), int(status.get("of", job.steps))
    if state == "training" and status.get("state") == "running":
        now, validation = last_validation(folder)
        began = (folder / "status.json").stat().st_mtime
        rate = (now - step) / max(time.time() - began, 1e-3)
        return Row(state, max(now, step), of, validation, left=(of - now) / rate if rate > 0 else None, tries=told.get("failures", 0) + 1)
    if state in ("training", "testing", "failed", "interrupted", "in use"):
        return Row(state, step, of, last_validation(folder)[1], tries=told.get("failures", 0) + 1)
    return Row("waiting", step if not trained(job) else of, of)


def last_validation(folder: Path) -> tuple[int, float | None]:
    """(last step that was logged, mean Dice of the method's first network at the last validation) of a run's metrics.jsonl."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read()
    except OSError:
        return 0, None
    lines = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut, or being written
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and isinstance(entry.get("kind"), str):
            lines.append(entry)
    scores = [(line["step"], line.get("dice/mean")) for line in lines if line["kind"].startswith("validation/")]
    last = next((score for step, score in scores if step == scores[-1][0] and isinstance(score, int | float)), None)
    return (lines[-1]["step"] if lines else 0), last


def span(seconds: float | None) -> str:
    """3 min, 1.5 h, 2.1 days; nothing for None."""
    if seconds is None:
        return ""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


class Board:
    """Draws the table: in place on a terminal, elsewhere a line for each change."""

    def __init__(self, name: str, jobs: Sequence[Job], sweep: str, at_once: int | None):
        self.name, self.jobs, self.sweep, self.at_once = name, jobs, sweep, at_once
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.rows = [look(job, sweep) for job in jobs]
        self._drawn, self._height, self._last_line = 0.0, 0, time.monotonic()
        self._began: dict[Job, float] = {}
        self._beside: list[float] = []  # seconds of finished runs beside training: start, reading, test
        if not self.live:
            self.say(self.heading())

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        self._wipe()
        print(text, flush=True)

    def tick(self) -> None:
        """Looks at the runs again and draws, about once a second."""
        now = time.monotonic()
        if now - self._drawn < 1:
            return
        self._drawn = now
        old, self.rows = self.rows, [row if row.state == "done" else look(job, self.sweep) for job, row in zip(self.jobs, self.rows)]
        changed = [(job, row) for job, row, then in zip(self.jobs, self.rows, old) if row.state != then.state]
        for job, row in changed:
            if row.state == "training" and not row.step:
                self._began[job] = now
            elif row.state == "done" and job in self._began:
                self._beside.append(max(now - self._began[job] - (row.seconds or 0), 0.0))
        if self.live:
            self._draw()
            return
        for job, row in changed:
            score = f", test Dice {row.test:.4f}" if row.test is not None else ""
            print(f"{time.strftime('%H:%M:%S')} {job.title}: {state_of(row)}{score}", flush=True)
        if any(row.state in ("done", "failed") for _, row in changed) or now - self._last_line > 600:
            self._last_line = now
            print(f"{time.strftime('%H:%M:%S')} {self.heading()}", flush=True)

    def end(self) -> None:
        """The last state stays on the screen."""
        self._drawn = 0.0
        self.tick()
        self._height = 0

    def heading(self) -> str:
        """ACDC: 24 runs: 5 done, 2 training, 17 waiting; about 3.2 h left (Sat 23:10)."""
        counts = {state: sum(row.state == state for row in self.rows) for state in ("done", *SHOWN)}
        text = f"{self.name}: {len(self.rows)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        left = self.left()
        return text + (f"; about {span(left)} left ({time.strftime('%a %H:%M', time.localtime(time.time() + left))})" if left else "")

    def left(self) -> float | None:
        """Seconds to the end of the sweep, from what runs of the same method took, else of any; None where nothing is known yet.

        Training by the runs' own clocks, and what the finished ones of this sweep took beside it.
        """
        took: dict[str, list[float]] = {}
        for job, row in zip(self.jobs, self.rows):
            if row.seconds:
                took.setdefault(job.method, []).append(row.seconds)
            elif row.left is not None and row.of > row.step:
                took.setdefault(job.method, []).append(row.left * row.of / (row.of - row.step))
        every = [seconds for values in took.values() for seconds in values]
        if not every:
            return None
        total, running, beside = 0.0, 0, mean(self._beside or [0.0])
        for job, row in zip(self.jobs, self.rows):
            running += row.state in ("training", "testing")
            if row.state in ("waiting", "training", "in use"):
                whole = mean(took.get(job.method, every))
                total += beside + (row.left if row.left is not None else whole * (1 - row.step / max(row.of, 1)))
        return total / max(self.at_once or running, 1)

    def _wipe(self) -> None:
        if self._height:
            sys.stdout.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0

    def _draw(self) -> None:
        columns, lines = shutil.get_terminal_size()
        order = [k for state in SHOWN for k in self._of(state)]
        kept = sorted(order[: max(lines - 4, 1)])
        width = max(len(job.title) for job in self.jobs)
        text = [self.heading(), f"{'':<{width}}  {'':<11} {'step':>15}  {'validation':>10}  {'test':>6}  left"]
        text += [f"{self.jobs[k].title:<{width}}  {line_of(self.rows[k])}" for k in kept]
        if len(kept) < len(order):
            text.append(f"... and {len(order) - len(kept)} more")
        self._wipe()
        sys.stdout.write("".join(line[: columns - 1] + "\n" for line in text))
        sys.stdout.flush()
        self._height = len(text)

    def _of(self, state: str) -> list[int]:
        """The runs of a state, those first that tell most: of the finished ones the last."""
        found = [k for k, row in enumerate(self.rows) if row.state == state]
        return found[::-1] if state == "done" else found


def state_of(row: Row) -> str:
    """training (2) where it is the second attempt."""
    return row.state + (f" ({row.tries})" if row.tries > 1 and row.state in ("training", "testing") else "")


def line_of(row: Row) -> str:
    """A row behind its title."""
    step = f"{row.step}/{row.of}" if row.step else ""
    validation = f"{row.validation:.4f}" if row.validation is not None else ""
    test = f"{row.test:.4f}" if row.test is not None else ""
    return f"{state_of(row):<12}{step:>15}  {validation:>10}  {test:>6}  {span(row.left)}".rstrip()
