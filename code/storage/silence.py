"""What stands in for the logbook on all processes of a run but the first, which alone writes and tells."""
from __future__ import annotations

from typing import Any

from storage.logbook import Logbook


class Silence(Logbook):
    """A logbook that has no files and says nothing."""

    offset = 0

    def __init__(self, total: int):
        self.total = total

    def say(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def begin(self, step: int, offset: int, stage: str) -> None: ...

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None: ...

    def picture(self, name: str, image: Any, step: int) -> None: ...

    def advance(self, **shown: str) -> None: ...

    def status(self, state: str, step: int, **more: Any) -> None: ...

    def close(self) -> None: ...
