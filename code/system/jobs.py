"""Several scripts as processes of their own, a few at a time."""
from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence


def run_all(jobs: Sequence[tuple[str, Sequence[str]]], at_once: int = 2, go_on: bool = False) -> list[str]:
    """Runs (title, command) pairs, `at_once` at a time, each with its share of the cores; their lines appear behind their titles.

    Gives a sentence for every one that failed. After a failure no other is begun, unless `go_on`. An interruption ends those that
    run, each in its own orderly way, before it goes on.
    """
    waiting = list(reversed(jobs))
    running: set[subprocess.Popen[str]] = set()
    failed: list[str] = []
    share = max((os.cpu_count() or at_once) // at_once, 1)

    def worker() -> None:
        while waiting and (go_on or not failed):
            title, command = waiting.pop()
            environment = {**os.environ, "OMP_NUM_THREADS": str(share), "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
            running.add(process)
            assert process.stdout is not None
            for line in process.stdout:
                print(f"[{title}] {line.rstrip()}", flush=True)
            code = process.wait()
            running.discard(process)
            if code:
                failed.append(f"{title} ended with code {code}; its last lines are above.")

    workers = [threading.Thread(target=worker) for _ in range(at_once)]
    for one in workers:
        one.start()
    try:
        for one in workers:
            one.join()
    except BaseException:
        waiting.clear()
        for process in list(running):
            process.terminate()
        for one in workers:
            one.join()
        raise
    return failed
