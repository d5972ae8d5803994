"""A method is one page: how long the scripts are, what two of them share, and how much of each is its own."""
import ast
import difflib
import itertools
from pathlib import Path

import pytest

CODE = Path(__file__).parents[1] / "code"
SCRIPTS = sorted(CODE.glob("train_*.py"))
LONGEST, SHARED, OWN = 130, 10, 0.2


def code_lines(path: Path) -> list[str]:
    """The lines with code, without docstrings and comments, the method's name as `Method`."""
    text = path.read_text()
    documented = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [line.strip() for k, line in enumerate(text.splitlines(), 1) if k not in documented]
    kind = next(line.split("(")[0].removeprefix("class ") for line in lines if line.startswith("class "))
    return [line.replace(kind, "Method") for line in lines if line and not line.startswith("#")]


def skeleton() -> set[str]:
    """The frame of every script: what the shortest one has, whatever its names."""
    return set(code_lines(CODE / "train_Supervised.py")) | {
        "import torch", "from typing import Literal", "for step, batch in run.batches():"}


def shared_run(first: list[str], second: list[str], frame: set[str]) -> list[str]:
    """The longest run of lines that stands in both, by what of it is not the frame."""
    blocks = difflib.SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    runs = [first[block.a : block.a + block.size] for block in blocks]
    return max(([line for line in run if line not in frame] for run in runs), key=len, default=[])


@pytest.fixture(scope="module")
def lines() -> dict[str, list[str]]:
    return {path.stem.removeprefix("train_"): code_lines(path) for path in SCRIPTS}


def test_every_script_is_a_page_of_its_own(lines):
    frame, wrong = skeleton(), []
    nearest = dict.fromkeys(lines, ("", 0))
    for (one, first), (other, second) in itertools.combinations(lines.items(), 2):
        run = shared_run(first, second, frame)
        for name, beside in ((one, other), (other, one)):
            nearest[name] = max(nearest[name], (beside, len(run)), key=lambda pair: pair[1])
        if len(run) >= SHARED:
            wrong.append(f"{one} and {other} share {len(run)} lines in a row beyond the frame:\n    " + "\n    ".join(run))
    print(f"\n{'script':<16}{'lines':>6}{'own':>7}   longest run shared beyond the frame")
    for path, (name, mine) in zip(SCRIPTS, lines.items()):
        others = {line for other, theirs in lines.items() if other != name for line in theirs}
        own = sum(line not in others for line in mine) / len(mine)
        length = len(path.read_text().splitlines())
        print(f"{name:<16}{length:>6}{own:>7.0%}   {nearest[name][1]} with {nearest[name][0]}")
        if length > LONGEST:
            wrong.append(f"{name}: {length} lines, {LONGEST} are allowed")
        if own < OWN and name != "Supervised":
            wrong.append(f"{name}: {own:.0%} of its code lines stand in no other script, {OWN:.0%} are asked for")
    assert not wrong, "\n".join(wrong)


def test_the_measure_can_fail():
    """A script with another's loop and loss is found."""
    first = [f"line {k}" for k in range(30)]
    assert len(shared_run(first, ["other", *first[5:17]], set())) == 12
    assert len(shared_run(first, ["other", *first[5:17]], set(first[5:10]))) == 7
