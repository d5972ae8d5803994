"""How far a long work is: a bar on a terminal; in a file or a pipe, which a bar would flood, a line every so often."""
from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Generic, TypeVar

from tqdm import tqdm

AFTER, SHARE, AT_LEAST = 30.0, 0.05, 600.0
"""A line comes 30 s after the last one at the soonest, and when 5 % more are done or 10 minutes are over."""
BAR_AFTER = 0.5
"""Seconds before a bar is seen: what is over at once shows none."""

T = TypeVar("T")


class Progress(Generic[T]):
    """`for case in Progress(cases, "reading"): ...`, or by hand: `with Progress(title=..., total=...) as progress: progress.update()`.

    first: how much was done before; shown: whether anything is to be seen at all (of several processes one shows).
    """

    def __init__(self, items: Iterable[T] = (), title: str = "", total: int | None = None, unit: str = "case", first: int = 0,
                 shown: bool = True):
        self.items, self.title = items, title
        self.total = total if total is not None else len(items) if isinstance(items, Sized) else 0
        self.unit, self.first, self.done, self.shown = unit, first, first, shown
        self.values: dict[str, str] = {}
        self._began = self._said_at = time.monotonic()
        self._said = first
        self._bar: tqdm | None = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(total=self.total or None, initial=first, desc=title, unit=unit, dynamic_ncols=True, leave=False,
                             delay=BAR_AFTER)

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self.items:
                yield item
                self.update()

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, **values: str) -> None:
        """One more is done; `values` stand behind the bar, or in the line."""
        self.done += 1
        self.values |= values
        if self._bar is not None:
            if values:
                self._bar.set_postfix(self.values, refresh=False)
            self._bar.update()
        elif self.shown and self._is_due():
            print(self.line(), flush=True)
            self._said, self._said_at = self.done, time.monotonic()

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._said_at
        return waited >= AFTER and self.done != self.total and (self.done - self._said >= SHARE * self.total or waited >= AT_LEAST)

    def line(self) -> str:
        """training: 3000 of 30000 it (10 %), 12.1 it/s, about 37 min left; loss 0.4121, val 0.812."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        pace = (self.done - self.first) / seconds
        rate = f"{pace:.1f} {self.unit}/s" if pace >= 1 else f"{1 / max(pace, 1e-9):.1f} s/{self.unit}"
        left = f", about {duration((self.total - self.done) / max(pace, 1e-9))} left" if self.total else ""
        many = f"{self.done} of {self.total} {self.unit} ({100 * self.done // self.total} %)" if self.total else f"{self.done} {self.unit}"
        return f"{self.title}: {many}, {rate}{left}" + "".join(
            f"{', ' if k else '; '}{name} {value}" for k, (name, value) in enumerate(self.values.items()))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def say(text: str) -> None:
    """A line on the screen that leaves a bar whole."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """90 -> '1.5 min'."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
