"""CAML: what its page promises. The golden files are in parity_cases/caml.py."""
import numpy as np
import pytest
import torch
from harness import Bench

from losses.correlation import Memory, correlation, surest
from networks import build
from networks.cma import CorrelationHeads, CrossSampleAttention


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("sides", [(3, 2), (3, 2, 2)])
def test_samples_see_each_other_in_training_alone(sides):
    attention, x = CrossSampleAttention(8, dropout=0.0), drawn(2, 8, *sides)
    changed = x.clone()
    changed[1] += drawn(*changed[1].shape, seed=1)
    assert not torch.equal(attention(x)[0], attention(changed)[0]) and attention(x).shape == x.shape
    attention.eval()
    assert torch.equal(attention(x), x)


@pytest.mark.parametrize("name, sides, count", [("vnet_cma", (16, 16, 32), 10_672_290), ("unet_cma", (16, 32), 2_210_308)])
def test_networks_with_attention_have_these_parameters_and_test_each_image_by_itself(name, sides, count):
    network = build(name)
    assert sum(p.numel() for p in network.parameters()) == count
    x = drawn(2, 1, *sides)
    with torch.no_grad():
        network.eval()
        torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)
        network.train()
        assert network(x).shape == (2, network.out.out_channels, *sides)


def test_what_is_remembered_is_predicted_by_running_statistics():
    heads, rows = CorrelationHeads(5), drawn(7, 5)
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    one, all_ = heads(rows[:1], True), heads(rows, True)
    torch.testing.assert_close(one, all_[:1])
    assert all(torch.equal(value, before[name]) for name, value in heads.state_dict().items())
    heads(rows)
    assert not torch.equal(heads.projection[1].running_mean, before["projection.1.running_mean"])


def test_a_memory_has_the_latest_of_each_image_and_goes_on_after_a_kill():
    memory, labels = Memory(stored=3), torch.tensor([[0, 0, 1, 255], [0, 0, 1, 1]])
    at = memory.chosen(labels, labels != 255, rng())
    classes = labels.flatten()[at]
    assert torch.equal(at, at.sort().values) and classes.bincount().tolist() == [3, 3] and 3 not in at
    memory.remember({"b": {"vectors": drawn(6, 2), "classes": classes},
                     "a": {"vectors": drawn(2, 2, seed=1), "classes": torch.tensor([1, 1])}})
    memory.remember({"b": {"vectors": drawn(1, 2, seed=2), "classes": torch.tensor([0])}})
    assert memory.drawn(2, rng()).shape == (2, 2), "of class 0 one vector is known, too few"
    assert memory.drawn(3, rng()) is None and Memory(3).drawn(1, rng()) is None
    other = Memory(stored=3)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.drawn(1, rng()), memory.drawn(1, rng()))


def test_nothing_right_is_nothing_remembered():
    labels = torch.tensor([[0, 1]])
    assert len(Memory(3).chosen(labels, torch.zeros_like(labels, dtype=torch.bool), rng())) == 0


def test_the_surest_of_each_class_come_first():
    assert surest(torch.tensor([1, 0, 0, 1, 0]), torch.tensor([0.6, 0.7, 0.9, 0.8, 0.5]), 2).tolist() == [2, 1, 3, 0]


def test_correlations_are_distributions_that_point_to_the_nearest():
    memory = torch.eye(3)
    found = correlation(5 * memory, memory, 0.1)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert found.argmax(1).tolist() == [0, 1, 2]


def test_a_network_without_features_before_its_last_convolution_is_refused(bench: Bench):
    end = bench.train("CAML", "--model2", "pnet")
    assert end.code == 2 and "choose another network" in end.err and "Traceback" not in end.err


def test_features_of_fewer_positions_than_the_image_are_enlarged(bench: Bench):
    end = bench.train("CAML", "--model", "deeplabv3plus_lite0", "--max_iterations", "2", "--val_every", "2", "--save_every", "2",
                      "--memory_per_class", "2")
    assert end.code == 0, end.out + end.err
