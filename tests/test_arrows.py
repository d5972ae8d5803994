"""The house: imports go down and never round in a circle, and no folder is crowded."""
from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

CODE = Path(__file__).resolve().parents[1] / "code"
BELOW: dict[str, set[str]] = {
    "losses": set(), "metrics": set(), "networks": {"losses"}, "dataloaders": set(), "val": {"dataloaders", "metrics"},
    "pictures": {"val", "dataloaders"}, "system": {"losses", "dataloaders"}, "storage": {"system", "dataloaders"},
    "command_line": {"storage", "system", "dataloaders"},
    "engine": {"command_line", "val", "pictures", "storage", "system", "networks", "losses", "dataloaders"},
    "preparation": {"pictures", "storage", "dataloaders"},
    "evaluation": {"engine", "command_line", "pictures", "storage", "system", "networks", "metrics", "dataloaders"},
    "prediction": {"evaluation", "val", "preparation", "pictures", "storage", "networks", "metrics", "dataloaders"},
    "reporting": {"evaluation", "val", "command_line", "pictures", "storage", "dataloaders"},
    "sweeps": {"command_line", "storage", "system", "dataloaders"},
    "train": {"engine", "losses", "networks", "dataloaders"},
}
"""Which folder of code/ may import which others; the commands (test_2D.py, predict.py, ...) may import all, and nothing imports them."""
MOST_FILES = 16
LISTS = ("layouts", "networks")
"""Folders of like things, of any number; so are the scripts."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for path in sorted(CODE.rglob("*.py"))}


def room_of(module: str) -> str:
    """The folder of code/ that a module stands in; "val" and "train" for the scripts of these names, "command" for the others."""
    first = module.split(".")[0]
    if (CODE / first).is_dir():
        return first
    return first.split("_")[0] if first.startswith(("val_", "train_")) else "command"


def imported(module: str) -> set[str]:
    """The modules of code/ that a file imports, for types alone included."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" if f"{node.module}.{name.name}" in FILES else node.module for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return (found & set(FILES)) - {module}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """What is left when all that imports nothing more is taken away again and again: empty where there is no circle."""
    left = {name: set(others) for name, others in arrows.items()}
    while gone := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in gone}
    return sorted(left)


def test_imports_go_down() -> None:
    wrong = []
    for module in FILES:
        room = room_of(module)
        for other in sorted(imported(module)):
            to = room_of(other)
            if to in ("command", "train") or (to != room and room != "command" and to not in BELOW[room]):
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)
    assert not circle(BELOW), "the table itself goes down"


def test_no_file_imports_what_imports_it() -> None:
    assert not circle({module: imported(module) for module in FILES})


def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent.name for path in FILES.values() if path.parent != CODE and path.name != "__init__.py")
    assert {name: count for name, count in counts.items() if count > MOST_FILES and name not in LISTS} == {}


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]
