"""Faults by the hundred, and what came of each: the counts of docs/reliability.md. Hours; stopped anywhere, it goes on.

    python tests/campaign.py files --count 2400        files damaged, read by what reads them
    python tests/campaign.py mutants --count 300       the code changed where it decides numbers, and its tests run
    python tests/campaign.py kills --count 520         processes killed, and started again
    python tests/campaign.py machine                   a full disk, no permission, a clock set back, ...
    python tests/campaign.py all                       one after the other
    python tests/campaign.py table                     what has been found so far

A line a fault lies in FOLDER (--output, else /tmp/semiseg-campaign). Exit code 1 where something was found that may not be.
tests/test_campaign.py runs a small sample.
"""
from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent / "code"), str(TESTS)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from campaigns import files, kills, machine, mutants  # noqa: E402
from campaigns.ledger import Ledger, in_children  # noqa: E402
from narrow import make_narrow  # noqa: E402

COUNTS = {"files": 2400, "mutants": 300, "kills": 520, "machine": 0}
GOOD = {"files": files.GOOD, "mutants": mutants.GOOD, "kills": kills.GOOD, "machine": machine.GOOD}


def scratch() -> Path:
    """In memory where there is room: thousands of files are written and synced."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="campaign-", dir=memory if os.access(memory, os.W_OK) else None))


def carried_out(part: str, count: int, ledger: Ledger, only: str) -> None:
    """One part, as far as its ledger does not know it."""
    place = scratch()
    try:
        if part == "files":
            make_narrow()
            files.settings(place)
            targets = [target for target in files.targets(place) if only in target.kind]
            in_children(files.faults(targets, count), ledger)
        elif part == "mutants":
            mutants.run(place, ledger, count, only)
        elif part == "kills":
            kills.run(place, ledger, count)
        else:
            machine.run(place, ledger)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*COUNTS, "all", "table"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--only", default="", help="files and mutants: kinds or modules that hold this word")
    parser.add_argument("--output", type=Path, default=Path(tempfile.gettempdir()) / "semiseg-campaign")
    given = parser.parse_args()
    bad = 0
    for part in COUNTS if given.part in ("all", "table") else [given.part]:
        ledger = Ledger(given.output / f"{part}.jsonl")
        if given.part != "table":
            carried_out(part, given.count or COUNTS[part], ledger, given.only)
        wrong = [row for row in ledger.found.values() if row["outcome"] not in GOOD[part]]
        print(f"\n{part}\n\n{ledger.table(GOOD[part])}\n")
        for row in wrong:
            print(f"{row['outcome']}: {row['fault']}: {row['said'].strip().splitlines()[-1] if row['said'].strip() else ''}")
        bad += len(wrong)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
