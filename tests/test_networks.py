"""The 2D U-Net and the copies that are not trained."""
import copy

import pytest
import torch
from torch import nn

from networks import average_weights, build, ema_update, frozen_copy


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name, channels, classes, count", [
    ("unet", 1, 4, 1_813_764), ("unet", 1, 2, 1_813_474), ("unet", 3, 4, 1_814_052), ("unet_32", 1, 4, 1_847_460),
    ("unet_transposed", 3, 4, 1_944_612),
])
def test_exact_number_of_parameters(name, channels, classes, count):
    assert parameters(build(name, in_channels=channels, num_classes=classes)) == count


def test_parts_of_the_unet_have_their_published_sizes():
    network = build("unet")
    assert [parameters(part) for part in (network.stem, *network.down)] == [2544, 14016, 55680, 221952, 886272]
    assert [parameters(part) for part in (*network.up, network.out)] == [476032, 119232, 29920, 7536, 580]
    assert sum(b.numel() for b in network.buffers()) == 2962
    dropout = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert dropout == [0.05, 0.1, 0.2, 0.3, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["unet", "unet_transposed"])
@pytest.mark.parametrize("height, width", [(32, 48), (16, 16)])
def test_shapes_and_composition(name, height, width):
    torch.manual_seed(0)
    network = build(name, in_channels=2, num_classes=3).eval()
    images = torch.randn(2, 2, height, width)
    with torch.no_grad():
        maps = network.encode(images)
        features = network.decode(maps)
        logits = network.head(features)
        assert torch.equal(logits, network(images))
    assert [tuple(m.shape) for m in maps] == [(2, 16 * 2**k, height // 2**k, width // 2**k) for k in range(5)]
    assert features.shape == (2, 16, height, width) and logits.shape == (2, 3, height, width)


@pytest.mark.parametrize("size", [(40, 32), (32, 40), (8, 8)])
def test_sides_that_are_no_multiples_of_16_are_refused(size):
    with pytest.raises(ValueError, match=f"multiples of 16, got .{size[0]}, {size[1]}"):
        build("unet")(torch.zeros(1, 1, *size))


def test_dropout_0_is_deterministic_in_train_mode_and_the_published_rates_are_not():
    images = torch.randn(2, 1, 32, 32)
    for scale, same in ((0.0, True), (1.0, False)):
        network = build("unet", dropout=scale).train()
        assert torch.equal(network(images), network(images)) is same


def test_the_decoder_reads_every_skip_map():
    torch.manual_seed(0)
    network = build("unet").eval()
    maps = [m.detach().requires_grad_() for m in network.encode(torch.randn(1, 1, 32, 32))]
    network.head(network.decode(maps)).sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)


def test_spec_rebuilds_the_network():
    torch.manual_seed(1)
    network = build("unet_transposed", in_channels=3, num_classes=2, dropout=0.5).eval()
    other = build(network.spec["name"], **network.spec["arguments"]).eval()
    other.load_state_dict(network.state_dict())
    images = torch.randn(1, 3, 16, 32)
    assert torch.equal(network(images), other(images)) and other.spec == network.spec
    assert [m.p for m in other.modules() if isinstance(m, nn.Dropout)][:5] == [0.025, 0.05, 0.1, 0.15, 0.25]


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match="'unnet'.*unet, .*unet_transposed, .*vnet"):
        build("unnet")


def test_initial_weights_follow_from_the_seed():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build("unet").state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))
    assert not torch.equal(states[0]["out.weight"], states[2]["out.weight"])


def test_frozen_copy_takes_no_gradient_and_lives_apart():
    network = build("unet", num_classes=2)
    teacher = frozen_copy(network)
    assert all(p.requires_grad for p in network.parameters()) and not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), teacher.state_dict().values()))
    assert not teacher(torch.randn(2, 1, 16, 16)).requires_grad
    with torch.no_grad():
        network.out.bias += 1
    assert not torch.equal(network.out.bias, teacher.out.bias)


def test_moving_average_copies_first_then_halves_then_keeps_its_decay():
    torch.manual_seed(0)
    teacher, student = frozen_copy(nn.BatchNorm2d(2)), nn.BatchNorm2d(2)
    teacher.weight[:] = 5
    student.weight.data[:] = torch.tensor([1.0, 2.0])
    student.running_mean[:] = 7
    ema_update(teacher, student, 0, 0.99)
    assert torch.equal(teacher.weight, student.weight) and torch.equal(teacher.running_mean, torch.zeros(2))
    student.weight.data[:] = 3
    ema_update(teacher, student, 1, 0.99)
    torch.testing.assert_close(teacher.weight, torch.tensor([2.0, 2.5]))
    student.weight.data[:] = 0
    ema_update(teacher, student, 500, 0.99)
    torch.testing.assert_close(teacher.weight, torch.tensor([1.98, 2.475]))


def test_averages_of_buffers_when_asked_for():
    teacher, student = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    student.running_var[:], student.num_batches_tracked[()] = 3, 7
    before = copy.deepcopy(student.state_dict())
    average_weights(teacher, student, 0.5, buffers=True)
    assert torch.equal(teacher.running_var, torch.full((2,), 2.0)) and teacher.num_batches_tracked == 3
    assert all(torch.equal(a, b) for a, b in zip(before.values(), student.state_dict().values()))
