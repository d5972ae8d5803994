"""Loading of photographs of any size: scale, crop and mirror are Pillow's, on the CPU and in torch, to the bit."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.frame import Fill
from dataloaders.augmentation.recipes import RECIPES, draw
from dataloaders.augmentation.scale_crop import plan, scaled_sizes
from dataloaders.batches.loader import Loader
from dataloaders.batches.store import Store

SIZES = [(37, 53), (64, 41), (30, 30), (90, 121), (11, 200), (65, 64)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def photographs():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    masks = [rng.integers(0, 21, size).astype(np.uint8) for size in SIZES]
    return pictures, masks


def store_of(pictures, masks, labeled, on_device=False):
    shapes = np.array([mask.shape for mask in masks], np.int64)
    pixels, labels = np.concatenate([p.transpose(2, 0, 1).ravel() for p in pictures]), np.concatenate([m.ravel() for m in masks])
    ends = np.cumsum(shapes.prod(1))
    begins = ends - shapes.prod(1)
    if on_device:
        pixels, labels = torch.from_numpy(pixels), torch.from_numpy(labels)
    label_begins = np.where(np.arange(len(masks)) < labeled, begins, -1)
    return Store(tuple(map(str, range(len(masks)))), pixels, labels, shapes, 3 * begins, label_begins, 3, "RAM", 0)


def by_pillow(picture, mask, height, width, top, left, flip, crop):
    """The published recipe: resize, pad below and to the right (black; 255), crop, mirror."""
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    label = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    canvas, ignored = Image.new("RGB", (max(width, crop), max(height, crop))), Image.new("L", (max(width, crop), max(height, crop)), 255)
    canvas.paste(image)
    ignored.paste(label)
    box = (left, top, left + crop, top + crop)
    arrays = [np.asarray(made.crop(box)) for made in (canvas, ignored)]
    return [array[:, ::-1] for array in arrays] if flip else arrays


def expected(pictures, masks, recipe, draws, crop):
    shapes = np.array([mask.shape for mask in masks])
    sizes = scaled_sizes(RECIPES[recipe], shapes, draws)
    for k, (height, width) in enumerate(sizes.tolist()):
        top, left = (int(draws[name][k] * (max(side - crop, 0) + 1)) for name, side in (("down", height), ("across", width)))
        yield by_pillow(pictures[k], masks[k], height, width, top, left, draws["h_flip"][k], crop)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("recipe, crop", [("scale_crop", 48), ("scale_crop", 97), ("scale_crop_400", 130)])
def test_pixels_and_labels_are_pillows(photographs, backend, recipe, crop):
    pictures, masks = photographs
    store = store_of(pictures, masks, 4, backend == "torch")
    augmenter = Augmenter(store, recipe, (crop, crop), MEAN, STD, threads=1, backend=backend)
    rows = np.arange(len(masks))
    flips, outside = set(), 0
    for seed in range(4):
        draws = draw(augmenter.recipe, np.random.default_rng(seed), len(rows))
        images, labels = augmenter(rows, 4, draws)
        valid = augmenter.map("valid", rows, draws, Fill(1, 0, 0))
        raw = (images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)) * 255
        for k, (picture, mask) in enumerate(expected(pictures, masks, recipe, draws, crop)):
            assert np.abs(raw[k].numpy().transpose(1, 2, 0) - picture).max() < 1e-3, "the very grey levels"
            assert np.array_equal(valid[k].numpy(), mask != 255)
            outside += int((mask == 255).sum())
            if k < 4:
                assert np.array_equal(labels[k].numpy(), mask)
        flips |= set(draws["h_flip"].tolist())
        assert labels.dtype == torch.int64 and labels.shape == (4, crop, crop)
    assert flips == {True, False} and outside


def test_both_implementations_are_equal_and_rows_do_not_depend_on_their_batch(photographs):
    pictures, masks = photographs
    rows = np.arange(len(masks))
    made = []
    for backend, threads in (("numba", 1), ("numba", 2), ("torch", 1)):
        augmenter = Augmenter(store_of(pictures, masks, 6, backend == "torch"), "scale_crop", (56, 72), MEAN, STD, threads, backend)
        augmenter.memory_format = torch.channels_last
        draws = draw(augmenter.recipe, np.random.default_rng(5), 6)
        made.append(augmenter(rows, 6, draws))
        one = {name: values[2:3] for name, values in draws.items()}
        assert torch.equal(augmenter(rows[2:3], 1, one)[0][0], made[-1][0][2])
        augmenter.close()
    for images, labels in made[1:]:
        assert torch.equal(labels, made[0][1])
        assert (images - made[0][0]).abs().max() < 1e-6


def test_the_long_side_is_drawn_from_the_published_range():
    shapes = np.array([[375, 500], [500, 333], [500, 500], [9, 7]])
    ends = {name: np.array([0.0, 0.999999] * 2) for name in ("long_side", "across", "down")}
    assert scaled_sizes(RECIPES["scale_crop"], shapes, ends).tolist() == [[188, 250], [1000, 666], [250, 250], [18, 14]]
    assert scaled_sizes(RECIPES["scale_crop_400"], shapes, ends).tolist() == [[150, 200], [800, 533], [200, 200], [800, 622]]
    down, across = plan(RECIPES["scale_crop"], (321, 321), shapes, ends)
    assert down.valid.tolist() == [188, 321, 250, 18] and across.valid.tolist() == [250, 321, 250, 14]
    assert down.weights.sum(2).min() > 2**22 - 8 and down.weights.sum(2).max() < 2**22 + 8


def test_batches_have_validity_maps_and_follow_seed_and_step(photographs):
    pictures, masks = photographs

    def batch(step):
        loader = Loader(store_of(pictures, masks, 3), range(3), range(3, 6), batch_size=4, labeled_bs=2, patch_size=(129, 129),
                        recipe="scale_crop", seed=3, mean=MEAN, std=STD, threads=1, maps={"valid": Fill(1, 0, 0)}, views=2)
        return loader.batch(step)

    first, again, other = batch(1), batch(1), batch(2)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    valid = first.maps["valid"]
    assert valid.shape == (4, 129, 129) and set(valid.unique().tolist()) == {0.0, 1.0}
    black = torch.tensor([-m / s for m, s in zip(MEAN, STD)]).view(1, 3, 1, 1)
    assert torch.where(valid[:, None] == 0, (first.images - black).abs(), 0).max() < 1e-6
    assert ((first.labels == 255) <= (first.maps["valid"][:2] == 0)).all()
    assert first.views[0].maps["valid"].shape == (2, 129, 129)
