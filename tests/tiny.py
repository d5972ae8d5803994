"""Tiny data sets, written in the layouts that people download: a minute's training on them takes a second."""
from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import Image

PARTS = {"train": range(1, 7), "val": range(7, 9), "test": range(9, 10)}
"""Patients of the tiny ACDC: the official numbers of the parts, at a twelfth."""
SLICES = 3
VOLUME_SIDES = (40, 34, 20)
AFFINE = np.array([[-0.7, 0, 0.1, 30.0], [0, 0.8, 0, -20.0], [0.03, 0, 2.5, 10.0], [0, 0, 0, 1.0]])
"""Of the tiny volumes: oblique, with a little shear."""


def slice_of(rng: np.random.Generator, height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 image and uint8 label: a bright disc a class on noise."""
    rows, columns = np.mgrid[:height, :width]
    label = np.zeros((height, width), np.uint8)
    for k in range(1, classes):
        y, x = rng.uniform(0.25, 0.75, 2) * (height, width)
        label[(rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(16, 60)] = k
    image = label / classes + rng.normal(0, 0.1, label.shape)
    return image.astype(np.float32), label


def write_h5(file: Path, image: np.ndarray, label: np.ndarray | None) -> None:
    """One file as ACDC has it; without a label it has no such dataset."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        h5["image"] = image
        if label is not None:
            h5["label"] = label


def write_acdc(root: Path, seed: int = 0) -> Path:
    """Nine patients of one frame and three slices of 48 x 40, as h5 volumes, h5 slices of the training part, and lists."""
    rng = np.random.default_rng(seed)
    names: dict[str, list[str]] = {part: [f"patient{k:03d}_frame01" for k in numbers] for part, numbers in PARTS.items()}
    slices = []
    for part, cases in names.items():
        for case in cases:
            pairs = [slice_of(rng, 48, 40, 4) for _ in range(SLICES)]
            images, labels = (np.stack(arrays) for arrays in zip(*pairs))
            write_h5(root / "data" / f"{case}.h5", images, labels)
            if part == "train":
                for k in range(SLICES):
                    slices.append(f"{case}_slice_{k + 1}")
                    write_h5(root / "data" / "slices" / f"{slices[-1]}.h5", images[k], labels[k])
        (root / f"{part}.list").write_text("\n".join(cases) + "\n")
    (root / "train_slices.list").write_text("\n".join(slices) + "\n")
    return root


def write_folder(root: Path, images: int = 12, masks: int = 8, seed: int = 0) -> Path:
    """Pictures of 48 x 48 with one kind of defect; the first `masks` have a mask of 0 and 255."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for k in range(images):
        image, label = slice_of(rng, 48, 48, 2)
        Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(root / "images" / f"piece {k}.png")
        if k < masks:
            Image.fromarray(label * np.uint8(255)).save(root / "masks" / f"piece {k}.png")
    return root


def save_volume(file: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """One NIfTI file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), file)


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) float32 with one bright ball, and its label; sides differ from volume to volume."""
    rng = np.random.default_rng(seed)
    sides = tuple(side + seed % 3 for side in VOLUME_SIDES)
    grid = np.stack(np.mgrid[tuple(slice(side) for side in sides)])
    centre = np.array(sides).reshape(3, 1, 1, 1) * rng.uniform(0.4, 0.6, (3, 1, 1, 1))
    label = (((grid - centre) / np.array([8, 7, 4]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    return (label + rng.normal(0, 0.2, sides)).astype(np.float32), label.astype(np.uint8)


def write_balls(root: Path) -> Path:
    """Six labelled volumes, two without a label, two test volumes, in nnU-Net's raw layout, oblique in space."""
    root.mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "ball": 1}, "numTraining": 8, "file_ending": ".nii.gz"}))
    for part, count in (("Tr", 8), ("Ts", 2)):
        for k in range(count):
            image, label = ball(10 * (part == "Ts") + k)
            save_volume(root / f"images{part}" / f"{part}{k}_0000.nii.gz", image)
            if part == "Ts" or k < 6:
                save_volume(root / f"labels{part}" / f"{part}{k}.nii.gz", label)
    return root
