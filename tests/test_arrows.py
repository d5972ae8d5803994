"""The house: imports go down and never round in a circle, no folder is crowded, and its picture is true."""
from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "code"
HOUSE = runpy.run_path(str(ROOT / "docs" / "house.py"))
BELOW: dict[str, set[str]] = {
    "losses": {"metrics"}, "metrics": set(), "networks": {"losses"}, "dataloaders": set(),
    "inference": {"dataloaders", "metrics"}, "val": {"inference", "dataloaders", "metrics"}, "pictures": {"dataloaders"},
    "system": {"losses", "dataloaders"}, "storage": {"system", "dataloaders"},
    "command_line": {"storage", "system", "dataloaders"},
    "engine": {"command_line", "inference", "pictures", "storage", "system", "networks", "losses", "dataloaders"},
    "preparation": {"pictures", "storage", "dataloaders"},
    "evaluation": {"engine", "command_line", "inference", "pictures", "storage", "system", "networks", "metrics", "dataloaders"},
    "prediction": {"evaluation", "inference", "pictures", "storage", "networks", "metrics", "dataloaders"},
    "portable": {"prediction", "evaluation", "inference", "storage", "networks", "dataloaders"},
    "reporting": {"evaluation", "command_line", "pictures", "storage", "dataloaders"},
    "sweeps": {"command_line", "storage", "system", "dataloaders"},
    "advice": {"sweeps", "reporting", "evaluation", "prediction", "inference", "preparation", "pictures", "networks", "storage", "system",
               "dataloaders"},
    "train": {"engine", "losses", "networks", "dataloaders"},
}
"""Which folder of code/ may import which others; the commands (test_2D.py, predict.py, ...) may import all, and nothing imports them."""
MOST_FILES = 16
LISTS = ("layouts", "networks")
"""Folders of like things, of any number; so are the scripts."""


FILES = HOUSE["modules"]()
ARROWS = {module: HOUSE["imported"](path, FILES) - {module} for module, path in FILES.items()}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """What is left when all that imports nothing more is taken away again and again: empty where there is no circle."""
    left = {name: set(others) for name, others in arrows.items()}
    while gone := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in gone}
    return sorted(left)


def test_imports_go_down() -> None:
    wrong = []
    for module, others in ARROWS.items():
        room = HOUSE["room_of"](module)
        for other in sorted(others):
            to = HOUSE["room_of"](other)
            if to in ("command", "train") or (to != room and room != "command" and to not in BELOW[room]):
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)
    assert not circle(BELOW), "the table itself goes down"


def test_no_file_imports_what_imports_it() -> None:
    assert not circle(ARROWS)


def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent.name for path in FILES.values() if path.parent != CODE and path.name != "__init__.py")
    assert {name: count for name, count in counts.items() if count > MOST_FILES and name not in LISTS} == {}


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]


def test_the_picture_is_what_the_imports_say() -> None:
    said = HOUSE["drawn"](HOUSE["rooms"]())
    assert (ROOT / "docs" / "house.svg").read_text(encoding="utf-8") == said, "python docs/house.py draws it anew"
    assert all(f">{folder.name}/</text>" in said for folder in CODE.iterdir() if (folder / "__init__.py").exists())


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    assert HOUSE["without_what_follows"]({"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}) == {
        "a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}
