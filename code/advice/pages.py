"""The one page of an answer: on the screen, as Markdown and as HTML that needs no network, all from the same sections."""
from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from advice.answer import Answer, percent, points
from advice.evidence import LEVEL, Estimate
from advice.rounds import Rounds
from storage.checkpoint import write_atomically, write_json

STYLE = ("body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#22303c;background:#fff}"
         "h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%;font-size:.92rem}"
         "th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d5dde3}pre{background:#f2f5f7;padding:.7rem;"
         "overflow-x:auto;white-space:pre-wrap}p:first-of-type{font-size:1.1rem}")


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    sentences: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    """Rows of cells, the heads first."""
    commands: tuple[tuple[str, str], ...] = ()


def sections(rounds: Rounds, answer: Answer) -> list[Section]:
    """The page."""
    question = rounds.question
    head = (f"{question.data.name} in {question.root}: {question.groups} labelled {question.things}, {len(question.unlabeled)} unlabelled "
            "images")
    found = [Section(f"Does unlabelled data help? {head}", answer.verdict)]
    if answer.rows:
        rows = [("method", "expected Dice", "nine in ten", f"gain over {answer.base}" if answer.base else "gain", "nine in ten",
                 "chance of no gain", "divisions", "")]
        for row in answer.rows:
            over = ("", "", "") if row.over is None else (f"{100 * row.over.mean:+.1f} points", spread(row.over, True),
                                                         "not known" if spread(row.over, True) == "not known" else
                                                         percent(row.over.chance_below))
            rows.append((row.arm.name, points(row.score.mean), spread(row.score, False), *over, str(row.rounds), row.note))
        some = [f"{row.score.images} under {row.arm.name}" for row in answer.rows if row.score.images < question.groups]
        partly = (f"Of the {question.groups} labelled {question.things} only these have been held out so far: {', '.join(some)}.",) \
            if some else ()
        found.append(Section("The methods", (*partly,
            f"Mean over the labelled {question.things}, each held out in turn; intervals hold {100 * LEVEL:.0f} % (with Nadeau and "
            "Bengio's correction for networks that share training images). The gain in the first sentence is that of the best "
            "row freed of the luck of the pick.",), tuple(rows)))
    if answer.curve is not None:
        curve = answer.curve
        said = f"Fitted: 1 - Dice = {curve.a:.2f} x labels^-{curve.b:.2f}." if curve.tells else \
            "The score does not clearly rise with labels here, so nothing is drawn from this curve."
        alone = "Images without any class count here where these networks found one in them, so the last may differ from the row above."
        found.append(Section("More labels", (said, alone), (
            (f"labelled {question.things}", "Dice, supervised"),
            *((f"{budget:.0f}", points(score)) for budget, score in zip(curve.budgets, curve.scores)))))
    if answer.commands:
        found.append(Section("The final model", (), (), answer.commands))
    return [*found, Section("What is not known", answer.unknown)]


def spread(of: Estimate, signed: bool) -> str:
    low, high = of.interval
    if low == -float("inf"):
        return "not known"
    return f"{100 * low:+.1f} to {100 * high:+.1f}" if signed else f"{points(low)} to {points(high)}"


def markdown(parts: list[Section]) -> str:
    lines: list[str] = []
    for number, part in enumerate(parts):
        lines += [f"{'#' if number == 0 else '##'} {part.title}", ""]
        lines += [line for sentence in part.sentences for line in ((f"- {sentence}" if part.title.startswith("What") else sentence), "")]
        if part.table:
            head, *rows = part.table
            lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(map(in_cell, row))} |" for row in rows), ""]
        for said, command in part.commands:
            lines += [f"{said}:", "", "```bash", command, "```", ""]
    return "\n".join(lines)


def in_cell(text: str) -> str:
    """As a cell of a table in Markdown: what a script said on failing may hold what ends one."""
    return " ".join(text.split()).replace("|", "\\|")


def html(parts: list[Section]) -> str:
    body: list[str] = []
    for number, part in enumerate(parts):
        level = 1 if number == 0 else 2
        body.append(f"<h{level}>{escape(part.title)}</h{level}>")
        body += [f"<p>{escape(sentence)}</p>" for sentence in part.sentences]
        if part.table:
            head, *rows = part.table
            body.append("<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>")
            body += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
            body.append("</table>")
        body += [f"<p>{escape(said)}:</p><pre>{escape(command)}</pre>" for said, command in part.commands]
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(parts[0].title)}</title>'
            f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n")


def screen(parts: list[Section]) -> str:
    lines: list[str] = []
    for part in parts:
        lines += ["", part.title, *(f"  {sentence}" for sentence in part.sentences)]
        if part.table:
            wide = [max(map(len, column)) for column in zip(*part.table)]
            lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, wide)).rstrip() for row in part.table]
        for said, command in part.commands:
            lines += [f"  {said}:", f"    {command}"]
    return "\n".join(lines)


def write(rounds: Rounds, answer: Answer) -> Path:
    """Writes advice.md, advice.html and answer.json; gives the folder."""
    parts, folder = sections(rounds, answer), rounds.question.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "advice.md", markdown(parts).encode(errors="backslashreplace"))
    write_atomically(folder / "advice.html", html(parts).encode(errors="backslashreplace"))
    write_json(folder / "answer.json", as_json(rounds, answer))
    return folder


def as_json(rounds: Rounds, answer: Answer) -> dict[str, Any]:
    """The figures, for programs."""
    def told(of: Estimate | None) -> dict[str, Any] | None:
        if of is None or of.interval[0] == -float("inf"):
            return None
        return {"mean": of.mean, "low": of.interval[0], "high": of.interval[1], "chance_below_0": of.chance_below, "images": of.images}

    plan, worth = rounds.state.plan, answer.worth
    return {"schema": 1, "data_set": rounds.question.data.name, "labeled": rounds.question.groups,
            "unlabeled": len(rounds.question.unlabeled), "plan": plan.as_json() if plan else None,
            "used_seconds": rounds.state.used, "advised": answer.advised, "base": answer.base,
            "best": answer.best, "gain": told(answer.gain), "predicted": answer.predicted, "interval": answer.interval,
            "rows": {row.arm.name: {"score": told(row.score), "over": told(row.over), "rounds": row.rounds, "note": row.note}
                     for row in answer.rows},
            "curve": None if answer.curve is None else {"budgets": answer.curve.budgets, "scores": answer.curve.scores, "a": answer.curve.a,
                                                        "b": answer.curve.b, "tells": answer.curve.tells},
            "worth": None if worth is None else {"more": worth.more, "low": worth.low, "high": worth.high},
            "verdict": answer.verdict, "unknown": answer.unknown, "commands": [command for _, command in answer.commands]}
