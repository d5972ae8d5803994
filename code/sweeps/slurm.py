"""The job-array script of a sweep: one index, one run, trained and tested. Plain text that needs nothing of ours but the scripts."""
from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.work import ATTEMPTS, Job

HEAD = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{throttle}
#SBATCH --cpus-per-task={cpus}
{gpus}
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}/slurm-%A_%a.out

# {count} runs, one an index: trained, then tested. Lines above are for your cluster to change (time, partition, account).
# Five minutes before the time limit the script is told; it saves, leaves with code 75, and the job asks for another turn, which goes on
# there. Submitted again, finished runs leave at once. Made by:
#   {command}
# Every node must see this folder, the data and the results at the same paths.

cd {place} || exit 2
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}" PYTHONUNBUFFERED=1"""

TAIL = r"""
# A script with its words, to its end; signals to this job are passed on to it. Its exit code in $code; $ended after SIGTERM, with which
# SLURM cancels a job, or pre-empts and requeues it by itself.
run() {
    "$@" &
    child=$!
    trap 'told=1; kill -USR1 "$child"' USR1
    trap 'told=1; ended=1; kill -TERM "$child"' TERM
    told=1
    while [ -n "$told" ]; do
        told=
        wait "$child"
        code=$?
    done
}

# The same in ATTEMPTS attempts. Leaves when interrupted (launchers such as torchrun hide code 75: status.json tells), or when it fails.
attempt() {
    for try in $(seq ATTEMPTS); do
        run "$@"
        [ "$code" -eq 0 ] && return
        if [ "$code" -eq 75 ] || { [ "$code" -ne 2 ] && grep -qs '"state": "interrupted"' "$folder/status.json"; }; then
            [ -n "$ended" ] && exit 75
            echo "Interrupted: asking for another turn."
            exec scontrol requeue "$SLURM_JOB_ID"
        fi
        echo "Ended with code $code (attempt $try of ATTEMPTS)." >&2
        [ "$code" -eq 2 ] && break
    done
    exit "$code"
}

if [ "$result" -nt "$folder/status.json" ] && grep -qs '"state": "done"' "$folder/status.json"; then
    echo "This run is trained and tested: $result"
    exit 0
fi
attempt "${train[@]}"
attempt "${test[@]}"
"""


def script(name: str, jobs: Sequence[Job], log: Path, place: Path, environment: Mapping[str, str], at_once: int | None,
           cpus: int | None, gpus: float | None) -> str:
    """The text for sbatch. `place`: working directory; `log`: folder of the jobs' screens, which must be there; `at_once`: the %N of
    the array; `gpus`: of a run, None for none; SLURM gives whole ones."""
    gpu_line = f"#SBATCH --gpus={math.ceil(gpus)}" if gpus else "##SBATCH --gpus=1   (--gpus_per_run 1 makes this a line)"
    lines = [HEAD.format(name=shlex.quote(name.replace("/", "_")), last=len(jobs) - 1, throttle=f"%{at_once}" if at_once else "",
                         cpus=cpus or 1, gpus=gpu_line, log=log, count=len(jobs), place=shlex.quote(str(place)),
                         command=shlex.join(["python", *sys.argv]))]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    lines.append('case "$SLURM_ARRAY_TASK_ID" in')
    for k, job in enumerate(jobs):
        lines.append(f"{k})  # {job.title}\n"
                     f"    folder={shlex.quote(job.folder)}\n"
                     f"    result={shlex.quote(job.result)}\n"
                     f"    train=({shlex.join([sys.executable, *job.train])})\n"
                     f"    test=({shlex.join([sys.executable, *job.test])}) ;;")
    lines.append('*) echo "There is no run $SLURM_ARRAY_TASK_ID in this script." >&2; exit 2 ;;\nesac')
    return "\n".join(lines) + TAIL.replace("ATTEMPTS", str(ATTEMPTS))
