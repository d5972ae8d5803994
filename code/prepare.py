"""Prepares data: official downloads to the layout we train on, and a check of any data folder.

    python code/prepare.py acdc --raw DOWNLOAD --out data/ACDC
    python code/prepare.py --check data/ACDC

Exit codes: 0 done, perhaps with remarks; 2 bad arguments or data, everything wrong is listed; 3 a file could not be written;
75 interrupted (run the same command again, finished files are kept).
"""
from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from dataloaders.catalog import DATA_SETS, named, resolve
from dataloaders.check import check_folder
from dataloaders.convert import convert_acdc
from dataloaders.errors import UserError
from dataloaders.layouts.phantom import PhantomSource

REPOSITORY = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="read everything in a data folder and list all that is wrong")
    parser.add_argument("--dataset", metavar="NAME",
                        help=f"with --check: the data set it holds, where the layout does not tell ({', '.join(DATA_SETS)})")
    cores = os.cpu_count() or 1
    processes = f"processes that work at once (default: one a core, {cores} here)"
    parser.add_argument("--workers", type=positive, default=cores, metavar="N", help=processes)
    commands = parser.add_subparsers(dest="command", metavar="acdc")
    acdc = commands.add_parser(
        "acdc", help="convert the ACDC challenge's NIfTI download to h5 slices and volumes",
        description="Converts the ACDC challenge's NIfTI download to h5 slices and volumes with the published lists. "
                    "Finished files are kept, so the same command goes on where it stopped.")
    acdc.add_argument("--workers", type=positive, default=argparse.SUPPRESS, metavar="N", help=processes)
    acdc.add_argument("--raw", type=Path, required=True, metavar="DOWNLOAD",
                      help="the unpacked download: patient001/, ... in it or in its training/")
    acdc.add_argument("--out", type=Path, default=REPOSITORY / "data" / "ACDC", metavar="FOLDER",
                      help="where the h5 files go (default: data/ACDC of the repository)")
    given = parser.parse_args()
    if (given.check is None) == (given.command is None):
        parser.error("give either a conversion (acdc --raw DOWNLOAD --out FOLDER) or --check FOLDER")
    return given


def positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes; give 1 or more")
    return number


def check(folder: Path, dataset: str | None, workers: int) -> int:
    """Prints problems and remarks; returns the exit code."""
    if dataset is None and PhantomSource.fits(folder):
        dataset = "Phantom"
    if dataset is not None and not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the folder of {named(dataset).name}.")
    data, root, why = resolve(dataset, folder, REPOSITORY)
    print(why)
    report = check_folder(data, root, workers)
    for kind, sentences in (("remark", report.remarks), ("problem", report.problems)):
        for sentence in sentences:
            print(f"{kind}: {sentence}")
    sizes = ", ".join(f"{count} {what}" for what, count in report.sizes.items())
    print(f"{data.name}: {sizes}. {len(report.problems)} problems, {len(report.remarks)} remarks.")
    return 2 if report.problems else 0


def convert(raw: Path, out: Path, workers: int) -> int:
    """Converts, prints remarks and the next command; returns the exit code."""
    for remark in convert_acdc(raw, out, workers):
        print(f"remark: {remark}")
    print(f"ACDC is in {out}. To look it over: python code/prepare.py --check {out}")
    return 0


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, interrupted)
    try:
        if given.check is not None:
            return check(given.check, given.dataset, given.workers)
        return convert(given.raw, given.out, given.workers)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again; finished files are kept.", file=sys.stderr)
        return 75


if __name__ == "__main__":
    sys.exit(main())
