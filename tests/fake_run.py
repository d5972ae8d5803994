"""In place of a training script and its tester, for tests of sweeps: no torch, a few milliseconds, ends as it is told.

    python fake_run.py train FOLDER CODES     the n-th start ends with the n-th of CODES (3,75,0); "wait": until a file `go` is there
    python fake_run.py test FOLDER RESULT     writes a result
"""
import json
import os
import signal
import sys
import time
from pathlib import Path


def fake(root: Path, name: str, codes: str = "0", method: str = "Fake"):
    """Such a run as a sweep has it."""
    from sweeps.work import Job
    folder, result, script = root / name, root / "results" / f"{name}.json", str(Path(__file__).resolve())
    train, test = (script, "train", str(folder), codes), (script, "test", str(folder), str(result))
    return Job(name, method, str(folder), str(result), train, test, 10)


def status(folder: Path, state: str, step: int) -> None:
    aside = folder / "status.tmp"
    aside.write_text(json.dumps({"state": state, "step": step, "of": 10, "seconds": 2.0, "validation_seconds": 1.0,
                                 "pid": os.getpid()}))
    aside.replace(folder / "status.json")


def train(folder: Path, codes: list[str]) -> int:
    starts = folder / "starts"
    before = len(starts.read_text().splitlines()) if starts.exists() else 0
    with open(starts, "a") as file:
        file.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    wanted = codes[min(before, len(codes) - 1)]
    told = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: told.append(1))
    status(folder, "running", before)
    print(f"Folder: {folder}", flush=True)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": before, "kind": "validation/network", "dice/mean": 0.5}) + "\n")
    print(f"attempt {before + 1}", flush=True)
    while wanted == "wait" and not (folder.parent / "go").exists():
        time.sleep(0.02)
        if told:
            status(folder, "interrupted", before + 1)
            print("saved", flush=True)
            return 75
    if wanted == "in use":
        print(f"{folder}: in use by process 1. Wait for it.")
        return 2
    if wanted in ("wait", "0"):
        status(folder, "done", 10)
        return 0
    status(folder, "interrupted" if wanted == "75" else "failed", before + 1)
    if wanted == "9":
        os.kill(os.getpid(), signal.SIGKILL)
    print("it went wrong")
    return int(wanted)


def test(result: Path) -> int:
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"summary": {"mean": {"dice": 0.75}}}))
    return 0


if __name__ == "__main__":
    _, what, place, last = sys.argv
    sys.exit(train(Path(place), last.split(",")) if what == "train" else test(Path(last)))
