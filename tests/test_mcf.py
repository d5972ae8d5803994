"""MCF: what its page promises."""
import pytest
import torch
import train_MCF
from parity_tools import Stub, drive, golden_batch, gradient

from dataloaders.errors import UserError
from losses import dice_loss, sharpened
from networks import build
from networks.ensembles import MeanProbabilities

LABELS = torch.tensor([[[0, 1, 1, 2], [2, 1, 0, 255]]])


def answers(seed=0, rows=3):
    torch.manual_seed(seed)
    return torch.randn(rows, 3, 2, 4, requires_grad=True)


def terms_of(first, second, labels=LABELS, weight=0.1, **values):
    options = train_MCF.Method(dice="foreground", **values)
    return train_MCF.losses(Stub(first), Stub(second), golden_batch(labels, len(first) - len(labels)), weight, options)


def test_networks_that_agree_are_not_corrected():
    same, labels = answers(), LABELS
    terms = terms_of(same, 2 * same)
    assert terms["correction_1"] == terms["correction_2"] == 0 and not terms["disagreement"].any()
    assert terms_of(same, answers(1), labels)["correction_1"] > 0


def test_a_pixel_that_is_ignored_is_none_where_networks_disagree():
    first, second = answers(), answers(1)
    with torch.no_grad():
        first[0, :, 1, 3], second[0, :, 1, 3] = torch.tensor([9.0, 0, 0]), torch.tensor([0, 9.0, 0])
    assert terms_of(first, second)["disagreement"][0, 1, 3] == 0
    shown = torch.where(LABELS == 255, 0, LABELS)
    assert terms_of(first, second, shown)["disagreement"][0, 1, 3] == 1


def test_the_better_one_on_labels_teaches_and_only_the_other_learns():
    first, second = answers(), answers(1)
    for one, other in ((first, second), (second, first)):
        terms = terms_of(one, other)
        better = dice_loss(one[:1], LABELS, foreground_only=True) < dice_loss(other[:1], LABELS, foreground_only=True)
        assert bool(terms["first_wins"]) == better and torch.equal(terms["pseudo_labels"], (one if better else other)[1:].argmax(1))
        found = gradient(terms["consistency"], *((other, one) if better else (one, other)))
        assert found[0][1:].any() and not found[0][:1].any() and not found[1].any()


def test_what_is_taught_is_a_distribution_that_the_temperature_makes_surer():
    logits = answers().detach()
    for temperature in (0.1, 1.0):
        torch.testing.assert_close(sharpened(logits, temperature).sum(1), torch.ones(3, 2, 4))
    torch.testing.assert_close(sharpened(logits, 1.0), logits.softmax(1))
    p = logits.softmax(1)
    torch.testing.assert_close(sharpened(logits, 0.1), p**10 / (p**10).sum(1, keepdim=True))


def test_every_image_twice_changes_no_loss():
    first, second = answers().detach(), answers(1).detach()
    once = terms_of(first, second)
    twice = terms_of(*(torch.cat([x[:1], x[:1], x[1:], x[1:]]) for x in (first, second)), labels=LABELS.repeat(2, 1, 1))
    for name in ("total", "consistency", "correction_1", "supervised_2"):
        torch.testing.assert_close(once[name], twice[name], rtol=1e-4, atol=1e-5)


def test_the_ensemble_predicts_the_mean_of_probabilities():
    first, second = answers().detach(), answers(1).detach()
    together = MeanProbabilities([Stub(first), Stub(second)])(torch.zeros(3, 1, 2, 4))
    torch.testing.assert_close(together.softmax(1), (first.softmax(1) + second.softmax(1)) / 2)


def test_two_networks_of_one_kind_are_refused():
    with pytest.raises(UserError, match="--model2 unet: MCF trains networks of two kinds"):
        drive(train_MCF, train_MCF.Method(model2="unet"), {}, [])


@pytest.mark.parametrize("name, sides", [("resvnet", (32, 16, 16)), ("resvnet_2D", (32, 16))])
def test_initial_weights_of_the_residual_networks(name, sides):
    network = build(name, in_channels=2, num_classes=3).train()
    assert network(torch.randn(2, 2, *sides)).shape == (2, 3, *sides)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d) and module.weight.numel() > 10_000:
            assert module.weight.var().item() == pytest.approx(2 / module.weight[0].numel(), rel=0.1)
    assert all((norm.weight == 1).all() for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d))
