"""Several scripts as processes of their own, a few at a time."""
from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait


def run_all(jobs: Sequence[tuple[str, Sequence[str]]], at_once: int = 2, go_on: bool = False,
            then: Callable[[str], Sequence[str]] | None = None) -> list[str]:
    """Runs (title, command) pairs, `at_once` at a time, each with its share of the cores ($OMP_NUM_THREADS where that is
    set: two threads on a core that others use too are slower than one by far); their lines appear behind their titles.

    `then`: gives the command that follows that of a title, once it has ended well (empty: none). Gives a sentence for every one that
    failed. After a failure no other is begun, unless `go_on`. An interruption ends those that run, each in its own orderly way, before
    it goes on.
    """
    waiting = list(reversed(jobs))
    running: set[subprocess.Popen[str]] = set()
    failed: list[str] = []
    share = os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or at_once) // at_once, 1))
    interrupted = threading.Event()

    def ran(title: str, command: Sequence[str]) -> bool:
        """Whether it ended well."""
        environment = {**os.environ, "OMP_NUM_THREADS": share, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        running.add(process)
        if interrupted.is_set():  # the interruption came between its start and this line
            process.terminate()
        assert process.stdout is not None
        for line in process.stdout:
            print(f"[{title}] {line.rstrip()}", flush=True)
        code = process.wait()
        running.discard(process)
        if code:
            failed.append(f"{title} ended with code {code}; its last lines are above.")
        return not code

    def worker() -> None:
        while waiting and (go_on or not failed):
            title, command = waiting.pop()
            if ran(title, command) and then and (next_one := then(title)) and not interrupted.is_set():
                ran(title, next_one)

    # Not Thread.join: up to Python 3.12 a thread counts as ended once a join of it was interrupted, and would not be waited for.
    with ThreadPoolExecutor(at_once) as pool:
        workers = [pool.submit(worker) for _ in range(at_once)]
        try:
            wait(workers)
        except BaseException:
            interrupted.set()
            waiting.clear()
            for process in list(running):
                process.terminate()
            raise  # the pool waits for them
        for one in workers:
            one.result()
    return failed
