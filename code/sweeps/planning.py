"""Asks every script what each of its runs would be, before any begins: its folder, or the sentence that refuses it."""
from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dataloaders.errors import UserError
from dataloaders.splits.split import SplitRequest
from storage.folders import result_path
from sweeps.work import Job

CODE = Path(__file__).resolve().parents[1]


class Asked(Protocol):
    """A run that is planned: one of a sweep's grid, or a trial of an adviser."""

    @property
    def method(self) -> str:
        """Its script is code/train_<method>.py."""

    @property
    def title(self) -> str:
        """For the screen."""

    def words(self, folds: int | None, name: str) -> list[str]:
        """The options of the script that say which run it is; `name`: the sweep's."""


def scripts() -> list[str]:
    """The methods that there are."""
    return [path.stem.removeprefix("train_") for path in sorted(CODE.glob("train_*.py"))]


@dataclass
class Plan:
    """What a sweep will do."""

    jobs: list[Job]
    remarks: list[str]
    """For the screen."""
    splits: set[SplitRequest]
    """What the runs ask of their splits, their methods' presets included."""
    reader: dict[str, Any]
    """The options of the data set's own that they read it with."""


def plan(combinations: Sequence[Asked], common: Sequence[str], extra: Sequence[list[str]], folds: int | None, name: str,
         at_once: int) -> Plan:
    """Asks all scripts: one process a method, `at_once` at a time.

    `common` are words for every run; `extra` are options, each with its values, for those scripts that have them. Raises `UserError`
    for an option that no script has, and with every sentence with which a script would refuse a run.
    """
    methods = list(dict.fromkeys(one.method for one in combinations))
    asked = {method: [one for one in combinations if one.method == method] for method in methods}
    with ThreadPoolExecutor(max(at_once, 1)) as pool:
        answers = dict(zip(methods, pool.map(lambda method: _ask(method, asked[method], common, extra, folds, name), methods)))
    remarks = _options(extra, {method: lines[0] for method, lines in answers.items()})
    refused: dict[str, list[str]] = {}
    found: dict[Asked, Job] = {}
    for method, lines in answers.items():
        for one, line in zip(asked[method], lines[1:]):
            if "error" in line:
                refused.setdefault(line["error"], []).append(one.title)
            else:
                found[one] = _job(one, line)
    if refused:
        raise UserError("\n".join(f"{titles[0]}{f' and {len(titles) - 1} more' if len(titles) > 1 else ''}: {sentence}"
                                  for sentence, titles in refused.items()))
    lines = [line for answer in answers.values() for line in answer[1:]]
    for name in lines[0]["reader"]:
        if len({str(line["reader"][name]) for line in lines}) > 1:
            raise UserError(f"--{name}: the methods read the data set with different values by default; give one for all.")
    return Plan([found[one] for one in combinations], remarks, {SplitRequest(**line["split"]) for line in lines}, lines[0]["reader"])


def _ask(method: str, runs: Sequence[Asked], common: Sequence[str], extra: Sequence[list[str]], folds: int | None,
         name: str) -> list[dict[str, Any]]:
    question = {"extra": list(extra), "runs": [[*common, *one.words(folds, name)] for one in runs]}
    script = CODE / f"train_{method}.py"
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(question), env={**os.environ, "SEMISEG_PLAN": "1"},
                          capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(runs) + 1:
        raise UserError(f"{script}: does not say what its runs are (exit code {done.returncode}):\n{done.stderr.strip()[-2000:]}", 3)
    return [json.loads(line) for line in lines]


def _options(extra: Sequence[list[str]], said: dict[str, dict[str, Any]]) -> list[str]:
    """A remark for each option that some of the methods lack. Raises `UserError` for those that all lack."""
    remarks, wrong = [], []
    every = sorted({option for one in said.values() for option in one["options"]})
    for words in extra:
        flag = words[0].split("=")[0].lstrip("-").replace("-", "_")
        lack = [method for method, one in said.items() if flag.removeprefix("no_") in one["unknown"]]
        if len(lack) == len(said):
            near = difflib.get_close_matches(flag, every, 3, 0.5)
            hint = f" Did you mean {' or '.join('--' + option for option in near)}?" if near else ""
            wrong.append(f"None of {', '.join(said)} has an option --{flag}.{hint}")
        elif lack:
            have = [method for method in said if method not in lack]
            remarks.append(f"{' '.join(words)} goes to {', '.join(have)}; no such option: {', '.join(lack)}.")
    if wrong:
        raise UserError("\n".join(wrong))
    return remarks


def _job(one: Asked, line: dict[str, Any]) -> Job:
    folder = Path(line["folder"])
    device = ("--device", line["device"]) if line["device"] != "auto" else ()
    return Job(one.title, one.method, str(folder), str(result_path(folder).resolve()),
               (str(CODE / f"train_{one.method}.py"), *line["words"]),
               (str(CODE / f"test_{line['dimensions']}D.py"), "--run", str(folder), *device),
               line["steps"])
