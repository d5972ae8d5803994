"""SIGTERM, SIGINT and, where there is one, SIGUSR1: noted, and acted on at the border of a step."""
from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """While open, the first signal sets `wanted`; a second SIGINT leaves at once with code 130 (the last checkpoint is whole)."""

    names = ("SIGTERM", "SIGINT", "SIGUSR1")

    def __init__(self) -> None:
        self.wanted = False
        self._old: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            os._exit(130)
        self.wanted = True

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in self.names:
                if hasattr(signal, name):
                    self._old[getattr(signal, name)] = signal.signal(getattr(signal, name), self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
