"""A small sample of tests/campaign.py: the whole of it takes hours, and its counts stand in docs/reliability.md."""
from __future__ import annotations

import ast
import json
import os
import signal
import sys
import types
from pathlib import Path

import pytest
from campaigns import files, kills, mutants
from campaigns.ledger import Ledger, in_children
from narrow import make_narrow


def test_a_ledger_goes_on_and_survives_what_kills_a_child(tmp_path: Path) -> None:
    def die() -> tuple[str, str]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return "", ""

    def fail() -> tuple[str, str]:
        raise KeyError("x")

    def good() -> tuple[str, str]:
        return "refused", ""

    faults = [("a", "k", good), ("b", "k", die), ("c", "k", fail), ("d", "l", good)]
    ledger = Ledger(tmp_path / "x.jsonl")
    in_children(faults, ledger)
    assert {name: row["outcome"] for name, row in ledger.found.items()} == {"a": "refused", "b": "crash", "c": "traceback", "d": "refused"}
    (tmp_path / "x.jsonl").write_text((tmp_path / "x.jsonl").read_text() + '{"fau')
    again = Ledger(tmp_path / "x.jsonl")
    in_children(faults, again)
    assert again.found == ledger.found and "| k | 3 | 1 | 1 | 1 |" in again.table(("refused",))


def test_mutants_are_programs_that_differ_by_one_change() -> None:
    every = mutants.mutants_of("engine/schedules.py")
    assert len(every) > 80 and len({mutant.name for mutant in every}) == len(every)
    text = ast.unparse(ast.parse((mutants.ROOT / "code" / "engine" / "schedules.py").read_text()))
    for mutant in every[::15]:
        source = mutant.source()
        assert source.strip() != text.strip(), mutant.name
        ast.parse(source)
    for module, known in mutants.EQUIVALENT.items():
        assert len([one for one in mutants.mutants_of(module) if one.equivalent]) >= len(known), "a line that is no more"
    whole = mutants.chosen(60)
    assert {mutant.module for mutant in whole} == set(mutants.TESTS)
    assert [one.name for one in whole] == [one.name for one in mutants.chosen(60)]


def test_a_mutant_is_put_in_place_wherever_it_was_imported_to() -> None:
    """Functions, methods, defaults, constants; what was imported by name before is another one after."""
    from engine.schedules import SCHEDULES, Plateau, linear_rampup, poly
    before = (poly(1.0, 1, 2), linear_rampup(1, 2), Plateau().patience, SCHEDULES["poly_next"](1, 1.0, 2), SCHEDULES["step"](5000, 1.0, 1))
    text = (mutants.ROOT / "code" / "engine" / "schedules.py").read_text()
    try:
        changed = text.replace("** 0.9", "** 2").replace("else t / length", "else t + length")
        changed = changed.replace("patience: int = 50", "patience: int = 7")
        assert mutants.put("engine/schedules.py", changed)
        now = (poly(1.0, 1, 2), linear_rampup(1, 2), Plateau().patience, SCHEDULES["poly_next"](1, 1.0, 2), SCHEDULES["step"](5000, 1.0, 1))
        assert now == (0.25, 3, 7, 0.25, before[4])
    finally:
        mutants.put("engine/schedules.py", text)
    assert before == (poly(1.0, 1, 2), linear_rampup(1, 2), Plateau().patience, SCHEDULES["poly_next"](1, 1.0, 2),
                      SCHEDULES["step"](5000, 1.0, 1))


def test_kernels_caches_defaults_and_partial_functions_are_put_in_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
from functools import cache, partial
from typing import NamedTuple
import numba

class Sums(NamedTuple):
    union: float = 0.0

def power(x, by):
    return x ** by

TABLE = {"square": partial(power, by=2)}

@numba.njit
def inner(x):
    return x + 1

@numba.njit
def outer(x):
    return 10 * inner(x)

@cache
def kept(x):
    return x - 1
"""
    module = types.ModuleType("small_module")
    module.__file__ = str(mutants.ROOT / "tests" / "small_module.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(text, module.__dict__)

    calls = [lambda: module.Sums().union, lambda: module.TABLE["square"](3), lambda: module.kept(1), lambda: module.outer(1)]
    assert [call() for call in calls] == [0, 9, 0, 20] and not mutants.put("small_module.py", text)
    for call, old, new, expected in zip(calls, ("= 0.0", "by=2", "x - 1", "x + 1"), ("= 5.0", "by=3", "x - 2", "x + 2"), (5, 27, -1, 30)):
        assert mutants.put("small_module.py", text.replace(old, new)) and call() == expected
        assert mutants.put("small_module.py", text)


UNGUARDED = ("h5, as downloaded", "h5, by prepare.py", "PNG", "NIfTI, not packed", "lists", "status.json, tested")
"""Kinds of which docs/reliability.md says what passes in silence, and why nobody can know."""


def test_a_few_damaged_files(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_narrow(monkeypatch.setattr)
    place = scratch / "damaged"
    files.settings(place, monkeypatch.setenv)
    wrong = []
    for name, kind, fault in files.faults(files.targets(place), 120):
        outcome, said = fault()
        if outcome not in files.GOOD and not (outcome == "silent" and kind in UNGUARDED):
            wrong.append(f"{outcome}: {name}: {said}")
    assert not wrong, "\n".join(wrong)


def test_a_few_kills(tmp_path: Path, scratch: Path) -> None:
    killer, ledger = kills.Killer(scratch / "kills"), Ledger(tmp_path / "kills.jsonl")
    for name, kind in [next(one for one in kills.faults(520) if one[1] == kind) for kind in ("training", "sweep")]:
        found, said, number = killer.find(name, kind)
        ledger.add(name, kind, found, said, number)
    assert all(row["outcome"] in kills.GOOD for row in ledger.found.values()), json.dumps(ledger.found, indent=1)
