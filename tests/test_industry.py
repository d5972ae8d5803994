"""ReCo, UCC and UAPS: what can be worked out by hand, beside the golden files."""
from __future__ import annotations

from math import exp, log
from unittest import mock

import numpy as np
import pytest
import torch
import train_ReCo
import train_UAPS
import train_UCC
from parity_tools import Stub, TappedStub, drive, golden_batch, gradient
from torch import nn

from dataloaders.augmentation.copy_paste import half_box, half_boxes
from dataloaders.augmentation.strong_views import grainy
from losses import cross_entropy, dice_loss, supervised_loss
from losses.contrast import drawn, likeness, one_of, regional_contrast, regions
from losses.pseudo_labels import damped_loss
from networks import build, feature_channels

# ReCo


def contrast(query, own, others, hard=1):
    """The loss of one query among six positions of class 0, whose mean is `own`, against six positions of class 1."""
    features = torch.tensor([query, *[own] * 5, *[others] * 6]).requires_grad_()
    valid = torch.tensor([[True] * 6 + [False] * 6, [False] * 6 + [True] * 6])
    asked = torch.zeros(2, 12, dtype=torch.bool)
    asked[0, :hard] = True
    return regional_contrast(features, lambda x: x, valid, asked, 0.5, 256, 256), features


def test_the_contrast_of_a_query_at_its_mean():
    """Of two classes one has no hard position: it counts as 0, so the mean is half of what the other costs."""
    opposite, _ = contrast([1.0, 0.0], [1.0, 0.0], [-3.0, 0.0])
    assert opposite.item() == pytest.approx(log(1 + 256 * exp(-4)) / 2, rel=1e-5)
    alike, _ = contrast([1.0, 0.0], [1.0, 0.0], [2.0, 0.0])
    assert alike.item() == pytest.approx(log(257) / 2, rel=1e-5)


def test_only_queries_take_a_gradient():
    loss, features = contrast([1.0, 0.5], [1.0, 0.0], [0.0, 1.0])
    assert (gradient(loss, features)[0].abs().sum(1) > 0).tolist() == [True] + [False] * 11


def test_all_that_is_contrasted_is_projected():
    torch.manual_seed(0)
    features, matrix, valid = torch.randn(12, 2), torch.randn(2, 3), torch.tensor([[True] * 6 + [False] * 6, [False] * 6 + [True] * 6])
    found = []
    for x, project in ((features, lambda x: x @ matrix), (features @ matrix, lambda x: x)):
        torch.manual_seed(1)
        found.append(regional_contrast(x, project, valid, valid, 0.5, 8, 8))
    torch.testing.assert_close(*found)


def test_one_class_alone_has_nothing_to_be_contrasted_with():
    valid = torch.tensor([[True] * 4, [False] * 4])
    assert regional_contrast(torch.randn(4, 2), lambda x: x, valid, valid, 0.5, 8, 8) == 0
    both = torch.tensor([[True, True, False, False], [False, False, True, True]])
    assert regional_contrast(torch.randn(4, 2), lambda x: x, both, torch.zeros_like(both), 0.5, 8, 8) == 0, "nothing is hard"


def test_positions_are_drawn_from_their_class_and_negatives_from_others():
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (2, 9, 7))
    labels[labels == 3] = 255
    p = torch.rand(2, 5, 9, 7).softmax(1)
    valid, hard = regions(labels, p, 0.2)
    assert valid.sum() == (labels != 255).sum() and not valid[3].any()
    likely = likeness(torch.randn(5, 4), valid.any(1), 0.5)
    classes, at, against = drawn(valid, hard, likely, 40, 30)
    flat = labels.flatten()
    assert classes.tolist() == [0, 1, 2, 4] and at.shape == (4, 40) and against.shape == (4, 40, 30)
    for row, c in enumerate(classes.tolist()):
        assert (flat[at[row]] == c).all() and (p[:, c].flatten()[at[row]] < 0.2).all()
        assert not ((flat[against[row]] == c) | (flat[against[row]] == 255)).any()
        found = torch.bincount(flat[against[row]].flatten(), minlength=5) / 1200
        torch.testing.assert_close(found, likely[c], atol=0.06, rtol=0)


def test_every_position_of_a_class_may_be_drawn():
    torch.manual_seed(0)
    positions = torch.tensor([[False, True, False, True, True], [True, False, False, False, False]])
    found = one_of(positions, torch.zeros(300, dtype=torch.long))
    assert torch.bincount(found, minlength=5).gt(60).tolist() == [False, True, False, True, True]
    assert (one_of(positions, torch.ones(9, dtype=torch.long)) == 0).all()


@pytest.mark.parametrize("confidence, counted", [(0.7, 32), (1.01, 16)])
def test_unsure_unlabelled_positions_are_not_contrasted_and_are_learned_all_the_same(confidence, counted):
    labels = torch.randint(0, 3, (1, 4, 4))
    sure = 9 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    student = TappedStub(*((None, torch.randn(1, 2, 4, 4), torch.zeros(1, 3, 4, 4, requires_grad=True)) for _ in range(2)))
    seen = []

    def spy(features, projection, valid, hard, *more):
        seen.append(valid)
        return features.new_zeros(())

    options = train_ReCo.Method(confidence=confidence, passes="apart")
    with mock.patch.object(train_ReCo, "regional_contrast", spy), mock.patch.object(train_ReCo, "feature_channels", lambda *given: 2):
        (step,) = drive(train_ReCo, options, {"student": student, "projection": nn.Identity()}, [golden_batch(labels, 1)],
                        {"teacher": Stub(sure)}).steps
    assert seen[0].sum() == counted
    assert step.terms["unsupervised"].item() == pytest.approx(step.terms["supervised"].item())


@pytest.mark.parametrize("name, width", [("unet", 16), ("enet", 16), ("pnet", 128), ("vnet", 16)])
def test_how_many_features_a_network_has_is_known_before_it_runs(name, width):
    network = build(name, in_channels=2, num_classes=3)
    assert feature_channels(network, 2, (64, 64, 32)[: network.dimensions]) == width
    assert next(network.parameters()).device.type == "cpu" and network.training


# UCC


def test_a_box_has_half_of_the_area_and_lies_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        (top, left), (bottom, right) = half_box(rng, 20, 33)
        high, wide = bottom - top, right - left
        assert 17 <= wide <= 32 and abs(high * wide - 330) <= wide / 2
        assert 0 <= top < bottom <= 20 and 0 <= left < right <= 33


def test_as_many_rows_have_a_box_as_the_share_says():
    boxes = half_boxes(np.random.default_rng(0), 400, (16, 16), 0.3)
    has = boxes.flatten(1).any(1)
    assert boxes.shape == (400, 1, 16, 16) and 0.2 < has.float().mean() < 0.4
    assert not half_boxes(np.random.default_rng(0), 9, (16, 16), 0.0).any()


def test_boxes_show_the_next_labelled_image_and_both_views_the_same():
    batch = golden_batch(torch.randint(0, 4, (3, 8, 8)), 4)
    batch.images = torch.randn(7, 1, 8, 8)
    strong = torch.randn(4, 1, 8, 8)
    nowhere = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    images, labels, weak, seen = train_UCC.cut_mixed(batch, strong, nowhere, nowhere)
    assert torch.equal(images, batch.labeled) and torch.equal(labels, batch.labels)
    assert torch.equal(weak, batch.unlabeled[:3]) and torch.equal(seen, strong[:3])
    box = half_boxes(np.random.default_rng(1), 3, (8, 8), 1.0)
    images, labels, weak, seen = train_UCC.cut_mixed(batch, strong, box, box)
    for i in range(3):
        following = (i + 1) % 3
        for mixed, within, beyond in (
            (images[i, 0], batch.labeled[following, 0], batch.labeled[i, 0]), (labels[i], batch.labels[following], batch.labels[i]),
            (weak[i, 0], images[i, 0], batch.unlabeled[i, 0]), (seen[i, 0], images[i, 0], strong[i, 0]),
        ):
            assert torch.equal(mixed, torch.where(box[i, 0], within, beyond))


def test_heads_that_agree_leave_the_plain_loss_of_pseudo_labels():
    labels, logits = torch.randint(0, 3, (2, 4, 4)), torch.randn(2, 3, 4, 4)
    stub = Stub((torch.zeros(2, 3, 4, 4),) * 2, (logits, logits), (logits, logits))
    options = train_UCC.Method(model="unet_ucc", passes="apart", own_mix=0.0, cross_mix=0.0)
    (step,) = drive(train_UCC, options, {"network": stub}, [golden_batch(labels, 2)]).steps
    assert step.terms["divergence_1"] == step.terms["divergence_2"] == 0
    plain = supervised_loss(logits, logits.argmax(1))
    torch.testing.assert_close(step.terms["pseudo_1"], plain)
    torch.testing.assert_close(step.terms["pseudo_2"], plain)


def test_damped_by_the_mean_or_pixel_by_pixel():
    logits, labels = torch.randn(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    v = torch.tensor([[[0.0, log(4)]]])  # e^-V: 1 and 1/4
    torch.testing.assert_close(damped_loss(logits, labels, v), supervised_loss(logits, labels) * 0.625)
    first, second = (cross_entropy(logits[..., k : k + 1], labels[..., k : k + 1]) for k in range(2))
    expected = ((first + second / 4) / 2 + dice_loss(logits, labels)) / 2
    torch.testing.assert_close(damped_loss(logits, labels, v, by="pixel"), expected)
    torch.testing.assert_close(damped_loss(logits, labels, v, "none", "pixel"), (first + second / 4) / 2)


def test_specks_are_black_and_noise_is_of_a_few_grey_levels():
    images = torch.full((60, 3, 40, 40), 0.5)
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.5, 0.5)
    given = (images - images.new_tensor(mean).view(3, 1, 1)) / 0.5
    changed = grainy(given, np.random.default_rng(0), 0.5, 0.0, mean, std) * 0.5 + images.new_tensor(mean).view(3, 1, 1)
    black = (changed.abs() < 1e-6).all(1)
    assert 0.3 < black.flatten(1).any(1).float().mean() < 0.7 and 0.005 < black.float().mean() / 0.5 < 0.015
    noisy = grainy(images, np.random.default_rng(0), 0.0, 0.5)
    deviations = (255 * (noisy - images)).flatten(1).std(1)
    touched = deviations > 0
    assert 0.3 < touched.float().mean() < 0.7 and deviations[touched].min() > 3.0 and deviations[touched].max() < 7.4
    assert torch.equal(grainy(images, np.random.default_rng(0), 0.0, 0.0), images)


def test_the_network_of_ucc_is_that_of_unet_with_a_second_decoder():
    network = build("unet_ucc").eval()
    assert sum(p.numel() for p in network.parameters()) == 1_813_764 + 633_300
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        first, second = network(images), network(images)
    assert len(first) == 2 and torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])


def test_perturbed_by_depth_the_finest_maps_stay():
    """The k-th auxiliary decoder reads k maps as they are: without its coarser ones it would read what the main decoder reads."""
    torch.manual_seed(0)
    network = build("unet_cct", by_depth=True, noise=0.5).eval()
    maps = network.encode(torch.randn(1, 1, 32, 32))
    read: list[list[torch.Tensor]] = []
    for decoder in network.auxiliary:
        decoder.forward = lambda inputs: read.append(inputs) or inputs[0]
    network.decode(maps)
    same = [[torch.equal(x, y) for x, y in zip(inputs, maps)] for inputs in read]
    assert [row[:k] for k, row in enumerate(same, 1)] == [[True] * k for k in (1, 2, 3)] and not any(same[0][1:] + same[1][2:])


# UAPS


def uaps(logits, rng, **values):
    labels = torch.randint(0, 3, (2, 4, 4))
    batch = golden_batch(labels, len(logits[0]), 10**6)
    batch.shared_rng = rng
    heads = {"network": Stub((torch.zeros(2, 3, 4, 4),) * len(logits), tuple(logits))}
    options = train_UAPS.Method(model="unet_cct", passes="apart", decoders=len(logits) - 1, **values)
    return drive(train_UAPS, options, heads, [batch]).steps[0]


def test_decoders_that_agree_are_sure():
    logits = torch.randn(2, 3, 4, 4)
    terms = uaps([logits] * 3, np.random.default_rng(0)).terms
    assert terms["uncertainty"].abs() < 1e-6 and torch.equal(terms["pseudo_labels"], logits.argmax(1))
    torch.testing.assert_close(terms["pseudo"], supervised_loss(logits, logits.argmax(1)))


def test_sure_decoders_that_differ_have_a_finite_divergence():
    first, second = torch.tensor([200.0, 0.0, 0.0]), torch.tensor([0.0, 200.0, 0.0])
    logits = [z.view(1, 3, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_() for z in (first, second)]
    terms = uaps(logits, np.random.default_rng(0)).terms
    assert terms["uncertainty"].item() == pytest.approx(100 - log(2), rel=1e-5)
    assert all(g.isfinite().all() for g in gradient(terms["total"], *logits))


def test_shares_are_drawn_or_equal():
    logits = [torch.randn(2, 3, 4, 4) for _ in range(4)]
    mean = torch.stack([z.softmax(1) for z in logits]).mean(0).argmax(1)
    assert torch.equal(uaps(logits, np.random.default_rng(0), mixing="mean").terms["pseudo_labels"], mean)
    step = uaps(logits, np.random.default_rng(0))
    shares = torch.tensor(np.random.default_rng(0).dirichlet([1.0] * 4), dtype=torch.float32)
    torch.testing.assert_close(step.arguments["shares"], shares)
    mixed = sum(s * z.softmax(1) for s, z in zip(shares, logits)).argmax(1)
    assert torch.equal(step.terms["pseudo_labels"], mixed)
