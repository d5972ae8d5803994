"""Training batches of real ACDC slices: ours against the usual recipe (read h5, scipy rotate or flip, zoom, stack; one process).

    python benchmarks/loading.py                  reads $SEMISEG_DATA/ACDC, else data/ACDC; about two minutes on two cores
    python benchmarks/loading.py --photographs    VOC2012 in place of it: open, scale, pad, crop, mirror and normalise by Pillow and torch;
                                                  batches of 16 (8 labelled), 321 x 321, one thread on both sides; half a minute

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
from PIL import Image, ImageOps  # noqa: E402
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


def picture_item(image: Path, mask: Path, side: int, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the peers' data sets of photographs do for each sample."""
    picture, label = Image.open(image).convert("RGB"), Image.open(mask)
    width, height = picture.size
    long_side = random.randint(max(width, height) // 2, 2 * max(width, height))
    factor = long_side / max(width, height)
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    picture, label = picture.resize(size, Image.Resampling.BILINEAR), label.resize(size, Image.Resampling.NEAREST)
    missing = (0, 0, max(side - size[0], 0), max(side - size[1], 0))
    picture, label = ImageOps.expand(picture, missing, 0), ImageOps.expand(label, missing, 255)
    x, y = random.randint(0, picture.width - side), random.randint(0, picture.height - side)
    pair = [made.crop((x, y, x + side, y + side)) for made in (picture, label)]
    if random.random() < 0.5:
        pair = [made.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for made in pair]
    pixels = torch.from_numpy(np.array(pair[0])).permute(2, 0, 1).float().div(255)
    return (pixels - mean) / std, torch.from_numpy(np.array(pair[1])).long()


def photographs(side: int = 321, rows: int = 16) -> None:
    """VOC2012, one thread: ours (from decoded pixels in the cache) against `picture_item`."""
    root = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "VOC2012"
    try:
        source = catalog.open_source(catalog.named("VOC2012"), root)
        cases = [case for case in source.listed("standin_train", "train") if case.label is not None]  # type: ignore[attr-defined]
    except UserError as error:
        print(f"VOC2012 is not there: {error} Set SEMISEG_DATA to the folder that holds VOC2012/.")
        return
    torch.set_num_threads(1)
    items, data = source.items(cases), source.data
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))

    def recipe() -> list[torch.Tensor]:
        drawn = [picture_item(item.image, item.label, side, mean, std) for item in random.choices(items, k=rows)]  # type: ignore[arg-type]
        return [torch.stack(tensors) for tensors in zip(*drawn)]

    with tempfile.TemporaryDirectory() as cache:
        os.environ["SEMISEG_CACHE"] = cache
        n = len(items)
        store = build_store(source, items, [True] * n, "disk", progress=False)
        loader = Loader(store, range(n // 2), range(n // 2, n), batch_size=rows, labeled_bs=rows // 2, patch_size=(side, side),
                        recipe="scale_crop", seed=1, mean=data.mean, std=data.std, threads=1)
        loader.batch(0)
        times: dict[str, list[float]] = {"usual recipe": [], "ours, 1 thread": []}
        steps = iter(range(1, 10**6))
        for _ in range(REPEATS):
            times["usual recipe"].append(timed(recipe, RECIPE_STEPS))
            times["ours, 1 thread"].append(timed(lambda: loader.batch(next(steps)), 2 * RECIPE_STEPS))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {n} VOC photographs of {root}; {side} x {side}")
    for name, seconds in times.items():
        low, mid, high = (1000 * value / rows for value in (min(seconds), median(seconds), max(seconds)))
        print(f"{name:20}{mid:10.2f} ms an item ({low:.2f}-{high:.2f})")
    ratio = median(times["usual recipe"]) / median(times["ours, 1 thread"])
    print(json.dumps({"name": "loading VOC recipe", "ratio": round(ratio, 2)}))


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
    if "--photographs" in sys.argv[1:]:
        photographs()
        return
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
