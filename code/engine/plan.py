"""What a script would do, without doing it: the folder of each of many command lines, or why it would be refused.

`launch` comes here where the environment has SEMISEG_PLAN. Standard input is one JSON object: `extra`, options for any script, each
a list of words, of which this one takes those that it has; and `runs`, lists of words. On the screen is then a JSON line a run after one
that says what this script is. Nothing is written, and no test list of an official split is opened.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line.declarations import fate_of, option_names
from command_line.options import REPLACED, Kind, Options, Presets, parse
from dataloaders import catalog
from dataloaders.errors import UserError
from dataloaders.splits.split import Split, SplitRequest, make_split
from engine.claim import run_name
from storage.folders import model_folder
from storage.sealed import parsed

OF_THE_RUN = (*(field.name for field in dataclasses.fields(SplitRequest)), "seed", "exp")
"""What differs between the runs of a sweep; none of it decides which files a data set reads."""


def flag_of(words: Sequence[str]) -> str:
    """The name of the option that stands first: --labeled-num=7 -> labeled_num, --no_compile -> compile."""
    return words[0].split("=")[0].lstrip("-").replace("-", "_").removeprefix("no_")


def answer(kind: type[Kind], presets: Presets) -> int:
    """Reads the runs from standard input, writes a line for each; gives the exit code 0."""
    asked = json.load(sys.stdin)
    names = option_names(kind)
    taken = [words for words in asked["extra"] if flag_of(words) in (*names, *REPLACED)]
    print(json.dumps({"options": names, "unknown": [flag_of(words) for words in asked["extra"] if words not in taken]}))
    known: dict[str, Any] = {}
    for words in asked["runs"]:
        whole = [*words, *(word for option in taken for word in option)]
        print(json.dumps({"words": whole, **_resolved(kind, presets, whole, known)}), flush=True)
    return 0


def _resolved(kind: type[Kind], presets: Presets, words: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """Folder and a few options of a command line, or the sentence (`error`) with which it would be refused."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = parse(kind, presets, words)
            request, split = _split(options, known)
    except UserError as error:
        return {"error": str(error)}
    except SystemExit as end:  # tyro has said what is wrong; --help ends with 0
        return {"error": said.getvalue().strip() or f"refused with code {end.code}"}
    resolved = options.resolved
    folder = (model_folder() / run_name(options, split.name)).resolve()
    if others := _finished_otherwise(folder, options):
        return {"error": f"a finished run with other options lies in its folder ({'; '.join(others)}). Choose another place by --exp NAME."}
    return {"folder": str(folder), "dimensions": resolved.data.dimensions, "steps": options.max_iterations, "device": options.device,
            "split": dataclasses.asdict(request), "reader": {name: getattr(options, name) for name in resolved.data.options}}


def _finished_otherwise(folder: Path, options: Options) -> list[str]:
    """The options in which a finished run in this folder differs: those that have no place in the folder's name."""
    try:
        old = parsed((folder / "config.json").read_bytes())["options"]
        if parsed((folder / "status.json").read_bytes())["state"] != "done":
            return []  # the script itself compares, and knows --accept_changes
    except (OSError, ValueError, KeyError):
        return []
    if not isinstance(old, dict):
        return []
    fates = fate_of(type(options))
    now = json.loads(json.dumps({name: getattr(options, name) for name in fates}, default=str))
    return [f"--{name} {old[name]} then, {value} now" for name, value in now.items()
            if not fates[name].harmless and name != "device" and name in old and old[name] != value]


def _split(options: Options, known: dict[str, Any]) -> tuple[SplitRequest, Split]:
    """The request of the run's split, and what is made of it, which refuses budgets and folds that cannot be. Sources and splits that
    several runs share are made once (`known`)."""
    values = {name: getattr(options, name) for name in option_names(type(options))}
    source_key = json.dumps({name: value for name, value in values.items() if name not in OF_THE_RUN}, default=str)
    if source_key not in known:
        resolved = options.resolved
        known[source_key] = catalog.open_source(resolved.data, resolved.root, values)
    request = SplitRequest.of(values)
    split_key = f"{source_key} {request}"
    if split_key not in known:
        known[split_key] = make_split(known[source_key], request)
    return request, known[split_key]
