"""Augmentation: equal to scipy to the pixel in every implementation, and distributed as published."""
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from dataloaders.augmentation import scipy_reference as augment_scipy
from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.recipes import RECIPES, draw, normal_quantiles, rows_of
from dataloaders.batches.sampling import AUGMENTATION, generator
from dataloaders.batches.store import Store
from dataloaders.errors import UserError
from dataloaders.zoom import floor_indices, resize_nearest, zoom_indices

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def make_store(shapes, channels=1, dtype=np.float32, labeled=True, seed=0, device=None):
    """A store of random images whose labels are a function of the first channel's pixels."""
    rng = np.random.default_rng(seed)
    images = [rng.random((channels, *shape)).astype(np.float32) for shape in shapes]
    if dtype == np.uint8:
        images = [(255 * image).astype(np.uint8) for image in images]
        masks = [image[0] for image in images]
    else:
        masks = [(4 * image[0]).astype(np.uint8) for image in images]
    sizes = np.array([math.prod(shape) for shape in shapes])
    begin = np.cumsum(sizes) - sizes
    pixels, labels = np.concatenate([a.ravel() for a in images]), np.concatenate([a.ravel() for a in masks])
    for array in (pixels, labels):
        array.flags.writeable = False
    if device:
        pixels, labels = torch.tensor(pixels, device=device), torch.tensor(labels, device=device)
    label_offsets = begin if labeled else np.full(len(sizes), -1)
    names = tuple(f"image{i}" for i in range(len(shapes)))
    return Store(names, pixels, labels, np.array(shapes, np.int64), begin * channels, label_offsets, channels, "RAM", 0)


@pytest.mark.parametrize("n_out", [64, 96, 216, 224, 256])
def test_zoom_indices_are_scipys(n_out):
    with_zero_row = 0
    for n in range(150, 513):
        for n_in, m in ((n, n_out), (n_out, n)):
            expected = ndimage.zoom(np.arange(1.0, n_in + 1), m / n_in, order=0)
            got = zoom_indices(n_in, m)
            np.testing.assert_array_equal(np.where(got < 0, 0, got + 1), expected)
            with_zero_row += (got < 0).any()
    assert with_zero_row, "the case that a plain rounding misses does not occur"


def test_resize_nearest():
    array = np.random.default_rng(0).integers(1, 255, (3, 256, 210), dtype=np.uint8)
    for size in ((256, 256), (216, 216), (64, 100)):
        expected = ndimage.zoom(array, (1, size[0] / 256, size[1] / 210), order=0)
        np.testing.assert_array_equal(resize_nearest(array, size), expected)
        np.testing.assert_array_equal(resize_nearest(array[1], size), expected[1])
        np.testing.assert_array_equal(resize_nearest(torch.from_numpy(array), size).numpy(), expected)
    assert (resize_nearest(array, (216, 216))[:, -1] == 0).all()
    np.testing.assert_array_equal(resize_nearest(array, (100, 100), "floor")[0, 7], array[0, 7 * 256 // 100, np.arange(100) * 210 // 100])
    assert floor_indices(200, 256).max() == 199


SIDES = [(256, 216), (224, 154), (288, 184), (216, 256), (200, 200), (155, 301), (256, 256), (428, 512)]


@pytest.mark.parametrize("size", [(256, 256), (216, 216), (224, 192)])
def test_rot_flip_is_scipys_to_the_pixel(size):
    store = make_store(SIDES, labeled=True)
    rows = np.arange(96) % len(SIDES)
    draws = draw(RECIPES["rot_flip"], generator(1, AUGMENTATION, 0), len(rows))
    assert len(set(draws["angle"][draws["rotate"]])) > 20
    images, labels = Augmenter(store, "rot_flip", size)(rows, 40, draws)
    assert images.shape == (96, 1, *size) and labels.shape == (40, *size) and labels.dtype == torch.int64
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(images[i, 0].numpy(), augment_scipy.warp(store.image(row)[0], draws, i, size))
        if i < 40:
            np.testing.assert_array_equal(labels[i].numpy(), augment_scipy.warp(store.label(row), draws, i, size))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe, dtype, channels", [("rot_flip", np.float32, 1), ("rot_flip", np.uint8, 3), ("none", np.float32, 2)])
def test_torch_equals_numba(device, recipe, dtype, channels):
    arguments = {"mean": [0.4] * channels, "std": [0.2] * channels} if dtype == np.uint8 else {}
    rows = np.arange(48) % len(SIDES)
    draws = draw(RECIPES[recipe], generator(2, AUGMENTATION, 0), len(rows))
    results = []
    for where in (None, device):
        store = make_store(SIDES, channels, dtype, device=where)
        results.append(Augmenter(store, recipe, (216, 224), **arguments)(rows, 20, draws))
    for ours, other in zip(*results):
        assert torch.equal(ours, other.cpu())


def test_turn_flip_is_rot_flip_without_rotations():
    draws = {recipe: draw(RECIPES[recipe], generator(1, AUGMENTATION, 0), 200) for recipe in ("rot_flip", "turn_flip")}
    assert 70 < draws["rot_flip"]["rotate"].sum() < 130 and not draws["turn_flip"]["rotate"].any()
    assert all((draws["turn_flip"][name] == draws["rot_flip"][name]).all() for name in ("turns", "flip"))


PHOTOS = [(200, 200), (231, 105), (300, 512), (64, 90)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe, size", [("simeps_neu", (128, 128)), ("simeps_neu", (96, 128)), ("simeps_mt", (128, 128))])
def test_photo_torch_equals_numba(device, recipe, size):
    rows = np.arange(64) % len(PHOTOS)
    draws = draw(RECIPES[recipe], generator(3, AUGMENTATION, 0), len(rows))
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "resizing": "floor"}
    images, labels = Augmenter(make_store(PHOTOS, 3, np.uint8), recipe, size, **normal)(rows, 32, draws)
    others = Augmenter(make_store(PHOTOS, 3, np.uint8, device=device), recipe, size, **normal)(rows, 32, draws)
    assert torch.equal(images, others[0].cpu())
    assert torch.equal(labels, others[1].cpu())


def test_photo_equals_plain_numpy():
    """Each operation once, in the published order, by other means."""
    store = make_store(PHOTOS, 3, np.uint8)
    rows = np.arange(64) % len(PHOTOS)
    draws = draw(RECIPES["simeps_neu"], generator(4, AUGMENTATION, 0), len(rows))
    draws["noise"][:] = 0
    images, labels = Augmenter(store, "simeps_neu", (128, 128), resizing="floor")(rows, len(rows), draws)
    for i, row in enumerate(rows):
        picture, mask = (a[..., floor_indices(a.shape[-2], 128)[:, None], floor_indices(a.shape[-1], 128)] for a in _arrays(store, row))
        for flag, axis in (("h_flip", -1), ("v_flip", -2)):
            if draws[flag][i]:
                picture, mask = np.flip(picture, axis), np.flip(mask, axis)
        bright = np.float32(draws["contrast"][i]) * picture.astype(np.float32) + np.float32(255 * draws["brightness"][i])
        picture = np.clip(bright, 0, 255).astype(np.uint8)
        if draws["blur"][i] > 1:
            k = int(draws["blur"][i])
            mean = ndimage.convolve(picture.astype(float), np.full((1, k, k), 1 / k**2), mode="mirror")
            picture = np.rint(mean).astype(np.uint8)
        picture, mask = np.rot90(picture, draws["turns"][i], (1, 2)), np.rot90(mask, draws["turns"][i])
        np.testing.assert_allclose(images[i].numpy() * 255, picture, atol=1e-3)
        np.testing.assert_array_equal(labels[i].numpy(), mask)


def _arrays(store, row):
    return store.image(row), store.label(row)


def test_noise_is_gaussian_and_cut_to_grey_levels():
    shape = (128, 128)
    pixels = np.full(3 * 128 * 128, 128, np.uint8)
    store = Store(("flat",), pixels, np.empty(0, np.uint8), np.array([shape]), np.array([0]), np.array([-1]), 3, "RAM", 0)
    draws = draw(RECIPES["simeps_neu"], generator(5, AUGMENTATION, 0), 2)
    draws.update(contrast=np.ones(2), brightness=np.zeros(2), blur=np.ones(2, np.int64), noise=np.array([5.0, 0.0]))
    noisy = Augmenter(store, "simeps_neu", shape, resizing="floor")(np.zeros(2, np.int64), 0, draws)[0].numpy() * 255
    np.testing.assert_allclose(noisy[1], 128, atol=1e-3)
    # Cutting to integers lowers the mean by half a level and adds a variance of 1/12.
    assert abs(noisy[0].mean() - 127.5) < 0.1 and abs(noisy[0].std() - math.sqrt(25 + 1 / 12)) < 0.1
    assert stats.kurtosis(noisy[0].ravel()) == pytest.approx(0, abs=0.1)
    deviation = noisy[0] - noisy[0].mean()
    neighbours = [deviation[:, 1:] * deviation[:, :-1], deviation[..., 1:] * deviation[..., :-1], deviation[1:] * deviation[:-1]]
    assert all(abs(product.mean()) / 25 < 0.02 for product in neighbours)
    assert abs(normal_quantiles().std() - 1) < 1e-3


def test_mirrors_turn_each_axis_by_itself():
    draws = draw(RECIPES["mirrors"], generator(1, AUGMENTATION, 0), 4000, 3)
    pairs = np.stack([draws["turns"], draws["flip"]], 1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    assert kinds.tolist() == [[0, -1], [0, 0], [2, -1], [2, 0]] and (np.abs(counts - 1000) < 120).all()
    assert not draws["rotate"].any()


@pytest.mark.parametrize("recipe", ["rot_flip", "mirrors"])
@pytest.mark.parametrize("device", DEVICES)
def test_3d_crop_is_numpys(device, recipe):
    shapes = [(40, 52, 24), (30, 64, 50), (20, 30, 12), (32, 48, 16)]
    size = (32, 32, 16)
    rows = np.arange(32) % len(shapes)
    draws = draw(RECIPES[recipe], generator(6, AUGMENTATION, 0), len(rows), 3)
    store = make_store(shapes)
    images, labels = Augmenter(store, recipe, size)(rows, 16, draws)
    others = Augmenter(make_store(shapes, device=device), recipe, size)(rows, 16, draws)
    assert torch.equal(images, others[0].cpu()) and torch.equal(labels, others[1].cpu())
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(images[i, 0].numpy(), augment_scipy.crop_3d(store.image(row)[0], draws, i, size))
    for i in range(16):
        np.testing.assert_array_equal(labels[i].numpy(), augment_scipy.crop_3d(store.label(rows[i]), draws, i, size))


def test_3d_crop_starts_as_published():
    draws = draw(RECIPES["rot_flip"], generator(7, AUGMENTATION, 0), 4000, 3)
    store = make_store([(20, 20, 88)])
    volume = np.broadcast_to(np.arange(88, dtype=np.float32), (20, 20, 88)).ravel()
    store = Store(store.names, volume, store.labels, store.shapes, store.offsets, store.label_offsets, 1, "RAM", 0)
    images, _ = Augmenter(store, "rot_flip", (16, 16, 80))(np.zeros(4000, np.int64), 0, draws)
    starts = np.bincount(images[:, 0, 0, 0, 0].numpy().astype(int))
    assert len(starts) == 8, "the last admissible start is never used (published)"
    assert stats.chisquare(starts).pvalue > 1e-3


def test_image_and_label_stay_aligned():
    store = make_store(SIDES, dtype=np.uint8)
    rows = np.arange(48) % len(SIDES)
    for recipe in ("rot_flip", "none"):
        draws = draw(RECIPES[recipe], generator(8, AUGMENTATION, 0), len(rows))
        images, labels = Augmenter(store, recipe, (224, 256))(rows, len(rows), draws)
        np.testing.assert_array_equal(np.rint(images[:, 0].numpy() * 255), labels.numpy())
    draws = draw(RECIPES["simeps_neu"], generator(8, AUGMENTATION, 0), len(rows))
    draws.update(contrast=np.ones(48), brightness=np.zeros(48), blur=np.ones(48, np.int64), noise=np.zeros(48))
    images, labels = Augmenter(store, "simeps_neu", (128, 128), resizing="floor")(rows, len(rows), draws)
    np.testing.assert_array_equal(np.rint(images[:, 0].numpy() * 255), labels.numpy())


@pytest.mark.parametrize("resizing", ["corner", "floor"])
def test_images_are_resized_as_their_data_set_says(resizing):
    """Whatever the recipe: the weak view of FixMatch on NEU-Seg, DAGM and MT was resized by another rule than predictions are."""
    store = make_store([(50, 37)], dtype=np.uint8)
    none = draw(RECIPES["none"], generator(1, AUGMENTATION, 0), 1)
    images, labels = Augmenter(store, "none", (64, 48), resizing=resizing)(np.zeros(1, np.int64), 1, none)
    expected = resize_nearest(store.labels.reshape(50, 37), (64, 48), resizing)
    np.testing.assert_array_equal(labels[0].numpy(), expected)
    np.testing.assert_array_equal((255 * images[0, 0]).round().numpy(), resize_nearest(store.pixels.reshape(50, 37), (64, 48), resizing))


def test_no_label_value_is_invented():
    store = make_store(SIDES)
    sparse = np.where(np.random.default_rng(0).random(store.labels.shape) < 0.5, np.uint8(2), np.uint8(7))
    store = Store(store.names, store.pixels, sparse, store.shapes, store.offsets, store.label_offsets, 1, "RAM", 0)
    rows = np.arange(32) % len(SIDES)
    _, labels = Augmenter(store, "rot_flip", (256, 256))(rows, 32, draw(RECIPES["rot_flip"], generator(9, AUGMENTATION, 0), 32))
    assert set(np.unique(labels)) <= {0, 2, 7}


@pytest.mark.parametrize("device", DEVICES)
def test_rows_without_a_label_are_ignored_everywhere(device):
    rows = np.arange(4)
    draws = draw(RECIPES["rot_flip"], generator(10, AUGMENTATION, 0), 4)
    for where in (None, device):
        _, labels = Augmenter(make_store(SIDES, labeled=False, device=where), "rot_flip", (64, 64))(rows, 2, draws)
        assert labels.shape == (2, 64, 64) and (labels == 255).all()


def test_distribution_of_rot_flip():
    draws = draw(RECIPES["rot_flip"], generator(11, AUGMENTATION, 0), 40000)
    assert stats.binomtest(int(draws["rotate"].sum()), 40000).pvalue > 1e-3
    for name, low, high in (("turns", 0, 4), ("flip", 0, 2), ("angle", -20, 20)):
        values = draws[name][~draws["rotate"]] if name != "angle" else draws[name][draws["rotate"]]
        counts = np.bincount(values - low, minlength=high - low)
        assert len(counts) == high - low and stats.chisquare(counts).pvalue > 1e-3
    table = np.histogram2d(draws["turns"], draws["flip"], (4, 2))[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_distribution_of_photographs():
    draws = draw(RECIPES["simeps_neu"], generator(12, AUGMENTATION, 0), 40000)
    shares = {
        "h_flip": (draws["h_flip"], 0.4), "v_flip": (draws["v_flip"], 0.4), "contrast": (draws["contrast"] != 1, 0.5),
        "blur": (draws["blur"] > 1, 0.3), "turns": (draws["turns"] > 0, 0.3 * 3 / 4), "noise": (draws["noise"] > 0, 0.3),
    }  # fmt: skip
    for name, (values, share) in shares.items():
        assert stats.binomtest(int(values.sum()), 40000, share).pvalue > 1e-3, name
    assert set(draws["blur"]) == {1, 3, 5, 7}
    changed = draws["contrast"] != 1
    assert stats.kstest(draws["contrast"][changed], stats.uniform(1, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(draws["brightness"][changed], stats.uniform(0, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(draws["noise"][draws["noise"] > 0] ** 2, stats.uniform(10, 40).cdf).pvalue > 1e-3
    others = draw(RECIPES["simeps_mt"], generator(12, AUGMENTATION, 0), 4000)
    assert (others["blur"] == 1).all() and (others["noise"] == 0).all() and (others["turns"] == 0).all()


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_row_does_not_depend_on_the_others(recipe):
    large, small = (draw(RECIPES[recipe], generator(13, AUGMENTATION, 5), n) for n in (24, 7))
    for name, values in rows_of(large, slice(0, 7)).items():
        np.testing.assert_array_equal(values, small[name])


def test_mistakes_are_said():
    store = make_store(SIDES)
    with pytest.raises(UserError, match="rot_flip"):
        Augmenter(store, "rotflip", (64, 64))
    with pytest.raises(UserError, match="8-bit"):
        Augmenter(store, "simeps_neu", (64, 64))
    with pytest.raises(UserError, match="patch_size"):
        Augmenter(store, "rot_flip", (64, 64, 64))
    with pytest.raises(UserError, match="mean and std"):
        Augmenter(store, "rot_flip", (64, 64), mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
