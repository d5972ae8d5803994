"""Many runs at once: tasks of Ray, which places them on cores, GPUs and machines and begins those of a lost worker again."""
from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataloaders.errors import UserError
from sweeps.board import Board
from sweeps.in_turn import Conduct, settings
from sweeps.work import Job, Outcome, tested, work
from system.signals import as_interrupts

LOST_WORKERS = 10
"""How often a run is begun again because the process or the machine under it died; its own failures are counted in `work`."""
STORE = 80 * 2**20
"""Bytes of Ray's object store, in which a sweep keeps nothing."""
CLUSTER = ("Start one with `ray start --head` on one machine and `ray start --address HOST:6379` on the others; every machine needs this "
           "repository, its Python, the data, and model/ and results/ ($SEMISEG_MODEL, $SEMISEG_RESULTS) at the same paths, on a file "
           "system that all share. Where its head has a password (~/.ray/auth_token), set RAY_AUTH_MODE=token on all of them and here.")


@contextmanager
def on_ray(board: Board, jobs: int | None, address: str | None, gpus: float | None, cpus: int | None) -> Iterator[Conduct]:
    """Gives a function that runs jobs; while open, Ray runs on this machine, or the cluster at `address` is joined.

    `jobs`: how many at once (None: as many as cores and GPUs allow). `gpus`: the share of a GPU that a run takes (None: a whole one
    where there is any). `cpus`: cores of a run (None: this machine's divided by `jobs`; 1 on a cluster). Raises `UserError`
    where Ray is missing, the cluster cannot be joined, or no machine can hold a run.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if not address:
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name
        # A password for this sweep alone. Without it Ray would leave one in the home folder, which changes how later clusters start.
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise UserError(f"Several runs at once are Ray's work, which is not installed ({error}): pip install ray.") from error
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]))
    both: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    cores = os.cpu_count() or 1
    try:
        if address:
            ray.init(address=address, **both)
        else:
            ray.init(num_cpus=max(cores, jobs or 1), include_dashboard=False, object_store_memory=STORE, **both)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(f"--address {address}: {error}\n{CLUSTER}" if address else f"Ray does not start: {error}", 3) from error
    try:
        with as_interrupts():  # Ray has put its own handler of SIGTERM in the place of ours
            threads = cpus or (max(1, cores // jobs) if jobs and not address else 1)
            share = _share_of_gpus(gpus, ray.nodes())
            one = ray.remote(num_cpus=threads if address else min(threads, cores), num_gpus=share, max_retries=LOST_WORKERS)(work)
            yield lambda these: _run(ray, one, these, board, jobs or len(these), settings(threads))
    finally:
        ray.shutdown()


def _share_of_gpus(asked: float | None, nodes: Sequence[dict[str, Any]]) -> float:
    """GPUs a run. Raises `UserError` where no machine has as many."""
    most = max((node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]), default=0)
    share = asked if asked is not None else min(1.0, most)
    if share > most:
        raise UserError(f"--gpus_per_run {share:g}: the machine with most GPUs has {most:g}.")
    return share


def _run(ray: Any, one: Any, jobs: Sequence[Job], board: Board, at_once: int, environment: dict[str, str]) -> dict[Job, Outcome]:
    """How each ended. KeyboardInterrupt cancels what waits, lets what runs save and leave, and is raised again."""
    ended: dict[Job, Outcome] = {}
    waiting = deque(job for job in jobs if not tested(job))
    ended |= {job: Outcome("skipped") for job in jobs if job not in waiting}
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                running[one.remote(job, board.sweep, environment, str(Path.cwd()))] = job
            for ref in ray.wait(list(running), timeout=0.5)[0]:
                job = running.pop(ref)
                ended[job] = _outcome(ray, ref)
            board.tick()
    except KeyboardInterrupt:
        board.say("Stopping: what runs saves and leaves; a second Ctrl-C does not wait for it.")
        for ref in running:
            ray.cancel(ref, recursive=False)
        while running:
            for ref in ray.wait(list(running), timeout=0.5)[0]:
                del running[ref]
            board.tick()
        raise
    if any(outcome.state == "interrupted" for outcome in ended.values()):
        raise KeyboardInterrupt
    return ended


def _outcome(ray: Any, ref: Any) -> Outcome:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return Outcome("failed", f"Ray's task failed: {str(error).splitlines()[-1]}")
    except ray.exceptions.RayError as error:
        return Outcome("failed", f"{LOST_WORKERS + 1} workers were lost: {str(error).splitlines()[0]}")
