"""How cost grows: with the number of cases (1x, 10x, 100x by repetition), the side of the images, and the number of classes.

    python benchmarks/growth.py       reads $SEMISEG_DATA/ACDC, else data/ACDC; a few minutes on two cores

Cases: SLICES real ACDC slices, repeated under other names; each row is a process of its own that opens the store (the cache is written
beforehand by another), then makes batches of 24. Memory is what the process holds itself (RssAnon) and what it has mapped of the cache
(RssFile), which the system may take back at any time. Sides and classes: a step of Mean Teacher on 4 rows, and scoring a volume of 10
slices.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import train_MeanTeacher  # noqa: E402

from dataloaders import catalog  # noqa: E402
from dataloaders.batches.loader import Loader  # noqa: E402
from dataloaders.batches.store import build_store  # noqa: E402
from dataloaders.errors import UserError  # noqa: E402
from engine.schedules import Form  # noqa: E402
from metrics import score_case  # noqa: E402
from networks import build, ema_update, frozen_copy  # noqa: E402
from system.devices import keep_freed_memory  # noqa: E402

SLICES, BATCH, BATCHES, SIDE = 32, 24, 40, 256
TIMES = (1, 10, 100)
REPEATS = 5


def memory(kind: str) -> float:
    """MiB of RssAnon or RssFile of this process; nan where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(kind):
                return int(line.split()[1]) / 1024
    except OSError:
        return float("nan")
    return float("nan")


def store_row(root: Path, times: int, cache: str, build_only: bool) -> dict[str, float]:
    """Opens the store of `times` the slices and makes batches."""
    torch.set_num_threads(1)
    source = catalog.open_source(catalog.named("ACDC"), root)
    some = source.items(source.cases("train"))[:SLICES]
    items = [dataclasses.replace(item, name=f"{item.name}#{k}") for k in range(times) for item in some]
    half = len(items) // 2
    anonymous, began = memory("RssAnon"), time.perf_counter()
    store = build_store(source, items, [True] * half + [False] * half, cache, progress=False)  # type: ignore[arg-type]
    opened = time.perf_counter() - began
    if build_only:
        return {"opened": opened}
    loader = Loader(store, range(half), range(half, len(items)), batch_size=BATCH, labeled_bs=BATCH // 2, patch_size=(SIDE, SIDE),
                    recipe="rot_flip", seed=1, threads=1)  # fmt: skip
    loader.batch(0)
    seconds = []
    for t in range(1, BATCHES):
        began = time.perf_counter()
        loader.batch(t)
        seconds.append(time.perf_counter() - began)
    return {"images": len(items), "store": store.memory / 2**20, "opened": opened, "batch": median(seconds),
            "anonymous": memory("RssAnon") - anonymous, "mapped": memory("RssFile")}  # fmt: skip


def in_a_process(times: int, cache: str, build_only: bool = False) -> dict[str, float]:
    words = [sys.executable, __file__, "--row", str(times), cache, str(int(build_only))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cases_table() -> list[dict[str, Any]]:
    print(f"{'cases':>8}{'images':>8}{'store MiB':>11}{'cache':>7}{'open s':>9}{'batch ms':>10}{'own MiB':>9}{'mapped MiB':>12}")
    batch: dict[tuple[str, int], float] = {}
    for times in TIMES:
        written = in_a_process(times, "disk", build_only=True)["opened"]
        for cache in ("disk", "ram"):
            row = in_a_process(times, cache)
            batch[cache, times] = row["batch"]
            print(f"{times:7}x{row['images']:8}{row['store']:11.0f}{cache:>7}{row['opened']:9.3f}{1000 * row['batch']:10.2f}"
                  f"{row['anonymous']:9.0f}{row['mapped']:12.0f}"
                  + (f"   (decoding and writing once: {written:.1f} s)" if cache == "disk" else ""))  # fmt: skip
    return [{"name": "growth batch 100x over 1x", "times": round(batch["disk", TIMES[-1]] / batch["disk", 1], 2), "cache": "disk"}]


def seconds_of(work: Callable[[], object], device: str) -> float:
    seconds = []
    for repeat in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat:
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def step_and_score(side: int, classes: int, device: str) -> tuple[float, float]:
    """Seconds of a Mean Teacher step on 4 rows, and of scoring a volume of 10 slices."""
    student = build("unet", in_channels=1, num_classes=classes).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = frozen_copy(student)
    optimizer = Form("sgd").build([{"params": list(student.parameters())}], 0.01, torch.device(device))
    images = torch.randn(4, 1, side, side, device=device)
    # Concentric rings, one a class: each class has a surface.
    y, x = np.mgrid[:side, :side] / side - 0.5
    rings = np.minimum(np.hypot(y, x) * 2 * classes, classes - 1).astype(np.uint8)
    labels = torch.from_numpy(classes - 1 - rings).long().expand(2, side, side).contiguous().to(device)
    batch = SimpleNamespace(images=images, labels=labels, n_labeled=2, labeled=images[:2], unlabeled=images[2:])
    options, weight = train_MeanTeacher.Method(), torch.tensor(0.1, device=device)

    def step() -> None:
        terms = train_MeanTeacher.losses(student, teacher, batch, weight, True, options)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        ema_update(teacher, student, 1, 0.99)

    reference = np.repeat((classes - 1 - rings)[None], 10, 0)
    prediction = np.roll(reference, side // 64, 1)
    return seconds_of(step, device), seconds_of(lambda: score_case(prediction, reference, classes), "cpu")


def main() -> None:
    root = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "ACDC"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(store_row(root, int(given.row[0]), given.row[1], given.row[2] == "1")))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {given.device}; "
          f"median of {REPEATS} repeats ({BATCHES - 1} batches)\n")  # fmt: skip
    lines: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SEMISEG_CACHE"] = folder
            catalog.open_source(catalog.named("ACDC"), root).cases("train")
            lines += cases_table()
    except UserError as error:
        print(f"ACDC is not there: {error} Set SEMISEG_DATA to the folder that holds ACDC/.")
    if given.device == "cpu":
        keep_freed_memory()
    print(f"\n{'side':>6}{'classes':>9}{'step ms':>10}{'scores of a volume ms':>24}")
    for side, classes in ((128, 4), (256, 4), (512, 4), (256, 2), (256, 9), (256, 19)):
        step, score = step_and_score(side, classes, given.device)
        print(f"{side:6}{classes:9}{1000 * step:10.0f}{1000 * score:24.1f}")
    print()
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
