"""JSON that tells whether it is as it was written: beside its values stands a digest of them, under `sha256`.

What a person changes by hand is refused like what a disk has changed, with the way on: take the digest out. Files without a digest (older
ones, handmade ones) are taken as they are.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataloaders.errors import UserError

SEAL = "sha256"
ALTERED = ("its values are not those of its digest: it was changed after it was written. If you did so on purpose, take out the line "
           f"\"{SEAL}\"")


DIGITS = 16


def digest_of(value: Mapping[str, Any], besides: str = SEAL) -> str:
    """Of all values but the digest itself, whatever the order of keys and however the file is indented."""
    rest = {key: item for key, item in value.items() if key != besides}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:DIGITS]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as JSON gives it back, with its digest: what `write_json` is given."""
    plain = json.loads(json.dumps(dict(value)))
    return {**plain, SEAL: digest_of(plain)}


def is_altered(value: Mapping[str, Any]) -> bool:
    """Whether values with a digest are not those that were written; the digest's own name may be what has changed."""
    if SEAL in value:
        return value[SEAL] != digest_of(value)
    words = [key for key, item in value.items() if isinstance(item, str) and len(item) == DIGITS]
    return any(value[key] == digest_of(value, key) for key in words)


def parsed(text: str | bytes) -> dict[str, Any]:
    """The values of a file, without the digest. Raises ValueError, in words that follow a file's name and a colon."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("no readable JSON (nested without end)") from None
    except ValueError as error:
        raise ValueError(f"no readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} lies in it; expected names and values")
    if is_altered(value):
        raise ValueError(ALTERED)
    return {key: item for key, item in value.items() if key != SEAL}


def read_sealed(path: Path, to_do: str) -> dict[str, Any]:
    """The values of a file, without the digest. Raises OSError, and `UserError` (code 4) with `to_do` where they cannot be trusted."""
    try:
        return parsed(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: {error}. {to_do}", 4) from None
