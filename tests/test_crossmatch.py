"""CrossMatch: perturbed images and perturbed features, and who teaches whom."""
import numpy as np
import pytest
import torch
import train_CrossMatch
from parity_cases.cross_match import VIEWS, DecodedStub
from parity_tools import golden_batch

from dataloaders.augmentation.strong_views import cutmix_boxes
from dataloaders.augmentation.strong_volumes import contrast_view, field_view, view_with_boxes
from dataloaders.batches.loader import Rows
from networks import build
from networks.perturbations import without_channels


def rng_of(seed=0):
    return np.random.default_rng(seed)


def volumes(n=6):
    return torch.rand(n, 2, 12, 14, 10, generator=torch.Generator().manual_seed(0))


# The method


def test_without_dropped_channels_the_three_predictions_are_one():
    network = build("unet", num_classes=3, dropout=0.0).eval()
    images = torch.randn(4, 1, 16, 32)
    beside, clean, weak, strong = train_CrossMatch.decoded(network, images[:1], images[1:], (0.0, 0.0))
    assert torch.equal(clean, weak) and torch.equal(clean, strong)
    torch.testing.assert_close(torch.cat([beside, clean]), network(images))
    _, clean, weak, strong = train_CrossMatch.decoded(network, images[:0], images, (0.25, 0.75))
    near, far = ((clean - other).abs().mean() for other in (weak, strong))
    assert len(clean) == 4 and 0 < near < far


@pytest.mark.parametrize("sides", [(8, 8), (4, 4, 4)])
def test_whole_channels_are_dropped_at_their_rate(sides):
    torch.manual_seed(0)
    (dropped,) = without_channels([torch.ones(40, 50, *sides)], 0.75)
    kept = dropped.flatten(2)
    assert ((kept == 0).all(2) | (kept == 4).all(2)).all() and (kept[..., 0] == 0).float().mean().item() == pytest.approx(0.75, abs=0.03)


def terms_of(outputs, boxes, threshold=0.0, **values):
    """A step with stored logits (2, 2, 4, 4) by name; what is not named is 0 everywhere."""
    named = {name: outputs.get(name, torch.zeros(2, 2, 4, 4)) for name in ("labeled", *VIEWS, "mix_clean", "mix_weak", "mix_strong")}
    together = [("labeled", "mix_clean", "mix_weak", "mix_strong"), ("labeled", *VIEWS[:3]), VIEWS[3:]]
    network = DecodedStub(*(torch.cat([named[name] for name in names]) for names in together))
    batch = golden_batch(torch.zeros(2, 4, 4, dtype=torch.long), 2)
    batch.mates = (Rows(batch.unlabeled, {}, ()),)
    views = [(batch.unlabeled, box) for box in boxes]
    return train_CrossMatch.losses(network, batch, views, threshold, train_CrossMatch.Method(**values))


def test_in_a_box_the_other_image_teaches():
    one, other = (torch.tensor([k, -k]).view(1, 2, 1, 1).expand(2, 2, 4, 4) for k in (9.0, -9.0))
    box, none = torch.zeros(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    box[:, :, :2] = True
    taught = terms_of({"clean": one, "mix_clean": other, "mix_weak": one}, (none, box))["taught"]
    first, second, weak, _ = taught.chunk(4)
    assert (first == 0).all() and (second[:, :2] == 1).all() and (second[:, 2:] == 0).all() and (weak == 0).all()


def test_where_nothing_is_sure_half_the_supervised_loss_is_left():
    terms = terms_of({name: torch.randn(2, 2, 4, 4) for name in VIEWS}, [torch.zeros(2, 1, 4, 4, dtype=torch.bool)] * 2, threshold=1.1)
    assert terms["total"] == terms["supervised"] / 2 and not terms["mask"].any()


def test_tau_follows_its_schedule_in_its_unit():
    options = train_CrossMatch.Method(confidence=0.75, confidence_rise=0.25, stretch=2.0, max_iterations=100)
    assert train_CrossMatch.threshold_at(201, options) == pytest.approx(1.0) and train_CrossMatch.threshold_at(100, options) < 0.9
    assert train_CrossMatch.threshold_at(5, train_CrossMatch.Method()) == 0.95


# Strong views of volumes


@pytest.mark.parametrize("view", [contrast_view, field_view])
def test_strong_volumes_keep_places_and_rows(view):
    images = volumes()
    before, edges = images.clone(), (images > 0.5).float()
    strong = view(images, rng_of())
    assert strong.shape == images.shape and strong.isfinite().all() and not torch.equal(strong, images) and torch.equal(images, before)
    options = dict(noise_probability=0.0) if view is contrast_view else dict(blur_probability=0.0)
    changed = view(edges, rng_of(), probability=1.0, **options)
    inner, outer = changed[edges == 1], changed[edges == 0]
    assert (outer == 0).all() and (inner > 0).all() if view is field_view else inner.min() >= outer.max()
    nothing = dict.fromkeys(("probability", *options), 0.0)
    assert torch.equal(view(images, rng_of(), **nothing), images)
    some = view(images, rng_of(), probability=0.5, **options)
    assert 0 < sum(torch.equal(a, b) for a, b in zip(some, images)) < len(images)


def test_a_row_of_strong_volumes_does_not_depend_on_those_behind_it():
    images = volumes()
    for view, options in ((contrast_view, dict(noise_probability=0.0)), (field_view, {})):
        torch.testing.assert_close(view(images, rng_of(), **options)[:2], view(images[:2], rng_of(), **options))


def test_a_volume_is_blurred_along_each_axis():
    point = torch.zeros(1, 1, 13, 13, 13)
    point[0, 0, 6, 6, 6] = 1.0
    blurred = field_view(point, rng_of(), probability=0.0, blur_probability=1.0)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5) and blurred.argmax() == point.argmax()
    spread = [blurred.sum(tuple(k for k in range(5) if k != axis)) @ (torch.arange(13.0) - 6) ** 2 for axis in (2, 3, 4)]
    assert len({round(value.item(), 3) for value in spread}) == 3 and max(spread) < 4


@pytest.mark.parametrize("sides", [(32, 24), (24, 20, 16)])
def test_boxes_cover_their_share_of_images_and_volumes(sides):
    boxes = cutmix_boxes(rng_of(), 300, sides, probability=1.0)
    share = boxes.float().flatten(1).mean(1)
    assert boxes.shape == (300, 1, *sides) and share.max() <= 0.4 and share.min() > 0 and 0.1 < share.mean() < 0.25


@pytest.mark.parametrize("sides", [(32, 32), (16, 16, 16)])
def test_a_view_shows_other_images_in_its_boxes(sides):
    images, others = torch.zeros(8, 1, *sides), torch.ones(8, 1, *sides)
    view, box = view_with_boxes(images, others, rng_of())
    assert box.any() and torch.equal(view > 1e-4, box), "black stays black, and white does not become so"
