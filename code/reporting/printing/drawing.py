"""How figures of a report look: one drawing that becomes a PDF and, with the page's own colours and letters, a part of the page."""
from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from reporting.summary import Report, Row

INK, MUTED, LINE, PAGE = "#1f2430", "#667080", "#e3e6eb", "#ffffff"
HUES = ("#2f6db3", "#cf6226", "#2b8a62", "#8a5bb5", "#b8323f", "#178a9c", "#96760f", "#c2518f", "#5c6f2d", "#5b63c8")
"""A colour a method; the page has a lighter one of each for dark screens (page.css, --m0 and so on)."""
BASELINES = {"same": "#7a8291", "all": "#a3aab6"}
THEMED = {INK: "ink", MUTED: "muted", LINE: "line", PAGE: "page", BASELINES["same"]: "b0", BASELINES["all"]: "b1"}
THEMED |= {hue: f"m{k}" for k, hue in enumerate(HUES)}
MARKERS, DASHES = "osD^v", ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "SemiSegBench", "pdf.fonttype": 42, "text.parse_math": False, "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left",
    "axes.labelsize": 9, "axes.labelcolor": MUTED, "axes.edgecolor": MUTED, "axes.linewidth": 0.7, "axes.titlecolor": INK,
    "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": LINE, "grid.linewidth": 0.8, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "xtick.major.size": 3, "ytick.major.size": 3, "figure.facecolor": PAGE, "axes.facecolor": PAGE, "legend.frameon": False,
    "savefig.facecolor": PAGE, "legend.fontsize": 8.5, "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in all figures of a report."""

    colour: str
    marker: str
    dashes: Any

    @property
    def name(self) -> str:
        """Of the colour in page.css."""
        return THEMED[self.colour]


@dataclass(frozen=True)
class Drawing:
    key: str
    """Unique in its report; the PDF's name."""
    said: str
    """What it shows, for those who cannot see it."""
    figure: Figure
    tips: tuple[str, ...] = ()
    """Shown at the thing whose gid is `tip-<place>`."""


def looks(report: Report) -> dict[str, Look]:
    """By label of a row."""
    rows: dict[str, Row] = {}
    for table in report.tables:
        for row in table.rows:
            rows.setdefault(row.label, row)
    found = {label: Look(BASELINES[row.baseline], "s", DASHES[1]) for label, row in rows.items() if row.baseline}
    for place, label in enumerate(sorted(set(rows) - set(found))):
        again, hue = divmod(place, len(HUES))
        found[label] = Look(HUES[hue], MARKERS[again % len(MARKERS)], DASHES[again % len(DASHES)])
    return found


def short(text: str, most: int = 30) -> str:
    """A name on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def draw(make: Callable[..., Drawing | None], *given: Any) -> Drawing | None:
    """A drawing made in the report's style; None where there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        return make(*given)


def write_pdf(drawing: Drawing, folder: Path) -> Path:
    """figures/<key>.pdf; the same drawing gives the same bytes."""
    path = folder / f"{drawing.key}.pdf"
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawing.figure.savefig(path, metadata={"CreationDate": None, "Producer": None}, bbox_inches="tight", pad_inches=0.04)
    return path


def svg(drawing: Drawing) -> str:
    """The drawing as an element of a page: letters stay text, colours are the page's (light or dark), names are escaped."""
    out = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawing.figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.04, transparent=True)
    text = out.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    for place, tip in enumerate(drawing.tips):
        text = text.replace(f'<g id="tip-{place}">', f"<g><title>{escape(tip)}</title>")
    used = set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{drawing.key}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{drawing.key}-", text)
    text = re.sub(r'="[^"<>]*"', lambda m: re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), m[0]), text)
    text = re.sub("|".join(THEMED), lambda m: f"var(--{THEMED[m[0]]})", text)
    text = re.sub(r"\n\s*", "\n", text)
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())  # type: ignore[union-attr]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" aria-label="{escape(drawing.said)}" '
            f'viewBox="0 0 {width:g} {height:g}" width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}">')
    return head + re.sub(r"^<svg.*?>", "", text, count=1, flags=re.S)


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """Places of labels near where they are wanted, at least `least` from each other."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [sum of what members want for the block's middle, members]
    members: list[list[int]] = []
    for i in order:
        blocks.append([wanted[i], 1])
        members.append([i])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < least * (blocks[-1][1] + blocks[-2][1]) / 2:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
            members[-2:] = [members[-2] + members[-1]]
    places = [0.0] * len(wanted)
    for (middle, size), inside in zip(blocks, members):
        for k, i in enumerate(inside):
            places[i] = middle + (k - (size - 1) / 2) * least
    return places


def file_key(*words: str) -> str:
    """Words as a part of a file's name and of an id in HTML."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.") or "x"
