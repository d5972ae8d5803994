"""Co-BioNet: what its page promises. The golden files are in parity_cases/co_bionet.py."""
import pytest
import torch
import train_CoBioNet
from harness import Bench
from parity_tools import Stub, golden_batch, gradient
from torch import nn

from networks import build

LABELS = torch.tensor([[[0, 1, 1, 2], [2, 1, 0, 255]]])


def answers(seed=0):
    """What a network says when it is asked for one labelled row, two unlabelled ones and all three."""
    torch.manual_seed(seed)
    return [torch.randn(rows, 3, 2, 4, requires_grad=True) for rows in (1, 2, 3)]


class Verdict(nn.Module):
    """A critic that says one thing of every position."""

    def __init__(self, logit):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, maps):
        return self.logit + 0 * maps[:, :1]


def terms_of(first, second, critics=(9.0, 9.0), weight=1.0, **values):
    given = [Verdict(one) if isinstance(one, float) else one for one in critics]
    return train_CoBioNet.losses([Stub(*first), Stub(*second)], given, golden_batch(LABELS, 2), weight, train_CoBioNet.Method(**values))


@pytest.mark.parametrize("dimensions, classes, count", [(3, 2, 2_866), (2, 2, 2_866), (2, 4, 2_898)])
def test_critics_have_the_published_number_of_parameters_and_see_no_neighbour(dimensions, classes, count):
    critic = build(f"point_critic_{dimensions}D", num_classes=classes).eval()
    assert sum(p.numel() for p in critic.parameters()) == count
    maps = torch.rand(2, classes - 1, *[5] * dimensions)
    changed = maps.clone()
    changed[(..., *[2] * dimensions)] += 1
    differ = (critic(maps) != critic(changed)).flatten(1)
    assert critic(maps).shape == (2, 1, *[5] * dimensions) and differ.sum(1).tolist() == [1, 1]


def test_where_a_critic_trusts_nothing_nothing_is_taught_once_more():
    doubted, trusted = terms_of(answers(), answers(1), (-9.0, -9.0)), terms_of(answers(), answers(1))
    assert doubted["masked_1"] == doubted["masked_2"] == 0 and not doubted["trusted_1"].any()
    torch.testing.assert_close(trusted["masked_1"], trusted["difference_1"])
    half = terms_of(answers(), answers(1), (-9.0, 9.0))
    assert half["masked_1"] > 0 == half["masked_2"], "the critic of the other network decides"


def test_a_network_learns_from_the_other_one_and_moves_it_not():
    first, second = answers(), answers(1)
    terms = terms_of(first, second)
    slopes = gradient(terms["difference_1"] + terms["masked_1"], first[1], second[1])
    assert slopes[0].any() and not slopes[1].any()
    counted = terms_of(first, second, difference="counted")
    assert counted["difference_1"] == terms["difference_1"] and not counted["difference_1"].requires_grad


def test_critics_and_networks_each_have_a_loss_of_their_own():
    first, second, critics = answers(), answers(1), [Verdict(0.5), Verdict(-0.5)]
    terms = terms_of(first, second, critics)
    assert not any(slope.any() for slope in gradient(terms["critic"], *first, *second))
    assert all(slope.any() for slope in gradient(terms["critic"], *(critic.logit for critic in critics)))
    weights = {"supervised": 1, "difference": 1, "masked": 1, "adversarial": 0.01}
    together = sum(factor * terms[f"{name}_{k}"] for k in (1, 2) for name, factor in weights.items())
    torch.testing.assert_close(terms["total"], together)


def test_an_ignored_pixel_teaches_nothing():
    first, second = answers(), answers(1)
    slope = gradient(terms_of(first, second)["supervised_1"], first[0])[0]
    assert not slope[0, :, 1, 3].any() and slope[0].any(0).sum() == 7


@pytest.mark.parametrize("words, moves", [((), True), (("--variant", "published_code"), False)])
def test_critics_move_unless_they_are_the_released_ones(words, moves, bench: Bench):
    end = bench.train("CoBioNet", "--max_iterations", "2", "--adversarial_weight", "1", *words)
    assert end.code == 0, end.out + end.err
    kept = torch.load(bench.run_folder() / "last.pt", weights_only=True)["networks"]
    for role in ("critic1", "critic2"):
        norms = [value for name, value in kept[role]["state"].items() if name in ("1.weight", "4.weight", "7.weight", "10.weight")]
        assert len(norms) == 4 and any((norm != 1).any() for norm in norms) == moves
