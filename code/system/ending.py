"""The end of a program: what went wrong as a sentence, a state in status.json, and an exit code.

| code | what it means |
|---|---|
| 0 | done |
| 2 | an argument or the data is wrong, or the machine is not fit before the first step |
| 3 | something failed on the way; the last good checkpoint is there |
| 4 | a checkpoint is damaged or carries code |
| 75 | interrupted; the same command goes on |
"""
from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from dataloaders.errors import NOT_PERMITTED, UserError
from losses.ranks import ProcessLost
from system import distributed
from system.devices import peak_memory
from system.signals import as_interrupts
from system.streams import lasting

OUT_OF_ROOM = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))


class Leave(Exception):
    """An orderly end that is no failure: a signal was heeded, or there is nothing left to do."""

    def __init__(self, sentence: str, code: int, state: str):
        super().__init__(sentence)
        self.code, self.state = code, state


class Running(Protocol):
    """A training run, as its end sees it."""

    device: torch.device

    @property
    def began(self) -> bool:
        """Whether a loop has been entered."""

    @property
    def checkpoint(self) -> Path:
        """Where the last checkpoint lies, if there is one."""

    def ended(self, state: str, reason: str, trace: str = "") -> None:
        """Writes status.json and log.txt (`trace`: a traceback), closes the logbook, gives the folder back. May raise OSError."""


class Ending:
    """Which run has to be told how this program ends; none before its folder is claimed, and none after it has finished."""

    run: Running | None = None


def finish_with(action: Callable[[], None], ending: Ending | None = None) -> int:
    """Calls `action`; gives the exit code, with a sentence on the screen for what went wrong."""
    with lasting():
        return _finished(action, ending or Ending())


def _finished(action: Callable[[], None], ending: Ending) -> int:
    try:
        with as_interrupts():
            action()
            distributed.part()
        return 0
    except ProcessLost:
        return _end(distributed.verdict(), ending)
    except KeyboardInterrupt:
        return _leave("Interrupted. Nothing is lost: run the same command again.", 75, ending, "interrupted")
    except Leave as leave:
        return _leave(str(leave), leave.code, ending, leave.state)
    except UserError as error:
        return _leave(str(error), error.code, ending)
    except FloatingPointError as error:
        return _leave(f"Validation: {error}. Lower --base_lr; --fresh begins anew.", 3, ending)
    except (OSError, RuntimeError, MemoryError) as error:
        sentence = _known(error, ending.run)
        if sentence is None:
            return _leave(f"Failed: {error}", 3, ending, trace=traceback.format_exc())
        # Before the first step a machine that is not fit is the user's to mend, like bad arguments.
        early = isinstance(error, OSError) and not (ending.run and ending.run.began)
        return _leave(sentence, 2 if early else 3, ending)
    except Exception as error:
        return _leave(f"Failed: {error}", 3, ending, trace=traceback.format_exc())


def _known(error: Exception, run: Running | None) -> str | None:
    """A sentence for the failures that machines have."""
    kept = ""
    if run and run.checkpoint.exists():
        kept = f" The last good checkpoint is {run.checkpoint}; run the same command again to go on."
    if isinstance(error, OSError) and error.errno in OUT_OF_ROOM:
        return f"The disk is full, or a file may grow no further ({error.strerror}: {error.filename or 'while writing'}). Make room.{kept}"
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename}: a folder is needed there, and a file lies in its place ({error.strerror}). Give another place.{kept}"
    if isinstance(error, OSError) and error.errno in NOT_PERMITTED:
        return f"{error.filename}: cannot be written ({error.strerror}). Mend its permissions.{kept}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        peak = peak_memory(run.device) / 2**30 if run else 0.0
        return (f"Out of memory (peak so far {peak:.1f} GiB). Lower --batch_size, --labeled_bs or --patch_size, "
                f"or use --precision bf16-mixed.{kept}")
    return None


def _leave(sentence: str, code: int, ending: Ending, state: str = "failed", trace: str = "") -> int:
    return _end(distributed.report(sentence, code, state), ending, trace)


def _end(end: distributed.Report, ending: Ending, trace: str = "") -> int:
    """Says how the program ends, in status.json and then on the screen; gives the exit code."""
    unwritten = ""
    if ending.run is not None:
        try:
            ending.run.ended(end.state, end.sentence, trace)
        except OSError as error:
            unwritten = f"(status.json could not be written: {error.strerror or error})"
        ending.run = None
    if trace:
        print(trace, end="", file=sys.stderr, flush=True)
    if end.mine:
        print(end.sentence, file=sys.stderr if end.code else sys.stdout, flush=True)
    if unwritten:
        print(unwritten, file=sys.stderr, flush=True)
    distributed.leave(end.code)
    return end.code
