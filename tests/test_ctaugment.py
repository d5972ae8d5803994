"""CTAugment: its learned policy, and operations that treat image and label alike."""
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dataloaders.augmentation.ctaugment import (
    DEPTH,
    KERNELS,
    OF_DSSN,
    STRONG,
    WEAK,
    CTAugment,
    chances,
    enlarging,
    rescale,
    rotate,
    some_operations,
    value_of,
)
from dataloaders.augmentation.strong_views import normalised
from dataloaders.catalog import DATA_SETS

ACDC, NEU = DATA_SETS["ACDC"], DATA_SETS["NEU-Seg"]
PLACE = np.zeros((1, 2))
NONE = torch.empty((0, 64, 64), dtype=torch.long)
"""A place a row; labels of no row."""


def classes(height=40, width=48):
    """(H, W) labels of three large regions with straight and slanted borders."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (y > 17).long() + (x + y > 50).long()


def picture(channels=1, side=32):
    return (torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(3)) * 255).round() / 255


# The policy


def test_fresh_bins_are_alike_and_sink_with_bad_scores():
    assert chances([1.0] * 17) == pytest.approx(np.full(17, 1 / 17))
    policy = CTAugment(ACDC, 0)
    policy.current = {"weak": [("rotate", [0.5])], "strong": []}
    policy.note(0.0)
    policy.update(np.random.default_rng(0))
    assert policy.rates["rotate"][0] == [1.0] * 8 + [0.99] + [1.0] * 8
    shares = chances(policy.rates["rotate"][0])
    assert shares[8] / shares[0] == pytest.approx((0.99 + 0.01) / 1.01)
    updates = 1
    while chances(policy.rates["rotate"][0])[8] > 0:
        policy.current = {"weak": [("rotate", [0.5])], "strong": []}
        policy.note(0.0)
        policy.update(np.random.default_rng(updates))
        updates += 1
    assert updates == 17
    assert not any(8 <= value_of(policy.rates["rotate"][0], np.random.default_rng(k)) * 17 < 9 for k in range(300))


def test_bins_move_towards_the_mean_score_and_twice_where_an_operation_was_drawn_twice():
    policy = CTAugment(ACDC, 0)
    policy.current = {"weak": [("rescale", [0.0, 0.999]), ("identity", [])], "strong": [("blur", [0.9999]), ("blur", [0.9999])]}
    for score in (0.2, 0.6):
        policy.note(torch.tensor(score))
    policy.update(np.random.default_rng(0))
    assert policy.rates["rescale"][0][0] == pytest.approx(0.994) and policy.rates["rescale"][1][5] == pytest.approx(0.994)
    assert policy.rates["blur"][0][16] == pytest.approx(0.99 * 0.994 + 0.004)
    assert (policy.noted, policy.count) == (0.0, 0)
    assert sum(rate != 1 for lists in policy.rates.values() for rates in lists for rate in rates) == 3


def test_values_are_uniform_and_operations_are_drawn_with_replacement():
    rng, seen, values = np.random.default_rng(0), [], []
    policy = CTAugment(ACDC, 0)
    for _ in range(400):
        policy.update(rng)
        assert set(policy.current) == {"weak", "strong"} and all(len(operations) == DEPTH for operations in policy.current.values())
        seen += [name for operations in policy.current.values() for name, _ in operations]
        values += [value for operations in policy.current.values() for _, given in operations for value in given]
    assert set(seen) == set(WEAK) | set(STRONG) and min(seen.count(name) for name in WEAK) > 60
    assert 0 <= min(values) < 0.01 and 0.99 < max(values) < 1 and np.mean(values) == pytest.approx(0.5, abs=0.02)


def test_one_policy_serves_an_epoch_and_a_restored_one_goes_on_alike():
    policy, other = CTAugment(ACDC, 1), CTAugment(ACDC, 2)
    plans = [policy.sample(np.random.default_rng(k)) for k in range(2)]
    assert plans[0]["weak"] == plans[1]["weak"] and plans[0]["strong"] == plans[1]["strong"] and plans[0]["places"] != plans[1]["places"]
    policy.note(0.3)
    other.load_state_dict(policy.state_dict())
    for one in (policy, other):
        one.note(torch.tensor(0.4))
        one.update(np.random.default_rng(5))
    assert other.state_dict() == policy.state_dict() and policy.current != CTAugment(ACDC, 1).current


# Both views


@pytest.mark.parametrize("data", [ACDC, NEU], ids=["ACDC", "NEU-Seg"])
def test_every_operation_keeps_range_size_and_classes(data):
    label = classes()
    label[:4] = 255
    image = normalised(torch.rand(1, data.channels, 40, 48), data.mean, data.std)
    low, high = (normalised(torch.full((1, data.channels, 1, 1), v), data.mean, data.std)[0] for v in (0.0, 1.0))
    policy = CTAugment(data, 0)
    for weak in WEAK:
        for strong in STRONG:
            for value in (0.0, 0.37, 0.9999):
                plan = {"weak": [(weak, [value, value])] * 2, "strong": [(strong, [value])], "places": [[0.1, 0.9], [0.5, 0.5]]}
                first, moved, second = (x[0] for x in policy.apply(image, label[None], [plan]))
                assert first.shape == second.shape == image[0].shape and first.dtype == second.dtype == torch.float32
                assert moved.dtype == torch.int64 and set(moved.unique().tolist()) <= {0, 1, 2, 255}
                for view in (first, second):
                    assert (view >= low - 1e-5).all() and (view <= high + 1e-5).all()
    assert policy.apply(image, label[None][:0], [plan])[1].shape == (0, 40, 48)


@pytest.mark.parametrize("name", WEAK)
@pytest.mark.parametrize("value", [0.05, 0.4, 0.99])
def test_image_and_label_move_together(name, value):
    """Where the image is the label map, its weak view is the label's (published: not so for cutout, and for smooth resizing)."""
    label = classes()
    image = label[None].float() / 2
    plan = {"weak": [(name, [value, 0.99]), ("cutout", [0.3])], "strong": [], "places": [[0.2, 0.7], [0.9, 0.1]]}
    weak, moved, strong = (x[0] for x in CTAugment(ACDC, 0).apply(image[None], label[None], [plan]))
    assert torch.equal(weak, strong)
    assert torch.equal((2 * weak[0]).round().long(), moved)
    assert not torch.equal(moved, label)


@pytest.mark.parametrize("seed", range(6))
def test_rows_at_once_are_the_rows_one_by_one(seed):
    """As on a GPU, and as on the host; labels to the bit."""
    policy, rng = CTAugment(NEU, seed), np.random.default_rng(seed)
    images, labels = normalised(torch.rand(3, 3, 24, 24), NEU.mean, NEU.std), torch.randint(0, 3, (2, 24, 24))
    plans = [policy.sample(rng) for _ in images]
    weak, moved, strong = policy.apply(images, labels, plans)
    for k, plan in enumerate(plans):
        one, label, other = policy.apply(images[k : k + 1], labels[k : k + 1], [plan])
        torch.testing.assert_close(weak[k : k + 1], one)
        assert torch.equal(moved[k : k + 1], label) and (strong[k : k + 1] - other).abs().max() < 0.1  # a grey level may fall the other way


def test_strong_operations_move_nothing():
    """A strong view of two flat halves is two flat halves, apart from filters at their border."""
    x = torch.full((1, 1, 16, 16), 0.3)
    x[..., 8:] = 0.8
    for name, (_, change) in STRONG.items():
        after = change(x, 0.6).clamp(0, 1)
        assert after[..., :6].std() < 1e-6 and after[..., 10:].std() < 1e-6, name


def test_translation_is_a_share_of_the_side():
    x = torch.zeros(1, 1, 40, 60)
    x[0, 0, 20, 30] = 1
    for name, place in (("translate_x", (20, 30 + 18)), ("translate_y", (20 + 12, 30))):
        after, _ = WEAK[name][1](x, NONE, [0.99999], PLACE)
        assert [tuple(at) for at in (after[0, 0] == 1).nonzero().tolist()] == [place], name
        before, _ = WEAK[name][1](x, NONE, [0.5], PLACE)
        assert torch.equal(before, x)


def test_a_hole_lies_in_image_and_label_and_fills_half_the_shorter_side_at_most():
    label = torch.ones(1, 40, 48, dtype=torch.long)
    x, (moved,) = WEAK["cutout"][1](torch.ones(1, 1, 40, 48), label, [0.9999], PLACE)
    assert torch.equal(x[0, 0].long(), moved) and (moved == 0).sum() == 20**2
    rows, columns = (moved == 0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 14, 33), "around the middle, the upper left of all places"
    assert (WEAK["cutout"][1](torch.ones(1, 1, 40, 48), label, [0.0], np.full((1, 2), 0.99))[1] == 0).sum() == 1


def test_rotation_by_45_degrees_and_back_keeps_the_middle():
    x = torch.arange(33 * 33).view(1, 1, 33, 33).float()
    there, (label,) = rotate(x, x[0].long(), [1.0], PLACE)
    assert torch.equal(there[0, 0].long(), label) and there[0, 0, 16, 16] == x[0, 0, 16, 16] and there[0, 0, 0, 0] == 0
    assert (there == 0).sum() > 100 and rotate(x, NONE, [0.5], PLACE)[0].equal(x)


# Against Pillow, in which the reference implementation is written


def pillow(x):
    levels = (255 * x[0]).round().to(torch.uint8)
    return Image.fromarray(levels[0].numpy() if len(levels) == 1 else levels.movedim(0, -1).numpy())


def tensor(image):
    values = torch.from_numpy(np.asarray(image).copy()).float() / 255
    return values[None, None] if values.dim() == 2 else values.movedim(-1, 0)[None]


def blended(change):
    return lambda image, v: Image.blend(image, change(image), v)


REFERENCE = {
    "autocontrast": blended(ImageOps.autocontrast), "equalize": blended(ImageOps.equalize), "invert": blended(ImageOps.invert),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(0.1 + 1.9 * v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(0.1 + 1.9 * v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(0.1 + 1.9 * v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(0.1 + 1.9 * v),
    "posterize": lambda image, v: ImageOps.posterize(image, 1 + int(7.999 * v)),
    "solarize": lambda image, v: ImageOps.solarize(image, int(255.999 * v)),
    "smooth": blended(lambda image: image.filter(ImageFilter.SMOOTH)), "blur": blended(lambda image: image.filter(ImageFilter.BLUR)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STRONG)
def test_strong_operations_are_pillow_s(name, channels):
    x = 0.2 + 0.5 * picture(channels)
    x = (255 * x).round() / 255
    for value in (0.0, 0.3, 0.85):
        ours, theirs = STRONG[name][1](x, value).clamp(0, 1), tensor(REFERENCE[name](pillow(x), value))
        inner = (..., slice(2, -2), slice(2, -2))  # Pillow leaves the border of filtered images as it was
        torch.testing.assert_close(ours[inner], theirs[inner], rtol=0, atol=2.1 / 255)  # Pillow cuts to integers, once or twice


@pytest.mark.parametrize("name", KERNELS)
def test_rescaling_is_pillow_s(name):
    x, method = 0.4 + 0.2 * picture(), list(KERNELS).index(name)
    ours, _ = rescale(x, NONE, [0.5, (method + 0.5) / 6], PLACE)
    theirs = pillow(x).resize((32, 32), getattr(Image.Resampling, name.upper()), box=(4, 4, 28, 28))
    # Pillow looks at the cut-out only: pixels beyond it count for ours at the border.
    torch.testing.assert_close(ours[..., 4:-4, 4:-4], tensor(theirs)[..., 4:-4, 4:-4], rtol=0, atol=1.6 / 255)
    assert torch.allclose(enlarging(32, 0.0, name), torch.eye(32), atol=1e-6)


# One to three operations, drawn evenly (DSSN)


def test_operations_of_dssn_are_pillow_s_by_their_own_numbers():
    x = (255 * (0.2 + 0.5 * picture(3))).round() / 255
    for name, reference, (low, high) in (("posterize", ImageOps.posterize, (4, 8)), ("solarize", ImageOps.solarize, (1, 256))):
        for seed in range(6):
            number = int(np.random.default_rng(seed).integers(low, high))
            ours = OF_DSSN[name](x, np.random.default_rng(seed))
            torch.testing.assert_close(ours, tensor(reference(pillow(x), number)), rtol=0, atol=1e-6)


def test_each_image_has_one_to_three_operations_of_its_own(monkeypatch):
    seen = []
    for name in list(OF_DSSN):
        monkeypatch.setitem(OF_DSSN, name, lambda x, rng, name=name, real=OF_DSSN[name]: (seen.append((float(x[0, 0, 0, 0]), name)),
                                                                                     real(x, rng))[1])
    images = normalised(torch.rand(40, 3, 8, 8), NEU.mean, NEU.std)
    changed = some_operations(images, np.random.default_rng(0), NEU.mean, NEU.std)
    low, high = (normalised(torch.full((1, 3, 1, 1), v), NEU.mean, NEU.std) for v in (0.0, 1.0))
    assert changed.shape == images.shape and (changed >= low - 1e-5).all() and (changed <= high + 1e-5).all()
    assert 40 < len(seen) < 120 and {name for _, name in seen} == set(OF_DSSN)
    again = some_operations(images[:1], np.random.default_rng(0), NEU.mean, NEU.std)
    torch.testing.assert_close(again, changed[:1])
