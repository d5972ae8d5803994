"""Training batches of real ACDC slices: ours against the usual recipe (read h5, scipy rotate or flip, zoom, stack; one process).

    python benchmarks/loading.py        reads $SEMISEG_DATA/ACDC, else data/ACDC; about two minutes on two cores

Batches of 24 (12 labelled), 256 x 256. The recipe makes image and label of every row; ours makes labels of labelled rows only,
as training uses them; a line of the table has ours with all 24 labels. Both sides run in turn, REPEATS times; medians.
First, one batch is compared with scipy to the pixel. The floor is one copy of the finished batch in memory.
"""
from __future__ import annotations

import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import ndimage  # noqa: E402

from dataloaders import catalog  # noqa: E402
from dataloaders.augmentation import scipy_reference as augment_scipy  # noqa: E402
from dataloaders.augmentation.recipes import RECIPES, draw  # noqa: E402
from dataloaders.batches.loader import Loader  # noqa: E402
from dataloaders.batches.sampling import AUGMENTATION, generator  # noqa: E402
from dataloaders.batches.store import Store, build_store  # noqa: E402
from dataloaders.errors import UserError  # noqa: E402
from losses import supervised_loss  # noqa: E402
from networks import build  # noqa: E402

REPEATS = 7
OURS_STEPS = 20
RECIPE_STEPS = 2
BATCH, LABELED, SIDE = 24, 12, 256


def recipe_item(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual data set's __getitem__: everything anew for each sample."""
    with h5py.File(path, "r") as file:
        pair = [file["image"][:], file["label"][:]]
    if random.random() > 0.5:
        turns, axis = np.random.randint(4), np.random.randint(2)
        pair = [np.flip(np.rot90(a, turns), axis).copy() for a in pair]
    else:
        angle = np.random.randint(-20, 20)
        pair = [ndimage.rotate(a, angle, order=0, reshape=False) for a in pair]
    image, label = (ndimage.zoom(a, (SIDE / a.shape[0], SIDE / a.shape[1]), order=0) for a in pair)
    return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(label.astype(np.uint8))


def recipe_batch(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*(recipe_item(path) for path in random.choices(paths, k=BATCH)))
    return torch.stack(images), torch.stack(labels)


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds a call."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def loader_of(store: Store, threads: int, labeled_only: bool = False) -> Loader:
    n = len(store)
    labeled = range(n) if labeled_only else range(n // 2)
    return Loader(
        store, labeled, range(n // 2, n), batch_size=BATCH, labeled_bs=LABELED, patch_size=(SIDE, SIDE), recipe="rot_flip", seed=1,
        threads=threads, labeled_only=labeled_only,
    )  # fmt: skip


def differing_pixels(store: Store, loader: Loader) -> tuple[int, int]:
    """(differing, compared) pixels of images and labels of some batches against scipy."""
    differing = compared = 0
    for t in range(4):
        rows = np.random.default_rng(t).integers(0, len(store), BATCH)
        draws = draw(RECIPES["rot_flip"], generator(1, AUGMENTATION, t), BATCH)
        images, labels = loader.augmenter(rows, BATCH, draws)
        for i, row in enumerate(rows):
            for ours, stored in ((images[i, 0], store.image(row)[0]), (labels[i], store.label(row))):
                expected = augment_scipy.warp(np.asarray(stored), draws, i, (SIDE, SIDE))
                differing += int((ours.numpy() != expected).sum())
                compared += expected.size
    return differing, compared


def waiting_share(loader: Loader, steps: int = 8) -> tuple[float, float]:
    """(share of the time that a supervised U-Net step on 8 rows waits for data, seconds a step)."""
    torch.set_num_threads(loader.augmenter.threads)
    network = build("unet", in_channels=1, num_classes=4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    began = 0.0
    for t, batch in loader.batches(0, steps + 1):
        if t == 1:  # the first step compiles, allocates and fills the queue
            began, loader.wait_seconds = time.perf_counter(), 0.0
        loss = supervised_loss(network(batch.images[:8]), batch.labels[:8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    total = time.perf_counter() - began
    return loader.wait_seconds / total, total / steps


def main() -> None:
    root = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "ACDC"
    try:
        source = catalog.open_source(catalog.named("ACDC"), root)
        items = source.items(source.cases("train"))
    except UserError as error:
        print(f"ACDC is not there: {error} Set SEMISEG_DATA to the folder that holds ACDC/.")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    paths = [item.image for item in items]
    # Torch's own threads wait for each other on busy cores; in the recipe, which uses one, that would flatter us.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SEMISEG_CACHE"] = cache
        everything = [True] * len(items)
        began = time.perf_counter()
        store = build_store(source, items, everything, "disk", progress=False)
        first = time.perf_counter() - began
        again = timed(lambda: build_store(source, items, everything, "disk", progress=False), 3)

        loaders = {
            f"ours, {cores} threads": loader_of(store, cores),
            "ours, 1 thread": loader_of(store, 1),
            f"ours, {cores} threads, all 24 labels": loader_of(store, cores, labeled_only=True),
        }
        began = time.perf_counter()
        first_batch = loaders["ours, 1 thread"].batch(0)
        warm_up = time.perf_counter() - began
        differing, compared = differing_pixels(store, loaders["ours, 1 thread"])
        times: dict[str, list[float]] = {"usual recipe": [], "floor (one copy)": [], **{name: [] for name in loaders}}
        steps = iter(range(10**6))
        for _ in range(REPEATS):
            times["usual recipe"].append(timed(lambda: recipe_batch(paths), RECIPE_STEPS))
            for name, loader in loaders.items():
                times[name].append(timed(lambda loader=loader: loader.batch(next(steps)), OURS_STEPS))  # type: ignore[misc]
            times["floor (one copy)"].append(timed(lambda: (first_batch.images.clone(), first_batch.labels.clone()), OURS_STEPS))
        share, step_seconds = waiting_share(loader_of(store, cores))

    recipe = median(times["usual recipe"])
    print(f"{platform.processor() or platform.machine()}, {cores} cores, torch {torch.__version__}, {len(items)} ACDC slices of {root}")
    print(f"batch {BATCH} ({LABELED} labelled), {SIDE} x {SIDE}; median (range) of {REPEATS} repeats, both sides in turn\n")
    print(f"{'':36}{'ms an item':>12}{'range':>18}{'samples/s':>12}{'recipe/it':>11}")
    for name, seconds in times.items():
        low, mid, high = (1000 * value / BATCH for value in (min(seconds), median(seconds), max(seconds)))
        print(f"{name:36}{mid:12.3f}{f'{low:.3f}-{high:.3f}':>18}{1000 / mid:12.0f}{recipe / median(seconds):11.1f}")
    print(f"\npixels that differ from scipy: {differing} of {compared}")
    print(f"decoding once: {first:.2f} s ({store.memory / 1e6:.0f} MB); opening the cache again: {1000 * again:.1f} ms")
    print(f"first batch (loads or compiles the kernels): {warm_up:.2f} s")
    print(f"waiting for data: {100 * share:.2f} % of a supervised U-Net step on 8 rows ({step_seconds:.2f} s); batches of {BATCH}")
    print()
    ratio = recipe / median(times[f"ours, {cores} threads"])
    print(json.dumps({"name": "loading ACDC recipe", "ratio": round(ratio, 2)}))
    print(json.dumps({"name": "loading ACDC waiting", "share": round(share, 5)}))


if __name__ == "__main__":
    main()
