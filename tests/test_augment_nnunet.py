"""nnU-Net's augmentation on batches: each operation against scipy or torch, its distributions, image and label together."""
from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import outcome
from scipy import ndimage

from dataloaders.augmentation import nnunet
from dataloaders.augmentation.nnunet import NNUNET, Strength, apply, augment, draw

NOTHING = Strength(**{field.name: 0.0 for field in fields(Strength)})
SIDES = [(24, 32), (16, 20, 12)]


def only(**probabilities):
    return Strength(**{field.name: probabilities.get(field.name, 0.0) for field in fields(Strength)})


def smooth(*shape, seed=0):
    """Images without edges, all values between 0.3 and 0.9."""
    values = np.random.default_rng(seed).random(shape)
    values = ndimage.gaussian_filter(values, (0, 0, *[2.0] * (len(shape) - 2)))
    low, high = values.min(), values.max()
    return torch.from_numpy((0.3 + 0.6 * (values - low) / (high - low)).astype(np.float32))


def augmented(images, strength, seed=0, labels=None):
    torch.manual_seed(seed)
    labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64) if labels is None else labels
    return augment(images, labels, np.random.default_rng(seed), strength)


def plan_of(images, strength, seed=0):
    return draw(np.random.default_rng(seed), len(images), images.shape[1], images.shape[2:], strength)


@pytest.mark.parametrize("sides", SIDES)
def test_no_strength_changes_no_bit(sides):
    images, labels = smooth(4, 2, *sides), torch.randint(0, 4, (3, *sides))
    for x in (images, images.contiguous(memory_format=torch.channels_last) if len(sides) == 2 else images):
        new, moved = augmented(x, NOTHING, labels=labels)
        assert torch.equal(new, images) and torch.equal(moved, labels) and new.stride() == x.stride()


@pytest.mark.parametrize("sides", SIDES)
def test_strength_changes_images_and_leaves_its_input(sides):
    images, labels = smooth(6, 2, *sides), torch.randint(0, 4, (6, *sides))
    before = images.clone(), labels.clone()
    new, moved = augmented(images, Strength(*[1.0] * 9, mirror=0.5), labels=labels)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    assert new.shape == images.shape and moved.shape == labels.shape and moved.dtype == torch.int64 and new.isfinite().all()
    assert all(not torch.equal(a, b) for a, b in zip(new, images))
    again, _ = augmented(images, Strength(*[1.0] * 9, mirror=0.5), labels=labels)
    assert torch.equal(new, again)


@pytest.mark.parametrize("sides", SIDES)
def test_places_are_scipys(sides):
    """Turned and scaled about the centre, mirrored at the border; places of the label are the same."""
    images, labels = smooth(3, 2, *sides), torch.randint(0, 9, (3, *sides))
    strength = only(rotation=1.0, scaling=1.0)
    new, moved = augmented(images, strength, labels=labels)
    centre = (np.array(sides) - 1) / 2
    for matrix, image, label, got, got_label in zip(plan_of(images, strength).matrix, images, labels, new, moved):
        for channel, result in zip(image, got):
            old = channel.numpy().astype(np.float64)
            expected = ndimage.affine_transform(old, matrix, centre - matrix @ centre, order=1, mode="reflect")
            np.testing.assert_allclose(result, expected, atol=2e-4)
        expected = ndimage.affine_transform(label.numpy(), matrix, centre - matrix @ centre, order=0, mode="reflect")
        assert (got_label.numpy() == expected).mean() > 0.995  # places half-way between two pixels may be rounded either way


def test_a_turn_of_a_plane_keeps_lengths_in_pixels():
    matrix = nnunet.matrices(np.array([[0.3, -0.2, 0.5]]), np.array([1.2]), (16, 20, 12))[0]
    np.testing.assert_allclose(matrix.T @ matrix, 1.44 * np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) > 0


@pytest.mark.parametrize("sides", [(64, 64), (32, 32, 24)])
def test_image_and_label_move_together(sides):
    """The image is the label itself: where all its neighbours agree, the label must be what they are."""
    labels = (smooth(8, 1, *sides, seed=3)[:, 0] > 0.6).long()
    new, moved = augmented(labels[:, None].float(), only(rotation=1.0, scaling=1.0, mirror=0.5), labels=labels)
    agree = (new[:, 0] < 1e-4) | (new[:, 0] > 1 - 1e-4)
    assert agree.float().mean() > 0.5 and torch.equal(new[:, 0][agree] > 0.5, moved[agree] == 1)
    assert 0 < moved.sum() < moved.numel() and not torch.equal(moved, labels)
    new, moved = augmented(labels[:, None].float(), only(mirror=0.5), labels=labels)
    assert torch.equal(new[:, 0].long(), moved) and torch.equal(moved.flatten(1).sum(1), labels.flatten(1).sum(1))


@pytest.mark.parametrize("sides", SIDES)
def test_no_wedges_and_no_invented_labels(sides):
    images = smooth(16, 1, *sides)
    labels = torch.full((16, *sides), 3)
    labels[:, 2:4] = 255
    new, moved = augmented(images, only(rotation=1.0, scaling=1.0), labels=labels)
    assert new.min() >= images.min() - 1e-5 and new.max() <= images.max() + 1e-5
    assert set(moved.unique().tolist()) == {3, 255}


def test_unlabelled_rows_behind_the_labelled_ones_are_augmented_too():
    images, labels = smooth(6, 1, 32, 32), torch.randint(0, 4, (2, 32, 32))
    new, moved = augmented(images, Strength(rotation=1.0), labels=labels)
    whole, all_moved = augmented(images, Strength(rotation=1.0), labels=torch.cat([labels, labels, labels]))
    assert moved.shape == labels.shape and torch.equal(new, whole) and torch.equal(moved, all_moved[:2])


def test_low_resolution_is_torchs():
    for sides, mode in zip(SIDES, ("bilinear", "trilinear")):
        images, strength = smooth(8, 2, *sides), only(low_resolution=1.0)
        new, plan = augmented(images, strength)[0], plan_of(images, strength)
        assert 0.3 < (plan.resolution[..., 0] < 1).mean() < 0.7
        for image, result, shares in zip(images.flatten(0, 1), new.flatten(0, 1), plan.resolution.reshape(-1, len(sides))):
            fewer = [round(side * share) for side, share in zip(sides, shares)]
            coarse = F.interpolate(image[None, None], fewer, mode="nearest-exact")
            torch.testing.assert_close(result, F.interpolate(coarse, sides, mode=mode)[0, 0], atol=2e-6, rtol=0)


def test_blur_is_a_gaussian():
    for sides in SIDES:
        images, strength = smooth(8, 2, *sides) + 0.1 * torch.randn(8, 2, *sides), only(blur=1.0)
        new, plan = augmented(images, strength)[0], plan_of(images, strength)
        chosen = (plan.blur > 0).all(-1)
        assert torch.equal(new[~chosen], images[~chosen]) and 0.2 < chosen.mean() < 0.8
        for image, result, deviations in zip(images[chosen], new[chosen], plan.blur[chosen]):
            expected = ndimage.gaussian_filter(image.numpy().astype(np.float64), deviations, mode="nearest", radius=4)
            np.testing.assert_allclose(result, expected, atol=2e-6)


def test_brightness_contrast_and_gamma_by_their_definitions():
    images = smooth(12, 2, 32, 32)
    mean, low, high = (f(dim=(2, 3), keepdim=True) for f in (images.mean, images.amin, images.amax))

    def factors(name):
        strength = only(**{name: 1.0})
        return augmented(images, strength)[0], torch.from_numpy(getattr(plan_of(images, strength), name)).float()[..., None, None]

    new, factor = factors("brightness")
    torch.testing.assert_close(new, mean + (images - mean) * factor)
    new, factor = factors("contrast")
    torch.testing.assert_close(new, (mean + (images - mean) * factor).clamp(low, high))
    for name, sign in (("gamma", 1), ("inverted_gamma", -1)):
        new, factor = factors(name)
        least = (sign * images).amin((2, 3), keepdim=True)
        curve = ((sign * images - least) / (high - low)).pow(factor)
        curve = (curve - curve.mean((2, 3), keepdim=True)) / curve.std((2, 3), keepdim=True)
        expected = sign * curve * images.std((2, 3), keepdim=True) + mean
        torch.testing.assert_close(new, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(new.mean((2, 3)), mean[..., 0, 0])
        order = images[0, 0].flatten().argsort()
        assert (new[0, 0].flatten()[order].diff() >= -1e-5).all(), "a power keeps the order of grey levels"


def test_noise_is_measured_in_deviations_and_shared_by_channels():
    images = torch.randn(16, 2, 64, 64) * torch.tensor([5.0, 0.2]).view(1, 2, 1, 1) + 7
    new, plan = augmented(images, only(noise=1.0))[0], plan_of(images, only(noise=1.0))
    noise = (new - images) / images.std((2, 3), keepdim=True)
    np.testing.assert_allclose(noise.std((2, 3)).numpy(), plan.noise[:, None].repeat(2, 1), rtol=0.05)
    torch.testing.assert_close(noise[:, 0], noise[:, 1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("sides", SIDES)
def test_the_scale_of_the_images_does_not_matter(sides):
    images = smooth(8, 2, *sides)
    one, _ = augmented(images, Strength(*[1.0] * 10))
    other, _ = augmented(1000 * images - 300, Strength(*[1.0] * 10))
    torch.testing.assert_close((other + 300) / 1000, one, atol=2e-4, rtol=0)


def test_constant_images_stay_as_they_are():
    for images in (torch.zeros(4, 1, 16, 16), torch.full((4, 1, 16, 16), 0.7)):
        new, _ = augmented(images, Strength(*[1.0] * 10))
        torch.testing.assert_close(new, images)


def test_probabilities_and_ranges_are_those_of_nnunet():
    n = 20_000
    plan = draw(np.random.default_rng(1), n, 2, (64, 64))

    def share(chosen, probability):
        assert chosen.mean() == pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / n))

    scale = np.sqrt(np.linalg.det(plan.matrix))
    angle = np.degrees(np.arctan2(plan.matrix[:, 1, 0], plan.matrix[:, 0, 0]))
    share(~np.isclose(scale, 1, atol=1e-9), 0.2)
    share(~np.isclose(angle, 0, atol=1e-9), 0.2)
    share((~np.isclose(angle, 0, atol=1e-9)) & (~np.isclose(scale, 1, atol=1e-9)), 0.04)
    uniform(scale[~np.isclose(scale, 1)], 0.7, 1.4)
    uniform(angle[~np.isclose(angle, 0)], -180, 180)
    share(plan.noise > 0, 0.1)
    uniform(plan.noise[plan.noise > 0], 0, 0.1)
    share((plan.blur > 0).all(2)[:, 0], 0.1)
    share((plan.blur > 0).any((1, 2)), 0.2 * 0.75)
    uniform(plan.blur[plan.blur > 0], 0.5, 1)
    share((plan.resolution < 1).all(2)[:, 1], 0.125)
    uniform(plan.resolution[..., 0][plan.resolution[..., 0] < 1], 0.5, 1)
    assert (plan.resolution[..., 0] == plan.resolution[..., 1]).all()
    for name, probability, low, high in (("brightness", 0.15, 0.75, 1.25), ("contrast", 0.15, 0.75, 1.25),
                                         ("inverted_gamma", 0.1, 0.7, 1.5), ("gamma", 0.3, 0.7, 1.5)):
        values = getattr(plan, name)
        share(values[:, 0] != 1, probability)
        assert ((values[:, 0] != 1) == (values[:, 1] != 1)).all(), "both channels, each with a factor of its own"
        values = values[values != 1]
        assert (values < 1).mean() == pytest.approx(0.5, abs=0.03)
        uniform(values[values < 1], low, 1)
        uniform(values[values > 1], 1, high)
    share(plan.mirror[:, 0], 0.5)
    share(plan.mirror.all(1), 0.25)


def uniform(values, low, high):
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, np.linspace(low, high, 5), atol=0.05 * (high - low))


def test_angles_of_volumes_of_oblong_images_and_of_thin_volumes():
    def turned(sides):
        return draw(np.random.default_rng(0), 4000, 1, sides, only(rotation=1.0, scaling=1.0, low_resolution=1.0))

    oblong = turned((64, 128)).matrix
    assert np.degrees(np.arctan2(np.abs(oblong[:, 1, 0]), oblong[:, 0, 0])).max() == pytest.approx(15, abs=0.1)
    volume = turned((32, 32, 32)).matrix / np.cbrt(np.linalg.det(turned((32, 32, 32)).matrix))[:, None, None]
    # Rz(c) Ry(b) Rx(a) has -sin b in its lower left corner; the other two follow from the first column and the last row.
    for sine, cosine in ((volume[:, 2, 0], np.hypot(volume[:, 0, 0], volume[:, 1, 0])), (volume[:, 1, 0], volume[:, 0, 0]),
                         (volume[:, 2, 1], volume[:, 2, 2])):
        uniform(np.degrees(np.arctan2(sine, cosine)), -30, 30)
    thin = turned((96, 96, 16))
    np.testing.assert_array_equal(thin.matrix[:, 2], np.array([0, 0, 1.0])[None].repeat(4000, 0))
    np.testing.assert_array_equal(thin.matrix[:, :2, 2], 0)
    assert np.degrees(np.arctan2(thin.matrix[:, 1, 0], thin.matrix[:, 0, 0])).max() > 170
    assert (thin.resolution[..., 2] == 1).all() and (thin.resolution[..., 0] < 1).any()


def test_a_row_does_not_depend_on_the_rows_after_it():
    few, many = (draw(np.random.default_rng(5), n, 2, (32, 32), Strength(*[0.5] * 10)) for n in (3, 8))
    for field in fields(few):
        np.testing.assert_array_equal(getattr(few, field.name), getattr(many, field.name)[:3])
    images = smooth(8, 2, 32, 32)
    without_noise = Strength(noise=0.0)
    one, _ = apply(images[:3], torch.zeros(3, 32, 32).long(), draw(np.random.default_rng(5), 3, 2, (32, 32), without_noise))
    other, _ = apply(images, torch.zeros(8, 32, 32).long(), draw(np.random.default_rng(5), 8, 2, (32, 32), without_noise))
    torch.testing.assert_close(one, other[:3])


def test_its_default_is_nnunets():
    assert Strength() == NNUNET and (NNUNET.rotation, NNUNET.gamma, NNUNET.mirror) == (0.2, 0.3, 0.5)


def test_a_run_with_strong_augmentation_is_another_one_and_survives_a_kill(bench):
    strong = ("--augment", "strong", "--max_iterations", "6")
    ends = [bench.train("Supervised", "--max_iterations", "6", model="plain"), bench.train("Supervised", *strong, model="whole"),
            bench.train("Supervised", *strong, model="cut", fault="kill@step:5"), bench.train("Supervised", *strong, model="cut")]
    assert [end.code for end in ends] == [0, 0, -9, 0], ends
    plain, whole, cut = (bench.run_folder(model) for model in ("plain", "whole", "cut"))
    assert whole.name == f"{plain.name}_augment=strong"
    assert outcome(cut) == outcome(whole) and outcome(plain)["last.pt"] != outcome(whole)["last.pt"]
