"""Whether the files that a run is fed are those with which it began. Their contents are not compared, which would cost reading them; their
size and time are, and where these are the same, whether it is the same file."""
from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dataloaders.errors import UserError
from dataloaders.listing import states_of
from storage.checkpoint import write_json
from storage.sealed import read_sealed, sealed

FILE = "data.json"
"""In a run's folder: for each stage the files that it is fed, and their states."""
SHOWN = 8
"""Files in a sentence."""
States = dict[str, list[int]]
"""By path (below the data set's folder, where it is): size, time in ns, number, time of the last change of state in ns."""


def states(root: Path, files: Iterable[Path]) -> States:
    """The states of files as they are now. Raises `UserError` for one that is not there."""
    found = {}
    for file in dict.fromkeys(files):
        try:
            found[os.path.relpath(file, root)] = states_of(file)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}). Check the data set's folder {root}.") from None
    return found


def remembered(folder: Path) -> dict[str, States]:
    """What the run's stages were fed, by stage; nothing where that is not known (an older run, a damaged note)."""
    try:
        stages = read_sealed(folder / FILE, "")
    except (OSError, UserError):
        return {}
    return {stage: {name: [int(number) for number in str(state).split()] for name, state in known.items()}
            for stage, known in stages.items()}


def remember(folder: Path, stages: Mapping[str, States]) -> None:
    """Writes what the run's stages are fed."""
    write_json(folder / FILE, sealed({stage: {name: " ".join(map(str, state)) for name, state in known.items()}
                                      for stage, known in stages.items()}))


def differences(then: Mapping[str, States], now: States, stage: str, begun: bool) -> tuple[list[str], list[str]]:
    """(a line for each file that has changed, names of files that are others of the same size and time).

    `begun`: whether the stage has made a step, so that no file may have come or gone either.
    """
    known: States = {}
    for states_of_stage in then.values():
        known |= states_of_stage
    lines, others = [], []
    for name, state in now.items():
        before = known.get(name)
        if before is None or before == state:
            continue
        if before[0] != state[0]:
            lines.append(f"{name}: {before[0]} bytes then, {state[0]} now")
        elif before[1] != state[1]:
            lines.append(f"{name}: written {_clock(before[1])} then, {_clock(state[1])} now")
        else:
            others.append(name)
    if begun and stage in then:
        lines += [f"{name}: no longer used" for name in then[stage] if name not in now]
        lines += [f"{name}: was not used then" for name in now if name not in then[stage]]
    return lines, others


def refusal(folder: Path, lines: Sequence[str]) -> str:
    """The sentences for a run whose data have changed."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([f"{folder}: the data set is not the one with which this run began:",
                      *(f"  - {line}" for line in lines[:SHOWN]), *more,
                      "Bring the old files back, begin anew with --fresh (the old folder is moved aside), or go on all the same with "
                      "--accept_changes."])


def _clock(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(nanoseconds // 10**9)) + f".{nanoseconds % 10**9 // 10**6:03d}"
