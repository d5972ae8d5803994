"""What an option declares of itself, in its type: the range of its values, and what becomes of it.

    ema_decay: Share = 0.99
    labeled_num: Annotated[str, SPLIT] = "7"

An option that says nothing takes any value and is of the run: it changes the result, and stands in the folder's name where it differs
from its default.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

PACKAGED = Path("imagenet")
"""What --pretrained is given where the weights shall come from an installed package."""


@dataclass(frozen=True)
class Within:
    """The range of a number, or of each number of several. Numbers that are not finite lie in no range."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    """`low` itself is out."""
    open_high: bool = False

    def holds(self, value: float) -> bool:
        below = value <= self.low if self.open_low else value < self.low
        above = value >= self.high if self.open_high else value > self.high
        return math.isfinite(value) and not below and not above

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:.10g}"
        if self.high == math.inf:
            return f"more than {low}" if self.open_low else f"{low} or more"
        return f"{'more than ' if self.open_low else ''}{low} to {'less than ' if self.open_high else ''}{high}"


Share = Annotated[float, Within(0, 1)]
"""0 to 1."""
NotNegative = Annotated[float, Within(0)]
Positive = Annotated[float, Within(0, open_low=True)]
Count = Annotated[int, Within(1)]
"""1, 2, ..."""
Steps = Annotated[int, Within(0)]
"""0, 1, 2, ..."""
Seed = Annotated[int, Within(0, 2**31 - 1)]


@dataclass(frozen=True)
class Fate:
    """What becomes of an option."""

    name: Literal["value", "own", "none"] = "value"
    """In the name of the run's folder: as option=value where it differs from its default, at a place of its own, or not at all."""
    harmless: bool = False
    """It changes no result: a run may go on with another value."""
    split: bool = False
    """It says which cases are trained, labelled and tested."""
    tested: bool = False
    """A test has to know it, not training alone."""


RUN = Fate()
NAMED = Fate("own")
MODEL = Fate("own", tested=True)
SPLIT = Fate("own", split=True, tested=True)
LABELS = Fate("own", split=True)
TESTED = Fate(tested=True)
COMPARED = Fate("none")
"""Not in the name; compared where a run goes on."""
HARMLESS = Fate("none", harmless=True)


def declared(kind: type, what: type) -> dict[str, Any]:
    """By option of a script: its `Within`, or its `Fate`, where it declares one."""
    hints = get_type_hints(kind, include_extras=True)
    found = {name: [one for one in _annotations(hints[name]) if isinstance(one, what)] for name in option_names(kind)}
    return {name: ones[0] for name, ones in found.items() if ones}


def _annotations(hint: Any) -> Iterator[Any]:
    """All that an annotated type carries, in unions and tuples too."""
    yield from getattr(hint, "__metadata__", ())
    for inner in getattr(hint, "__args__", ()):
        yield from _annotations(inner)


def option_names(kind: type) -> list[str]:
    """The options of a script in the order of their declaration, common ones first; what cannot be typed is none."""
    return [field.name for field in dataclasses.fields(kind) if field.init]


def fate_of(kind: type) -> dict[str, Fate]:
    """By option: what becomes of it."""
    return dict.fromkeys(option_names(kind), RUN) | declared(kind, Fate)


def without_value_in_name(kind: type) -> set[str]:
    """The options that a folder's name does not show as option=value."""
    return {name for name, fate in fate_of(kind).items() if fate.name != "value"}


def harmless(kind: type) -> set[str]:
    """The options that change no result."""
    return {name for name, fate in fate_of(kind).items() if fate.harmless}


def out_of_range(options: Any) -> list[str]:
    """A sentence for every option whose value lies outside what it declares, or is no finite number."""
    sentences, ranges = [], declared(type(options), Within)
    for name in option_names(type(options)):
        value = getattr(options, name)
        numbers = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, float | int)]
        range_ = ranges.get(name, Within())
        if not all(range_.holds(number) for number in numbers):
            typed = " ".join(f"{number:.10g}" for number in numbers)
            wanted = f"{'each ' if isinstance(value, tuple) else ''}{range_}" if name in ranges else "a finite number"
            sentences.append(f"--{name} {typed}: {wanted} is needed.")
    return sentences
