"""What a script prints for --help: its method, its own options first, then the common ones in groups, with the values that hold here."""
from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from command_line.declarations import option_names

GROUPS = {
    "Data and labels": ("dataset", "root_path", "labeled_num", "labeled_choice", "labeled_seed", "annotation",
                        "annotated_slices", "protocol", "fold", "folds", "split_seed", "split_file",
                        "mask_threshold", "include_free", "dagm_classes", "target"),
    "Network": ("model", "pretrained", "init_run", "dropout"),
    "Training": ("max_iterations", "batch_size", "labeled_bs", "patch_size", "optimizer", "base_lr", "head_rate", "schedule", "patience",
                 "steps_per_epoch", "ramp", "dice", "passes", "stride", "seed"),
    "The run": ("exp", "fresh", "accept_changes", "val_every", "save_every", "log_every"),
    "The machine": ("device", "fast", "precision", "compile", "sync_bn", "cache", "deterministic"),
}


def docstrings(kind: type) -> dict[str, str]:
    """By option: the docstring below it, of the script's class and of those that it extends."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def typed(hint: Any) -> str:
    """What a user types for a value of this type: a word in capitals, or the choices."""
    origin, inner = get_origin(hint), [one for one in get_args(hint) if one not in (type(None), Ellipsis)]
    if origin is Annotated:
        return typed(inner[0])
    if origin is Literal:
        return "|".join(map(str, get_args(hint)))
    if origin is tuple:
        several = len(inner) == 1 and Ellipsis in get_args(hint)
        return f"{typed(inner[0])} {typed(inner[0])} ..." if several else " ".join(map(typed, inner))
    if origin is Union or type(hint).__name__ == "UnionType":
        return typed(inner[0])
    return {int: "N", float: "X", str: "NAME", Path: "PATH", bool: ""}.get(hint, str(hint).upper())


def shown(value: object) -> str:
    """A default as it would be typed; empty where there is none."""
    if value is None or value is False:
        return ""
    return "on" if value is True else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def help_text(kind: type, defaults: Any, script: str, where: str) -> str:
    """The whole page. `defaults`: an instance that holds the values of this data set; `where`: which data set that is."""
    hints, said, width = get_type_hints(kind, include_extras=True), docstrings(kind), min(shutil.get_terminal_size().columns, 120)
    common = [name for names in GROUPS.values() for name in names]
    options = option_names(kind)
    groups = {f"Options of {script}": [name for name in options if name not in common], **GROUPS}

    def lines() -> Iterator[str]:
        yield (inspect.getmodule(kind).__doc__ or "").strip()
        yield f"\nusage: python code/{script} [--option value ...]        defaults: {where}"
        for title, names in groups.items():
            if present := [name for name in names if name in options]:
                yield f"\n{title}"
            for name in present:
                default = shown(getattr(defaults, name))
                flag = f"  --{name} {typed(hints[name])}".rstrip() + (f"   [{default}]" if default else "")
                yield flag
                yield textwrap.fill(said.get(name, ""), width, initial_indent=" " * 8, subsequent_indent=" " * 8)

    return "\n".join(lines())
