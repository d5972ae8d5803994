"""A picture of the views that methods with weak and strong augmentation train on: `python code/prepare.py views FOLDER`."""
from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.ctaugment import CTAugment
from dataloaders.augmentation.recipes import draw
from dataloaders.augmentation.strong_views import color_jitter, cutmix_boxes, cutout, denormalised, gaussian_blur, limits
from dataloaders.batches.store import Store, build_store
from dataloaders.catalog import open_source, resolve
from dataloaders.description import DataSet
from dataloaders.errors import UserError
from pictures.flat import COLOURS, overlay
from pictures.sheets import plt
from storage.folders import REPOSITORY

LOOKED_AT = 64
"""Training images of a data set among which the ones with most foreground are shown."""
LEVELS = 48
TITLES = ("image", "weak", "strong: jitter", "jitter", "blur, 2 pixels", "cutout", "CutMix", "CTAugment: weak", "strong")


def views_sheet(folders: Sequence[Path], dataset: str | None, path: Path, images: int = 2, seed: int = 0) -> None:
    """Writes a PNG: a row for each of `images` training images of each folder, a column for each view; outlines are its labels.

    Raises `UserError` for volumes and for a folder that is no data set.
    """
    rows = []
    for folder in folders:
        data, root, _ = resolve(dataset, folder, REPOSITORY)
        if data.dimensions == 3:
            raise UserError(f"{folder}: {data.name} has volumes; weak and strong views are made of images.")
        rows += rows_of(data, root, images, np.random.default_rng(seed))
    figure, axes = plt.subplots(len(rows), len(TITLES), figsize=(1.36 * len(TITLES), 1.36 * len(rows) + 0.3), squeeze=False)
    for k, (line, panels) in enumerate(zip(axes, rows)):
        for axis, panel, title in zip(line, panels, TITLES):
            axis.imshow(panel, interpolation="nearest")
            axis.axis("off")
            if k == 0:
                axis.set_title(title, fontsize=7)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / figure.get_figheight(), 0.03, 0.03)
    written = BytesIO()
    figure.savefig(written, dpi=100)
    plt.close(figure)
    picture = Image.open(written).convert("RGB")
    # A palette takes a third of the bytes; the outlines' colours are too rare to be found for it.
    common = picture.quantize(LEVELS, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(common[: 3 * LEVELS] + COLOURS.ravel().tolist())
    try:
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another place with --out.", 3) from None


def rows_of(data: DataSet, root: Path, images: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """A list of panels (H, W, 3) uint8 for each image, each of another patient."""
    source = open_source(data, root)
    items = [item for item in source.items(source.cases("train")) if item.label is not None][:LOOKED_AT]
    if len(items) < 2:
        raise UserError(f"{root}: {data.name} has no two training images with labels; the picture is made of such.")
    store = build_store(source, items, [True] * len(items), "ram", progress=False)
    foreground = [np.count_nonzero(np.asarray(store.label(i)) % 255) for i in range(len(items))]
    best: dict[str, int] = {}
    for i in np.argsort(foreground)[::-1].tolist():
        best.setdefault(items[i].case.group, i)
    order = np.array([*best.values()] * 2)
    return [panels_of(store, source.data, order[[i, i + 1]], rng) for i in range(min(images, len(best)))]


def panels_of(store: Store, data: DataSet, pair: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The views of the first image of a pair; the second is CutMix's partner."""
    size: tuple[int, ...] = tuple(data.defaults["patch_size"])  # type: ignore[arg-type]
    made = {}
    for recipe in ("none", data.augmentation):
        augmenter = Augmenter(store, recipe, size, data.mean, data.std, threads=1, resizing=data.resizing)
        made[recipe] = augmenter(pair, 2, draw(augmenter.recipe, rng, 2))
    plain, labels = made["none"]
    weak, weak_labels = made[data.augmentation]
    scale = {"mean": data.mean, "std": data.std}
    jittered = color_jitter(torch.cat([weak[:1], weak[:1]]), rng, 0.8, 0.8, 0.8, 0.2, **scale)  # type: ignore[arg-type]
    box = cutmix_boxes(rng, 1, size, 1.0, (0.1, 0.3))
    policy = CTAugment(data, int(rng.integers(1000)))
    learned, learned_label, strong = (one[0] for one in policy.apply(plain[:1], labels[:1], [policy.sample(rng)]))
    views = [
        (plain[0], labels[0]), (weak[0], weak_labels[0]), (jittered[0], weak_labels[0]), (jittered[1], weak_labels[0]),
        (gaussian_blur(weak[:1], rng, (2.0, 2.0), 1.0)[0], weak_labels[0]),
        (cutout(weak[:1], rng, (0.1, 0.3), probability=1.0, **scale)[0], weak_labels[0]),  # type: ignore[arg-type]
        (torch.where(box, weak[1:], weak[:1])[0], torch.where(box[0, 0], weak_labels[1], weak_labels[0])),
        (learned, learned_label), (strong, learned_label),
    ]
    return [panel(image, label, plain[:1], data) for image, label in views]


def panel(image: torch.Tensor, label: torch.Tensor, original: torch.Tensor, data: DataSet) -> np.ndarray:
    """Pixels on the scale of the untouched image (not stretched: brightness shall show), with the outlines of the labels."""
    low, high = limits(denormalised(original, data.mean, data.std))
    unit = (denormalised(image[None], data.mean, data.std) - low) / (high - low)
    levels = (255 * unit[0].clamp(0, 1)).round().to(torch.uint8).numpy()
    return overlay(np.repeat(levels[:1], 3, 0) if len(levels) != 3 else levels, label.numpy(), filled=0.0)
