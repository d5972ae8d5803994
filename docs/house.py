"""Draws docs/house.svg: the folders of code/ and which imports which, read from the imports themselves.

    python docs/house.py

An arrow that follows from others is left out: where a leads to b and b to c, that from a to c. What may import what is the table in
tests/test_arrows.py, which reads the imports by the functions here and holds the picture to them.
"""
from __future__ import annotations

import ast
import re
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from pathlib import Path

CODE = Path(__file__).resolve().parents[1] / "code"
PICTURE = Path(__file__).resolve().parent / "house.svg"
SAID = {
    "command": ("test_2D.py, report.py, ...",
                "the commands: test, predict, export, prepare, report, compare, reproduce, cross-validate, demo"),
    "train": ("train_*.py", "one flat script a method: its options, its loss, its loop"),
    "val": ("val_*.py", "predict a case and score it"),
}
"""(name, purpose) of the scripts, which stand in no folder."""
Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every file below code/ by its dotted name; a package's name is that of its `__init__`."""
    return {".".join(path.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(CODE.rglob("*.py"))}


def imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The known modules that a file imports anywhere in it, for types alone included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


def room_of(module: str) -> str:
    """The folder of code/ that a module stands in; "val" and "train" for the scripts of these names, "command" for the others."""
    first = module.split(".")[0]
    if (CODE / first).is_dir():
        return first
    return first.split("_")[0] if first.startswith(("val_", "train_")) else "command"


def rooms() -> Graph:
    """Which room imports which others."""
    known, found = modules(), defaultdict(set)
    for module, path in known.items():
        found[room_of(module)] |= {room_of(other) for other in imported(path, known)} - {room_of(module)}
    return dict(found)


def without_what_follows(graph: Graph) -> Graph:
    """The arrows between which no longer way leads."""
    def reached(start: str) -> set[str]:
        return {start}.union(*(reached(end) for end in graph[start]))

    return {start: {end for end in ends if not any(end in reached(other) for other in ends - {end})} for start, ends in graph.items()}


def levels(graph: Graph) -> dict[str, int]:
    """How high each room stands: one more than the highest that it imports."""
    def level(room: str) -> int:
        return max((level(below) + 1 for below in graph[room]), default=0)

    return {room: level(room) for room in graph}


# The picture, in pixels

WIDTH, HEIGHT, ACROSS, DOWN, THIN = 240, 96, 26, 58, 20
"""Of a box, between boxes, between rows, and the width that an arrow takes where it passes a row."""
COLOURS = {"train": "#e8e4f3", "command": "#e8e4f3", "engine": "#fbe0dd", "dataloaders": "#dff0e4", "losses": "#fdeedc",
           "networks": "#fdeedc", "metrics": "#fdeedc"}
OTHER, INK, QUIET, LINE = "#e3edf7", "#22303c", "#5c6b78", "#8b99a6"
Thing = tuple[str, str, int]
"""What takes a place in a row: a room (its name twice), or an arrow that passes the row."""


def rows_of(graph: Graph) -> tuple[list[list[Thing]], list[list[Thing]]]:
    """(rows from the ground up; for each arrow what it leads through, its ends included)."""
    height = levels(graph)
    rows: list[list[Thing]] = [[(room, room, k) for room in sorted(graph) if height[room] == k] for k in range(max(height.values()) + 1)]
    ways = []
    for start in sorted(graph):
        for end in sorted(graph[start]):
            passed = [(start, end, k) for k in range(height[start] - 1, height[end], -1)]
            for thing in passed:
                rows[thing[2]].append(thing)
            ways.append([(start, start, height[start]), *passed, (end, end, height[end])])
    return rows, ways


def spaced(row: list[Thing]) -> dict[Thing, float]:
    """Centres of the things of a row, side by side around 0."""
    widths = [WIDTH if start == end else THIN for start, end, _ in row]
    left = -(sum(widths) + ACROSS * (len(row) - 1)) / 2
    return {thing: left + sum(widths[:k]) + ACROSS * k + widths[k] / 2 for k, thing in enumerate(row)}


def placed(rows: list[list[Thing]], ways: list[list[Thing]]) -> dict[Thing, float]:
    """Centres across, each row sorted by where the things tied to it stand, so that arrows are short and few of them cross."""
    tied: dict[Thing, list[Thing]] = defaultdict(list)
    for way in ways:
        for one, other in zip(way, way[1:]):
            tied[one].append(other)
            tied[other].append(one)
    centre = {thing: x for row in rows for thing, x in spaced(row).items()}
    best, least = centre, float("inf")
    for sweep in range(40):
        for row in rows if sweep % 2 else rows[::-1]:
            row.sort(key=lambda thing: (sum(centre[other] for other in tied[thing]) / max(1, len(tied[thing])), thing))
            centre = centre | spaced(row)
        length = sum(abs(centre[one] - centre[other]) ** 1.5 for way in ways for one, other in zip(way, way[1:]))
        if length < least:
            best, least = centre, length
    return best


def purpose(room: str) -> str:
    """What a folder is for: the first sentence of its docstring, without what stands in brackets."""
    text = ast.get_docstring(ast.parse((CODE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(re.sub(r" \([^)]*\)|`", "", re.split(r"[.;]\s|\.$", text)[0]).split())


def box(room: str, x: float, y: float) -> str:
    """A room as SVG, its centre at (x, y)."""
    inside = sorted(path.parent.name for path in (CODE / room).glob("*/__init__.py"))
    name, about = SAID.get(room) or (f"{room}/", purpose(room))
    lines = textwrap.wrap(about, 38, max_lines=3 if inside else 4, placeholder=" ...") + ([f"({', '.join(inside)})"] if inside else [])
    texts = [f'<text x="{x:.0f}" y="{y - 28:.0f}" font-size="15" font-weight="bold" fill="{INK}">{escape(name)}</text>']
    texts += [f'<text x="{x:.0f}" y="{y - 9 + 15 * k:.0f}" font-size="{9 if line[0] == "(" else 11}" fill="{QUIET}">{escape(line)}</text>'
              for k, line in enumerate(lines)]
    return (f'<rect x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="9" '
            f'fill="{COLOURS.get(room, OTHER)}" stroke="{INK}"/>\n' + "\n".join(texts))


def drawn(graph: Graph) -> str:
    """The picture as SVG."""
    rows, ways = rows_of(without_what_follows(graph))
    centre = placed(rows, ways)
    middle = max(abs(x) for x in centre.values()) + WIDTH / 2 + 16
    tall = len(rows) * (HEIGHT + DOWN) - DOWN + 32
    place = {thing: (middle + x, tall - 16 - HEIGHT / 2 - thing[2] * (HEIGHT + DOWN)) for thing, x in centre.items()}
    lines = []
    for way in ways:
        x, y = place[way[0]]
        path = f"M{x:.0f} {y + HEIGHT / 2:.0f}"
        for (above_x, above_y), (x, y), thing in zip(map(place.get, way), map(place.get, way[1:]), way[1:]):  # type: ignore[misc]
            top, last = y - HEIGHT / 2, thing[0] == thing[1]
            bend = (above_y + HEIGHT / 2 + top) / 2
            path += f" C{above_x:.0f} {bend:.0f} {x:.0f} {bend:.0f} {x:.0f} {top - 7 * last:.0f}" + (f" V{y + HEIGHT / 2:.0f}" * (not last))
        lines.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"/>')
    boxes = [box(thing[0], *place[thing]) for row in rows for thing in row if thing[0] == thing[1]]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * middle:.0f} {tall}" font-family="Helvetica, Arial, sans-serif" '
        'text-anchor="middle">',
        f'<marker id="tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" '
        f'fill="{LINE}"/></marker>',
        f'<rect width="{2 * middle:.0f}" height="{tall}" fill="white"/>', *lines, *boxes, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(rooms()), encoding="utf-8")
