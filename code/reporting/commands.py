"""Commands that make a row, or what is missing of one, from the command of a run that is there."""
from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from command_line.options import Options
from reporting.records import Record
from reporting.rows import draw_key
from reporting.scores import Key
from storage.provenance import words_of

PLACED = ("dataset", "labeled_num", "labeled_choice", "labeled_seed", "annotation", "fold", "folds", "seed", "exp", "fresh",
          "accept_changes", "save_every", "log_every")
"""Options that are given anew in such a command, or change no result."""


def command_for(like: Record, method: str, budget: str, keys: Sequence[Key]) -> str:
    """What to type for runs of `method` with this budget, at the (fold, draw, seed) of `keys`, with the options of the run `like`.

    One run: its script. Several: a sweep, which skips the finished ones, where the runs lie as a sweep lays them out; else the script of
    the first. Options that only the other method has are left out.
    """
    options = _options(like.run["command"])
    common = {field.name for field in fields(Options)}
    kept = [words for words in options if _name(words) not in PLACED and (method == like.method or _name(words) in common)]
    exp = next((words[-1] for words in options if _name(words) == "exp"), "")
    folds = [] if like.fold is None else ["--folds", str(like.options["folds"])]
    draws = {key[1] for key in keys} - {-1}
    counted = len(keys) > 1 and draws in (set(), set(range(len(draws)))) and not (draws and any(key[1] < 0 for key in keys))
    annotation = like.options.get("annotation", "full")  # of a run made before there was the option
    base = ["--dataset", like.data_set, *(["--annotation", annotation] if annotation != "full" else [])]
    if counted and exp.endswith(f"/{like.method}"):
        words = ["python", "code/cross_validate.py", "--methods", method, "--labeled_num", budget, *folds]
        words += ["--draws", str(len(draws))] if draws else []
        words += ["--seeds", *(str(seed) for seed in sorted({key[2] for key in keys})), *base, "--exp", exp.rpartition("/")[0]]
        return shlex.join([*words, *(word for group in kept for word in group)])
    fold, draw, seed = sorted(keys)[0]
    words = ["python", f"code/train_{method}.py", *base, "--labeled_num", budget]
    words += ["--fold", str(fold), *folds] if fold >= 0 else []
    words += ["--labeled_choice", "random", "--labeled_seed", str(draw)] if draw >= 0 else []
    words += ["--seed", str(seed)]
    if exp:
        head, _, tail = exp.rpartition("/")
        words += ["--exp", f"{head}/{method}" if tail == like.method else exp if method == like.method else f"{exp}_{method}"]
    return shlex.join([*words, *(word for group in kept for word in group)])


def again(record: Record) -> str:
    """The command that made a run, from the repository's root."""
    words = words_of(record.run["command"])
    return shlex.join(["python", f"code/{Path(words[0]).name}", *words[1:]]) if words else ""


def absent(records: Sequence[Record], expected: set[Key]) -> list[Key]:
    """Runs that a row lacks of those expected."""
    return sorted(expected - {draw_key(record) for record in records})


def _options(command: str) -> list[list[str]]:
    """The options of a command line, each with its values."""
    groups: list[list[str]] = []
    for word in words_of(command)[1:]:
        if word.startswith("--"):
            groups.append(word.split("=", 1))
        elif groups:
            groups[-1].append(word)
    return list({_name(group): group for group in groups}.values())  # the last of a repeated option counts


def _name(words: Sequence[str]) -> str:
    name = words[0].removeprefix("--").replace("-", "_")
    return name if name in PLACED else name.removeprefix("no_")
