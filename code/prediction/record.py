"""What has been predicted into a folder, so that the same command goes on where it stopped and another one is refused.

    prediction.json     what made the folder: run, weights, options, classes
    done.jsonl          a line for each finished file: its state (size, times, number), where its predictions lie, its row of the table
    confidence.csv      the table, least certain first; unreadable.csv: files that could not be read, and why
"""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataloaders.errors import UserError
from dataloaders.listing import entries, shortened, states_of
from prediction.inputs import Entry, shown
from storage.checkpoint import write_atomically, write_json
from storage.logbook import Lock
from storage.sealed import parsed, sealed

TABLE, UNREADABLE, SHEET = "confidence.csv", "unreadable.csv", "least_certain.png"
LONGEST_ENDING = ".nii.gz"
DECIMALS = 4
PART = ".part-"
"""How files that are being written are called."""
MEASURES = {"confidence": "confidence", "entropy": "entropy (0 to 1)", "border_entropy": "entropy at borders (0 to 1)",
            "disagreement": "disagreement (1 - Dice)"}
"""Columns of the table, by their key in a row."""


class Folder:
    """The output folder; held against other processes while it is open. Raises `UserError` where it holds anything else.

    `settings` is what shapes a prediction: a folder that was begun with other ones is refused.
    """

    def __init__(self, place: Path, settings: Mapping[str, Any]):
        self.place = place
        self.rows: dict[str, dict[str, Any]] = {}
        self._record = place / "prediction.json"
        if place.exists() and not place.is_dir():
            raise UserError(f"{shown(place)}: this is a file; give a folder with --output.")
        try:
            place.mkdir(parents=True, exist_ok=True)
            foreign = [file.name for file in entries(place) if file.name not in ("lock", "prediction.json")]
        except OSError as error:
            raise UserError(f"{shown(place)}: cannot be written ({error.strerror}); give another folder with --output.") from None
        begun = self._record.is_file()
        if foreign and not begun:
            raise UserError(f"{shown(place)}: not empty ({shown(foreign[0])}) and not made by predict.py; nothing is overwritten. "
                            "Give a new folder with --output.")
        self.lock = Lock(place, "--output")
        try:
            if begun:
                self._compare(settings)
                self._read()
            else:
                write_json(self._record, sealed(settings))
        except BaseException:
            self.lock.release()
            raise
        for left in place.rglob(f"{PART}*"):  # of a process that was killed
            left.unlink()
        self._lines = open(place / "done.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        if self._torn:
            self._lines.write("\n")

    _torn = False

    def _compare(self, settings: Mapping[str, Any]) -> None:
        try:
            before = parsed(self._record.read_bytes())
        except OSError as error:
            raise UserError(f"{self._record}: cannot be read ({error.strerror}), so it is not known what made this folder. "
                            "Give a new one with --output.") from None
        except ValueError as error:
            raise UserError(f"{self._record}: {error}. So it is not known what made this folder; give a new one with --output.") from None
        wanted = json.loads(json.dumps(settings))
        other = [key for key in wanted if before.get(key) != wanted[key]]
        if other:
            told = [key for key in other if key != "weights"]
            changes = "; ".join(f"{key}: {shown(before.get(key))}, now {shown(wanted[key])}" for key in told) or "the run was trained anew"
            raise UserError(f"{shown(self.place)}: holds the predictions of another command ({changes}). Nothing is overwritten: "
                            "give a new folder with --output, or repeat the first command.")

    def _read(self) -> None:
        try:
            text = (self.place / "done.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                row = parsed(line)
                self.rows[row["file"]] = row
            except (ValueError, KeyError, TypeError):  # the line at which a process was killed, or a damaged one: predicted again
                continue

    def remembered(self, key: str, made: Callable[[], Any]) -> Any:
        """What prediction.json holds under `key`; `made` now where it holds nothing."""
        content = parsed(self._record.read_bytes())
        if key not in content:
            content[key] = json.loads(json.dumps(made()))
            write_json(self._record, sealed(content))
        return content[key]

    def is_done(self, entry: Entry) -> bool:
        """Whether the entry's files are those that were predicted, and its predictions are there."""
        row = self.rows.get(entry.name)
        return row is not None and row["stamp"] == stamp(entry) and all((self.place / file).exists() for file in row["written"])

    def names(self, entries: Sequence[Entry]) -> dict[str, str]:
        """For each entry the path of its predictions, without an ending: its stem, or its whole name where another one has that stem."""
        names = {name: row["stem"] for name, row in self.rows.items()}
        taken = {stem.casefold() for stem in names.values()}
        for entry in entries:
            if entry.name not in names:
                # A file system that does not tell A from a must not let one prediction overwrite the other.
                stem = next(s for s in map(_fitting, _candidates(entry)) if s.casefold() not in taken)
                names[entry.name] = stem
                taken.add(stem.casefold())
        return names

    def finished(self, row: dict[str, Any]) -> None:
        """Notes a finished file, whose predictions have been written."""
        self.rows[row["file"]] = row
        self._lines.write(json.dumps(sealed(row)) + "\n")
        self._lines.flush()

    def tables(self, entries: Sequence[Entry], classes: Sequence[str], unreadable: Mapping[str, str]) -> list[dict[str, Any]]:
        """Writes both tables; gives the rows of the entries, least certain first."""
        rows = [self.rows[entry.name] for entry in entries if entry.name in self.rows and entry.name not in unreadable]
        rows.sort(key=lambda row: (row["confidence"], -row["entropy"], row["file"]))
        heads = ["file", "size", *MEASURES.values(), *(f"share of {name}" for name in classes), "flags", "remarks", "prediction"]
        lines = [[row["file"], "x".join(map(str, row["size"])), *(_number(row[key]) for key in MEASURES),
                  *(_number(share, 6) for share in row["shares"]), "; ".join(row["flags"]), "; ".join(row["remarks"]), row["stem"]]
                 for row in rows]
        write_csv(self.place / TABLE, heads, lines)
        if unreadable:
            write_csv(self.place / UNREADABLE, ["file", "reason"], [[name, reason] for name, reason in unreadable.items()])
        else:
            (self.place / UNREADABLE).unlink(missing_ok=True)
        return rows

    def close(self) -> None:
        self._lines.close()
        self.lock.release()


def _candidates(entry: Entry) -> Iterable[str]:
    yield entry.stem
    yield entry.name
    for number in range(2, 10**6):
        yield f"{entry.name}_{number}"


def _fitting(stem: str) -> str:
    """A stem whose last part leaves room for the longest ending."""
    below, slash, name = stem.rpartition("/")
    return below + slash + shortened(name, len(LONGEST_ENDING))


def stamp(entry: Entry) -> list[list[int]]:
    """The state of each file of an entry."""
    return [states_of(file) for file in entry.files]


def _number(value: float | None, digits: int = DECIMALS) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write_csv(file: Path, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A table that spreadsheets open: UTF-8 with a mark at its start, and no cell that they would take for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([cell(value) for value in line] for line in lines)
    write_atomically(file, text.getvalue().encode("utf-8-sig"))


def cell(value: str) -> str:
    """Text as a cell: what begins with = + - @ gets an apostrophe before it, as spreadsheets understand."""
    value = shown(value)
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
