"""UniMatch and DSSN: what may count, and what boxes do."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import train_UniMatch
from parity_tools import Stub

from dataloaders.augmentation import strong_views
from dataloaders.augmentation.strong_views import others_of, pasted_view, recoloured_in_part
from dataloaders.batches.loader import Batch, Rows
from dataloaders.catalog import DATA_SETS
from losses import standardised_mse, supervised_loss
from losses.pseudo_labels import class_aware, sure_cross_entropy, sure_dice
from networks import build, logits_with_dropped_channels


def made(mix: str = "shuffled", seed: int = 0) -> Batch:
    """Two labelled and three unlabelled images of 16x20, whose pixels outside are 0 in the last two columns."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(5, 1, 16, 20, generator=draw)
    inside = torch.ones(5, 16, 20)
    inside[:, :, -2:] = 0
    mates = Rows(torch.rand(3, 1, 16, 20, generator=draw), {"inside": torch.ones(3, 16, 20)}, tuple("xyz"))
    return Batch(images, torch.randint(0, 3, (2, 16, 20), generator=draw), 0, 0, False, tuple("abcde"), np.random.default_rng(seed),
                 maps={"inside": inside}, **({"mates": (mates,)} if mix == "other" else {"views": (mates,)}))


def terms(options: train_UniMatch.Method, batch: Batch, box: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """The losses of a network that gives `logits` for the weak rows and for both strong views."""
    n = batch.n_labeled
    network = Stub(logits, torch.cat([logits[n:], logits[n:]]))
    views = [(batch.unlabeled, box)] * 2
    return train_UniMatch.losses(network, batch, views, logits[n:].roll(1, 0), batch.maps["inside"][n:].roll(1, 0), options)


@pytest.mark.parametrize("unsupervised", ["dice", "ce"])
def test_what_is_not_sure_teaches_nothing(unsupervised: str) -> None:
    batch, logits = made(), torch.randn(5, 3, 16, 20)
    options = train_UniMatch.Method(confidence=1.0, unsupervised=unsupervised, feature_dropout=0.0)
    box = torch.zeros(3, 1, 16, 20, dtype=torch.bool)
    found = terms(options, batch, box, logits)
    assert found["strong"] == found["features"] == 0
    assert found["total"] == supervised_loss(logits[:2], batch.labels) / 2


@pytest.mark.parametrize("loss", [sure_cross_entropy, sure_dice])
def test_pixels_below_the_threshold_have_no_say(loss) -> None:
    draw = torch.Generator().manual_seed(1)
    target, logits = 3 * torch.randn(2, 3, 8, 8, generator=draw), torch.randn(2, 3, 8, 8, generator=draw)
    unsure = target.softmax(1).amax(1, keepdim=True) < 0.9
    assert 0 < unsure.float().mean() < 1
    other = torch.where(unsure, torch.randn(2, 3, 8, 8, generator=draw), logits)
    inside = torch.ones(2, 8, 8)
    assert torch.equal(loss(logits, target, inside, 0.9), loss(other, target, inside, 0.9))
    assert loss(logits, target, inside, 0.9) > 0


def test_cross_entropy_is_divided_by_all_pixels_of_the_images() -> None:
    """Half of the pixels are padding, half of the others are sure."""
    target = torch.zeros(1, 2, 4, 4)
    target[:, 0, :2] = 9.0
    inside = torch.zeros(1, 4, 4)
    inside[:, :, :2] = 1
    assert torch.isclose(sure_cross_entropy(torch.zeros(1, 2, 4, 4), target, inside, 0.9), torch.tensor(2.0).log() / 2)


@pytest.mark.parametrize("mix", ["shuffled", "other", "same"])
def test_boxes_show_another_image_and_have_its_label(mix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = made(mix)
    others, inside = others_of(batch, mix)
    expected = batch.unlabeled.roll(1, 0) if mix == "shuffled" else (batch.mates or batch.views)[0].images
    assert torch.equal(others, expected) and inside.shape == (3, 16, 20)
    for share in (0, 1):
        monkeypatch.setattr(strong_views, "cutmix_boxes", lambda rng, n, sides, device, on=share > 0: torch.full((n, 1, *sides), on))
        seen, box = pasted_view(batch.unlabeled, others, batch.rng, (0.0,) * 4, 0.0, 0.0, DATA_SETS["ACDC"])
        assert torch.equal(seen, others if share else batch.unlabeled)
    logits = 20 * torch.randn(5, 3, 16, 20)
    found = terms(train_UniMatch.Method(feature_dropout=0.0), batch, box, logits)
    assert torch.equal(found["pseudo_labels"], logits[2:].roll(1, 0).argmax(1))


def test_grey_leaves_one_channel_alone_and_takes_colours_of_three() -> None:
    one, three = torch.rand(4, 1, 8, 8), torch.rand(4, 3, 8, 8)
    assert torch.equal(recoloured_in_part(one, np.random.default_rng(0), (0.0,) * 4, 1.0, 0.0), one)
    made = recoloured_in_part(three, np.random.default_rng(0), (0.0,) * 4, 1.0, 0.0)
    level = torch.einsum("bchw,c->bhw", three, torch.tensor([0.299, 0.587, 0.114]))
    assert torch.allclose(made, level.unsqueeze(1).expand(-1, 3, -1, -1))


def test_a_class_teaches_near_its_own_best() -> None:
    """Class 1 reaches 0.99 and counts from 0.9504 on; class 0 reaches 0.7 and counts nowhere."""
    p = torch.tensor([[0.99, 0.96, 0.95, 0.3]])
    logits = torch.stack([1 - p, p], 1).log()[..., None]
    assert class_aware(logits)[0, :, 0].tolist() == [True, True, False, False]
    assert class_aware(torch.tensor([[[60.0]], [[0.0]]])[None]).tolist() == [[[True]]]


def test_logits_of_other_scale_and_level_are_aligned() -> None:
    z = torch.randn(2, 4, 5, 6, requires_grad=True)
    assert standardised_mse(z, 3 * z + 7).max() < 1e-9
    assert standardised_mse(z, torch.ones_like(z)).isfinite().all()
    other = torch.randn(2, 4, 5, 6, requires_grad=True)
    standardised_mse(z, other).mean().backward()
    assert z.grad.abs().max() > 0 and other.grad.abs().max() > 0


def test_dropped_channels_change_the_second_logits_alone_and_views_are_recoloured_in_four_of_five() -> None:
    torch.manual_seed(0)
    network, images = build("unet", in_channels=1, num_classes=3, dropout=0.0).eval(), torch.rand(2, 1, 32, 32)
    plain, first, second = logits_with_dropped_channels(network, images, 0.5, times=2)
    assert torch.allclose(plain, network(images), atol=1e-5)
    assert not torch.allclose(first, plain) and not torch.allclose(first, second)
    pictures = torch.rand(2000, 1, 2, 2)
    changed = recoloured_in_part(pictures, np.random.default_rng(0), (0.5, 0.0, 0.0, 0.0), 0.0, 0.0)
    assert abs((changed != pictures).flatten(1).any(1).float().mean() - 0.8) < 0.03
