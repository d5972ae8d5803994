"""Checkpoints that survive a kill at any moment: tensors and plain values, hashed, replaced atomically, never unpickled.

Beside FILE stands FILE.sha256, JSON with the digest of the file as it is, and of the one it replaces. It is written first:
whichever side of the second rename a kill falls on, the file's digest is one of the two.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dataloaders.errors import UserError
from engine import faults


class Damaged(UserError):
    """A checkpoint that cannot be trusted; exit code 4. `hostile`: the file carries code."""

    def __init__(self, path: Path, found: str, to_do: str, hostile: bool = False):
        super().__init__(f"{path}: {found}. {to_do}", code=4)
        self.hostile = hostile


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, syncs and renames, so that `path` is always the old file or the new one."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            faults.reach("write", path.name)
            half = len(content) // 2
            file.write(content[:half])
            faults.reach("half", path.name)
            file.write(content[half:])
            file.flush()
            os.fsync(file.fileno())
        faults.reach("rename", path.name)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """`value` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digests(path: Path) -> list[str]:
    try:
        known = json.loads(sidecar(path).read_text())
        return [str(known[key]) for key in ("new", "old") if known.get(key)]
    except (OSError, ValueError, AttributeError):
        return []


def save(path: Path, state: Mapping[str, Any], keep_previous: bool = False) -> None:
    """Writes `state` (tensors and plain values only). With `keep_previous` the file replaced stays as <stem>.prev.pt."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    old = (_digests(path) or [""])[0] if path.exists() else ""
    if keep_previous and path.exists():
        previous = path.with_name(f"{path.stem}.prev{path.suffix}")
        known = _digests(path)
        write_json(sidecar(previous), {"new": known[0] if known else "", "old": known[-1] if known else ""})
        _link(path, previous)
    write_json(sidecar(path), {"new": hashlib.sha256(content).hexdigest(), "old": old})
    faults.reach("between", path.name)
    write_atomically(path, content)


def _link(path: Path, to: Path) -> None:
    """Gives the file a second name, which survives the first name's move to a new file."""
    temporary = to.with_name(f"{to.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # no hard links on this file system
        temporary.write_bytes(path.read_bytes())
    os.replace(temporary, to)


def load(path: Path, again: str = "Start anew with --fresh.") -> dict[str, Any]:
    """Reads one checkpoint, digest first. Raises `Damaged` (code 4) with the cause and `again`, what to do."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(path, f"the checkpoint cannot be read ({error.strerror})", again) from error
    known = _digests(path)
    if not known:
        raise Damaged(path, "its digest file (.sha256) is missing or unreadable, so the checkpoint cannot be verified", again)
    if hashlib.sha256(content).hexdigest() not in known:
        if _carries_code(content):
            raise Damaged(path, "this is no checkpoint of ours: it is a pickle that carries code, which was not run", again, hostile=True)
        raise Damaged(path, f"the checkpoint is damaged ({len(content)} bytes do not have the recorded digest)", again)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # four kinds of exception for five kinds of damage
        if _carries_code(content):
            raise Damaged(path, "the file carries code, which was not run", again, hostile=True) from error
        raise Damaged(path, f"this is no readable checkpoint ({type(error).__name__})", again) from error
    if not isinstance(state, dict) or state.get("format") != 1:
        raise Damaged(path, "this is no checkpoint of this program (format 1 expected)", again)
    return state


def _carries_code(content: bytes) -> bool:
    """True where torch's safe reader refuses the file for a name that it may not call."""
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        return "Unsupported global" in str(error) or "Unsupported class" in str(error) or "GLOBAL" in str(error)
    return False


def load_last(path: Path, tell: Any) -> dict[str, Any]:
    """`path`, or the previous one where it is damaged (said through `tell`). Raises `Damaged` when both are, or for code."""
    previous = path.with_name(f"{path.stem}.prev{path.suffix}")
    try:
        return load(path)
    except Damaged as error:
        if error.hostile or not previous.exists():
            raise
        tell(f"WARNING: {error} Going back to {previous.name}.")
        return load(previous)
