"""Labels carried from two annotated slices through volumes: by registration of neighbouring slices, and by plain copying.

    python benchmarks/propagation.py      reads LA under $SEMISEG_DATA, else data/, and draws Phantom3D in a temporary folder; minutes

Each volume is annotated on its two slices of largest cross-section. Labels are compared with the reference by Dice, over the whole volume
and over the ten slices to either side of the annotated one. The peer is copying: the annotated slice as it is, to all slices of the
volume, or to those in which the annotation at right angles still shows an object. Registration has the same end.
"""
from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import numpy as np  # noqa: E402

from dataloaders import catalog  # noqa: E402
from dataloaders.annotation import annotated, largest_slices  # noqa: E402
from dataloaders.propagation import copied, propagated  # noqa: E402
from metrics import dice  # noqa: E402

NEAR = 10
VOLUMES = {"LA": 80, "Phantom3D": 10}
"""At most so many training volumes of each set."""

Volume = tuple[np.ndarray, np.ndarray]


def volumes_of(name: str, root: Path) -> Iterator[Volume]:
    """Image (C, X, Y, Z) and reference (X, Y, Z) of the training volumes."""
    data = catalog.DATA_SETS[name]
    source = catalog.open_source(data, root, {})
    for case in source.cases("train")[: VOLUMES[name]]:
        label = source.label(case)
        if label is not None:
            yield source.image(case), label


def labels_by(how: str, image: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    slices = largest_slices(label)
    known = annotated(label, slices)
    found = propagated(image, known, slices, None if how == "registered" else copied)
    if how == "copied to all":
        for k, (axis, index) in enumerate(slices, 1):
            found[f"label{k}"] = np.repeat(label.take([index], axis), label.shape[axis], axis)
    return found


def measured(name: str, root: Path) -> dict[str, object]:
    volumes, means = list(volumes_of(name, root)), {}
    print(f"\n{name}: {len(volumes)} volumes\nlabels               across    Dice   least   within {NEAR} slices   ms a volume, both")
    for how in ("copied to all", "copied", "registered"):
        began = time.perf_counter()
        found = [labels_by(how, *volume) for volume in volumes]
        ms = (time.perf_counter() - began) / len(volumes) * 1000
        for k, across in ((1, "axis 3"), (2, "axis 2")):
            pairs = [(one[f"label{k}"], one[f"distance{k}"] <= NEAR, label) for one, (_, label) in zip(found, volumes)]
            whole = [dice(labels, label) for labels, _, label in pairs]
            near = [dice(labels * band, label * band) for labels, band, label in pairs]
            means[f"{how} {across}"] = mean(whole)
            print(f"{how:<21}{across:<9}{mean(whole):.3f}   {min(whole):.3f}   {mean(near):.3f}{ms:>26.0f}")
    threaded = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda volume: labels_by("registered", *volume), volumes))
    print(f"registered in two threads: {(time.perf_counter() - threaded) / len(volumes) * 1000:.0f} ms a volume")
    return {"name": f"propagation {name}", **{key: round(value, 4) for key, value in means.items()}}


def main() -> None:
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python {platform.python_version()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        roots = {"LA": Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "LA", "Phantom3D": Path(folder) / "Phantom3D"}
        lines = []
        for name, root in roots.items():
            if name == "LA" and not root.is_dir():
                print(f"LA: no folder {root}; set SEMISEG_DATA to the folder that holds LA/.")
                continue
            lines.append(measured(name, root))
    print()
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
