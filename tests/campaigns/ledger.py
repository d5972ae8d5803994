"""What a campaign has found, a line a fault, so that it can be stopped anywhere and goes on; and the table of it."""
from __future__ import annotations

import faulthandler
import json
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Fault = Callable[[], "Finding"]
Finding = tuple[str, str]
"""(outcome, words): what came of a fault."""


class Ledger:
    """The lines of one part of a campaign."""

    def __init__(self, file: Path):
        self.file, self.found = file, dict[str, dict[str, Any]]()
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            for line in file.read_text().splitlines():
                try:
                    row = json.loads(line)
                    self.found[row["fault"]] = row
                except (ValueError, KeyError):  # the line at which the campaign was stopped
                    continue

    def add(self, fault: str, kind: str, outcome: str, said: str, count: int = 1) -> None:
        """`count`: how many faults the line is of."""
        row = {"fault": fault, "kind": kind, "outcome": outcome, "count": count, "said": said[-1500:]}
        self.found[fault] = row
        with open(self.file, "a") as lines:
            lines.write(json.dumps(row) + "\n")

    def counts(self) -> dict[str, Counter[str]]:
        """By kind of fault, how often each outcome was found."""
        counted: dict[str, Counter[str]] = {}
        for row in self.found.values():
            counted.setdefault(row["kind"], Counter())[row["outcome"]] += row["count"]
        return counted

    def table(self, outcomes: Sequence[str]) -> str:
        """Markdown: a row a kind of fault, a column an outcome."""
        counted = self.counts()
        whole = sum(counted.values(), Counter())
        columns = [*outcomes, *sorted(set(whole) - set(outcomes))]
        lines = ["| | faults | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
        for kind, count in [*sorted(counted.items()), ("all", whole)]:
            lines.append(f"| {kind} | {count.total()} | " + " | ".join(str(count[column]) for column in columns) + " |")
        return "\n".join(lines)


def in_children(faults: Iterable[tuple[str, str, Fault]], ledger: Ledger, limit_s: int = 30) -> None:
    """Calls (name, kind, fault) one after another in a forked child, and in another one where it dies or hangs: a library in C may.

    What a fault raises is its outcome "traceback"; a child that a signal ends, "crash"; one that goes on for `limit_s`, "hang".
    """
    todo = [fault for fault in faults if fault[0] not in ledger.found]
    while todo:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _called(todo, writer, limit_s)
        os.close(writer)
        done = 0
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                outcome, said = json.loads(line)
                ledger.add(todo[done][0], todo[done][1], outcome, said)
                done += 1
        _, status = os.waitpid(child, 0)
        if done < len(todo):
            number = os.waitstatus_to_exitcode(status)
            ledger.add(todo[done][0], todo[done][1], "hang" if number == -signal.SIGALRM else "crash", f"the process ended with {number}")
            done += 1
        todo = todo[done:]


def _called(todo: Sequence[tuple[str, str, Fault]], writer: int, limit_s: int) -> None:
    """In a child: a line for each fault; never returns."""
    import torch
    torch.set_num_threads(1)  # the threads of the parent do not live in a child of a fork, and waiting for them never ends
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.disable()  # a child that dies is one of the outcomes
    silent = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(silent, number)
    for _, _, fault in todo:
        signal.alarm(limit_s)
        try:
            finding = fault()
        except BaseException:
            finding = "traceback", traceback.format_exc()
        os.write(writer, (json.dumps(finding) + "\n").encode())
    os._exit(0)
