"""Runs one after another, in processes of their own on this machine. Needs nothing but Python."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweeps.board import Board
from sweeps.work import Job, Outcome, work

Conduct = Callable[[Sequence[Job]], dict[Job, Outcome]]


def settings(threads: int | None) -> dict[str, str]:
    """What a run's environment must have wherever it runs: our places and settings, and its share of the cores."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("SEMISEG_")}
    return ours | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


@contextmanager
def in_turn(board: Board, threads: int | None) -> Iterator[Conduct]:
    """Gives a function that runs jobs and says how each ended. On KeyboardInterrupt it lets the run that is under way save and leave,
    and raises it again."""

    def conduct(jobs: Sequence[Job]) -> dict[Job, Outcome]:
        ended: dict[Job, Outcome] = {}
        for job in jobs:
            ended[job] = work(job, board.sweep, settings(threads), str(Path.cwd()), board.tick)
            board.tick()
            if ended[job].state == "interrupted":
                raise KeyboardInterrupt
        return ended

    yield conduct
