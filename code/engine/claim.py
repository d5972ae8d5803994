"""A run's folder: its name, and how it is made or taken over, locked, and compared with what lies there already."""
from __future__ import annotations

import hashlib
import itertools
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_line.declarations import fate_of
from command_line.options import Options
from dataloaders.errors import UserError
from storage import checkpoint
from storage.checkpoint import write_json
from storage.folders import budget_word, data_name, model_folder, split_name, word
from storage.logbook import Lock
from storage.provenance import changed_files
from storage.sealed import read_sealed, sealed
from system.ending import Leave

ROOM = 64 * 2**20
"""Bytes that must be free before the first step; the first checkpoint, written at step 0, is the real test."""


def run_name(options: Options, split: str) -> Path:
    """The run's folder below model/; its name says what shaped it, so that two settings never meet.

    <exp>_<labeled_num>_labeled/<network>/<split>[_split<s>][_draw<d>][_<variant>]_seed<s>[_option=value...].
    split: the name of what was made of the options, `Split.name`: official, clean, drawn, ...
    """
    resolved = options.resolved
    exp = options.exp or f"{data_name(resolved.data, resolved.root)}/{resolved.method}"
    if Path(exp).is_absolute() or ".." in Path(exp).parts:
        raise UserError(f"--exp {exp}: a name such as ACDC/{resolved.method} is needed; it may not leave the folder model/.")
    parts = [split_name(split, options.protocol, resolved.data.protocols[0], options.fold, options.folds, options.split_seed)]
    if options.labeled_choice == "random":
        parts.append(f"draw{options.labeled_seed}")
    variant = getattr(options, "variant", None)
    if variant and variant != resolved.defaults.get("variant"):
        parts.append(variant)
    parts.append(f"seed{options.seed}")
    for name, fate in fate_of(type(options)).items():
        value = getattr(options, name)
        if fate.name == "value" and name != "variant" and value != resolved.defaults[name]:
            parts.append(f"{name}={brief(word(value))}")
    return Path(f"{exp}_{budget_word(options.labeled_num)}_labeled") / options.model / "_".join(parts)


LONGEST = 40
"""Letters of a value in a folder's name; the name of a run that another one started from may be long."""


def brief(text: str) -> str:
    """`text`, or its beginning and a digest of it where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass
class Claim:
    """A folder that is this process's until it is released."""

    lock: Lock
    changes: list[str] = field(default_factory=list)
    """What of the configuration was changed on the way and accepted; said in every result."""
    remarks: list[str] = field(default_factory=list)


def claim(folder: Path, config: dict[str, Any], defaults: Mapping[str, object], fresh: bool, accept_changes: bool) -> Claim:
    """Makes or takes over `folder` for the run that `config` describes, and writes config.json, completed by its history.

    defaults: what an option that an old configuration lacks had as its value. Raises `Leave` where the run is finished, `UserError` for
    another run's folder, a lock, a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}). Mend the permissions of {model_folder()}.") from error
    if shutil.disk_usage(folder).free < ROOM:
        raise UserError(f"{folder}: less than {ROOM // 2**20} MiB are free on this disk. Make room before training.")
    lock = Lock(folder)
    if fresh and (folder / "config.json").exists():
        lock = _moved_aside(folder, lock)
    taken = Claim(lock)
    if (folder / "config.json").exists():
        _compare(folder, config, defaults, accept_changes, taken)
    try:
        write_json(folder / "config.json", sealed(config))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Make room, or mend its permissions.") from error
    return taken


def _moved_aside(folder: Path, lock: Lock) -> Lock:
    stem = aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    for count in itertools.count(2):
        if not aside.exists():
            break
        aside = stem.with_name(f"{stem.name}-{count}")
    lock.release()
    folder.rename(aside)
    print(f"The old run was moved to {aside}", flush=True)
    folder.mkdir(parents=True)
    return Lock(folder)


def differences(old: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, object]) -> list[str]:
    """What of an earlier configuration is not as now, a line each; the code's digest is not among them."""
    lines = [f"{key}: {old.get(key)} then, {now[key]} now" for key in ("method", "data_set", "root") if old.get(key) != now[key]]
    if old.get("white", now.get("white")) != now.get("white"):
        lines.append(f"the value that is read as white: {old.get('white')} then, {now.get('white')} now, by the greatest one in the images")
    for key in sorted(set(old.get("options", {})) | set(now["options"])):
        # An option that came after that run was made had the value that is the default now.
        then = old.get("options", {}).get(key, defaults.get(key))
        if then != now["options"].get(key):
            lines.append(f"--{key}: {then} then, {now['options'].get(key)} now")
    if old.get("split") != now["split"]:
        lines.append("the cases of the split (labelled, unlabelled or validation) are not the same")
    return lines


def _compare(folder: Path, config: dict[str, Any], defaults: Mapping[str, object], accept_changes: bool, taken: Claim) -> None:
    old = read_sealed(folder / "config.json", "Begin anew with --fresh (the folder is moved aside).")
    if not isinstance(old.get("options"), dict):
        raise UserError(f"{folder / 'config.json'}: no configuration of a run (no options in it). Begin anew with --fresh (the folder is "
                        "moved aside).", 4)
    status = _status(folder)
    done = status.get("state") == "done"
    lines = differences(old, config, defaults)
    code_changed = old.get("code") != config["code"]
    if code_changed and not done:
        which = changed_files(old.get("code_files"), config["code_files"])
        lines.append(f"the code that shapes a run: {old.get('code')} then, {config['code']} now" + (f" ({which})" if which else ""))
    if lines and not done and _untrained(folder):
        return
    if lines and not (accept_changes and not done):
        raise UserError("\n".join([
            f"{folder}: a {'finished' if done else 'begun'} run with another configuration lies here:",
            *(f"  - {line}" for line in lines),
            "Begin anew with --fresh (the old folder is moved aside), choose another place by --exp NAME"
            + (", or go on all the same with --accept_changes." if not done else "."),
        ]))
    if done:
        made = f" It was made by code {old.get('code')}, which has changed since." if code_changed else ""
        raise Leave(f"This run is finished: {folder}{made}\n"
                    f"Test it: python code/test_{config['dimensions']}D.py --run {shlex.quote(str(folder))}", 0, "done")
    _remark_processes(old, status, config, taken)
    # Accepted changes are said in every result of this run from here on.
    config["changes"] = taken.changes = [*old.get("changes", []), *lines]
    if code_changed or "first_code" in old:
        config["first_code"] = old.get("first_code", old.get("code"))


def _status(folder: Path) -> dict[str, Any]:
    """What status.json says; nothing where it is not there, or cannot be trusted: the checkpoints know how far the run is."""
    path = folder / "status.json"
    try:
        return read_sealed(path, "The run goes on from its last checkpoint, which knows how far it is.") if path.exists() else {}
    except UserError as error:
        print(f"WARNING: {error}", flush=True)
        return {}


def _untrained(folder: Path) -> bool:
    """True, and the folder cleared of its first checkpoint, where no step was trained: a script that failed at once may be mended."""
    path = folder / "last.pt"
    files = {file.name for file in folder.glob("*.pt")}
    if files - {path.name, checkpoint.previous_of(path).name}:
        return False
    try:
        if path.name in files and checkpoint.load(path)["step"]:
            return False
    except UserError:
        return False
    for file in (path, checkpoint.previous_of(path)):
        file.unlink(missing_ok=True)
    return True


def _remark_processes(old: Mapping[str, Any], status: Mapping[str, Any], config: dict[str, Any], taken: Claim) -> None:
    """Says, in every result too, that a run goes on with another number of processes than it had."""
    before, now = old.get("processes_before", []), config["processes"]
    if old.get("processes", 1) != now and status.get("step"):
        before = [*before, [old.get("processes", 1), status["step"]]]
    if before:
        config["processes_before"] = before
        history = ", ".join(f"{count} until about step {step}" for count, step in before)
        taken.remarks.append(f"Number of processes: {history}, then {now}. Not bitwise what one number throughout would give.")
        config["remarks"] = [*config["remarks"], taken.remarks[-1]]
        print(taken.remarks[-1], flush=True)
