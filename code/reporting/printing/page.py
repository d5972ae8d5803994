"""The report as one HTML page that needs nothing else: no network, no file beside it.

Names come from files that anyone may have written: jinja2 escapes all of them, and the page's own policy lets no script run but ours.
"""
from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from reporting.printing import page_tables as tables_of
from reporting.printing import pictures
from reporting.printing.cells import named, published
from reporting.printing.drawing import Drawing, Look, draw, looks, svg
from reporting.printing.figures import KINDS, by_budget, groups, table_drawings
from reporting.published import sources
from reporting.summary import Report, Row, Table
from storage.checkpoint import write_atomically

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Picture:
    """A case in the page: the image once, and outlines over it."""

    example: pictures.Example
    id: str
    uri: str
    width: int
    height: int
    shape: float
    """Width by height as it is shown."""
    reference: list[tuple[str, str]]
    """(colour, path) of each class."""
    tiles: dict[str, tuple[list[tuple[str, str]], str, str]]
    """By key of a row: (colour, path) of each class, Dice, which run."""


def write_page(report: Report, folder: Path) -> Path:
    """folder/report.html. The same report (and the same runs beside it) gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_atomically(path, render(report).encode(errors="backslashreplace"))
    return path


def render(report: Report) -> str:
    """The page's text."""
    script, style = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)
    of = looks(report)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = [_section(tables, of) for tables in groups(report)]
    records = {str(record.path): record for table in report.tables for row in table.rows for record in row.records}
    return environment.get_template("page.html").render(
        report=report, style=Markup(style), script=Markup(script), digest=digest, sections=sections,
        named=named, meaning=tables_of.MEANING, sources=sources(),
        runs=len(records), methods=len({record.method for record in records.values()}),
        data_sets=len({table.data_set for table in report.tables}),
        loud=[remark for remark in report.remarks if "synthetic" in remark.lower()],
        remarks=[remark for remark in report.remarks if "synthetic" not in remark.lower()],
        figure_text=published, breakable=breakable, p_text=tables_of.p_text, percent=tables_of.percent, number=tables_of.number)


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after a joining sign."""
    return Markup(re.sub(r"([_/.])", r"\1<wbr>", str(escape(name))))


def _section(tables: Sequence[Table], of: dict[str, Look]) -> dict[str, Any]:
    """One data set and protocol."""
    first = tables[0]
    return {"id": tables_of.anchor("s", first.data_set, first.protocol), "data_set": first.data_set, "protocol": first.protocol,
            "facts": tables_of.facts(tables), "budgets": _inline(draw(by_budget, tables, of)),
            "tables": [_table(one, of) for one in tables]}


def _table(table: Table, of: dict[str, Look]) -> dict[str, Any]:
    """One label budget of it."""
    quoted = tables_of.published_of(table)
    rows, heat = tables_of.matrix(table)
    shared, runs = tables_of.run_options(table)
    shown = {"cases": [], "worst": [], **pictures.examples(table)}
    return {
        "missing": [tables_of.with_command(sentence) for sentence in table.missing], "table": table, "id": tables_of.anchor(table.key),
        "over": tables_of.over(table), "lines": tables_of.lines(table, of, quoted),
        "scopes": ("mean", *table.classes) if len(table.classes) > 1 else ("mean",), "published": quoted,
        "figures": dict.fromkeys(KINDS) | {kind: _inline(drawing) for kind, drawing in table_drawings(table, of).items()},
        "pair_rows": rows, "heat": heat, "label": {row.key: row.label for row in table.rows}, "spread": tables_of.spread_lines(table),
        "shared": shared, "runs": runs, "looks": {row.key: of[row.label].name for row in table.rows},
        "pictures": {name: [_picture(table, name, k, one) for k, one in enumerate(found)] for name, found in shown.items()},
        "pictured": {name: _pictured(table, found) for name, found in shown.items()},
        "colours": [(name, pictures.colour(c)) for c, name in enumerate(table.classes, 1)],
    }


def _inline(drawing: Drawing | None) -> Markup | None:
    return Markup(svg(drawing)) if drawing else None


def _pictured(table: Table, found: Sequence[pictures.Example]) -> list[Row]:
    """The rows that have a picture in some example."""
    return [row for row in table.rows if any(row.key in one.tiles for one in found)]


def _picture(table: Table, name: str, place: int, example: pictures.Example) -> Picture:
    height, width = example.image.shape[:2]
    tiles = {key: (_paths(tile.labels), tables_of.number(None if tile.dice is None else 100 * tile.dice, 1), tile.run)
             for key, tile in example.tiles.items()}
    return Picture(example, tables_of.anchor(table.key, name, str(place)), pictures.data_uri(example.image), 2 * width, 2 * height,
                   round(width * example.aspect / height, 4), _paths(example.reference), tiles)


def _paths(labels: np.ndarray) -> list[tuple[str, str]]:
    """(colour, path) of every class that is there."""
    return [(pictures.colour(int(c)), path) for c in np.unique(labels[labels > 0]) if (path := pictures.path_data(labels == c))]
