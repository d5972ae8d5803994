"""What every script in code/ must do, whatever its method. Scripts are found by listing; a new one needs no line here.

On images (where it takes none, on volumes) it trains, is killed and resumed to the bit (every variant), is tested, and in two processes
ends with the same weights on both. On volumes it trains, or says that it is for images; the reverse likewise. Its losses are tested
somewhere. Help, presets and length of a script: test_scripts.py and test_structure.py; its page and its row of the README:
test_readme.py.
"""
from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from harness import Bench, check_equal, keep_states, kind_of, leave_copies, outcome, train_ranks

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem.removeprefix("train_") for path in (ROOT / "code").glob("train_*.py"))
IMAGES, IN_3D = ("--dataset", "ACDC"), ("--dataset", "nnunet", "--patch_size", "32", "16", "16")
FOUR = ("--max_iterations", "4", "--val_every", "4", "--save_every", "2", "--log_every", "1")
TWO = ("--max_iterations", "2", "--val_every", "2", "--save_every", "2", "--log_every", "1", "--batch_size", "8", "--labeled_bs", "4")
SHORTEST = ("--max_iterations", "2", "--val_every", "2", "--save_every", "2")
BUSY = {"steps_per_epoch": "2", "consistency": "5", "consistency_start": "0", "num_branches": "2", "teacher_passes": "2",
        "consistency_rows": "all", "min_foreground": "0.0", "pre_iterations": "1", "confidence": "0.3", "longest_turn": "1",
        "further_passes": "2", "memory_per_class": "2", "positions_per_class": "50", "stored": "20", "scales": "1",
        "sites": "3", "local_steps": "1", "resting_rounds": "1", "focus_from": "0.4", "queries": "8", "negatives": "8"}
"""Options, of the scripts that have them, under which a few steps do all that a method does. Two steps are an epoch, so that what is
learned an epoch is learned before the kill, and again after it."""


def busy(method: str) -> tuple[str, ...]:
    have = {field.name for field in dataclasses.fields(kind_of(f"train_{method}"))}
    return tuple(word for name, value in BUSY.items() if name in have for word in (f"--{name}", value))


def variants(method: str) -> list[str]:
    """The named sets of options of a script, its default apart."""
    return list(get_args(get_type_hints(kind_of(f"train_{method}")).get("variant"))[1:])


CASES = [(method, *words) for method in METHODS for words in [(), *(("--variant", name) for name in variants(method))]]


@cache
def rows() -> dict[str, tuple[str, str]]:
    """(page, what it is for: all, images or volumes) of every method that the README lists."""
    row = re.compile(r"^\| `code/train_(\w+)\.py` \|.*\[page\]\((docs/methods/\w+\.md)\) \| (\w+) \|", re.MULTILINE)
    return {method: (page, use) for method, page, use in row.findall((ROOT / "README.md").read_text(encoding="utf-8"))}


def takes_images(method: str) -> bool:
    """A script without a row is taken to."""
    return method not in rows() or rows()[method][1] != "volumes"


@pytest.fixture
def data_of(tiny_acdc: Path, volumes: Path) -> Callable[[str], tuple[tuple[str, ...], Path]]:
    """(options that name it, folder) of the data set on which a method is trained: images, if it takes any."""
    return lambda method: (IMAGES, tiny_acdc) if takes_images(method) else (IN_3D, volumes)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_killed_run_ends_as_an_uninterrupted_one(case: tuple[str, ...], bench: Bench, data_of: Callable,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    """All that a method carries from step to step is in the checkpoint; and the run is tested."""
    method, *words = case
    named, data = data_of(method)
    train = partial(bench.train, method, *named, *FOUR, *busy(method), *words, data=data)
    whole = train(before=partial(leave_copies, {"step-last:4": "killed"}))
    assert whole.code == 0, whole.out + whole.err
    resumed = train(model="killed")
    assert resumed.code == 0 and "resumed at step 2" in resumed.out, resumed.out + resumed.err
    expected, found = outcome(bench.run_folder()), outcome(bench.run_folder("killed"))
    assert [key for key in expected if found.get(key) != expected[key]] == []
    losses = [line["total"] for line in expected["metrics"] if line["kind"] == "train" and "stage" not in line]
    assert len(losses) == 4 and all(abs(loss) < 1e4 for loss in losses)
    if not words:
        results = bench.test("test_2D" if takes_images(method) else "test_3D")
        assert "est, median and worst case" in capsys.readouterr().out
        best = torch.load(bench.run_folder() / "best.pt", weights_only=True)
        assert set(results) == set(best["order"]) and {result["run"]["method"] for result in results.values()} == {method}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_end_with_the_same_weights(method: str, bench: Bench, data_of: Callable) -> None:
    """And the same scores; one of them speaks."""
    named, data = data_of(method)
    ends = train_ranks(bench, method, *named, *TWO, *busy(method), before=keep_states, data=data, KEPT=str(bench.folder))
    held = check_equal(bench.folder, ends)
    assert held["scores"] and all(isinstance(score, float) for score in held["scores"].values())
    assert not ends[1].out and "Next: python" in ends[0].out
    assert json.loads((bench.run_folder() / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize("method", METHODS)
def test_volumes_are_trained_or_refused(method: str, bench: Bench, volumes: Path) -> None:
    """As its row of the README says; a script without a row may do either."""
    if not takes_images(method):
        end = bench.train(method, *IMAGES, *SHORTEST, *busy(method))
        assert end.code == 2 and "Traceback" not in end.err and "images" in end.err, end.out + end.err
        return  # what trains it above trains it on volumes
    end = bench.train(method, *IN_3D, *SHORTEST, *busy(method), data=volumes)
    use = rows()[method][1] if method in rows() else "all" if end.code == 0 else "images"
    if use == "images":
        assert end.code == 2 and "Traceback" not in end.err and "volumes" in end.err, end.out + end.err
    else:
        assert end.code == 0 and "test_3D.py --run" in end.out, end.out + end.err


@pytest.mark.parametrize("method", [method for method in METHODS if method in rows()])
def test_its_losses_are_tested(method: str) -> None:
    """Against the published code, with golden files (parity_cases/), or worked out by hand in a test of its own."""
    named = re.compile(rf"^(import train_{method}$|from train_{method} import )", re.MULTILINE)
    tests = ROOT / "tests"
    assert any(named.search(file.read_text(encoding="utf-8")) for file in [*tests.glob("parity_cases/*.py"), *tests.glob("test_*.py")])
