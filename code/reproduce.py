"""Make a row of a table again: train and test with exactly the options that a result file records, and compare.

The new run lies under model/reproduce/ and results/reproduce/, by the old one's path; nothing old is touched. Given again, the same
command goes on where it stopped. What has changed since (code, versions, machine, data) is said first; changed cases are refused.

    python code/reproduce.py results/ACDC/MeanTeacher_7_labeled/unet/official_seed1337.json
    python code/reproduce.py results/ACDC/MeanTeacher_7_labeled/unet/official_seed1337.json --seeds 5 6

The score is mean Dice. Exit code 0: inside the recorded spread (mean ± two standard deviations of all runs of the row beside the file,
three or more), or, where there is none, equal to the last digit. 1: not so, and a sentence says what. 2: bad file, data or option.
"""
from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from command_line.declarations import harmless
from command_line.options import Options
from dataloaders import catalog
from dataloaders.errors import UserError
from reporting import reproduction
from reporting.records import Record, Skipped, read_one
from storage import provenance
from storage.folders import REPOSITORY, result_path
from system.devices import computes_on
from system.ending import finish_with

CODE = Path(__file__).resolve().parent


@dataclass
class Reproduce:
    file: Annotated[Path, tyro.conf.Positional]
    """A result file: results/.../x.json."""
    root_path: Path | None = None
    """Folder of the data set. Without it: where the run found it, else data/<data set>."""
    seeds: tuple[int, ...] = ()
    """Other seeds to run it with. Without them: the recorded one."""


def main(options: Reproduce) -> None:
    record = opened(options.file)
    method, settings = reproduction.as_today(record.method, record.options)
    script = CODE / f"train_{method}.py"
    root = data_root(record, options.root_path)
    if lines := reproduction.split_differences(record, root):
        raise UserError(f"{root}: these are not the data that {options.file} was made from:\n" + "\n".join(f"  - {one}" for one in lines)
                        + "\nGive the right folder with --root_path.")
    wanted = str(record.options["device"])
    device = wanted if computes_on(wanted) else "cpu"
    runs = planned(record, script, settings, root, device, options.seeds or (record.seed,))
    now = {"code": provenance.code_digest(script), "commit": provenance.commit(), "versions": provenance.versions(),
           "machine": provenance.machine(torch.device(device)) | {"threads": record.run["machine"].get("threads")}}
    say_changes(record, now)
    spread, failed = reproduction.spread_of(record), []
    for words, folder in runs:
        new = made(record, script, words, folder, device)
        confirmed, lines = reproduction.compared(record, new, spread)
        if new.run["code"] != now["code"]:
            lines = [*lines, f"This run was finished by other code ({new.run['code']}) than lies here now."]
        print("\n".join([f"{record.method} on {record.data_set}, {record.labeled_num} labelled, {record.run['split']['name']}: {folder}",
                         *(f"  {line}" for line in lines)]), flush=True)
        failed += [] if confirmed else [f"seed {new.seed}: {lines[-1]}"]
    if failed:
        raise UserError("Not confirmed. " + " ".join(failed), 1)
    print("Confirmed.")


def opened(file: Path) -> Record:
    """The result file, checked. Raises `UserError` with what is wrong with it."""
    found = read_one(file)
    if isinstance(found, Skipped):
        raise UserError(f"{file}: {found.reason}. Give a result file, as results/ACDC/simEps_7_labeled/unet/official_seed1337.json.")
    if found.summary["mean"].get("dice") is None:
        raise UserError(f"{file}: its mean Dice is not known (no class was there to find), so there is nothing to compare.")
    script = CODE / f"train_{found.method}.py"
    if Path(found.method).name != found.method or not script.is_file():
        raise UserError(f"{file}: made by {found.method}, of which there is no script here ({script}); it cannot be trained again.")
    for name in ("device", "schedule"):
        if not isinstance(found.options.get(name), str):
            raise UserError(f"{file}: the options of its training are not known (no {name}); it cannot be trained again.")
    return found


def data_root(record: Record, given: Path | None) -> Path:
    """The data set's folder: as given, where the run found it, as its command said, or its own place."""
    places = [] if given is None else [given]
    if given is None:
        folder = reproduction.run_folder(record)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            places.append(Path(json.loads((folder / "config.json").read_text())["root"]) if folder else Path())
        words = provenance.words_of(record.run["command"].replace("=", " "))
        places += [Path(value) for word, value in zip(words, words[1:]) if word in ("--root_path", "--root-path")]
    place = next((place for place in places if place != Path() and place.is_dir()), None)
    return catalog.resolve(record.data_set, given or place, REPOSITORY)[1]


def planned(record: Record, script: Path, settings: Mapping[str, Any], root: Path, device: str,
            seeds: tuple[int, ...]) -> list[tuple[list[str], Path]]:
    """(words of the training, folder of the run) for every seed. Raises `UserError` where the script of today refuses them."""
    every = [["--dataset", record.data_set, "--root_path", str(root), "--exp", f"reproduce/{reproduction.experiment(record)}",
              *reproduction.training_words({**settings, "device": device, "seed": seed})] for seed in seeds]
    done = subprocess.run([sys.executable, str(script)], input=json.dumps({"extra": [], "runs": every}), capture_output=True, text=True,
                          env={**os.environ, "SEMISEG_PLAN": "1"})
    lines = [json.loads(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    if len(lines) != len(seeds) + 1:
        raise UserError(f"{script}: does not say what its runs are (exit code {done.returncode}):\n{done.stderr.strip()[-2000:]}", 3)
    for line in lines[1:]:
        if "error" in line:
            commit = str(record.run.get("commit", "unknown")).removesuffix("+changes")
            raise UserError(f"The script of today refuses the options of {record.path}: {line['error']}\n"
                            f"The code that made it is commit {commit}.")
    if new := sorted(set(lines[0]["options"]) - set(record.options) - harmless(Options)):
        print(f"Options that the file does not know, at their defaults: {', '.join('--' + name for name in new)}.")
    return [(words, Path(line["folder"])) for words, line in zip(every, lines[1:])]


def say_changes(record: Record, now: dict[str, Any]) -> None:
    """What is not as it was when the file was made."""
    lines = reproduction.changed(record.run, now)
    if not computes_on(wanted := str(record.options["device"])):
        lines.append(f"device: {wanted} then, cpu now, because torch sees no GPU here")
    if str(record.run.get("commit", "")).endswith("+changes"):
        lines.append("the code then had changes that no commit holds")
    lines += [f"accepted while it was trained: {line}" for line in record.run.get("changes", [])]
    print("Nothing that made this file has changed." if not lines else
          "Not as it was when this file was made:\n" + "\n".join(f"  - {line}" for line in lines), flush=True)


def made(record: Record, script: Path, words: list[str], folder: Path, device: str) -> Record:
    """The new result: trained and tested where that is still to be done. Raises `UserError` with the code of what failed."""
    status, file = folder / "status.json", result_path(folder)
    call([str(script), *words], record)
    if not file.exists() or file.stat().st_mtime_ns < status.stat().st_mtime_ns:
        tester = CODE / f"test_{record.run['dimensions']}D.py"
        call([str(tester), "--run", str(folder), "--device", device, *reproduction.testing_words(record.run)], record)
    found = read_one(file if record.quoted else file.with_name(f"{file.stem}_{record.run['predictor']}.json"))
    if isinstance(found, Skipped):
        raise UserError(f"{found.path}: {found.reason}.", 3)
    return found


def call(command: list[str], record: Record) -> None:
    """Runs a script as a process of its own, on as many threads as then, since sums depend on their number."""
    threads = record.run["machine"].get("threads")
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if isinstance(threads, int) else {})}
    process = subprocess.Popen([sys.executable, *command], env=environment)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code in (75, 130):
        raise KeyboardInterrupt
    if code:
        raise UserError(f"{Path(command[0]).name} ended with code {code}; its last lines are above.", code if code > 0 else 3)


if __name__ == "__main__":
    sys.exit(finish_with(lambda: main(tyro.cli(Reproduce, use_underscores=True, description=__doc__))))
