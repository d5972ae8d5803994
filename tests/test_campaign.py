"""A small sample of tests/campaign.py: the whole of it takes hours, and its counts stand in docs/reliability.md."""
from __future__ import annotations

import ast
import json
import os
import signal
from pathlib import Path

from campaigns import kills, mutants
from campaigns.ledger import Ledger, in_children


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


def test_a_few_kills(tmp_path: Path, scratch: Path) -> None:
    killer, ledger = kills.Killer(scratch / "kills"), Ledger(tmp_path / "kills.jsonl")
    for name, kind in [next(one for one in kills.faults(520) if one[1] == kind) for kind in ("training", "sweep")]:
        found, said, number = killer.find(name, kind)
        ledger.add(name, kind, found, said, number)
    assert all(row["outcome"] in kills.GOOD for row in ledger.found.values()), json.dumps(ledger.found, indent=1)
