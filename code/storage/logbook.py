"""What a run tells: the screen and log.txt, metrics.jsonl, tensorboardX, the progress bar, status.json, the lock of its folder."""
from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image as image_summary
from tensorboardX.summary import scalar as scalar_summary

from dataloaders.errors import LOCKED, NOT_PERMITTED, TOO_MANY, UserError
from dataloaders.progress import Progress, say
from storage.checkpoint import write_json
from storage.sealed import sealed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Lock:
    """One process a folder. Held until the process ends, however it ends."""

    def __init__(self, folder: Path, elsewhere: str = "--exp"):
        """`elsewhere`: the option with which the user can choose another place."""
        self.path = folder / "lock"
        try:
            self.file: IO[str] = open(self.path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - held as long as the process lives
        except OSError as error:
            why = f"not permitted, {error.strerror}" if error.errno in NOT_PERMITTED else error.strerror
            more = " Raise the limit of open files: ulimit -n 4096." if error.errno in TOO_MANY else ""
            raise UserError(f"{folder}: cannot be written ({why}). Mend its permissions, or choose another place by {elsewhere}.{more}"
                            ) from error
        if fcntl is None:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in LOCKED or error.errno == errno.EACCES:
                self.file.seek(0)
                owner = self.file.read().strip() or "another process"
                self.file.close()
                raise UserError(f"{folder}: in use by {owner}. Wait for it, stop it, or choose another place by {elsewhere}.") from error
            # A file system without locks is no reason not to work: who starts two processes there is not told.
            say(f"{folder}: cannot be locked ({error.strerror}); it goes on without, and would not notice a second process in this folder.")
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        self.file.flush()

    def release(self) -> None:
        self.file.close()


class Board:
    """Scalars and pictures for tensorboard, in a file of a folder.

    tensorboardX's own SummaryWriter writes by a thread: on a full disk the thread dies with a traceback, and who feeds it waits for ever.
    Here whoever records meets the OSError.
    """

    FLUSHED_EVERY_S = 30.0

    def __init__(self, folder: Path, step: int):
        """`step`: where the series goes on; what stands behind it in earlier files of the folder is not shown."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        if step:
            self._file.write_event(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(scalar_summary(name, value), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """(H, W, 3) uint8 or (H, W) in [0, 1]."""
        self._write(image_summary(name, image, dataformats="HWC" if image.ndim == 3 else "HW"), step)

    def _write(self, summary: Any, step: int) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > self.FLUSHED_EVERY_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


class Logbook:
    """Writes everything that a run tells. Created once a run; `offset` bytes of metrics.jsonl are kept on resuming."""

    def __init__(self, folder: Path, total: int):
        self.folder, self.total = folder, total
        self.metrics = folder / "metrics.jsonl"
        self._text = open(folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - closed by close()
        self._lines: IO[str] | None = None
        self._board: Board | None = None
        self._stage = ""
        self._bar: Progress | None = None
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """A line in log.txt and on the screen."""
        self.note(text)
        say(text)

    def note(self, text: str) -> None:
        """A line in log.txt alone."""
        self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._text.flush()

    def begin(self, step: int, offset: int, stage: str) -> None:
        """Opens the series at `step`: what stands behind it, from a run that was killed, is cut."""
        if self._bar is not None:
            self._bar.close()
        if self._lines is None:
            self._lines = open(self.metrics, "a+", encoding="utf-8")  # noqa: SIM115 - closed by close()
            # Never longer than it is: that would fill it with zeros.
            self._lines.truncate(min(offset, os.fstat(self._lines.fileno()).st_size))
        if self._board is None or stage != self._stage:
            if self._board is not None:
                self._board.close()
            self._board = Board(self.folder / "log" / stage, step)
        self._stage = stage
        self._bar = Progress(title=stage or "training", total=self.total, unit="it", first=step)

    @property
    def offset(self) -> int:
        """Bytes of metrics.jsonl so far, synced to the disk."""
        if self._lines is None:
            return self.metrics.stat().st_size if self.metrics.exists() else 0
        self._lines.flush()
        os.fsync(self._lines.fileno())
        # Not tell(): of a file opened for appending it is where the last write ended, which may have been cut since.
        return os.fstat(self._lines.fileno()).st_size

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl, and its numbers as scalars of tensorboard."""
        assert self._lines is not None and self._board is not None
        clean = {key: _plain(value) for key, value in values.items()}
        stage = {"stage": self._stage} if self._stage else {}
        self._lines.write(json.dumps({"step": step, "kind": kind, **stage, **clean}) + "\n")
        self._lines.flush()  # for who follows the run by this file
        for key, value in clean.items():
            if isinstance(value, int | float):
                self._board.scalar(f"{kind}/{key}", value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """(H, W, 3) uint8 or (H, W) in [0, 1] to tensorboard."""
        assert self._board is not None
        self._board.image(name, image, step)

    def advance(self, **shown: str) -> None:
        """One step of the progress bar; where the screen is a file or a pipe, a line every so often."""
        assert self._bar is not None
        self._bar.update(**shown)

    def status(self, state: str, step: int, **more: Any) -> None:
        """status.json: running, done, interrupted or failed (launchers hide exit codes)."""
        stage = {"stage": self._stage} if self._stage and state != "done" else {}
        told = {"state": state, **stage, "step": step, "of": self.total, "pid": os.getpid(), **more}
        write_json(self.folder / "status.json", sealed(told))

    def close(self) -> None:
        for thing in (self._bar, self._board, self._lines, self._text):
            if thing is not None:
                with contextlib.suppress(OSError):
                    thing.close()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
