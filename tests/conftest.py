"""Fixtures that several tests share: tiny data sets and a bench on which training scripts run in processes of their own."""
from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import Bench
from test_nifti import save as save_volume
from tiny import write_acdc, write_folder

VOLUME_SIDES = (40, 34, 20)

# A shell without job control starts what runs in the background deaf to Ctrl-C, and so would be every child to which tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of synced checkpoints are written."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="semiseg-", dir=memory if os.access(memory, os.W_OK) else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_acdc(scratch: Path) -> Path:
    """The tiny ACDC. Tests that damage data copy it first."""
    return write_acdc(scratch / "ACDC")


@pytest.fixture(scope="session")
def tiny_folder(scratch: Path) -> Path:
    """The tiny folder of pictures and masks."""
    return write_folder(scratch / "own")


@pytest.fixture
def bench(scratch: Path, tiny_acdc: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench of the test's own, on the tiny ACDC."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=scratch))
    folder.chmod(0o755)
    yield Bench(folder, tiny_acdc)
    shutil.rmtree(folder, ignore_errors=True)


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) float32 with one bright ball, and its label; sides differ from volume to volume."""
    rng = np.random.default_rng(seed)
    sides = tuple(side + seed % 3 for side in VOLUME_SIDES)
    grid = np.stack(np.mgrid[tuple(slice(side) for side in sides)])
    centre = np.array(sides).reshape(3, 1, 1, 1) * rng.uniform(0.4, 0.6, (3, 1, 1, 1))
    label = (((grid - centre) / np.array([8, 7, 4]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    return (label + rng.normal(0, 0.2, sides)).astype(np.float32), label.astype(np.uint8)


@pytest.fixture(scope="session")
def volumes(scratch: Path) -> Path:
    """Six labelled volumes, two without a label, two test volumes, in nnU-Net's raw layout, oblique in space."""
    root = scratch / "Dataset007_Ball"
    root.mkdir()
    (root / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "ball": 1}, "numTraining": 8, "file_ending": ".nii.gz"}))
    for part, count in (("Tr", 8), ("Ts", 2)):
        for k in range(count):
            image, label = ball(10 * (part == "Ts") + k)
            save_volume(root / f"images{part}" / f"{part}{k}_0000.nii.gz", image)
            if part == "Ts" or k < 6:
                save_volume(root / f"labels{part}" / f"{part}{k}.nii.gz", label)
    return root
