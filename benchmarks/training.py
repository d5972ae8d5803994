"""Training end to end: our engine, running a method's own script, against the usual loop in plain PyTorch (plain.py).

    python benchmarks/training.py                    Mean Teacher; some minutes on two cores
    python benchmarks/training.py --methods all      every script of code/, eager

Real ACDC slices of $SEMISEG_DATA/ACDC, else data/ACDC, 256 x 256; batches of 8 on a CPU, of 24 on a GPU, half of them labelled; the
consistency term is on from the first step. Every side is a process of its own that lives for the whole benchmark and trains a few steps
when its turn comes: median of REPEATS turns. The time of a step holds its data. The floor is what the convolutions of a step (student
forwards and back, teacher forwards) need at the highest rate that this machine reaches in a large product or convolution.
"""
from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from dataloaders import catalog  # noqa: E402
from dataloaders.errors import UserError  # noqa: E402
from networks import build  # noqa: E402

REPEATS = 5
BATCH = {"cpu": 8, "cuda": 24}
STEPS = {"cpu": 3, "cuda": 200}
"""Steps in a turn. On a GPU many, since batches that were made between the turns must not count."""
SIDE = 256
VARIANTS = {
    "cpu": {"ours": (), "ours, --precision bf16-mixed": ("--precision", "bf16-mixed"), "ours, --compile": ("--compile",)},
    "cuda": {
        "ours": (), "ours, --deterministic 0": ("--deterministic", "0"), "ours, --compile": ("--compile",),
        "ours, --precision bf16-mixed": ("--precision", "bf16-mixed"),
        "ours, --compile bf16-mixed": ("--compile", "--precision", "bf16-mixed"),
    },
}  # fmt: skip


def data_root() -> Path:
    return Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "ACDC"


# A side: trains as many steps as a line on its standard input says, and answers with a line of JSON.


def turns(say: Any) -> Iterator[int]:
    """The numbers of steps asked for, one turn after the other."""
    say({"ready": True})
    for line in sys.stdin:
        if line.strip() == "end":
            return
        yield int(line)


def synchronised(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def our_side(method: str, device: str, words: list[str], say: Any) -> None:
    """Runs the script's own main; its loop is held between turns where it asks for the next batch."""
    from engine import Options, parse
    from engine.stage import Stage

    loop = Stage.batches

    def in_turns(stage: Stage, *arguments: Any, **named: Any) -> Iterator[Any]:
        source = loop(stage, *arguments, **named)
        for _ in range(2):  # allocates, compiles
            yield next(source)
        for steps in turns(say):
            began, waited = synchronised(device), stage.waited()
            for _ in range(steps):
                yield next(source)
            say({"seconds": synchronised(device) - began, "waited": stage.waited() - waited, "peak": peak_memory(device)})
        os._exit(0)

    Stage.batches = in_turns  # type: ignore[method-assign]
    script = importlib.import_module(f"train_{method}")
    kind = next(t for t in vars(script).values() if isinstance(t, type) and issubclass(t, Options) and t.__module__ == script.__name__)
    batch = str(BATCH[device])
    given = ["--root_path", str(data_root()), "--dataset", "ACDC", "--batch_size", batch, "--labeled_bs", str(int(batch) // 2),
             "--patch_size", str(SIDE), str(SIDE), "--device", device, "--val_every", "30000", "--save_every", "30000", *words]  # fmt: skip
    if hasattr(kind, "consistency_start"):
        given += ["--consistency_start", "0"]
    script.main(parse(kind, script.PRESETS, given))


def plain_side(device: str, workers: int, say: Any) -> None:
    from plain import PlainMeanTeacher

    source = catalog.open_source(catalog.named("ACDC"), data_root())
    items = source.items(source.cases("train"))
    loop = PlainMeanTeacher([item.image for item in items], len(items) // 2, BATCH[device], BATCH[device] // 2, device, workers)
    for _ in range(2):
        loop.step()
    for steps in turns(say):
        began, waited = synchronised(device), loop.waited
        for _ in range(steps):
            loop.step()
        say({"seconds": synchronised(device) - began, "waited": loop.waited - waited, "peak": peak_memory(device)})
    os._exit(0)


class Side:
    """A process that trains in turns."""

    def __init__(self, name: str, folder: Path, device: str, job: dict[str, Any], steps: int):
        self.name, self.steps, self.rows = name, steps, list[dict[str, float]]()
        number = len(list(folder.glob("*.log")))
        self.log = open(folder / f"{number}.log", "w+")  # noqa: SIM115
        # --compile is not in the name of a run's folder, and two sides may not share one.
        environment = {**os.environ, "SEMISEG_MODEL": str(folder / f"model{number}"), "SEMISEG_CACHE": str(folder / "cache")}
        words = [sys.executable, __file__, "--side", json.dumps({"device": device, **job})]
        began = time.perf_counter()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        self.alive = self._answer() is not None
        self.start = time.perf_counter() - began

    def _answer(self) -> dict[str, float] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def turn(self) -> None:
        if self.alive:
            assert self.process.stdin is not None
            print(self.steps, file=self.process.stdin, flush=True)
            row = self._answer()
            self.alive = row is not None
            self.rows += [row] if row else []

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # the engine takes SIGTERM as a wish to save first
        self.process.wait()

    @property
    def why(self) -> str:
        """The last words of a side that ended by itself."""
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or [f"ended with code {self.process.wait()}"])[-1]

    @property
    def seconds(self) -> float:
        return median(row["seconds"] for row in self.rows) / self.steps

    @property
    def waiting(self) -> float:
        return sum(row["waited"] for row in self.rows) / sum(row["seconds"] for row in self.rows)


def flops_of_step(batch: int) -> float:
    """Of the convolutions: the student forwards and back on all rows, the teacher forwards on the unlabelled half."""
    network = build("unet", in_channels=1, num_classes=4)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, SIDE, SIDE)).sum().backward()
        with torch.no_grad():
            network.eval()(torch.zeros(1, 1, SIDE, SIDE))
    total = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, SIDE, SIDE))
    forward = counter.get_total_flops()
    return batch * (total - forward) + batch // 2 * forward


def peak_rate(device: str) -> float:
    """Highest float32 operations a second, of a large matrix product and a large convolution; as torch computes them by default."""
    size = 8192 if device == "cuda" else 2048
    matrix = torch.randn(size, size, device=device)
    maps = torch.randn(32 if device == "cuda" else 4, 128, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    best = 0.0
    for work, amount in (
        (lambda: matrix @ matrix, 2.0 * size**3),
        (lambda: torch.conv2d(maps, weight, padding=1), 2.0 * maps.numel() * 128 * 9),
    ):
        for _ in range(8):
            began = synchronised(device)
            work()
            best = max(best, amount / (synchronised(device) - began))
    return best


def sides_of(methods: list[str], device: str, workers: int, variants: bool) -> Iterator[tuple[str, dict[str, Any], int]]:
    """(name, job, steps in a turn) of all that is measured."""
    steps = STEPS[device]
    for method in methods:
        words = VARIANTS[device] if method == "MeanTeacher" and variants else {"ours": ()}
        for name, given in words.items():
            yield f"{method}: {name}", {"method": method, "words": list(given)}, steps
        if method == "MeanTeacher":
            yield f"{method}: usual loop", {"workers": 0}, min(steps, 20)
            if device == "cuda":
                yield f"{method}: usual loop, {workers} workers", {"workers": workers}, steps


def measure(methods: list[str], device: str, workers: int, variants: bool) -> list[dict[str, Any]]:
    """Prints the table of a device; the lines for machines."""
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        try:
            for name, job, steps in sides_of(methods, device, workers, variants):
                sides.append(Side(name, Path(folder), device, job, steps))
                if len(methods) > 1 and "MeanTeacher" not in name:  # one after the other: all of them would not fit into memory
                    for _ in range(REPEATS):
                        sides[-1].turn()
                    sides[-1].end()
            for _ in range(REPEATS):
                for side in sides:
                    if side.process.poll() is None:
                        side.turn()
        finally:
            for side in sides:
                side.end()
        by_name = {side.name: side for side in sides if len(side.rows) == REPEATS}
        usual = by_name.get("MeanTeacher: usual loop")
        print(f"{device}: batch {BATCH[device]}, {SIDE} x {SIDE}, median of {REPEATS} turns of {STEPS[device]} steps, sides in turn\n")
        print(f"{'':46}{'steps/s':>9}{'ms a step':>11}{'data':>8}{'peak GiB':>10}{'start s':>9}{'usual/it':>10}")
        for side in sides:
            if side.name not in by_name:
                print(f"{side.name:46}did not run: {side.why}")
                continue
            ratio = f"{usual.seconds / side.seconds:10.2f}" if usual and side.name.startswith("MeanTeacher") else ""
            peak = max(row["peak"] for row in side.rows) / 2**30
            row = f"{1 / side.seconds:9.2f}{1000 * side.seconds:11.1f}{side.waiting:8.2%}{peak:10.2f}{side.start:9.1f}{ratio}"
            print(f"{side.name:46}{row}")
        ours = by_name.get("MeanTeacher: ours")
        if not ours or not usual:
            return []
        flops, rate = flops_of_step(BATCH[device]), peak_rate(device)
        floor = flops / rate
        print(f"\nfloor of Mean Teacher: {flops / 1e9:.0f} GFLOP of convolutions at {rate / 1e9:.0f} GFLOP/s, {1000 * floor:.1f} ms;")
        print(f"ours reaches {floor / ours.seconds:.0%} of it ({flops / ours.seconds / 1e9:.0f} GFLOP/s), "
              f"the usual loop {floor / usual.seconds:.0%}\n")  # fmt: skip
        line = {"name": "training MeanTeacher loop", "ratio": round(usual.seconds / ours.seconds, 2), "device": device,
                "ours_ms": round(1000 * ours.seconds, 1), "usual_ms": round(1000 * usual.seconds, 1), "repeats": REPEATS}  # fmt: skip
        for name, side in by_name.items():
            if "," in name:
                line[name.removeprefix("MeanTeacher: ")] = round(usual.seconds / side.seconds, 2)
        return [line, {"name": "training MeanTeacher waiting", "share": round(ours.waiting, 5), "device": device}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="MeanTeacher", help="names of scripts, joined by commas, or all")
    parser.add_argument("--device", default="all", choices=("all", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=16, help="of the usual loop's second loader on a GPU")
    parser.add_argument("--no-variants", action="store_true", help="only the defaults, no --compile and no bf16")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what the engine prints goes to the log

        def say(values: dict[str, Any]) -> None:
            print(json.dumps(values), file=answers, flush=True)

        job = json.loads(given.side)
        if "method" in job:
            our_side(job["method"], job["device"], job["words"], say)
        else:
            plain_side(job["device"], job["workers"], say)
        return
    try:
        source = catalog.open_source(catalog.named("ACDC"), data_root())
        slices = len(source.items(source.cases("train")))
    except UserError as error:
        print(f"ACDC is not there: {error} Set SEMISEG_DATA to the folder that holds ACDC/.")
        return
    known = sorted(path.stem.removeprefix("train_") for path in (ROOT / "code").glob("train_*.py"))
    methods = known if given.methods == "all" else given.methods.split(",")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    names = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    print(", ".join([platform.processor() or platform.machine(), f"{os.cpu_count()} cores", *names, f"torch {torch.__version__}",
                     f"{slices} ACDC slices of {data_root()}"]))  # fmt: skip
    lines = [line for device in devices if given.device in ("all", device)
             for line in measure(methods, device, given.workers, not given.no_variants)]  # fmt: skip
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
