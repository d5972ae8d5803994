"""Segmenting real LA volumes with a VNet by sliding window: ours, the usual loop, and MONAI's sliding_window_inference.

    python benchmarks/inference.py      reads LA under $SEMISEG_DATA, else data/; at most twelve minutes on two cores

All sides use the same VNet (random weights, batch norms warmed on real patches), windows of 112x112x80, the same strides and the same
precision, and run in turn. The loop is of the usual shape: one window at a time, probabilities taken to the host and summed there by
numpy. Ours is `networks.folding.for_inference` with `sliding_window`; rows with the plain network, or MONAI with the folded
one, tell apart what network and windows contribute. MONAI averages logits where the others average probabilities, so its label
maps are not compared. On a CPU volumes are cropped; on a GPU they are whole, at the published stride.
"""
from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import networks  # noqa: E402
from inference.windows import sliding_window, window_starts  # noqa: E402
from networks.folding import for_inference  # noqa: E402

PATCH, STRIDE, CLASSES, CASES, REPEATS = (112, 112, 80), (18, 18, 4), 2, 2, 5
CPU_CROP = (130, 130, 80)
TIME = 660.0
"""Seconds that the repeats may take together; on a busy machine there are fewer than `REPEATS`, and the table says so."""

Side = Callable[[np.ndarray], np.ndarray]


def volumes_of(cropped: bool) -> list[np.ndarray]:
    """Volumes (X, Y, Z) float32; the first in the order of their names."""
    folder = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "LA"
    files = sorted(folder.glob("2018LA_Seg_Training Set/*/mri_norm2.h5"))[:CASES]
    if not files:
        print(f"LA: no 2018LA_Seg_Training Set/*/mri_norm2.h5 in {folder}; set SEMISEG_DATA to the folder that holds LA/.")
    volumes = []
    for path in files:
        with h5py.File(path, "r") as file:
            volume = np.ascontiguousarray(file["image"][()], dtype=np.float32)
        if cropped:
            volume = np.ascontiguousarray(volume[tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(volume.shape, CPU_CROP))])
        volumes.append(volume)
    return volumes


def warmed_network(volume: np.ndarray, device: torch.device) -> torch.nn.Module:
    torch.manual_seed(0)
    network = networks.build("vnet", in_channels=1, num_classes=CLASSES, dropout=0.0).to(device)
    patches = torch.from_numpy(np.stack([volume[i : i + 64, i : i + 64, :48] for i in (0, 30)])[:, None]).to(device)
    with torch.no_grad():
        for _ in range(20):
            network(patches)
    return network.eval()


def usual_loop(network: torch.nn.Module, device: torch.device) -> Side:
    def predict(volume: np.ndarray) -> np.ndarray:
        scores, visits = np.zeros((CLASSES, *volume.shape), np.float32), np.zeros(volume.shape, np.float32)
        for corner in product(*map(window_starts, volume.shape, PATCH, STRIDE)):
            place = tuple(slice(first, first + n) for first, n in zip(corner, PATCH))
            window = torch.from_numpy(volume[place][None, None]).to(device)
            with torch.no_grad():
                probabilities = torch.softmax(network(window).float(), dim=1).cpu().numpy()[0]
            scores[(slice(None), *place)] += probabilities
            visits[place] += 1
        return (scores / visits).argmax(0)

    return predict


def ours(network: torch.nn.Module, device: torch.device, sw_batch: int) -> Side:
    def predict(volume: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(volume)[None].to(device)
        return sliding_window(network, images, CLASSES, PATCH, STRIDE, sw_batch=sw_batch).numpy()

    return predict


def monai(network: torch.nn.Module, device: torch.device, sw_batch: int) -> Side | None:
    try:
        from monai.inferers import sliding_window_inference
    except ImportError as error:
        print(f"monai: not installed ({error})")
        return None
    # MONAI rounds roi x (1 - overlap) down; the hundredth keeps it from losing a voxel of the stride.
    overlap = [1 - (step + 0.01) / n for step, n in zip(STRIDE, PATCH)]

    def predict(volume: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(volume)[None, None].to(device)
        with torch.no_grad():
            return sliding_window_inference(images, PATCH, sw_batch, network, overlap=overlap).argmax(1)[0].cpu().numpy()

    return predict


def windows_seen(side: Callable[[Any], Side | None], network: torch.nn.Module, volume: np.ndarray) -> int:
    """How many windows a side puts through the network, counted with a network that costs nothing."""
    seen = 0

    def counting(windows: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(windows)
        return windows.repeat(1, CLASSES, 1, 1, 1)

    predict = side(counting)
    assert predict is not None
    predict(volume)
    return seen


def compare(volumes: list[np.ndarray], device: torch.device, precision: str, begun: float) -> list[dict[str, object]]:
    """Prints the table of one precision; the lines for machines."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    sw_batch = 4 if device.type == "cpu" else 16
    plain = warmed_network(volumes[0], device)
    start = time.perf_counter()
    folded = for_inference(plain)
    print(f"\n{precision}: folding takes {time.perf_counter() - start:.2f} s, once; {sw_batch} windows at once (ours, MONAI)")
    made: dict[str, Side | None] = {
        "ours": ours(folded, device, sw_batch), "ours, plain network": ours(plain, device, sw_batch),
        "loop": usual_loop(plain, device), "monai": monai(plain, device, sw_batch),
    }  # fmt: skip
    if made["monai"] is not None:
        made["monai, folded network"] = monai(folded, device, sw_batch)
        counts = [windows_seen(lambda net, side=side: side(net, device, sw_batch), plain, volumes[0]) for side in (ours, monai)]
        print(f"windows of the first volume: {counts[0]} ours, {counts[1]} MONAI")
    sides = {name: side for name, side in made.items() if side is not None}
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    times: dict[str, list[float]] = {name: [] for name in sides}
    labels: dict[str, list[np.ndarray]] = {}
    with autocast:
        for name, side in sides.items():  # warm-up, and the label maps
            labels[name] = [side(volume) for volume in volumes]
        last = 0.0
        while len(times["loop"]) < REPEATS and (not last or time.perf_counter() - begun + last < TIME):
            round_begun = time.perf_counter()
            for name, side in sides.items():
                start = time.perf_counter()
                for volume in volumes:
                    side(volume)  # ends with labels on the host, so the device is done
                times[name].append((time.perf_counter() - start) / len(volumes))
            last = time.perf_counter() - round_begun
    repeats = len(times["loop"])
    median = {name: float(np.median(values)) for name, values in times.items()}
    print(f"{'who':24}{'s a case':>10}{'fastest':>10}{'loop / it':>12}")
    for name, value in median.items():
        print(f"{name:24}{value:10.3f}{min(times[name]):10.3f}{median['loop'] / value:12.2f}")
    foreground = float(np.mean([(m == 1).mean() for m in labels["loop"]]))
    differing = {name: sum(int((a != b).sum()) for a, b in zip(labels[name], labels["loop"])) for name in list(sides)[:2]}
    voxels = sum(volume.size for volume in volumes)
    differences = ", ".join(f"{count} ({name})" for name, count in differing.items())
    print(f"class 1 takes {foreground:.0%} of the voxels; of {voxels} voxels {differences} differ from the loop's")
    if repeats < REPEATS:
        print(f"the machine was busy: {repeats} of {REPEATS} repeats")
    ending = "" if precision in ("fp32 on a CPU", "tf32") else f" {precision}"
    common = {"ours_s": round(median["ours"], 3), "cases": len(volumes), "repeats": repeats, "device": device.type}
    return [
        {
            "name": f"inference LA {peer}{ending}", "ratio": round(median[peer] / median["ours"], 2),
            "peer_s": round(median[peer], 3), **common,
        }
        for peer in ("loop", "monai") if peer in median
    ]  # fmt: skip


def main() -> None:
    begun = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"machine: {where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; python {platform.python_version()}, "
          f"torch {torch.__version__}; median of {REPEATS} repeats, sides in turn")  # fmt: skip
    volumes = volumes_of(cropped=device.type == "cpu")
    if not volumes:
        return
    sizes = ", ".join("x".join(map(str, volume.shape)) for volume in volumes)
    print(f"LA: {len(volumes)} volumes{' (cropped)' if device.type == 'cpu' else ''}: {sizes}; windows "
          f"{'x'.join(map(str, PATCH))}, stride {'x'.join(map(str, STRIDE))}")  # fmt: skip
    lines = []
    # On a GPU tf32 is torch's default for convolutions, so its lines carry the plain names.
    for precision in ("tf32", "fp32", "bf16") if device.type == "cuda" else ("fp32 on a CPU",):
        lines += compare(volumes, device, precision, begun)
    print()
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
