"""What a GPU makes of it, in ten minutes: steps of five methods on images and volumes, validation, waits; then ACDC with seven patients.

    python benchmarks/gpu.py                              the table of benchmarks/README.md; needs no data
    python benchmarks/gpu.py --acdc --minutes 600         then the published protocol on ACDC ($SEMISEG_DATA, else data/), until time is up
    python benchmarks/gpu.py --device cpu --tiny          shows that it runs

Each row is a script's own `main` in a process of its own, on Phantom and Phantom3D at the published sizes: float32, bf16-mixed, and --fast.
After some steps that warm up the device is waited for, a stretch of steps is timed, and it is waited for again. Waits are counted by
torch.cuda.set_sync_debug_mode over ten steps before that. Validation is the second of the run. Rows come in the order of how much they are
wanted, and those for which no time is left are named. Runs of ACDC go on where an earlier call left them.
"""
from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / "code"
sys.path.insert(0, str(CODE))

import torch  # noqa: E402

METHODS = ("MeanTeacher", "Supervised", "CPS", "UAMT", "EntMin")
"""Of the step times; they take images and volumes."""
WANTED = ("Supervised", "MeanTeacher", "UAMT", "CPS", "simEps", "FixMatch")
"""On ACDC, most wanted first."""
SETTINGS = {"32": (), "bf16": ("--precision", "bf16-mixed"), "fast": ("--fast",)}
SIZES = {
    "Phantom": ("--patch_size", "256", "256", "--batch_size", "24", "--labeled_bs", "12"),
    "Phantom3D": ("--model", "vnet", "--patch_size", "112", "112", "80", "--batch_size", "4", "--labeled_bs", "2"),
}
TINY = {
    "Phantom": ("--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2"),
    "Phantom3D": ("--model", "vnet", "--patch_size", "32", "32", "16", "--batch_size", "2", "--labeled_bs", "1"),
}
WARM, LISTENED = 60, 10
"""Steps before the timed ones, and how many of these are listened to for waits; one fewer than the former are timed."""


# A row: a process that runs a script's own `main`, and says a line of JSON at the end


def synchronised(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def row(job: dict[str, Any]) -> dict[str, Any]:
    """Trains, and tells what was measured."""
    from engine import Options, parse
    from engine.stage import Stage

    warm, device, found = job["warm"], job["device"], {"waits": None}
    waits: Counter[str] = Counter()
    steps, validate, began, seconds = Stage._steps, Stage.validate, [0.0], list[float]()

    def heard(message: Any, category: Any, file: str, line: int, *_: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            waits[f"{Path(file).name}:{line}"] += 1

    def timed(stage: Any, fed: Any) -> Any:
        for step, batch in steps(stage, fed):
            if device == "cuda" and step in (warm - LISTENED, warm - 1):
                torch.cuda.set_sync_debug_mode("warn" if step < warm - 1 else "default")
            if step == warm:
                began[0] = synchronised(device)
            yield step, batch

    def validated(stage: Any, done: int) -> None:
        start = synchronised(device)
        if done == 2 * warm - 1:
            found["ms"] = 1000 * (start - began[0]) / (warm - 1)
        validate(stage, done)
        seconds.append(synchronised(device) - start)

    Stage._steps, Stage.validate = timed, validated  # type: ignore[method-assign]
    script = importlib.import_module(f"train_{job['method']}")
    kind = next(t for t in vars(script).values() if isinstance(t, type) and issubclass(t, Options) and t.__module__ == script.__name__)
    often = ("--max_iterations", str(2 * warm - 1), "--val_every", str(warm), "--save_every", "1000", "--log_every", "1000")
    given = ["--dataset", job["data"], "--device", device, *job["words"], *often]
    if hasattr(kind, "consistency_start"):
        given += ["--consistency_start", "0"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard  # type: ignore[assignment]
        script.main(parse(kind, script.PRESETS, given))
    found["validation_s"] = seconds[-1]
    if device == "cuda":
        found |= {"peak_gib": torch.cuda.max_memory_allocated() / 2**30, "waits": dict(waits)}
    return found


def measured(job: dict[str, Any], folder: Path, limit: float) -> dict[str, Any]:
    """What the process of a row says; {"why": ...} where it says nothing."""
    number = len(list(folder.glob("model*")))
    environment = {**os.environ, "SEMISEG_MODEL": str(folder / f"model{number}"), "SEMISEG_CACHE": str(folder / "cache"),
                   "SEMISEG_DATA": str(folder / "data")}
    (folder / f"model{number}").mkdir()
    try:
        done = subprocess.run([sys.executable, __file__, "--row", json.dumps(job)], env=environment, capture_output=True, text=True,
                              timeout=limit)
    except subprocess.TimeoutExpired:
        return {"why": "no time left"}
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(given: argparse.Namespace, until: float) -> list[dict[str, Any]]:
    """All rows, printed as they come."""
    sizes, warm = (TINY, 12) if given.tiny else (SIZES, WARM)
    methods, settings = (METHODS[:1], ("32", "bf16")) if given.tiny else (METHODS, tuple(SETTINGS))
    order = [(data, method, setting) for setting in settings for method in methods for data in sizes]
    order.sort(key=lambda one: methods.index(one[1]) > 0)  # all of the first method, then the others
    rows: list[dict[str, Any]] = []
    print("| data | method | setting | ms a step | peak GiB | validation s | waits in ten steps |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for data, method, setting in order:
            left = until - time.monotonic()
            job = {"data": data, "method": method, "words": [*sizes[data], *SETTINGS[setting]], "device": given.device, "warm": warm}
            found = measured(job, Path(folder), left) if left > 0 else {"why": "no time left"}
            rows.append({"data": data, "method": method, "setting": setting, **found})
            print(line(rows[-1]), flush=True)
    return rows


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    head = f"| {found['data']} | {found['method']} | {found['setting']} | "
    if "why" in found:
        return f"{head}{found['why']} | | | |"
    peak, waits = found.get("peak_gib"), found["waits"]
    heard = "not asked" if waits is None else ", ".join(f"{place} {count}" for place, count in sorted(waits.items())) or "none"
    return f"{head}{found['ms']:.1f} | {'' if peak is None else f'{peak:.1f}'} | {found['validation_s']:.2f} | {heard} |"


# ACDC


def acdc(given: argparse.Namespace, until: float) -> None:
    """Runs and tests at the published protocol with seven patients, one after the other; when time is up, the last one saves and leaves."""
    root = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "ACDC"
    if not root.is_dir():
        print(f"{root}: ACDC is not there. Set SEMISEG_DATA to the folder that holds ACDC/.")
        return
    more = ("--max_iterations", "4", "--val_every", "2", *TINY["Phantom"]) if given.tiny else ("--fast",) if given.fast else ()
    for method in WANTED[:1] if given.tiny else WANTED:
        budget = "3" if given.tiny else "7"
        words = ["--root_path", str(root), "--dataset", "ACDC", "--labeled_num", budget, "--device", given.device, *more]
        process = subprocess.Popen([sys.executable, str(CODE / f"train_{method}.py"), *words], stdout=subprocess.PIPE, text=True)
        try:
            said, _ = process.communicate(timeout=max(until - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate()
        folder = next((one.split()[-1] for one in said.splitlines() if "test_2D.py --run" in one), "")
        last = (said.strip().splitlines() or [""])[-1]
        print(f"{method}: code {process.returncode}, {folder or last}", flush=True)
        if process.returncode == 75:
            print("No time is left; the same command goes on.")
            return
        if folder:
            subprocess.run([sys.executable, str(CODE / "test_2D.py"), "--run", folder, "--device", given.device], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--minutes", type=float, default=10, help="after which nothing is begun")
    parser.add_argument("--tiny", action="store_true", help="small images, one method, two settings: to see that it runs")
    parser.add_argument("--acdc", action="store_true", help="train on ACDC when the table is there")
    parser.add_argument("--fast", action="store_true", help="ACDC with --fast")
    parser.add_argument("--no-table", action="store_true", help="ACDC alone")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        answer = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what the engine prints is not the answer
        print(json.dumps(row(json.loads(given.row))), file=answer, flush=True)
        return
    if given.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here. --device cpu --tiny shows that the benchmark runs.")
        return
    until = time.monotonic() + 60 * given.minutes
    name = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    rows = [] if given.no_table else table(given, until)
    for one in rows:
        print(json.dumps({"name": "gpu step", "device": given.device, **one}))
    if given.acdc:
        acdc(given, until)


if __name__ == "__main__":
    main()
