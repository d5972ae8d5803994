"""Published lists of names that are too many for text files: one JSON file a data set, bitmaps over a list that they are part of."""
from __future__ import annotations

import base64
import hashlib
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

LISTS = Path(__file__).resolve().parent.parent / "lists"


@cache
def published(data_set: str, name: str) -> tuple[str, ...]:
    """The names of a list of `lists/<data_set>/lists.json`, sorted.

    An entry has its number of names `n`, and `sha`, the first 16 digits of SHA-256 over the sorted names joined by newlines. `data`: base64
    of zlib, of the names themselves, or of a bitmap (bit 7 of byte 0 first) over the sorted list `of`; `every`: each such name of `of`.
    Raises ValueError where the names are not what `n` and `sha` say.
    """
    entry = entries(data_set)[name]
    whole = np.array(published(data_set, entry["of"]) if entry.get("of") else [])
    if "every" in entry:
        names = whole[:: entry["every"]].tolist()
    else:
        raw = zlib.decompress(base64.b64decode(entry["data"]))
        names = whole[np.unpackbits(np.frombuffer(raw, np.uint8))[: len(whole)] == 1].tolist() if len(whole) else raw.decode().split("\n")
    found = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
    if len(names) != entry["n"] or found != entry["sha"]:
        raise ValueError(f"the list {name} of {data_set} has {len(names)} names of digest {found}, expected {entry['n']} of {entry['sha']}")
    return tuple(names)


def budgets(data_set: str, protocol: str) -> dict[int, tuple[str, ...]]:
    """The labelled lists of a protocol, `<protocol>/<number>`, by their number of names."""
    found = [int(name.rsplit("/", 1)[1]) for name in entries(data_set) if name.startswith(f"{protocol}/")]
    return {number: published(data_set, f"{protocol}/{number}") for number in sorted(found)}


@cache
def entries(data_set: str) -> dict[str, Any]:
    """The lists of a data set by name, as they stand in its file."""
    lists: dict[str, Any] = json.loads((LISTS / data_set / "lists.json").read_text(encoding="utf-8"))
    return lists
