"""The critical-difference diagram: which rows of a table differ by their mean ranks."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from reporting.printing.drawing import INK, MUTED, Drawing, Look, file_key, short
from reporting.summary import Table


def critical_difference(table: Table, of: Mapping[str, Look]) -> Drawing | None:
    """The diagram of Demsar (JMLR 2006, figure 1): mean ranks on an axis, best on the right; bars join rows that do not differ.
    None for fewer than three rows, of which a pair says all."""
    ranks = table.ranks
    label = {row.key: row.label for row in table.rows}
    order = sorted((key for key in ranks.mean_rank if key in label), key=lambda key: (ranks.mean_rank[key], key)) if ranks else []
    if ranks is None or len(order) < 3:
        return None
    half = (len(order) + 1) // 2
    levels = list(_levels([(min(spot), max(spot)) for clique in ranks.cliques
                           if len(spot := [ranks.mean_rank[key] for key in clique if key in label]) > 1]))
    bars = 1 + max((level for _, _, level in levels), default=-1)
    first_line = 0.3 + 0.17 * bars
    depth = first_line + 0.24 * half
    above = 0.72
    figure = Figure((7.4, above + depth))
    axis = figure.add_axes((0.27, 0, 0.46, 1))
    most, least = max(math.ceil(ranks.mean_rank[order[-1]]), len(order)), 1
    axis.set(xlim=(most, least), ylim=(depth, -above))
    axis.axis("off")
    axis.plot([least, most], [0, 0], color=INK, linewidth=1.1)
    for tick in range(least, most + 1):
        axis.plot([tick, tick], [0, -0.09], color=INK, linewidth=1.1, clip_on=False)
        axis.text(tick, -0.14, str(tick), ha="center", va="bottom", fontsize=8.5, color=MUTED)
    if ranks.critical_difference:
        width = ranks.critical_difference
        axis.plot([most, most - width], [-0.52, -0.52], color=INK, linewidth=1.4, clip_on=False)
        for end in (most, most - width):
            axis.plot([end, end], [-0.47, -0.57], color=INK, linewidth=1.4, clip_on=False)
        axis.text(most - width - 0.02 * (most - least), -0.52, f"critical difference {width:.2f}", va="center", fontsize=8.5, color=MUTED)
    span = most - least
    for k, key in enumerate(order):
        right = k < half
        y = first_line + 0.24 * (k if right else len(order) - 1 - k)
        rank, edge = ranks.mean_rank[key], (least - 0.05 * span if right else most + 0.05 * span)
        look = of[label[key]]
        axis.plot([rank, rank, edge], [0, y, y], color=look.colour, linewidth=1.2, clip_on=False, solid_joinstyle="miter")
        words = f"{rank:.2f}  {short(label[key])}" if right else f"{short(label[key])}  {rank:.2f}"
        axis.text(edge + (-0.02 if right else 0.02) * span, y, words, ha="left" if right else "right", va="center", fontsize=9)
    for low, high, level in levels:
        axis.plot([low - 0.012 * span, high + 0.012 * span], [0.2 + 0.17 * level] * 2, color=INK, linewidth=3.4, solid_capstyle="butt",
                  clip_on=False)
    named = "; ".join(f"{label[key]} {ranks.mean_rank[key]:.2f}" for key in order)
    return Drawing(file_key(table.key, "ranks"), f"Critical-difference diagram, mean ranks: {named}", figure)


def _levels(spans: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, int]]:
    """Spans with the first level on which they touch no other."""
    ends: list[float] = []
    for low, high in sorted(spans):
        level = next((k for k, end in enumerate(ends) if low > end + 1e-9), len(ends))
        ends[level:level + 1] = [high]
        yield low, high, level
