"""What an option declares of itself: its range, which holds for every script, and what becomes of it."""
from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path

import pytest

from command_line.declarations import Within, declared, fate_of, option_names
from command_line.help import GROUPS
from dataloaders.errors import UserError
from dataloaders.splits.split import SplitRequest
from engine import Options, parse

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "code").glob("train_*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_values_outside_their_range_are_refused_together(script: str) -> None:
    module = importlib.import_module(script)
    kind = next(k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Options) and k.__module__ == script)
    data = ["--dataset", "ACDC", "--root_path", "/"]
    resolved = parse(kind, module.PRESETS, data)
    words, expected = [], []
    for name, range_ in declared(kind, Within).items():
        value = getattr(resolved, name)
        wrong = range_.low - 1 if range_.low > -math.inf else range_.high + 1
        sides = len(value) if isinstance(value, tuple) else 1
        words += [f"--{name}", *[f"{wrong:g}"] * sides]
        expected.append(f"--{name} ")
    assert {"--base_lr ", "--dropout ", "--seed "} <= set(expected)
    with pytest.raises(UserError) as refused:
        parse(kind, module.PRESETS, [*data, *words])
    said = str(refused.value).splitlines()
    assert not [name for name in expected if not any(line.startswith(name) and "needed" in line for line in said)], said
    assert all(not isinstance(getattr(resolved, name), float) or name in declared(kind, Within) for name in option_names(kind)), (
        "a number with a fraction says its range")


def test_no_number_that_is_not_finite_lies_in_a_range() -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert not Within().holds(value)
    half_open = Within(0, 1, open_low=True, open_high=True)
    assert [half_open.holds(value) for value in (0, 0.5, 1)] == [False, True, False]
    assert str(half_open) == "more than 0 to less than 1" and str(Within(2)) == "2 or more"


def test_what_is_of_the_split_is_what_a_split_is_asked_by() -> None:
    asked = {field.name for field in dataclasses.fields(SplitRequest)} - {"hold_out"}
    assert {name for name, fate in fate_of(Options).items() if fate.split} == asked


def test_every_common_option_stands_in_one_group_of_the_help_page() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(option_names(Options))
