"""SIGTERM, SIGINT and, where there are such, SIGUSR1 and SIGHUP: in the loop noted and acted on at the border of a step.

SIGHUP comes when a terminal is closed; where it is ignored (nohup, disown) it stays so.
"""
from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


def heeded(*names: str) -> list[int]:
    """The numbers of these signals, as far as the system has them, without a SIGHUP that whoever started the program has it ignore."""
    numbers = [int(getattr(signal, name)) for name in names if hasattr(signal, name)]
    return [number for number in numbers if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) != signal.SIG_IGN]


class Signals:
    """While open, the first signal sets `wanted`; a second SIGINT leaves at once with code 130 (the last checkpoint is whole)."""

    def __init__(self) -> None:
        self.wanted = False
        self._old: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            os._exit(130)
        self.wanted = True

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in heeded("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """While open, SIGTERM, SIGUSR1 and SIGHUP raise KeyboardInterrupt, as SIGINT does: for what comes before and after the loop.

    Where an exception ends one of several processes, it heeds no signal from then on: torchrun terminates all once one has left, and
    status.json must be written all the same.
    """
    from losses.ranks import world  # brings torch, of which a converter of files has no need

    old: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in heeded("SIGTERM", "SIGUSR1", "SIGHUP"):
            old[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        ending = world() > 1 and sys.exc_info()[0] is not None
        for number, handler in (old | {signal.SIGINT: None} if ending else old).items():
            signal.signal(number, signal.SIG_IGN if ending else handler)
