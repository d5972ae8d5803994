"""Pictures that show the same thing twice, found from small prints of them: the same bytes, the same reference, or nearly the same picture.

A print is the picture in grey, averaged down to 32 x 32 and freed of what varies slowly (8 x 8 pixels of it at a time), so that light and
exposure count little. Two pictures are alike where their prints correlate, in any of the eight quarter turns and mirrorings. Copies that
were shifted or cut from a larger picture are not found.
"""
from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataloaders.description import Case

SIDE, CELL = 32, 8
ALIKE = 0.9
"""Correlation of two prints from which on the pictures are called alike."""
ROWS = 512
"""Prints that are compared with all others at once."""
SHOWN = 3
"""Pairs named in a sentence."""


@dataclass(frozen=True)
class Print:
    """What is kept of a picture and its reference."""

    pixels: str
    """Digest of the pixels as read."""
    label: str
    """Digest of the reference; "" where there is none, or where it is the same everywhere."""
    small: np.ndarray
    """(SIDE, SIDE) float32 of mean 0 and length 1; all 0 for a picture without structure."""


def print_of(image: np.ndarray, label: np.ndarray | None) -> Print:
    """Of a picture (C, H, W) and its class ids (H, W)."""
    grey = Image.fromarray(image.mean(0, dtype=np.float32))
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    cells = small.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL)
    small = (cells - cells.mean((1, 3), keepdims=True)).reshape(SIDE, SIDE)
    length = float(np.linalg.norm(small))
    told = label is not None and label.min() != label.max()
    return Print(digest(image), digest(label) if told and label is not None else "", small / length if length > 1e-3 else 0 * small)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def turned(small: np.ndarray) -> Iterator[np.ndarray]:
    """(N, SIDE, SIDE) in the eight quarter turns and mirrorings."""
    for turns in range(4):
        for mirrored in (small, small[:, :, ::-1]):
            yield np.rot90(mirrored, turns, (1, 2))


def alike(small: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, correlation), i < j, of prints (N, SIDE, SIDE) that correlate in some turn."""
    flat = small.reshape(len(small), -1)
    views = [np.ascontiguousarray(view).reshape(len(small), -1) for view in turned(small)]
    for first in range(0, len(flat), ROWS):
        best = flat[first : first + ROWS] @ views[0][first:].T
        for view in views[1:]:
            np.maximum(best, flat[first : first + ROWS] @ view[first:].T, out=best)
        for i, j in zip(*np.nonzero(np.triu(best >= ALIKE, 1))):
            yield first + int(i), first + int(j), float(best[i, j])


def copies(cases: Sequence[Case], prints: Sequence[Print]) -> list[str]:
    """Remarks on cases that are the same although they count as different pieces, or that lie in two parts."""
    same, references = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for place, one in enumerate(prints):
        same[one.pixels].append(place)
        if one.label:
            references[one.label].append(place)
    equal = {pair for places in same.values() for pair in _pairs(places)}
    labels = {pair for places in references.values() for pair in _pairs(places)} - equal
    near = {(i, j): value for i, j, value in alike(np.stack([one.small for one in prints]))} if prints else {}
    kinds = ((sorted(equal), "the same picture, pixel by pixel"),
             (sorted(pair for pair in labels if pair not in near), "the same reference though the pictures differ, so one is wrong"),
             (sorted(pair for pair in near if pair not in equal), "nearly the same picture, turned or mirrored perhaps"))
    return [said for pairs, what in kinds if (said := _said(cases, pairs, what))]


def _pairs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((one, other) for k, one in enumerate(places) for other in places[k + 1 :])


def _said(cases: Sequence[Case], pairs: Sequence[tuple[int, int]], what: str) -> str:
    """A sentence about pairs of which the program does not know, or that lie in two parts; "" where there are none."""
    across = [(cases[i], cases[j]) for i, j in pairs if cases[i].part != cases[j].part]
    within = [(cases[i], cases[j]) for i, j in pairs if cases[i].part == cases[j].part and cases[i].group != cases[j].group]
    if not across and not within:
        return ""
    kinds = ((across, "across parts"), (within, "within a part, as different pieces"))
    where = [f"{len(some)} {'pair' if len(some) == 1 else 'pairs'} {words}" for some, words in kinds if some]
    shown = ", ".join(f"{one.name} ({one.part}) and {other.name} ({other.part})" for one, other in (across + within)[:SHOWN])
    return f"{what}: {' and '.join(where)}; for example {shown}."
