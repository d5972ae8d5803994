"""CDMA, IIU and HCE, their networks and what they share: worked out by hand, beside the golden files."""
from __future__ import annotations

from math import exp, log, log2

import pytest
import torch
import train_CDMA
import train_HCE
import train_IIU
from parity_cases.uncertainty import Perturbed
from parity_tools import Stub, drive, golden_batch, gradient
from torch import nn

from dataloaders.errors import UserError
from engine.schedules import SCHEDULES
from losses import contested, eased_mse, supervised_loss
from losses.uncertainty import entropy_bits, entropy_map, instance_variance, instances_of
from networks import build, grouped, risen_decay
from networks.folding import for_inference
from networks.pg_fanet import DilatedSum

LABELS = torch.tensor([[[0, 1, 1, 2], [0, 0, 2, 2]]])


def outline(name, **arguments):
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(name, **arguments)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def sure(labels, classes=3):
    return 60 * nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


# Networks


def test_exact_numbers_of_parameters():
    """Of the decoders of the U-Net with attention: what `unet` has, seven by seven of two maps, and the two layers of each MLP."""
    mlps = [2 * (2 * b) * (2 * b // 16) for b in (128, 64, 32, 16)]
    decoder = sum([476_032, 119_232, 29_920, 7_536]) + 580
    assert parameters(outline("unet_cdma")) == 1_813_764 + 2 * decoder + 2 * 4 * 98 + 2 * sum(mlps)

    resnet50 = 25_557_032 - (2048 * 1000 + 1000)
    pyramid = 2 * 2048 * 256 + 3 * 9 * 2048 * 256 + 1280 * 256 + 6 * 512
    plain = 256 * 48 + 96 + 9 * 304 * 256 + 512 + 9 * 256 * 256 + 256 * 2 + 2
    attention = 2 * 2 * 98 + 2 * (2 * 304 * 19 + 2 * 256 * 16)
    mtnet = outline("mtnet")
    assert parameters(mtnet.backbone) == resnet50 and parameters(mtnet.pyramid) == pyramid
    assert parameters(mtnet) == resnet50 + pyramid + 3 * plain + attention

    resnet34 = 21_797_672 - (512 * 1000 + 1000)
    scores, reduced = 2 * 4 * (9 * 512 * 3 + 3), [2 * (a * 32 + 64 + 1) for a in (64, 128, 256, 512)]
    joined = sum(reduced) + 32 * 32 + 64 + 1 + (35 * 3 + 3) + (9 + 3)
    network = outline("pg_fanet")
    assert parameters(network.first) == resnet34
    assert parameters(network) == 2 * resnet34 - (64 * 3 * 49 + 128) + 65 * 64 + scores + joined


@pytest.mark.parametrize("name, heads, arguments", [
    ("unet_cdma", 3, {"dropout": 0.0}), ("mtnet", 3, {"dropout": 0.0}), ("pg_fanet", 2, {}),
])
def test_shapes_composition_gradients_and_the_main_head_alone(name, heads, arguments, narrow):
    torch.manual_seed(0)
    network = build(name, in_channels=2, num_classes=3, **arguments).train()
    images = torch.randn(2, 2, 32, 48)
    logits = network.head(network.decode(network.encode(images)))
    assert [z.shape for z in logits] == [(2, 3, 32, 48)] * heads
    sum(z.square().sum() for z in logits).backward()
    assert not [key for key, p in network.named_parameters() if (p.grad is None) == p.requires_grad]
    network.eval()
    with torch.no_grad():
        every, main = network(images), for_inference(network)(images)
    torch.testing.assert_close(main, every[0], atol=1e-4, rtol=1e-4)
    multiple = network.multiple
    with pytest.raises(ValueError, match=f"multiples of {multiple}, got .36, 32"):
        network(torch.zeros(1, 2, 36, 32))


def test_kept_statistics_stay_while_factors_learn():
    network = outline("mtnet", stored_norm=True).train()
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms) and network.pyramid.training and all(m.weight.requires_grad for m in norms)
    assert all(m.training for m in outline("mtnet").train().backbone.modules())


def test_the_second_encoder_is_told_where_the_first_sees_anything(narrow):
    """Yes or no, and no gradient reaches the first head by that."""
    torch.manual_seed(0)
    network, told = build("pg_fanet", num_classes=3), []
    network.guide.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0][:, -1].detach()))
    maps = network.encode(torch.randn(2, 3, 32, 32))
    assert set(told[0].unique().tolist()) <= {0.0, 1.0} and told[0].shape == (2, 16, 16)
    network.head(network.decode(maps))[0].sum().backward()
    assert network.scores[0].convolutions[0].weight.grad is None and network.scores[1].convolutions[0].weight.grad is not None


def test_two_of_four_dilated_convolutions_are_summed_or_all():
    heads = {n: DilatedSum(8, 3, n) for n in (2, 4)}
    assert [sum(c.weight.requires_grad for c in head.convolutions) for head in heads.values()] == [2, 4]
    features = torch.randn(1, 8, 5, 5)
    for n, head in heads.items():
        torch.testing.assert_close(head(features), sum(c(features) for c in head.convolutions[:n]))
    assert outline("pg_fanet", branches=4).scores[1].branches == 4


def test_parameters_in_groups_by_the_factor_of_their_rate():
    network = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    groups = grouped(network, train_CDMA.rate_of)
    assert [(len(those), those[0].numel(), factor) for those, factor in groups] == [(1, 6, 1), (1, 3, 2), (1, 3, 10), (1, 1, 20)]


# CDMA


def test_decoders_that_agree_have_nothing_to_distil_and_a_coin_is_one_bit():
    logits = torch.randn(2, 2, 4, 4)
    assert train_CDMA.distilled([logits] * 3, 10.0).abs() < 1e-6
    batch = golden_batch(torch.zeros(1, 4, 4, dtype=torch.long), 1, 1)
    options = train_CDMA.Method(model="unet_cdma", max_iterations=2)
    (step,) = drive(train_CDMA, options, {"network": Stub((torch.zeros(2, 2, 4, 4),) * 3)}, [batch]).steps
    assert step.terms["entropy"].item() == pytest.approx(1, abs=1e-5) and step.terms["distillation"] == 0


def test_distillation_by_hand_and_its_gradient_on_one_side():
    first, second = (torch.tensor([z, 0.0]).view(1, 2, 1, 1).requires_grad_() for z in (10.0, 0.0))
    p = 1 / (1 + exp(-1))
    both = (p * log(p / 0.5) + (1 - p) * log((1 - p) / 0.5)) + (0.5 * log(0.5 / p) + 0.5 * log(0.5 / (1 - p)))
    assert train_CDMA.distilled([first, second], 10.0).item() == pytest.approx(100 / 2 * both, rel=1e-5)
    fixed = [first, second.detach()]
    to_first = gradient(train_CDMA.distilled(fixed, 10.0), first)[0].flatten()
    assert to_first[0].item() == pytest.approx(100 / 2 / 10 * (p - 0.5), rel=1e-5), "of KL(q_2 || q_1) alone"


def test_labels_alone_count_at_first():
    batches = [golden_batch(torch.zeros(1, 4, 4, dtype=torch.long), 1, step) for step in (0, 9, 10)]
    stub = Stub(tuple(torch.randn(2, 2, 4, 4) for _ in range(3)))
    run = drive(train_CDMA, train_CDMA.Method(model="unet_cdma", max_iterations=100), {"network": stub}, batches)
    assert [step.terms["unsupervised"].item() > 0 for step in run.steps] == [False, False, True]


@pytest.mark.parametrize("values, sentence", [
    (dict(model="unet"), "three decoders with attention"), (dict(model="unet_cdma", stored_norm=True), "of a pretrained encoder"),
])
def test_what_cdma_cannot_do(values, sentence):
    with pytest.raises(UserError, match=sentence):
        drive(train_CDMA, train_CDMA.Method(**values), {}, [])


# IIU


def test_the_target_of_an_unsure_teacher_moves_towards_the_student():
    p = torch.randn(1, 3, 2, 2).softmax(1)
    one_hot, uniform = torch.eye(3)[[0, 1, 2, 0]].T.reshape(1, 3, 2, 2), torch.full((1, 3, 2, 2), 1 / 3)
    torch.testing.assert_close(eased_mse(p, one_hot), (p - one_hot) ** 2)
    torch.testing.assert_close(eased_mse(p, uniform), (1 - log(3) / 3) ** 2 * (p - uniform) ** 2)
    assert contested(p, p).abs().max() == 0, "where nothing differs"


def test_predictions_that_agree_cost_nothing():
    logits = sure(LABELS)
    for value in train_IIU.agreement(logits, logits, logits, False).values():
        assert value.abs().max() < 1e-5


def iiu(student, target, **values):
    options = train_IIU.Method(**{"passes": "apart", "dice": "flat", "max_iterations": 10, "ramp": "whole", **values})
    return drive(train_IIU, options, {"student": student}, [golden_batch(LABELS, 1)], {"teacher": Stub(target)}).steps[0]


def test_terms_that_are_not_asked_for_are_not_there():
    heads = tuple(torch.randn(1, 3, 2, 4) for _ in range(2))
    step = iiu(Perturbed(heads, heads), torch.randn(1, 3, 2, 4), terms="intra,inter")
    assert "shape" not in step.terms
    torch.testing.assert_close(step.terms["consistency"], step.terms["intra"] + step.terms["inter"])
    with pytest.raises(UserError, match="write inter, intra, shape"):
        iiu(None, torch.zeros(1), terms="inter,outer")
    with pytest.raises(UserError, match="apart"):
        iiu(None, torch.zeros(1), passes="joint")


def test_one_of_both_sees_noise_and_labelled_images_are_left_alone():
    torch.manual_seed(0)
    heads = tuple(torch.randn(1, 3, 2, 4) for _ in range(2))

    class Seen(Perturbed):
        def encode(self, images):
            self.unlabelled_seen = images
            return [images]

    noisy = []
    for seed in range(12):
        student, teacher = Seen(heads, heads), Stub(torch.randn(1, 3, 2, 4))
        batch = golden_batch(LABELS, 1, seed)
        batch.shared_rng = type("Coin", (), {"integers": staticmethod(lambda n, seed=seed: seed % 2)})
        drive(train_IIU, train_IIU.Method(passes="apart"), {"student": student}, [batch], {"teacher": teacher})
        changed = [not torch.equal(x, batch.unlabeled) for x in (student.unlabelled_seen, teacher.seen[0])]
        assert torch.equal(student.seen[0], batch.labeled) and sum(changed) == 1
        noisy.append(changed[0])
    assert noisy == [False, True] * 6


def test_what_the_heads_read_is_perturbed():
    torch.manual_seed(0)
    features, changed = [torch.randn(2, 8, 4, 4), torch.randn(2, 3, 8, 8), torch.ones(1)], []
    for _ in range(40):
        main, second, last = train_IIU.perturbed(features, 0.5)
        dropped = (main == 0).flatten(2).all(2)
        assert last is features[2] and torch.equal(main[~dropped], 2 * features[0][~dropped])
        changed.append((bool(dropped.any()), not torch.equal(second, features[1])))
    assert all(main for main, _ in changed) and 20 < sum(second for _, second in changed) < 40


@pytest.mark.parametrize("start", ["student", "own"])
def test_where_the_first_teacher_comes_from(start):
    heads = tuple(torch.randn(1, 3, 2, 4) for _ in range(2))
    target = torch.randn(1, 3, 2, 4)
    student, own, kept = Perturbed(heads, heads), Stub(target), Stub(target)
    drive(train_IIU, train_IIU.Method(passes="apart", teacher_start=start), {"student": student, "teacher": own}, [golden_batch(LABELS, 1)],
          {"teacher": kept})
    assert [len(own.seen), len(kept.seen)] == ([1, 0] if start == "own" else [0, 1])
    assert risen_decay(0, 0.99) == 0.1 and risen_decay(889, 0.99) < 0.99 == risen_decay(891, 0.99)


def test_constants_of_both_entropies():
    p = torch.tensor([1 - 1e-9, 1e-9, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    for found, logarithm, constant in ((entropy_map(p), log, 1e-6), (entropy_bits(p), log2, 1e-10)):
        expected = -(1 - 1e-9) * logarithm(1 - 1e-9 + constant) - 1e-9 * logarithm(1e-9 + constant)
        assert found.shape == (1, 1, 1, 1) and found.item() == pytest.approx(expected, abs=1e-14, rel=0)


def test_the_variance_within_objects():
    labels = torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 1]], [[0, 0, 0, 0], [0, 2, 2, 0]]])
    numbers, counts = instances_of(labels)
    assert counts.tolist() == [2, 0] and numbers[0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 2]]
    first = torch.tensor([[1.0, 0.0, 0.3, 0.3], [0.3, 0.3, 0.3, 0.7]])
    p = torch.stack([first, 1 - first]).expand(2, 2, 2, 4)
    # One object of two pixels: variance 0.5 for each of two classes; one of a single pixel; an image without any.
    assert instance_variance(p, labels).item() == pytest.approx((1.0 + 0.0) / 2 / 2, rel=1e-5)
    assert instance_variance(torch.full((2, 2, 2, 4), 0.5), labels) == 0
    three = torch.tensor([0.0, 0.5, 1.0, 0.9]).view(1, 1, 1, 4)
    # 2 * ((1/2)^2 + (1/2)^2) / (3 - 1) of both classes.
    assert instance_variance(torch.cat([three, 1 - three], 1), torch.tensor([[[1, 1, 1, 0]]])).item() == pytest.approx(0.5, rel=1e-5)
    touching = torch.tensor([[[1, 0], [0, 1]]])
    assert instances_of(touching)[1].tolist() == [1], "at a corner"
    assert instance_variance(torch.rand(1, 2, 2, 2), torch.full((1, 2, 2), 255)) == 0


def test_a_rate_that_rises_for_a_twentieth_and_one_that_falls_by_quarters():
    rate = SCHEDULES["poly_warm"]
    assert [rate(step, 1.0, 100) for step in (0, 1, 4)] == pytest.approx([0, 0.2, 0.8])
    assert rate(5, 1.0, 100) == pytest.approx(0.95**0.9) and rate(0, 1.0, 19) == 1.0
    quarters = [SCHEDULES["quarters"](step, 1.0, 150 * 7) for epoch in (37, 75, 112) for step in (epoch * 7 - 1, epoch * 7)]
    assert quarters == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert SCHEDULES["quarters"](0, 1.0, 150 * 7) == 1 and SCHEDULES["quarters"](1049, 1.0, 150 * 7) == pytest.approx(0.001)


# HCE


def hce(heads, target, detach_main=False):
    labels = torch.zeros(1, 2, 4, dtype=torch.long)
    options = train_HCE.Method(model="unet_cct", passes="apart", detach_main=detach_main)
    labeled = tuple(torch.randn(1, 3, 2, 4) for _ in heads)
    (step,) = drive(train_HCE, options, {"student": Stub(labeled, tuple(heads))}, [golden_batch(labels, 1, 10**6)],
                    {"teacher": Stub(target)}).steps
    return step.terms


def test_decoders_that_say_what_a_sure_teacher_says_cost_nothing():
    logits = sure(LABELS)
    terms = hce([logits] * 4, logits)
    assert terms["guidance"] < 1e-6 and terms["self_guidance"] == 0


def test_one_decoder_alone_is_a_mean_teacher_that_weighs_by_sureness():
    logits, target = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4)
    terms, t = hce([logits], target), target.softmax(1)
    weight = (1 + t * t.log()) ** 2
    torch.testing.assert_close(terms["guidance"], (weight * (logits.softmax(1) - t) ** 2).mean())
    assert terms["self_guidance"] == 0


def test_who_takes_a_gradient_of_self_guidance():
    for detached in (False, True):
        heads = [torch.randn(1, 3, 2, 4).requires_grad_() for _ in range(4)]
        target = torch.randn(1, 3, 2, 4).requires_grad_()
        terms = hce(heads, target, detached)
        reached = [bool(g.abs().sum() > 0) for g in gradient(terms["self_guidance"], *heads)]
        assert reached == [not detached, True, True, True]
        assert all(g.abs().sum() > 0 for g in gradient(terms["guidance"], *heads)) and gradient(terms["total"], target)[0].abs().sum() == 0


def test_hce_says_that_it_is_a_reconstruction(capsys):
    hce([torch.zeros(1, 3, 2, 4)], torch.zeros(1, 3, 2, 4))
    assert "HCE is a reconstruction" in capsys.readouterr().out


def test_the_flat_dice_is_one_sum_over_all_classes():
    logits = torch.zeros(1, 2, 1, 2)
    labels = torch.tensor([[[0, 255]]])
    # Of one counted pixel p = 1/2 of either class: 1 - (2 * 1/2 + 1) / (1 + 1 + 1).
    assert supervised_loss(logits, labels, "flat").item() == pytest.approx((log(2) + 1 / 3) / 2, rel=1e-5)
