"""A report as LaTeX tables, as papers print them: booktabs, best bold, second underlined."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reporting.printing.cells import Metric, heading, mark, mean_sd, named, number, place, tested
from reporting.summary import Report, Row, Table

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "±": r"$\pm$", "†": r"$\dagger$", "−": "$-$", "≈": r"$\approx$", "Δ": r"$\Delta$"}


def latex(report: Report) -> str:
    """All tables; two for a data set of several classes. They need \\usepackage{booktabs}."""
    parts = ["% \\usepackage{booktabs}", f"% {escape(report.title)}: {escape(report.made)}"]
    for table in report.tables:
        parts += _tables(table)
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Any text as text of LaTeX, on one line."""
    return re.sub(r'[\\{}$&#_%~^<>±†−≈Δ|"]', lambda found: SPECIAL[found.group()], " ".join(text.split()))


def _tables(table: Table) -> Iterator[str]:
    shown = [metric for metric in ("dice", "jaccard", "hd95_vox", "asd_vox") if metric in table.metrics]
    said = (f"{heading(table)}; {tested(table)}. Mean ± standard deviation over runs; best in bold, second underlined, among rows with two "
            "runs or more; ≈: no significant difference from the best (Wilcoxon, Holm, 5 %); †: other test cases, not compared.")
    head = ["Method", "Runs", *(_title(named(table, metric)) for metric in shown), r"$\Delta$ Dice"]
    yield _environment(table.key, said, "lr" + "r" * (len(shown) + 1), head, [
        [_name(table, row), str(row.stats["mean", "dice"].n), *(_cell(table, row, "mean", metric) for metric in shown),
         escape(f"{number(row.difference.mean if row.difference else None, signed=True)} {row.told}".strip().replace("-", "−"))]
        for row in table.rows], table)
    if len(table.classes) > 1:
        yield _environment(
            f"{table.key}-classes", f"{heading(table)}; Dice (%) by class, as above.", "l" + "r" * (len(table.classes) + 1),
            ["Method", *map(escape, table.classes), "Mean"],
            [[_name(table, row), *(_cell(table, row, of, "dice") for of in (*table.classes, "mean"))] for row in table.rows], table)


def _title(metric: Metric) -> str:
    return escape(metric.title) + (r" $\uparrow$" if metric.rises else r" $\downarrow$")


def _name(table: Table, row: Row) -> str:
    return escape(f"{row.label} {mark(table, row)}".strip())


def _cell(table: Table, row: Row, of: str, metric: str) -> str:
    stat = row.stats[of, metric]
    text = escape(mean_sd(stat, metric))
    at = place(table, row, of, metric)
    if not at:
        return text
    mean, _, rest = text.partition(" ")  # the deviation stays plain, as papers print it
    return (rf"\textbf{{{mean}}}" if at == 1 else rf"\underline{{{mean}}}") + (f" {rest}" if rest else "")


def _environment(label: str, caption: str, columns: str, head: Sequence[str], lines: Sequence[Sequence[str]], table: Table) -> str:
    baselines = sum(row.baseline != "" for row in table.rows)
    body = [" & ".join(cells) + r" \\" for cells in lines]
    if 0 < baselines < len(body):
        body.insert(baselines, r"\midrule")
    return "\n".join([
        r"\begin{table}[t]", r"\centering", rf"\caption{{{escape(caption)}}}", rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", r"\end{table}"])
