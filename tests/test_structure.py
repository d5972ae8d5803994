"""A method is one page: how long the scripts are, what two of them share, and how much of each is its own."""
import ast
import difflib
import inspect
import itertools
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

CODE = Path(__file__).parents[1] / "code"
SCRIPTS = sorted(CODE.glob("train_*.py"))
LONGEST, WIDEST = 130, 100
"""Lines of a script, and columns of a line."""
SHARED, OWN = 8, 0.2
"""Lines in a row that two scripts may not share beyond the frame; share of a script's lines that its nearest neighbour has not."""


def code_lines(path: Path) -> tuple[list[str], list[bool]]:
    """(the lines with code, without docstrings and comments, the method's name as `Method`; whether each may be of the frame).

    The frame is what no method invents: imports, options, presets and `main`. Losses and helpers are a method's own.
    """
    text = path.read_text(encoding="utf-8")
    documented, own = set(), set()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name != "main":
            own |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kind = next(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    found = [(line.strip().replace(kind, "Method"), k not in own) for k, line in enumerate(text.splitlines(), 1)
             if k not in documented and line.strip() and not line.strip().startswith("#")]
    return [line for line, _ in found], [may for _, may in found]


def frame_of(scripts: list[tuple[list[str], list[bool]]]) -> set[str]:
    """The lines of imports, options, presets and `main` that a fifth of the scripts have, and at least three."""
    counts = Counter(line for lines, framing in scripts for line in {line for line, may in zip(lines, framing) if may})
    return {line for line, count in counts.items() if count >= max(3, len(scripts) / 5)}


def shared_run(first: list[str], second: list[str], frame: set[str]) -> list[str]:
    """The longest run of lines that stands in both, by what of it is not the frame."""
    blocks = difflib.SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    runs = [first[block.a : block.a + block.size] for block in blocks]
    return max(([line for line in run if line not in frame] for run in runs), key=len, default=[])


def own_share(mine: list[str], theirs: list[str]) -> float:
    """Of a script's lines the share that another has not."""
    return sum(line not in theirs for line in mine) / len(mine)


@pytest.fixture(scope="module")
def scripts() -> dict[str, tuple[list[str], list[bool]]]:
    return {path.stem.removeprefix("train_"): code_lines(path) for path in SCRIPTS}


def test_every_script_is_a_page_of_its_own(scripts):
    """Own is what the nearest neighbour has not, not what nobody has: the script from which most are copied has least of the latter,
    and is none the worse for it."""
    lines, frame, wrong = {name: found for name, (found, _) in scripts.items()}, frame_of(list(scripts.values())), []
    longest, nearest = dict.fromkeys(lines, ("", 0)), dict.fromkeys(lines, ("", 1.0))
    for (one, first), (other, second) in itertools.combinations(lines.items(), 2):
        run = shared_run(first, second, frame)
        for name, beside, mine, theirs in ((one, other, first, second), (other, one, second, first)):
            longest[name] = max(longest[name], (beside, len(run)), key=lambda pair: pair[1])
            nearest[name] = min(nearest[name], (beside, own_share(mine, theirs)), key=lambda pair: pair[1])
        if len(run) >= SHARED:
            wrong.append(f"{one} and {other} share {len(run)} lines in a row beyond the frame:\n    " + "\n    ".join(run))
    print(f"\n{'script':<22}{'lines':>5}{'own':>6}  {'beside':<22}longest run shared beyond the frame")
    for path, name in zip(SCRIPTS, lines):
        text = path.read_text(encoding="utf-8").splitlines()
        beside, own = nearest[name]
        print(f"{name:<22}{len(text):>5}{own:>6.0%}  {beside:<22}{longest[name][1]} with {longest[name][0]}")
        wide = [f"{path.name}:{k}" for k, line in enumerate(text, 1) if len(line) > WIDEST]
        if wide:
            wrong.append(f"more than {WIDEST} columns: {', '.join(wide)}")
        if len(text) > LONGEST:
            wrong.append(f"{name}: {len(text)} lines, {LONGEST} are allowed")
        if own < OWN and name != "Supervised":
            wrong.append(f"{name}: {own:.0%} of its code lines do not stand in {beside}'s script, {OWN:.0%} are asked for")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_losses_take_networks_then_the_batch_then_what_changes_and_the_options_last(path):
    names = list(inspect.signature(import_module(path.stem).losses).parameters)
    known = [name for name in ("weight", "options") if name in names]
    assert "batch" in names[1:] and [name for name in names if name in known] == known and names[-1] == "options"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    calls = [node for node in ast.walk(main) if isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("step_")]
    assert calls and not any(call.keywords for call in calls), "in the same order everywhere, so without names"


def test_the_measures_can_fail():
    """A script with another's loop and loss is found."""
    first = [f"line {k}" for k in range(30)]
    assert len(shared_run(first, ["other", *first[5:17]], set())) == 12
    assert len(shared_run(first, ["other", *first[5:17]], set(first[5:10]))) == 7
    assert own_share(first, first[:24]) == 0.2
    loss, loop = ["loss"], ["loop"]
    assert frame_of([(loss + loop, [False, True])] * 3) == {"loop"} and not frame_of([(loop, [True])] * 2)
