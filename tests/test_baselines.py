"""What the pages of ICT, DCT and DAN promise."""
from math import log
from unittest import mock

import numpy as np
import pytest
import torch
import train_DAN
import train_DCT
import train_ICT
from parity_tools import ScriptedRun, Stub, drive, golden_batch, gradient
from torch import nn

from dataloaders.batches.loader import Batch
from dataloaders.catalog import DATA_SETS
from dataloaders.errors import UserError
from engine.fitting import check_network
from networks import build, frozen_copy
from networks.discriminator import average


def batch_of(n_labeled=2, n_unlabeled=2, sides=(16, 32), step=0):
    """Random images, and random labels of 0 and 1."""
    rng = torch.Generator().manual_seed(step)
    images = torch.randn(n_labeled + n_unlabeled, 1, *sides, generator=rng)
    labels = torch.randint(0, 2, (n_labeled, *sides), generator=rng)
    return Batch(images, labels, step, 0, False, tuple(map(str, range(len(images)))), np.random.default_rng(step))


def small_network(seed=0, kernel=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, kernel, padding=kernel // 2), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 2, 1))


def column(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


# ICT


def test_ict_mixes_images_and_predictions_by_the_same_shares():
    student, teacher = Stub(torch.randn(4, 2, 16, 32, requires_grad=True)), Stub(torch.randn(2, 2, 16, 32), torch.randn(2, 2, 16, 32))
    batch = batch_of(2, 4)
    first, second = (logits.softmax(1) for logits in teacher.outputs)
    terms = train_ICT.losses(student, teacher, batch, column(0.0, 1.0), 0.1, train_ICT.Method())
    assert torch.equal(student.seen[0], torch.cat([batch.labeled, batch.unlabeled[:1], batch.unlabeled[3:]]))
    assert torch.equal(torch.cat(teacher.seen), batch.unlabeled), "the teacher sees each half by itself, unmixed"
    expected = student.outputs[0][2:].softmax(1) - torch.stack([first[0], second[1]])
    assert terms["consistency"].item() == pytest.approx(expected.square().mean().item(), rel=1e-6)
    target = train_ICT.mixed(first, second, column(0.3, 0.9))
    torch.testing.assert_close(target.sum(1), torch.ones(2, 16, 32))
    assert target.min() >= 0 and target.max() <= 1


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_ict_has_nothing_to_say_of_two_equal_images(share):
    student = build("unet", num_classes=2).eval()
    batch = batch_of(1, 2)
    batch.images[2] = batch.images[1]
    terms = train_ICT.losses(student, frozen_copy(student).eval(), batch, column(share), 0.1, train_ICT.Method())
    assert terms["consistency"].item() == pytest.approx(0, abs=1e-12)


def test_ict_draws_one_share_a_pair_that_differs_from_step_to_step():
    student, teacher = Stub(torch.zeros(5, 2, 16, 32)), Stub(torch.zeros(3, 2, 16, 32))
    batches = [batch_of(2, 7, step=step) for step in range(40)]  # of seven unlabelled images the last is left out
    run = drive(train_ICT, train_ICT.Method(), {"student": student}, batches, {"teacher": teacher})
    assert student.seen[0].shape == (5, 1, 16, 32) and [len(seen) for seen in teacher.seen[:2]] == [3, 3]
    shares = torch.stack([step.arguments["mix"] for step in run.steps])
    assert shares.shape == (40, 3, 1, 1, 1) and shares.dtype == torch.float32 and len(shares.unique()) > 100
    assert shares.min() >= 0 and shares.max() <= 1
    assert 0.3 < ((shares < 0.02) | (shares > 0.98)).float().mean() < 0.7, "Beta(0.2, 0.2): about half lie near an end"
    again = drive(train_ICT, train_ICT.Method(), {"student": student}, [batch_of(2, 7, step=7)], {"teacher": teacher})
    assert torch.equal(again.steps[0].arguments["mix"], shares[7])
    assert list(run.evaluated) == ["student", "teacher"]


def test_ict_sends_no_gradient_to_the_teacher():
    student = small_network()
    teacher = frozen_copy(student).requires_grad_()
    terms = train_ICT.losses(student, teacher, batch_of(), column(0.4), 0.1, train_ICT.Method())
    terms["total"].backward()
    assert all(p.grad is None for p in teacher.parameters()) and all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("wrong, sentence", [
    (dict(batch_size=13), "choose --batch_size 14 or more"),
])
def test_ict_refuses(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        drive(train_ICT, train_ICT.Method(**wrong), {}, [])


# DCT


@pytest.mark.parametrize("turns", range(4))
def test_dct_is_0_where_the_prediction_turns_with_the_image(turns):
    batch = batch_of(sides=(16, 16))
    terms = train_DCT.losses(small_network(kernel=1).eval(), batch, turns, 0.1, train_DCT.Method())
    assert terms["consistency"].item() == pytest.approx(0, abs=1e-12)
    terms = train_DCT.losses(small_network().eval(), batch, turns, 0.1, train_DCT.Method())
    assert (terms["consistency"].item() < 1e-12) == (turns == 0)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(train_DCT.turned(train_DCT.turned(x, turns), 4 - turns), x)


def test_dct_turns_volumes_in_their_axial_planes():
    x = torch.randn(1, 2, 4, 4, 3)
    assert torch.equal(train_DCT.turned(x, 1), torch.stack([torch.rot90(x[..., z], 1, (2, 3)) for z in range(3)], -1))


def test_dct_half_the_gradient_is_half_of_all_and_reaches_both_sides():
    network, batch = small_network(), batch_of(2, 3, sides=(16, 16))
    found = {kind: train_DCT.losses(network, batch, 1, 0.1, train_DCT.Method(gradient=kind)) for kind in ("half", "full")}
    torch.testing.assert_close(found["half"]["consistency"], found["full"]["consistency"])
    for half, full in zip(*(gradient(found[kind]["consistency"], *network.parameters()) for kind in ("half", "full"))):
        torch.testing.assert_close(half, full / 2, atol=1e-8, rtol=1e-4)
    sides = [torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    for share in gradient(train_DCT.disagreement(*sides, "half"), *sides):
        assert share.abs().sum() > 0


@pytest.mark.parametrize("sides, allowed", [((16, 16), {0, 1, 2, 3}), ((16, 32), {0, 2}), ((16, 16, 32), {0, 1, 2, 3})])
def test_dct_turns_only_as_the_sides_allow_and_says_so(sides, allowed, capsys):
    plain, rotated = torch.zeros(4, 2, *sides), torch.zeros(2, 2, *sides)
    network = Stub(plain, rotated)
    batches = [golden_batch(torch.zeros(2, *sides, dtype=torch.long), 2, step) for step in range(60)]
    run = drive(train_DCT, train_DCT.Method(patch_size=sides), {"network": network}, batches)
    drawn = [step.arguments["turns"] for step in run.steps]
    assert set(drawn) == allowed and min(drawn.count(k) for k in allowed) >= 60 / len(allowed) / 2.5
    assert [len(seen) for seen in network.seen[:2]] == [4, 2], "all images, then the unlabelled ones, turned"
    assert ("0 and 180 degrees only" in capsys.readouterr().out) == (len(allowed) == 2)


# DAN

SIZES = [("discriminator_2D", 4, (256, 256)), ("discriminator_2D", 4, (64, 64)), ("discriminator_2D", 2, (16, 48)),
         ("discriminator_3D", 2, (96, 96, 96)), ("discriminator_3D", 2, (112, 112, 80)), ("discriminator_3D", 2, (16, 16, 16))]


@pytest.mark.parametrize("name, classes, count", [("discriminator_2D", 4, 2_762_754), ("discriminator_3D", 2, 11_024_386)])
def test_discriminators_have_the_published_number_of_parameters(name, classes, count):
    with torch.device("meta"):
        critic = build(name, in_channels=1, num_classes=classes)
    assert sum(p.numel() for p in critic.parameters()) == count


@pytest.mark.parametrize("name, classes, sides", SIZES)
def test_discriminators_take_any_sides(name, classes, sides):
    with torch.device("meta"):
        critic = build(name, in_channels=3, num_classes=classes)
        assert critic(torch.empty(2, classes, *sides), torch.empty(2, 3, *sides)).shape == (2, 2)


def test_a_discriminator_pools_as_published_at_the_published_sides_and_everything_elsewhere():
    torch.manual_seed(0)
    critic = build("discriminator_2D").eval()
    critic.layers = critic.of_map = critic.of_image = critic.classifier = nn.Identity()
    for last, whole in (((15, 14), False), ((20, 20), False), ((21, 14), True), ((4, 13), True)):
        maps = torch.randn(1, 512, *last)
        pooled = nn.functional.adaptive_avg_pool2d(maps, 2) if whole else nn.functional.avg_pool2d(maps, 7)
        torch.testing.assert_close(critic(maps, torch.zeros_like(maps)), pooled.flatten(1))


@pytest.mark.parametrize("sides, parts", [((5, 7), 2), ((1, 1), 2), ((6, 3, 5), 1), ((7, 8), 3)])
def test_averages_are_those_of_adaptive_pooling(sides, parts):
    x = torch.randn(2, 3, *sides)
    pool = nn.functional.adaptive_avg_pool2d if len(sides) == 2 else nn.functional.adaptive_avg_pool3d
    torch.testing.assert_close(average(x, parts), pool(x, parts))


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network, before):
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_dan_each_side_learns_in_its_turn():
    networks = {"segmenter": small_network(), "critic": build("discriminator_2D", num_classes=2)}
    log_of_updates = []
    update = ScriptedRun.update

    def watched(run, optimizers, terms, minimise="total"):
        before = {role: state_of(network) for role, network in networks.items()}
        modes = {role: network.training for role, network in networks.items()}
        update(run, optimizers, terms, minimise)
        log_of_updates.append((minimise, modes, {role: changed(networks[role], before[role]) for role in networks}))

    buffers = []
    losses = train_DAN.critic_losses

    def critic_losses(segmenter, *others):
        before = state_of(segmenter)
        terms = losses(segmenter, *others)
        buffers.append(changed(segmenter, before))
        return terms

    with mock.patch.object(ScriptedRun, "update", watched), mock.patch.object(train_DAN, "critic_losses", critic_losses):
        drive(train_DAN, train_DAN.Method(), networks, [batch_of(2, 3)], rate=0.1)
    (first, second) = log_of_updates
    assert first[:2] == ("total", {"segmenter": True, "critic": False}) and second[:2] == ("critic", {"segmenter": False, "critic": True})
    assert first[2]["segmenter"] and not first[2]["critic"] and second[2]["critic"] and not second[2]["segmenter"]
    assert buffers == [set()], "the critic's maps are made as in a test: no statistics of batch norm move"


def test_dan_without_weight_is_supervised_and_fools_on_unlabelled_images_only():
    segmenter, critic = small_network(), build("discriminator_2D", num_classes=2).eval()
    batch = batch_of(2, 3)
    terms = train_DAN.losses(segmenter, critic, batch, 0.0, train_DAN.Method())
    for total, supervised in zip(*(gradient(terms[name], *segmenter.parameters()) for name in ("total", "supervised"))):
        torch.testing.assert_close(total, supervised)
    logits = torch.randn(5, 2, 16, 32, requires_grad=True)
    terms = train_DAN.losses(Stub(logits), critic, batch, 0.1, train_DAN.Method())
    (to_logits,) = gradient(terms["adversarial"], logits)
    assert not to_logits[:2].any() and to_logits[2:].abs().amax((1, 2, 3)).min() > 0
    assert torch.equal(train_DAN.losses(Stub(logits), critic, batch, 0.1, train_DAN.Method())["adversarial"], terms["adversarial"])


def test_dan_two_means_or_one():
    batch = batch_of(1, 3)
    verdicts = torch.randn(4, 2)
    assert train_DAN.labeled_or_not(batch).tolist() == [1, 0, 0, 0]
    found = {passes: train_DAN.critic_losses(Stub(torch.zeros(4, 2, 16, 32)), lambda maps, images: verdicts, batch,
                                             train_DAN.Method(passes=passes))["critic"] for passes in ("joint", "apart")}
    first = nn.functional.cross_entropy(verdicts[:1], torch.tensor([1]))
    others = nn.functional.cross_entropy(verdicts[1:], torch.tensor([0, 0, 0]))
    torch.testing.assert_close(found["apart"], first + others)
    torch.testing.assert_close(found["joint"], (first + 3 * others) / 4)


def test_a_discriminator_learns_to_tell_two_kinds_of_maps():
    torch.manual_seed(0)
    critic = build("discriminator_2D", num_classes=2)
    maps = torch.cat([torch.full((2, 2, 16, 16), 4.0), torch.full((2, 2, 16, 16), -4.0)]) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    batch = batch_of(sides=(16, 16))
    optimizer = torch.optim.Adam(critic.parameters(), 1e-4, betas=(0.9, 0.99))
    values = []
    for _ in range(50):
        terms = train_DAN.critic_losses(Stub(maps), critic, batch, train_DAN.Method())
        optimizer.zero_grad()
        terms["critic"].backward()
        optimizer.step()
        values.append(terms["critic"].item())
    assert values[0] == pytest.approx(log(2), abs=0.05) and values[-1] < 0.05 and terms["critic_accuracy"] == 1


def test_a_discriminator_is_no_network_that_segments():
    with pytest.raises(UserError, match="--model discriminator_2D: .*unet"):
        check_network("discriminator_2D", build("discriminator_2D"), DATA_SETS["ACDC"], train_DAN.Method(model="discriminator_2D"), False)
    check_network("discriminator_2D", build("discriminator_2D"), DATA_SETS["ACDC"], train_DAN.Method(), False)


def test_dan_refuses_what_its_critic_cannot_see():
    with pytest.raises(UserError, match="--patch_size 8 32: .*16 or more"):
        drive(train_DAN, train_DAN.Method(patch_size=(8, 32)), {}, [])
