"""Strong views: what is drawn, what strength 0 leaves alone, and the same meaning in every scale of pixels."""
import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from scipy import stats
from scipy.ndimage import gaussian_filter

from dataloaders.augmentation.strong_views import (
    CHANGES,
    color_jitter,
    cutmix_boxes,
    cutout,
    denormalised,
    gaussian_blur,
    normalised,
    recoloured_in_part,
    without_colours,
)
from dataloaders.errors import UserError
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD
from pictures.flat import COLOURS
from preparation.views import views_sheet

STRONG = dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
VIEWS = {
    "jitter": lambda images, rng, **scale: color_jitter(images, rng, **STRONG, probability=0.7, **scale),
    "blur": lambda images, rng, **scale: gaussian_blur(images, rng, (0.1, 2.0), 0.6),
    "cutout": lambda images, rng, **scale: cutout(images, rng, probability=0.6, **scale),
}


def rng_of(seed=0):
    return np.random.default_rng(seed)


def pictures(n=6, channels=3, side=24, seed=0):
    return torch.rand(n, channels, side, side + 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_views_keep_type_layout_range_and_their_input(name, channels):
    images = pictures(channels=channels).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    strong = VIEWS[name](images, rng_of())
    assert torch.equal(images, before) and strong.shape == images.shape and strong.dtype == torch.float32
    assert strong.is_contiguous(memory_format=torch.channels_last)
    assert strong.min() >= 0 and strong.max() <= 1
    left_alone = [torch.equal(a, b) for a, b in zip(strong, images)]
    assert 0 < sum(left_alone) < len(images), "with these seeds some rows are changed and some are not"
    assert torch.equal(strong, VIEWS[name](images, rng_of())) and not torch.equal(strong, VIEWS[name](images, rng_of(1)))


@pytest.mark.parametrize("name", ["jitter", "blur"])
def test_a_row_does_not_depend_on_the_rows_after_it(name):
    images = pictures()
    torch.testing.assert_close(VIEWS[name](images, rng_of())[:3], VIEWS[name](images[:3], rng_of()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VIEWS)
def test_a_strength_means_the_same_on_normalised_photographs(name):
    scale = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    raw = pictures()
    images = normalised(raw, **scale)
    assert images.min() < -1.5 and images.max() > 2
    strong = denormalised(VIEWS[name](images, rng_of(), **scale), **scale)
    torch.testing.assert_close(strong, VIEWS[name](raw, rng_of()), rtol=0, atol=2e-6)
    assert not torch.allclose(strong, raw, atol=0.1)


def test_other_scales_keep_the_image_s_own_range():
    images = 3 * (pictures(channels=1) - 0.4)
    strong = color_jitter(images, rng_of(), brightness=0.8, contrast=0.8)
    lowest, highest = images.amin((1, 2, 3)), images.amax((1, 2, 3))
    assert (strong.amin((1, 2, 3)) >= lowest - 1e-6).all() and (strong.amax((1, 2, 3)) <= highest + 1e-6).all()
    assert (strong.amin((1, 2, 3)) < 0).any() and not torch.allclose(strong, images, atol=0.2)


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_0_is_the_identity(channels):
    images = pictures(channels=channels)
    assert torch.equal(color_jitter(images, rng_of()), images)
    assert torch.equal(color_jitter(images, rng_of(), **STRONG, probability=0.0), images)
    assert torch.equal(gaussian_blur(images, rng_of(), (0.0, 0.0), 1.0), images)
    assert torch.equal(gaussian_blur(images, rng_of(), probability=0.0), images)
    assert torch.equal(cutout(images, rng_of(), probability=0.0), images)
    torch.testing.assert_close(gaussian_blur(images, rng_of(), (1e-3, 2e-3), 1.0), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_saturation_and_hue_do_nothing_without_three_channels(channels):
    images = pictures(channels=channels)
    assert torch.equal(color_jitter(images, rng_of(), saturation=0.8, hue=0.5), images)
    assert torch.equal(color_jitter(pictures(channels=3).mean(1, keepdim=True), rng_of(), **STRONG),
                       color_jitter(pictures(channels=3).mean(1, keepdim=True), rng_of(), brightness=0.8, contrast=0.8))


def test_factors_are_uniform():
    flat = torch.full((4000, 1, 1, 2), 0.5)
    factors = color_jitter(flat, rng_of(), brightness=0.8)[:, 0, 0, 0].double().numpy() / 0.5
    assert stats.kstest(factors, stats.uniform(0.2, 1.6).cdf).pvalue > 0.01
    halves = torch.tensor([0.4, 0.6]).expand(4000, 1, 1, 2)
    changed = color_jitter(halves, rng_of(1), contrast=0.8)[:, 0, 0].double().numpy()
    assert stats.kstest((changed[:, 1] - changed[:, 0]) / 0.2, stats.uniform(0.2, 1.6).cdf).pvalue > 0.01
    assert np.abs(changed.mean(1) - 0.5).max() < 1e-6, "contrast keeps the mean"
    assert color_jitter(flat, rng_of(2), brightness=3.0).min() > 0, "a factor is never negative"


def test_the_order_of_the_steps_is_drawn_for_each_image():
    """Clipping at 1 before or after the contrast tells which came first."""
    images = torch.tensor([0.5, 0.9]).expand(500, 1, 1, 2)
    strong, draws = color_jitter(images, rng_of(), brightness=0.8, contrast=0.8)[:, 0, 0].double(), rng_of().random((500, 9))
    b, c = 0.2 + 1.6 * draws[:, 1], 0.2 + 1.6 * draws[:, 2]
    values = np.array([0.5, 0.9])

    def contrast(x):
        return np.clip(x * c[:, None] + (1 - c[:, None]) * x.mean(1, keepdims=True), 0, 1)

    first = contrast(np.clip(values * b[:, None], 0, 1))
    second = np.clip(contrast(values[None].repeat(500, 0)) * b[:, None], 0, 1)
    is_first, is_second = (np.abs(strong.numpy() - x).max(1) < 1e-5 for x in (first, second))
    assert (is_first | is_second).all()
    assert 0.35 < (is_first & ~is_second).sum() / (is_first ^ is_second).sum() < 0.65


def test_hue_turns_the_colour_circle():
    images = pictures(n=1, side=6)
    turn = -0.3 + 0.6 * rng_of(4).random((1, 9))[0, 4]
    turned = color_jitter(images, rng_of(4), hue=0.3)[0].flatten(1).T.numpy()
    for before, after in zip(images[0].flatten(1).T.numpy(), turned):
        h, s, v = colorsys.rgb_to_hsv(*before.astype(float))
        assert after == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=1e-5)
    uncoloured = torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    torch.testing.assert_close(color_jitter(uncoloured, rng_of(4), hue=0.5), uncoloured, rtol=0, atol=1e-6)


def test_saturation_keeps_the_grey_level():
    images = 0.3 + 0.4 * pictures()
    strong = color_jitter(images, rng_of(), saturation=0.4)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close((strong * weights).sum(1), (images * weights).sum(1), rtol=0, atol=1e-5)
    assert not torch.allclose(strong, images, atol=0.02)


def test_blur_is_scipy_s():
    images, draws = pictures(n=4, channels=2), rng_of().random((4, 2))
    strong = gaussian_blur(images, rng_of(), (0.1, 2.0), 1.0)
    for image, after, u in zip(images, strong, draws[:, 1]):
        for plane, blurred in zip(image, after):
            expected = gaussian_filter(plane.double().numpy(), 0.1 + 1.9 * u, mode="nearest", radius=6)
            assert blurred.numpy() == pytest.approx(expected, abs=1e-5)


def test_boxes_are_those_of_rejection():
    boxes = cutmix_boxes(rng_of(), 3000, (40, 60), 0.5)
    assert boxes.shape == (3000, 1, 40, 60) and boxes.dtype == torch.bool
    some = boxes[boxes.flatten(1).any(1), 0]
    assert 0.47 < len(some) / 3000 < 0.53
    tall, wide = some.any(2).sum(1), some.any(1).sum(1)
    assert torch.equal(some.flatten(1).sum(1), tall * wide), "a box is a filled rectangle"
    share, ratio = (tall * wide / 2400).numpy(), (tall / wide).numpy()
    assert share.max() <= 0.4 and 0.01 < share.min() < 0.03 and ratio.min() > 0.25 and ratio.max() <= 4
    rng, expected = rng_of(1), []
    while len(expected) < 1500:
        s, r = rng.uniform(0.02, 0.4) * 2400, rng.uniform(0.3, 1 / 0.3)
        h, w = int((s * r) ** 0.5), int((s / r) ** 0.5)
        if rng.integers(40) + h <= 40 and rng.integers(60) + w <= 60:
            expected.append(h * w / 2400)
    assert stats.ks_2samp(share, expected).pvalue > 0.01
    assert not cutmix_boxes(rng_of(), 5, (8, 8), 0.0).any()
    with pytest.raises(ValueError, match="no box"):
        cutmix_boxes(rng_of(), 1, (40, 60), 1.0, (0.9, 1.0), (3.0, 3.0))


def test_cutout_is_black_inside_a_box_and_nothing_outside():
    images, scale = 0.1 + 0.8 * pictures(n=40), dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    strong = denormalised(cutout(normalised(images, **scale), rng_of(), probability=1.0, **scale), **scale)
    inside = cutmix_boxes(rng_of(), 40, images.shape[2:], 1.0).expand_as(images)
    assert strong[inside].abs().max() < 1e-6
    torch.testing.assert_close(strong[~inside], images[~inside])


def eight_bits(image):
    return Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("step, published", enumerate([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]))
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_brightness_contrast_and_saturation_are_pillow_s_to_one_grey_level(step, published, factor):
    images = (255 * pictures(2)).round() / 255
    ours = 255 * CHANGES[step](images, torch.full((2, 1, 1, 1), factor)).clamp(0, 1)
    for k in range(2):
        theirs = np.asarray(published(eight_bits(images[k])).enhance(factor), np.float32)
        assert np.abs(ours[k].permute(1, 2, 0).numpy() - theirs).max() < 1 + abs(factor - 1), "Pillow cuts off, and rounds the level"


def test_blur_is_near_pillow_s_three_boxes():
    image = (255 * pictures(1, side=64)).round() / 255
    for deviation in (0.5, 1.0, 2.0):
        ours = 255 * gaussian_blur(image, rng_of(), (deviation, deviation), 1.0)[0].permute(1, 2, 0).numpy()
        theirs = np.asarray(eight_bits(image[0]).filter(ImageFilter.GaussianBlur(deviation)), np.float32)
        assert np.abs(ours - theirs).mean() < 1.5 < np.abs(theirs - 255 * image[0].permute(1, 2, 0).numpy()).mean() / 10


def test_grey_pictures_have_three_equal_channels_and_come_as_often_as_asked():
    images = pictures(400, side=8)
    changed = without_colours(images, rng_of(), 0.2)
    grey = [bool((c == c[:1]).all()) for c in changed]
    assert 55 < sum(grey) < 105 and all(torch.equal(a, b) for a, b, is_grey in zip(images, changed, grey) if not is_grey)
    level = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    assert all(torch.allclose(c[0], wanted) for c, wanted, is_grey in zip(changed, level, grey) if is_grey)
    one = pictures(4, channels=1)
    assert without_colours(one, rng_of(), 1.0) is one


def test_the_view_of_photographs_changes_most_and_follows_its_generator():
    scale = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    images = normalised(pictures(12), **scale)
    strong = recoloured_in_part(images, rng_of(), (0.5, 0.5, 0.5, 0.25), 0.2, 0.5, **scale)
    again, other = (recoloured_in_part(images, rng_of(seed), (0.5, 0.5, 0.5, 0.25), 0.2, 0.5, **scale) for seed in (0, 1))
    assert torch.equal(strong, again) and not torch.equal(strong, other)
    assert denormalised(strong, **scale).min() > -1e-5 and denormalised(strong, **scale).max() < 1 + 1e-5
    assert sum(torch.equal(a, b) for a, b in zip(images, strong)) < 6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VIEWS)
def test_a_device_gives_the_same_pixels(name, device):
    images = pictures()
    strong = VIEWS[name](images.to(device), rng_of())
    assert strong.device.type == torch.device(device).type
    torch.testing.assert_close(strong.cpu(), VIEWS[name](images, rng_of()), rtol=0, atol=2e-6)
    assert cutmix_boxes(rng_of(), 2, (8, 8), device=device).device.type == torch.device(device).type


def test_a_picture_of_the_views(tiny_acdc, tiny_folder, tmp_path):
    views_sheet([tiny_acdc, tiny_folder], None, tmp_path / "views.png", images=2)
    with Image.open(tmp_path / "views.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    assert shown.shape[1] > 1.8 * shown.shape[0] and len(np.unique(shown.reshape(-1, 3), axis=0)) > 30
    assert (np.abs(shown - COLOURS[1]).max(-1) < 8).sum() > 50, "outlines of the first class"
    with pytest.raises(UserError, match="has volumes"):
        views_sheet([tmp_path], "LA", tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot be written"):
        views_sheet([tiny_folder], None, tmp_path, images=1)
