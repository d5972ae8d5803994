"""SemSim: there is no public code and no golden file, so formulas are tested by hand examples, identities and gradients."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import train_SemSim
from torch import nn

from command_line.declarations import option_names
from dataloaders.augmentation.strong_views import mixed_view
from dataloaders.batches.loader import Batch
from engine import parse
from losses import dice_per_class, masked_dice, supervised_loss
from losses.overlap import one_hot
from losses.semantic import (
    affinity,
    agreement,
    cut_mixed,
    local_prototypes,
    middles,
    propagate,
    queried,
    rectified,
    similarities,
    taught,
)
from networks import build
from networks.compiling import compiled
from networks.sfm import merge, split, windows_of


def options(**values):
    return train_SemSim.Method(**{**train_SemSim.PRESETS.get(values.get("variant", ""), {}), **values})


def batch_of(classes=4, side=32, n=2, seed=0, labels=None):
    """n labelled and n unlabelled images of noise."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(2 * n, 1, side, side, generator=draw)
    labels = torch.randint(classes, (n, side // 8, side // 8), generator=draw) if labels is None else labels
    labels = labels.repeat_interleave(side // labels.shape[1], 1).repeat_interleave(side // labels.shape[2], 2)
    return Batch(images, labels, 0, 0, False, tuple("abcdefgh"[: 2 * n]), np.random.default_rng(seed))


def networks(classes=4, side=32):
    torch.manual_seed(0)
    return build("unet", num_classes=classes, dropout=0.0), build("sfm", windows=windows_of((side, side)))


def stepped(given, classes=4, side=32, **more):
    """(terms, network, fusion) of one step."""
    batch = batch_of(classes, side, **more)
    network, fusion = networks(classes, side)
    views = [mixed_view(batch.unlabeled, batch.rng) for _ in range(2)]
    return train_SemSim.losses(network, fusion, batch, views, given), network, fusion


# The fusion module


def test_windows_are_cut_and_joined():
    x = torch.randn(2, 5, 12, 8)
    tokens = split(x, 4)
    assert tokens.shape == (32, 6, 5) and torch.equal(merge(tokens, 4, (12, 8)), x)
    assert torch.equal(tokens[1 * 4 + 2, :, 0].view(3, 2), x[0, 0, 3:6, 4:6]), "window (1, 2) of the first image"


def test_no_window_sees_another():
    sfm = build("sfm", windows=4).eval()
    maps = [torch.randn(1, c, s, s) for c, s in ((32, 16), (64, 8), (128, 4))]
    before = sfm.attend(maps)
    maps[0][:, :, 5, 6] += 1.0  # window (1, 1) of the finest map; its convolution reaches no neighbour from there
    for x, y in zip(before, sfm.attend(maps)):
        step = x.shape[-1] // 4
        moved = F.max_pool2d((x - y).abs().amax(1, keepdim=True), step)[0, 0] > 1e-6
        assert moved[1, 1] and moved.sum() == 1, "the same window at every scale, and no other"


@pytest.mark.parametrize("side, windows", [(224, 7), (256, 8), (256, 4), (64, 4), (32, 4)])
def test_the_fusion_has_the_sides_of_the_middle_map(side, windows):
    sfm = build("sfm", windows=windows).to("meta")
    maps = [torch.empty(2, c, side // s, side // s, device="meta") for c, s in ((32, 2), (64, 4), (128, 8))]
    assert sfm(maps).shape == (2, 128, side // 4, side // 4)


def test_the_published_size_of_the_fusion_and_of_the_tested_network():
    assert sum(p.numel() for p in build("sfm").parameters()) == 800_640  # 0.79 M are published
    assert sum(p.numel() for p in build("unet").parameters()) == 1_813_764


@pytest.mark.parametrize("sides, windows", [((224, 224), 7), ((256, 256), 4), ((64, 64), 4), ((32, 32), 4), ((112, 112), 7), ((224, 96), 4),
                                            ((96, 96), 6), ((16, 32), 2)])
def test_the_largest_number_of_windows_that_divides_every_grid(sides, windows):
    assert windows_of(sides) == windows
    assert all(side // stride % windows == 0 for side in sides for stride in (2, 4, 8))


def test_windows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="16x16, 8x8, 4x4 cannot be cut into 7"):
        build("sfm")([torch.randn(2, c, s, s) for c, s in ((32, 16), (64, 8), (128, 4))])


# Similar positions of an image


def test_affinity_columns_sum_to_one_and_equal_attention():
    features, maps = torch.randn(2, 6, 3, 5), torch.rand(2, 4, 3, 5)
    found = affinity(features, 0.3)
    assert found.shape == (2, 15, 15) and torch.allclose(found.sum(1), torch.ones(2, 15))
    unit = F.normalize(features, dim=1).flatten(2).transpose(1, 2)
    attended = F.scaled_dot_product_attention(unit, unit, maps.flatten(2).transpose(1, 2), scale=1 / 0.3)
    shared = propagate(maps, features, 0.3, factor=1.0) - maps
    assert torch.allclose(shared.flatten(2).transpose(1, 2), attended, atol=1e-6)


def test_equal_features_share_the_mean_and_orthogonal_ones_nothing():
    maps = torch.rand(1, 3, 2, 4)
    shared = propagate(maps, torch.ones(1, 5, 2, 4), factor=1.0) - maps
    assert torch.allclose(shared, maps.mean((2, 3), keepdim=True).expand_as(maps), atol=1e-6)
    alone = torch.eye(8).view(1, 8, 2, 4)
    assert torch.allclose(propagate(maps, alone, temperature=1e-3), maps, atol=1e-6), "M is the identity, and (P + P M) / 2 = P"


def test_two_positions_by_hand():
    """Orthogonal features at temperature 1: M = [[e, 1], [1, e]] / (e + 1)."""
    maps = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    near = math.e / (math.e + 1)
    found = propagate(maps, torch.eye(2).view(1, 2, 1, 2))
    assert torch.allclose(found.flatten(), torch.tensor([(1 + near) / 2, (1 - near) / 2]))


def test_half_of_the_sum_is_a_probability_and_the_sum_is_not():
    logits, features = torch.randn(2, 4, 16, 16), torch.randn(2, 8, 4, 4)
    for on, factor, total in (("probabilities", 0.5, 1.0), ("probabilities", 1.0, 2.0), ("logits", 0.5, 1.0), ("logits", 1.0, 1.0)):
        assert torch.allclose(rectified(logits, features, on, 1.0, factor).sum(1), torch.full((2, 4, 4), total), atol=1e-5)


# Prototypes


def test_one_region_has_the_prototypes_of_the_image():
    features, labels = torch.randn(2, 5, 4, 4), torch.randint(3, (2, 4, 4))
    labels[0, 0, 0] = 255
    prototypes, present = local_prototypes(features, labels, 4, 1)
    for j in range(2):
        for c in range(4):
            chosen = features[j][:, labels[j] == c]
            assert bool(present[j, c]) == (chosen.shape[1] > 0)
            if present[j, c]:
                assert torch.allclose(prototypes[j, c, 0, 0], chosen.mean(1), atol=1e-6)


def test_prototypes_of_regions_by_hand():
    """Two by two regions of one pixel each; class 1 is in the last row, class 2 nowhere."""
    features = torch.tensor([[[[1.0, 0.0], [3.0, 0.0]], [[0.0, 2.0], [0.0, 4.0]]]])
    prototypes, present = local_prototypes(features, torch.tensor([[[0, 0], [1, 1]]]), 3, 2)
    assert present.tolist() == [[True, True, False]]
    assert prototypes[0, 0].tolist() == [[[1.0, 0.0], [0.0, 2.0]], [[0.5, 1.0], [0.5, 1.0]]], "where a region lacks it: of the image"
    assert prototypes[0, 1].tolist() == [[[1.5, 2.0], [1.5, 2.0]], [[3.0, 0.0], [0.0, 4.0]]]
    assert not prototypes[0, 2].any()

    query = torch.tensor([[[[0.0, 3.0], [1.0, 0.0]], [[5.0, 4.0], [1.0, 1.0]]]])
    found = similarities(query, prototypes)
    assert found.shape == (1, 1, 3, 2, 2)
    assert torch.allclose(found[0, 0, 0, 0], torch.tensor([0.0, 0.8]), atol=1e-6)
    assert torch.allclose(found[0, 0, 1, 1], torch.tensor([math.sqrt(0.5), 1.0]), atol=1e-6)

    probabilities = queried(found, present).exp()
    first, second = math.exp(0.0), math.exp(2.0 / math.sqrt(1.5**2 + 2.0**2))  # cosines of (0, 5) with (1, 0) and (1.5, 2)
    assert torch.allclose(probabilities[0, :, 0, 0], torch.tensor([first / (first + second), second / (first + second), 0.0]), atol=1e-6)


def test_several_labelled_images_are_summed_before_the_softmax():
    cosines = torch.tensor([[0.9, -0.2, 0.4], [0.1, 0.7, 0.3]]).view(1, 2, 3, 1, 1)
    present = torch.tensor([[True, True, True], [True, False, True]])
    sums = [math.exp(0.9 / 0.5) + math.exp(0.1 / 0.5), math.exp(-0.2 / 0.5), math.exp(0.4 / 0.5) + math.exp(0.3 / 0.5)]
    want = torch.tensor(sums) / sum(sums)
    assert torch.allclose(queried(cosines, present, 0.5).exp().flatten(), want, atol=1e-6)


def test_without_temperature_prototypes_are_never_sure():
    """Cosines lie in -1..1, so no probability exceeds e / (e + 3 / e) = 0.711; of features that are not negative, e / (e + 3)."""
    present = torch.ones(1, 4, dtype=torch.bool)
    best = torch.tensor([1.0, -1.0, -1.0, -1.0]).view(1, 1, 4, 1, 1)
    assert 0.711 < queried(best, present).exp().max() < 0.712
    assert queried(best.clamp(min=0), present).exp().max() < 0.476
    network, fusion = networks()
    batch = batch_of()
    labels = middles(batch.labels, torch.Size((8, 8)))
    features = fusion(network.encode(batch.images)[1:4])
    assert features.min() >= 0
    prototypes, present = local_prototypes(features[:2], labels, 4, 4)
    assert present.all() and queried(similarities(features[2:], prototypes), present).exp().max() < 0.476


def test_a_labelled_image_repeated_agrees_with_itself():
    features, labels = torch.rand(1, 6, 8, 8), torch.randint(4, (1, 8, 8))
    prototypes, present = local_prototypes(features.repeat(3, 1, 1, 1), labels.repeat(3, 1, 1), 4, 2)
    cosines = similarities(torch.rand(2, 6, 8, 8), prototypes)
    for form in ("softmax", "cosine"):
        assert torch.allclose(agreement(cosines, present, 1000.0, form), torch.ones(2, 1, 8, 8), atol=1e-3)


def test_agreement_by_hand():
    """Two labelled images, two classes, one position, r = 10."""
    cosines = torch.tensor([[0.8, 0.2], [0.4, 0.4]]).view(1, 2, 2, 1, 1)
    present = torch.ones(2, 2, dtype=torch.bool)
    mean = [0.6, 0.3]

    def softmax(x):
        return [math.exp(v) / sum(map(math.exp, x)) for v in x]

    pairs = [([0.8, 0.2], mean), ([0.4, 0.4], mean)]
    divergences = [sum(p * math.log(p / q) for p, q in zip(softmax(x), softmax(m))) for x, m in pairs]
    want = sum(math.exp(-10 * u) for u in divergences) / 2
    assert agreement(cosines, present, 10.0).item() == pytest.approx(want, rel=1e-5)
    raw = [max(0.0, sum(v * math.log(v / w) for v, w in zip(x, m))) for x, m in pairs]
    want = sum(math.exp(-10 * u) for u in raw) / 2
    assert raw[0] > 0 and agreement(cosines, present, 10.0, "cosine").item() == pytest.approx(want, rel=1e-5)


def test_a_class_that_one_image_lacks_is_no_disagreement():
    cosines = torch.tensor([[0.5, 0.9], [0.5, 0.0]]).view(1, 2, 2, 1, 1)
    present = torch.tensor([[True, True], [True, False]])
    assert agreement(cosines, present, 1000.0).item() == pytest.approx(1.0)
    assert agreement(cosines, present, 1000.0, "cosine").item() == pytest.approx(1.0)


@pytest.mark.parametrize("form", ["softmax", "cosine"])
def test_agreement_is_finite_and_at_most_one(form):
    cosines = torch.rand(2, 3, 4, 5, 5) * 2 - 1
    cosines[0, 0, 0] = 0.0
    found = agreement(cosines, torch.rand(3, 4) < 0.7, 1000.0, form)
    assert found.isfinite().all() and found.max() <= 1 and found.min() >= 0


# The terms


def test_masked_dice_is_dice_that_ignores_the_rest():
    p, labels, mask = torch.randn(2, 3, 6, 6).softmax(1), torch.randint(3, (2, 6, 6)), torch.rand(2, 1, 6, 6) < 0.5
    want = dice_per_class(p, labels.masked_fill(~mask[:, 0], 255)).mean()
    assert torch.allclose(masked_dice(p, one_hot(labels, 3)[0], mask), want)
    assert masked_dice(p, one_hot(labels, 3)[0], mask & False) == 0
    assert masked_dice(p, p, mask) == pytest.approx(0.0, abs=1e-6)


def test_boxes_move_predictions_as_they_moved_pixels():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 64, 64)
    rng = np.random.default_rng(3)
    boxed = 0
    for _ in range(20):
        seen, box, partner = mixed_view(images, rng)
        small = cut_mixed(images[..., ::4, ::4], box, partner)
        assert torch.equal(small, torch.where(box, images[partner], images)[..., 2::4, 2::4])
        assert (partner != torch.arange(3)).all() and seen.shape == images.shape
        boxed += int(box.any((1, 2, 3)).sum())
    assert 15 <= boxed <= 45, "about half of 60"


def test_the_pseudo_label_is_cut_where_the_image_is(monkeypatch):
    """Two unlabelled images with a box, the others' half: labels and confidence inside it are the partner's."""
    batch = batch_of(side=32)
    network, fusion = networks()
    box = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    box[0, :, 8:24, 8:24] = True
    view = (batch.unlabeled, box, torch.tensor([1, 0]))
    seen = train_SemSim.losses(network, fusion, batch, [view, view], options(threshold=0.3))
    p = network(batch.images)[2:].softmax(1)
    confidence, labels = p.max(1)
    want = torch.where(box[:, 0], labels.flip(0), labels)
    assert torch.equal(seen["pseudo_labels"], want)
    assert torch.equal(seen["mask"][:, 0], torch.where(box[:, 0], confidence.flip(0), confidence) >= 0.3)


def test_what_reaches_the_threshold_counts_and_grids_need_not_be_square():
    whole = torch.arange(32.0).view(1, 1, 4, 8)
    assert middles(whole, torch.Size((2, 4))).tolist() == [[[[9, 11, 13, 15], [25, 27, 29, 31]]]]
    target = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]])
    view = (whole, torch.zeros(1, 1, 1, 2, dtype=torch.bool), torch.tensor([0]))
    assert taught(target, target, view, 0.5, "soft")[1].all()
    assert taught(target, target, view, 0.75, "hard")[1].tolist() == [[[[False, True]]]]
    assert not taught(target, target, view, 0.8, "soft")[1].any()


def test_no_sure_pixel_leaves_half_of_the_supervised_loss():
    terms, network, fusion = stepped(options(threshold=1.1))
    assert terms["decoder"] == 0 and terms["intra"] == 0 and terms["cross"] == 0
    assert terms["total"] == terms["supervised"] / 2
    terms["total"].backward()
    assert all(p.grad is None or not p.grad.any() for p in fusion.parameters())


def test_terms_are_weighted_as_published():
    terms, *_ = stepped(options(threshold=0.3))
    want = (terms["supervised"] + 0.5 * terms["decoder"] + 0.25 * terms["intra"] + 0.25 * terms["cross"]) / 2
    assert terms["total"].item() == pytest.approx(want.item()) and min(terms[k] for k in ("decoder", "intra", "cross")) > 0


@pytest.mark.parametrize("term, reaches", [("supervised", False), ("decoder", False), ("intra", True), ("cross", True)])
def test_the_fusion_learns_from_the_semantic_terms_alone(term, reaches):
    terms, _, fusion = stepped(options(threshold=0.3))
    terms[term].backward()
    moved = [p.grad is not None and bool(p.grad.any()) for p in fusion.parameters()]
    assert any(moved) == reaches and all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


class Seen(nn.Module):
    """A network with one map a kind of image, so that its gradient tells who was asked to change."""

    def __init__(self, classes):
        super().__init__()
        self.gain = nn.Conv2d(1, classes, 1)
        self.calls = []

    def encode(self, x):
        self.calls.append(x.requires_grad_())
        return [F.avg_pool2d(x, s) if s > 1 else x for s in (1, 2, 4, 8, 16)]

    def decode(self, maps):
        return maps[0]

    def head(self, features):
        return 9 * self.gain(features)


@pytest.mark.parametrize("term", ["decoder", "intra", "cross"])
@pytest.mark.parametrize("variant", ["default", "as_printed"])
def test_no_gradient_reaches_the_weak_view(term, variant):
    batch = batch_of(2, 32)
    network, fusion = Seen(2), build("sfm", widths=(1, 1, 1), windows=4)
    views = [mixed_view(batch.unlabeled, batch.rng) for _ in range(2)]
    given = options(variant=variant, threshold=0.5, feature_dropout=0.0, sharpness=0.1)
    terms = train_SemSim.losses(network, fusion.eval(), batch, views, given)
    assert terms[term] > 0
    gradients = torch.autograd.grad(terms[term], network.calls, allow_unused=True)
    first, strong = (torch.zeros_like(x) if g is None else g for g, x in zip(gradients, network.calls))
    assert not first[2:].any() and first[:2].any() == (term == "cross"), "prototypes of the labelled images may learn, the weak view not"
    half = {"decoder": (True, False), "intra": (True, False), "cross": (False, True)}[term]
    assert (bool(strong[:2].any()), bool(strong[2:].any())) == half


def test_prototypes_and_strong_features_learn_from_the_first_view_and_the_second():
    """s1 feeds the decoder and the affinity, s2 the prototypes (the published assignment of streams)."""
    given = options(threshold=0.2, feature_dropout=0.0)
    batch, (network, fusion) = batch_of(), networks()
    network.eval(), fusion.eval()
    views = [mixed_view(batch.unlabeled, batch.rng) for _ in range(2)]
    blank = (torch.zeros_like(batch.unlabeled), *views[0][1:])
    whole, without = (train_SemSim.losses(network, fusion, batch, v, given) for v in (views, [blank, views[1]]))
    assert whole["cross"] > 0
    assert whole["cross"] == without["cross"] and whole["decoder"] != without["decoder"] and whole["intra"] != without["intra"]


def test_labels_of_255_count_nowhere():
    batch = batch_of()
    blank = Batch(batch.images, torch.full_like(batch.labels, 255), 0, 0, False, batch.cases, batch.rng)
    network, fusion = networks()
    terms = train_SemSim.losses(network, fusion, blank, [mixed_view(blank.unlabeled, blank.rng) for _ in range(2)], options(threshold=0.3))
    assert terms["supervised"] == 0 and terms["total"].isfinite()
    terms["total"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in [*network.parameters(), *fusion.parameters()])


def test_passes_apart_show_batch_norm_each_kind_by_itself():
    joint, *_ = stepped(options(threshold=0.3))
    apart, network, _ = stepped(options(threshold=0.3, passes="apart"))
    assert joint["supervised"] != apart["supervised"]
    batch = batch_of()
    alone = networks()[0](batch.labeled)
    assert apart["supervised"].item() == pytest.approx(supervised_loss(alone, batch.labels).item(), rel=1e-5)


def test_dropped_channels_change_the_strong_decoder_alone():
    kept, *_ = stepped(options(threshold=0.3, feature_dropout=0.0))
    dropped, *_ = stepped(options(threshold=0.3))
    assert kept["decoder"] != dropped["decoder"] and kept["cross"] == dropped["cross"] and kept["supervised"] == dropped["supervised"]


def test_semantic_terms_are_computed_in_float32_under_mixed_precision():
    batch, (network, fusion) = batch_of(), networks()
    views = [mixed_view(batch.unlabeled, batch.rng) for _ in range(2)]
    terms = compiled(train_SemSim.losses, "bf16-mixed", False, torch.device("cpu"))(network, fusion, batch, views, options(threshold=0.3))
    full = train_SemSim.losses(network, fusion, batch, views, options(threshold=0.3, feature_dropout=0.0))
    assert all(value.dtype == torch.float32 for name, value in terms.items() if name not in ("pseudo_labels", "mask"))
    assert terms["total"].isfinite() and terms["supervised"].item() == pytest.approx(full["supervised"].item(), rel=0.02)


# The paper to the letter


def test_as_printed_is_a_set_of_options(tmp_path):
    def values(*words):
        found = parse(train_SemSim.Method, train_SemSim.PRESETS, ["--dataset", "ACDC", "--root_path", str(tmp_path), *words])
        return {name: getattr(found, name) for name in option_names(train_SemSim.Method)}

    ours, printed = values(), values("--variant", "as_printed")
    changed = {name for name in ours if ours[name] != printed[name]}
    assert changed == {"variant", "affinity_factor", "semantic_mask", "semantic_targets", "agreement"}
    assert [printed[name] for name in sorted(changed)] == [1, "cosine", "own", "soft", "as_printed"]
    assert printed["affinity_temperature"] == printed["prototype_temperature"] == 1


def test_as_printed_the_cross_image_term_never_counts():
    """Document point (a): with four classes its own probability stays below 0.95, whatever the features."""
    terms, *_ = stepped(options(variant="as_printed"))
    assert terms["cross"] == 0 and terms["sure_cross"] == 0
    cold, *_ = stepped(options(variant="as_printed", prototype_temperature=0.01))
    assert cold["sure_cross"] > 0


def test_as_printed_two_classes_count_everywhere_inside_an_image():
    """Document point (b): P + P M sums to 2, so of two classes one always exceeds 0.95."""
    batch, (network, fusion) = batch_of(2), networks(2)
    q = rectified(network(batch.images), fusion(network.encode(batch.images)[1:4]), "probabilities", 1.0, 1.0)
    assert (q.amax(1) >= 0.95).all()


# As a script


def test_weights_of_a_run_load_into_the_plain_unet():
    network, fusion = networks()
    plain = build("unet", num_classes=4, dropout=0.0)
    plain.load_state_dict(network.state_dict())
    assert not set(fusion.state_dict()) & set(plain.state_dict())


def run(bench, *words):
    return bench.train("SemSim", *words)


def test_a_run_says_that_it_is_a_reconstruction_and_tests_the_unet(bench):
    done = run(bench, "--max_iterations", "4")
    assert done.code == 0, done.out + done.err
    assert "RECONSTRUCTION" in "".join(done.out.splitlines(True)[:8]) and "4 x 4 windows" in done.out
    best = torch.load(bench.run_folder() / "best.pt", weights_only=True)
    assert list(best["predictors"]) == ["network"] and best["predictors"]["network"]["network"]["name"] == "unet"


@pytest.mark.parametrize("words, sentence", [
    (("--regions", "3"), "--regions 3: a divisor is needed of 8 and 8"),
    (("--model", "nnunet_2D"), "choose images and --model unet"), (("--model", "unet_lite0"), "choose images and --model unet"),
    (("--feature_dropout", "1"), "--feature_dropout 1: 0 to less than 1 is needed"),
    (("--prototype_temperature", "0"), "--prototype_temperature 0: more than 0 is needed"),
])
def test_what_cannot_be_is_refused(bench, words, sentence):
    done = run(bench, *words)
    assert done.code == 2 and sentence in done.err and "Traceback" not in done.err
