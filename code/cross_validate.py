"""Every method with every label budget, fold or random draw, and seed: trained and tested, one run after another or many at once.

What is finished is not run again, what was interrupted goes on, what failed is tried three times: the same command goes on at any
moment. Options that are not listed here go on to the training scripts.

    python code/cross_validate.py --methods MeanTeacher simEps --labeled_num 7 14 --folds 5 --seeds 0 1 2 --dataset ACDC
    python code/cross_validate.py --methods CPS --baselines --draws 5 --dataset Phantom --jobs 2 --max_iterations 100
"""
from __future__ import annotations

import difflib
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote

import tyro

from dataloaders import catalog
from dataloaders.errors import UserError
from reporting.build import build
from reporting.printing.cells import heading, mean_sd, tested
from reporting.records import read
from storage.folders import REPOSITORY, data_name, model_folder, results_folder
from sweeps import slurm
from sweeps.board import Board
from sweeps.grid import Combination, combinations
from sweeps.in_turn import in_turn, settings
from sweeps.on_ray import on_ray
from sweeps.planning import plan, scripts
from sweeps.splits_file import write_splits
from sweeps.work import SCREEN, Job, Outcome, in_use, last_lines
from system.ending import finish_with


@dataclass
class CrossValidate:
    methods: tuple[str, ...]
    """Training scripts: MeanTeacher is code/train_MeanTeacher.py."""
    labeled_num: tuple[str, ...] = ()
    """Label budgets, as in the scripts: numbers, shares such as 10%, or all. Without it: the data set's published one."""
    folds: int | None = None
    """Cross-validation in so many parts. Without it: the official split."""
    fold: tuple[int, ...] = ()
    """Only these of the --folds parts, from 0."""
    draws: int | None = None
    """Random draws of the labelled cases, numbered from 0. Without it: the first of the published order."""
    seeds: tuple[int, ...] = (1337,)
    """Seeds of the training."""
    dataset: str | None = None
    """The data set, as in the scripts."""
    root_path: Path | None = None
    """Folder of the data set, as in the scripts."""
    exp: str | None = None
    """Name of the sweep; runs lie in model/<name>/, results in results/<name>/. Without it: the data set's."""
    baselines: bool = False
    """Supervised too, with each budget and with all labels."""
    jobs: int | None = None
    """Runs at once on this machine, by Ray; with --address: at most so many. Without it: one after another, without Ray."""
    address: str | None = None
    """Join a Ray cluster: auto, or the address that ray start --head printed. Without --jobs: as many runs as it has room for."""
    gpus_per_run: float | None = None
    """Share of a GPU for each run: 0.25 puts four on one. Without it: a whole one where there are GPUs."""
    cpus_per_run: int | None = None
    """Cores for each run. Without it: this machine's divided by --jobs; 1 on a cluster."""
    print_slurm: bool = False
    """Print the job-array script of the same runs, and run nothing."""


OURS = {
    "seed": "--seeds takes one or several.",
    "labeled_seed": "--draws N makes the random draws 0 to N-1.",
    "labeled_choice": "--draws N makes N random draws of the labelled cases; without it they are the first.",
    "fresh": "A sweep goes on where it stopped; for a new one give another name, --exp NAME, or move its folder under model/ aside.",
}
"""Options of the scripts that a sweep gives itself."""


def divide(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """(our words, the scripts' options, each with its values) of a command line."""
    names = {field.name for field in fields(CrossValidate)} | {"help"}
    ours: list[str] = []
    others: list[list[str]] = []
    mine = True
    for word in words:
        if word.startswith("--"):
            flag = word.split("=")[0][2:].replace("-", "_")
            mine = flag.removeprefix("no_") in names
            if flag in OURS:
                raise UserError(f"--{flag}: {OURS[flag]}")
            if not mine:
                others.append([])
        (ours if mine else others[-1]).append(word)
    return ours, others


def grid(options: CrossValidate, budget: str) -> list[Combination]:
    """The runs that were asked for; `budget` is the data set's own. Raises `UserError` for a method, fold or number that cannot be."""
    there = scripts()
    for name in options.methods:
        if name not in there:
            near = difflib.get_close_matches(name, there, 3, 0.4) or there
            raise UserError(f"--methods {name}: there is no code/train_{name}.py; there is {', '.join(near)}.")
    if options.fold and options.folds is None:
        raise UserError("--fold chooses among the parts of a cross-validation: give --folds 5 too.")
    for name in ("folds", "draws", "jobs", "cpus_per_run"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: a number from 1 is needed.")
    if options.gpus_per_run is not None and (options.gpus_per_run < 0 or options.gpus_per_run > 1 and options.gpus_per_run % 1):
        raise UserError(f"--gpus_per_run {options.gpus_per_run:g}: a share of a GPU such as 0.25, or a whole number, is needed.")
    if not options.methods or not options.seeds:
        raise UserError("--methods and --seeds need at least one each, for example --methods MeanTeacher CPS --seeds 0 1 2.")
    folds = options.fold or range(options.folds or 0)
    return combinations(options.methods, options.labeled_num or (budget,), folds, options.draws, options.seeds, options.baselines)


def main(words: Sequence[str]) -> None:
    ours, others = divide(words)
    options = tyro.cli(CrossValidate, args=ours, use_underscores=True, description=__doc__)
    data, root, _ = catalog.resolve(options.dataset, options.root_path, REPOSITORY)
    wanted = grid(options, str(data.defaults.get("labeled_num", "7")))
    name = options.exp or data_name(data, root)
    catalog.open_source(data, root)  # Phantom is drawn once, not by every run
    common = ["--dataset", data.name, "--root_path", str(root.resolve())]
    screen = sys.stderr if options.print_slurm else sys.stdout
    print(f"Asking {len({one.method for one in wanted})} scripts about {len(wanted)} runs ...", file=screen, flush=True)
    planned = plan(wanted, common, others, options.folds, name, os.cpu_count() or 1)
    for remark in planned.remarks:
        print(remark, file=screen, flush=True)
    source = catalog.open_source(data, root, planned.reader)
    write_splits(results_folder() / name / "splits.json", source, planned.splits)
    if options.print_slurm:
        log = (model_folder() / name).resolve()
        log.mkdir(parents=True, exist_ok=True)  # SLURM makes no folder for its output
        print(slurm.script(name, planned.jobs, log, Path.cwd(), settings(None), options.jobs, options.cpus_per_run, options.gpus_per_run))
        return
    try:
        conduct(name, planned.jobs, options)
    finally:
        tell(results_folder() / name)


def tell(folder: Path) -> None:
    """The scores so far, a line a method and budget, and the command that makes the report."""
    records, skipped = read([folder]) if folder.is_dir() else ([], [])
    if not any(record.quoted for record in records):
        return
    for table in build(records, skipped, folder.name).tables:
        print(f"\n{heading(table)}; {tested(table)}")
        for row in table.rows:
            dice = row.stats["mean", "dice"]
            print(f"  {row.label:<40} {dice.n:>3} runs   Dice {mean_sd(dice)} %")
    print(f"\nTests of significance, figures and one page: python code/report.py {quote(os.path.relpath(folder))}")


def conduct(name: str, jobs: Sequence[Job], options: CrossValidate) -> None:
    """Runs all. Raises `UserError` (code 3) with those that failed, KeyboardInterrupt when told to stop."""
    gpus = options.gpus_per_run
    if gpus is None and all(job.test[-2:] == ("--device", "cpu") for job in jobs):
        gpus = 0.0
    many = options.address is not None or (options.jobs or 1) > 1 or options.gpus_per_run is not None
    board = Board(name, jobs, f"{socket.gethostname()}-{os.getpid()}-{time.time():.3f}", options.jobs if many else 1)
    ended: dict[Job, Outcome] = {}
    try:
        if all(row.state == "done" for row in board.rows):
            return
        with on_ray(board, options.jobs, options.address, gpus, options.cpus_per_run) if many \
                else in_turn(board, options.cpus_per_run) as run:
            ended |= run(jobs)
            while waited := [job for job in jobs if ended[job].state == "in use"]:
                board.say(f"Waiting for {len(waited)} runs on which other processes work.")
                while all(in_use(job) for job in waited):
                    time.sleep(1)
                    board.tick()
                ended |= run([job for job in waited if not in_use(job)])
    finally:
        board.end()
    failed = [(job, ended[job]) for job in jobs if ended[job].state == "failed"]
    if failed:
        lines = [f"{len(failed)} of {len(jobs)} runs failed:"]
        for job, outcome in failed:
            lines += [f"{job.title}: {outcome.reason}", f"    {Path(job.folder) / SCREEN} ends with:"]
            lines += [f"    | {said}" for said in last_lines(job)[-5:]]
        raise UserError("\n".join(lines), 3)


if __name__ == "__main__":
    sys.exit(finish_with(lambda: main(sys.argv[1:])))
