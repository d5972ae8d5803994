"""Checkpoints that survive a kill at any moment: tensors and plain values, hashed, replaced atomically, never unpickled.

Beside FILE stands FILE.sha256, JSON with the digest of the file that is about to be, and of the one it replaces. It is written
first: whichever side of the second rename a kill falls on, the file's digest is one of the two. After such a kill the older one is
what lies there, so the next writer hashes the file itself and trusts neither by its place.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import pickletools
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dataloaders.errors import UserError
from system import faults


class Damaged(UserError):
    """A checkpoint that cannot be trusted; exit code 4. `hostile`: the file carries code."""

    def __init__(self, path: Path, found: str, to_do: str, hostile: bool = False):
        super().__init__(f"{path}: {found}. {to_do}", code=4)
        self.found, self.hostile = f"{path}: {found}.", hostile


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
    """`value` as indented JSON, atomically. Of a name that is no UTF-8 the odd bytes become JSON's own escapes, which give it back."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digests(path: Path) -> list[str]:
    try:
        known = json.loads(sidecar(path).read_text(encoding="utf-8"))
        return [str(known[key]) for key in ("new", "old") if known.get(key)]
    except (OSError, ValueError, AttributeError):
        return []


def _digest(path: Path) -> str:
    """The digest of the file that lies there; "" where there is none, or where it is not one that its sidecar knows."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
    return found if found in _digests(path) else ""


def previous_of(path: Path) -> Path:
    """last.pt -> last.prev.pt."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


PLAIN = (torch.Tensor, torch.nn.Parameter, int, float, str, bytes, bool, type(None))


def check_plain(value: Any, where: str) -> None:
    """Raises TypeError for what the safe reader would refuse on the way back, when it is too late; `where` names it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_plain(key, where)
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for item in value:
            check_plain(item, where)
    elif type(value) not in PLAIN:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise TypeError(f"{where} of the checkpoint is a {kind}; a state_dict may hold tensors, numbers, text, lists, tuples, sets and "
                        "dicts only (float(x), x.tolist() and torch.from_numpy(x) make them)")


def save(path: Path, state: Mapping[str, Any], keep_previous: bool = False) -> None:
    """Writes `state` (tensors and plain values only). With `keep_previous` the file replaced stays as <stem>.prev.pt.

    A file that is damaged by then replaces no good one.
    """
    check_plain(state, path.stem)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    old = _digest(path)
    if keep_previous and old:
        _copy(path, old, previous_of(path))
    write_json(sidecar(path), {"new": hashlib.sha256(content).hexdigest(), "old": old})
    faults.reach("between", path.name)
    write_atomically(path, content)


def _copy(path: Path, digest: str, to: Path) -> None:
    """Gives a good file a second name, which survives the first name's move to a new file."""
    write_json(sidecar(to), {"new": digest, "old": _digest(to)})
    faults.reach("swap", to.name)
    temporary = to.with_name(f"{to.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
        os.replace(temporary, to)
    except OSError:  # no hard links on this file system
        write_atomically(to, path.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)  # where `to` is the same file already, after a kill, replacing does nothing


def load(path: Path, again: str = "Start anew with --fresh.") -> dict[str, Any]:
    """Reads one checkpoint, digest first. Raises `Damaged` (code 4) with the cause and `again`, what to do."""
    return load_known(path, again)[0]


def load_known(path: Path, again: str = "Start anew with --fresh.") -> tuple[dict[str, Any], str]:
    """`load`, and the file's SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(path, f"the checkpoint cannot be read ({error.strerror})", again) from error
    known = _digests(path)
    if not known:
        raise Damaged(path, "its digest file (.sha256) is missing or unreadable, so the checkpoint cannot be verified", again)
    found = hashlib.sha256(content).hexdigest()
    if found not in known:
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
    return state, found


MOST_PICKLE = 2**28
"""Bytes of a pickle that is looked at: what is packed may unpack to any length."""
HARMLESS_MODULES = ("torch", "torch._utils", "torch.storage", "torch.nn.parameter", "torch._tensor", "torch.serialization", "collections")


def _carries_code(content: bytes) -> bool:
    """True where a pickle in the file names a function or class that no checkpoint of tensors and plain values names; nothing is run."""
    streams = [content]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            small = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl") and entry.file_size < MOST_PICKLE]
            streams = [archive.read(entry) for entry in small]
    except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error):
        if content.startswith(b"PK"):  # a damaged archive
            return False
    for stream in streams:
        words: list[str] = []
        file = io.BytesIO(stream)
        try:
            while file.tell() < len(stream):  # torch's old format has several pickles one after the other
                for operation, argument, _ in pickletools.genops(file):
                    if operation.name in ("GLOBAL", "INST"):
                        words.append(str(argument).split(" ")[0])
                        if words[-1] not in HARMLESS_MODULES:
                            return True
                    elif operation.name == "STACK_GLOBAL":
                        if not any(word in HARMLESS_MODULES for word in words[-2:]):
                            return True
                    elif isinstance(argument, str):
                        words.append(argument)
        except (ValueError, IndexError, EOFError, KeyError, OverflowError, UnicodeDecodeError):
            continue
    return False


def load_last(path: Path, tell: Any) -> dict[str, Any]:
    """`path`, or the previous one where it is damaged or gone (said through `tell`). Raises `Damaged` when both are, or for code.

    The damaged file is kept as <stem>.damaged.pt, and the previous one takes its place.
    """
    previous = previous_of(path)
    try:
        return load(path)
    except Damaged as error:
        if error.hostile or not previous.exists():
            raise
        state = load(previous)
        tell(f"WARNING: {error.found} Going back to {previous.name}, step {state.get('step')}.")
        if path.exists():
            os.replace(path, path.with_name(f"{path.stem}.damaged{path.suffix}"))
        _copy(previous, _digest(previous), path)
        return state
