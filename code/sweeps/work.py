"""One run of a sweep from beginning to end: trained, tested, tried again. Runs wherever it is sent, without torch and without Ray."""
from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dataloaders.errors import LOCKED
from storage.sealed import parsed, sealed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ATTEMPTS = 3
BAD_COMMAND, INTERRUPTED = 2, 75
NOTE, SCREEN = "sweep.json", "sweep.log"
"""Files in the run's folder: what its sweep does with it, and all that its scripts say."""
IN_USE = "in use by"
"""What a script says of a folder that another process holds (`storage.logbook.Lock`)."""


@dataclass(frozen=True)
class Job:
    """A run that can be handed to any machine: paths and words alone."""

    title: str
    method: str
    folder: str
    """Of the run, absolute."""
    result: str
    """The result file of the method's own predictor, absolute."""
    train: tuple[str, ...]
    """Script and options, without the interpreter."""
    test: tuple[str, ...]
    steps: int


@dataclass(frozen=True)
class Outcome:
    """How a run ended for its sweep."""

    state: Literal["done", "skipped", "failed", "interrupted", "in use"]
    reason: str = ""


def read_json(path: Path) -> dict[str, Any]:
    """{} where there is none, or one that cannot be trusted."""
    try:
        return parsed(path.read_bytes())
    except (OSError, ValueError):
        return {}


def trained(job: Job) -> bool:
    return read_json(Path(job.folder) / "status.json").get("state") == "done"


def tested(job: Job) -> bool:
    """Whether there is a result of this very training, which it names; one that names none must be younger than the training's end."""
    try:
        if not trained(job):
            return False
        state = os.stat(job.result)
        result, training = _read_result(job.result, state.st_size, state.st_mtime_ns, state.st_ino)
        if not result:
            return False  # damaged: it is tested again
        if training is None:
            return state.st_mtime_ns >= os.stat(Path(job.folder) / "status.json").st_mtime_ns
        status = read_json(Path(job.folder) / "status.json")
        return all(status.get(key) == value for key, value in training)
    except OSError:
        return False


TRAINING = ("seconds", "waited", "validation_seconds", "peak_memory")
"""By these numbers a result names the training that it is of: a clock that was set back says nothing of them."""


@lru_cache(maxsize=2**14)
def _read_result(file: str, size: int, time: int, number: int) -> tuple[bool, tuple[tuple[str, Any], ...] | None]:
    """(whether a result can be read, what it says of its training; None: nothing). `size`, `time`, `number`: one state of the file."""
    found = read_json(Path(file))
    run = found.get("run")
    training = run.get("training") if isinstance(run, dict) else None
    known = tuple((key, training[key]) for key in TRAINING if training.get(key) is not None) if isinstance(training, dict) else ()
    return bool(found), known or None


def in_use(job: Job) -> bool:
    """Whether a process holds the run's folder. Only for runs that nobody is about to begin: looking takes the lock for a moment."""
    if fcntl is None:
        return False
    try:
        with open(Path(job.folder) / "lock", "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in LOCKED or error.errno == errno.EACCES  # else the file system knows no locks
    return False


def work(job: Job, sweep: str, environment: Mapping[str, str], place: str, tick: Callable[[], object] = lambda: None) -> Outcome:
    """Trains and tests a run, skipping what is done. KeyboardInterrupt ends the script in its orderly way and gives "interrupted".

    `sweep` marks the notes of this sweep's process; `place` is the working directory; `tick` is called about four times a second.
    """
    if tested(job):
        return Outcome("skipped")
    failures, outcome = 0, Outcome("done")
    try:
        while not tested(job):
            words, doing = (job.test, "testing") if trained(job) else (job.train, "training")
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            note(job, sweep, doing, failures)
            before = _step(job)
            began, code = _size(job), run(words, job, environment, place, tick)
            if code == 0 and (trained(job) if doing == "training" else tested(job)):
                continue
            said = last_lines(job, began)
            if code == BAD_COMMAND:
                outcome = Outcome("in use", said[-1]) if said and IN_USE in said[-1] else Outcome("failed", _reason(job, code, said))
                break
            if code == INTERRUPTED and _step(job) > before:
                continue  # someone else's interruption; it comes on
            failures += 1
            if failures == ATTEMPTS:
                outcome = Outcome("failed", _reason(job, code, said))
                break
        note(job, sweep, outcome.state, failures, outcome.reason)
    except KeyboardInterrupt:
        outcome = Outcome("interrupted")
        note(job, sweep, outcome.state, failures)
    except OSError as error:  # of this run's folder or machine; the others go on
        outcome = Outcome("failed", str(error))
    return outcome


def run(words: Sequence[str], job: Job, environment: Mapping[str, str], place: str, tick: Callable[[], object]) -> int:
    """Exit code of a script that runs to its end; its screen goes to the run's `sweep.log`.

    KeyboardInterrupt is passed on as SIGTERM, on which scripts save and leave, and raised when it has left; a second one kills.
    """
    with open(Path(job.folder) / SCREEN, "ab") as screen:
        screen.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(words)}\n".encode(errors="backslashreplace"))
        screen.flush()
        bound = [sys.executable, str(Path(__file__).with_name("child.py")), str(os.getpid())] if sys.platform == "linux" else []
        process = subprocess.Popen(
            [*bound, sys.executable, *words], stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT, cwd=place,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, start_new_session=True)  # Ctrl-C reaches it through us alone
        try:
            while True:
                try:
                    return process.wait(0.25)
                except subprocess.TimeoutExpired:
                    tick()
        except BaseException:
            process.terminate()
            try:
                process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            raise


def note(job: Job, sweep: str, state: str, failures: int, reason: str = "") -> None:
    """Says in the run's folder what its sweep does with it, for the table."""
    path = Path(job.folder) / NOTE
    aside = path.with_name(f"{NOTE}.{os.getpid()}.tmp")
    told = {"sweep": sweep, "state": state, "failures": failures, "reason": reason, "time": time.time()}
    aside.write_text(json.dumps(sealed(told)))
    aside.replace(path)


def _step(job: Job) -> int:
    return int(read_json(Path(job.folder) / "status.json").get("step", 0))


def _size(job: Job) -> int:
    path = Path(job.folder) / SCREEN
    return path.stat().st_size if path.exists() else 0


def last_lines(job: Job, offset: int = 0) -> list[str]:
    """The last lines of a run's screen behind `offset` bytes, without what progress bars overwrite."""
    if not (Path(job.folder) / SCREEN).exists():
        return []
    with open(Path(job.folder) / SCREEN, "rb") as file:
        file.seek(max(offset, file.seek(0, os.SEEK_END) - 20_000))
        text = file.read().decode(errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("--- ")][-12:]


def _reason(job: Job, code: int, said: Sequence[str]) -> str:
    """Why a script failed: what it wrote down, its last words, or the signal that ended it."""
    status = read_json(Path(job.folder) / "status.json")
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (" (by hand, or for want of memory)" if name == "SIGKILL" else "")
    told = str(status.get("reason", "")).splitlines() if status.get("state") == "failed" else []
    return f"exit code {code}: {[*told, *said[-1:], 'it said nothing'][0]}"
