"""One honest table a data set and label budget: from result files to Markdown, CSV, LaTeX, PDF figures and one HTML page.

Give the folder of a sweep or of an experiment, or several; the report lies in the first one's folder report/.

    python code/report.py results/ACDC
    python code/report.py results/ACDC/MeanTeacher_7_labeled results/ACDC/Supervised_7_labeled --output /tmp/report
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from dataloaders.errors import UserError
from reporting.build import build
from reporting.printing.figures import write_figures
from reporting.printing.page import write_page
from reporting.printing.screen import screen
from reporting.printing.table_files import write_tables
from reporting.records import read
from storage.folders import results_folder
from system.ending import finish_with


@dataclass
class Report:
    results: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of result files, or such files."""
    output: Path | None = None
    """Where to write. Without it: report/ in the first folder."""


def places_of(options: Report) -> list[Path]:
    """The folders and files that were named; a name below results/ will do. Raises `UserError` for one that is not there."""
    places = [place if place.exists() else results_folder() / place for place in options.results]
    for place, given in zip(places, options.results):
        if not place.exists():
            there = sorted(path.name for path in results_folder().iterdir() if path.is_dir()) if results_folder().is_dir() else []
            raise UserError(f"{given}: there is no such folder or file. " + (f"{results_folder()} has {', '.join(there)}." if there else
                            "Results are written by test_2D.py, test_3D.py and cross_validate.py."))
    if not places:
        raise UserError("Which results? For example: python code/report.py results/ACDC")
    return places


def main(options: Report) -> None:
    places = places_of(options)
    records, skipped = read(places)
    if not any(record.quoted for record in records):
        listed = "".join(f"\n  {one.path}: {one.reason}" for one in skipped)
        raise UserError(f"{', '.join(map(str, options.results))}: there is no result of a finished and tested run here. Train and test one "
                        f"first: python code/train_simEps.py --labeled_num 7, then python code/test_2D.py.{listed}")
    folder = options.output or (places[0] if places[0].is_dir() else places[0].parent) / "report"
    report = build(records, skipped, f"Results of {', '.join(place.name for place in places)}")
    written = [path.name for path in write_tables(report, folder)]
    figures = write_figures(report, folder / "figures")
    written += [write_page(report, folder).name, f"figures/ ({len(figures)} PDF)"]
    print(screen(report))
    for one in skipped:
        print(f"Not counted: {one.path}: {one.reason}")
    print(f"\nWritten to {os.path.relpath(folder)}: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(finish_with(lambda: main(tyro.cli(Report, use_underscores=True, description=__doc__))))
