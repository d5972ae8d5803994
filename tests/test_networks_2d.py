"""ENet, PNet, the U-Nets with EfficientNet encoder and with attention gates. Numbers were measured on published classes (gates: ours)."""
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.fitting import start
from networks import build, names
from networks.enet import unpool
from networks.folding import for_inference

IMAGES = ["attention_unet_2D", "efficient_unet", "enet", "pnet", "resvnet_2D"]


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def outline(name, **arguments):
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(name, **arguments)


@pytest.mark.parametrize("name, count, buffers, gflop", [
    ("enet", 349_284, 8_696, 0.931), ("pnet", 486_596, 1_290, 63.460), ("attention_unet_2D", 1_836_376, 3_462, 6.035),
    ("efficient_unet", 13_158_236, 89_368, 7.600), ("resvnet_2D", 6_070_324, 10_386, 12.224),
])
def test_exact_numbers_and_shape_at_the_published_sides(name, count, buffers, gflop):
    network = outline(name)
    assert parameters(network) == count and sum(b.numel() for b in network.buffers()) == buffers
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = network.eval()(torch.empty(1, 1, 256, 256, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=1e-3) and logits.shape == (1, 4, 256, 256)


def test_parts_have_their_published_sizes():
    pnet = outline("pnet")
    assert [parameters(part) for part in (*pnet.blocks, pnet.join, pnet.out)] == [37_824, *[74_112] * 4, 143_808, 8_516]
    gates, plain = outline("attention_unet_2D"), outline("unet")
    assert all(parameters(a) == parameters(b) for a, b in zip((gates.stem, *gates.down, gates.out), (plain.stem, *plain.down, plain.out)))
    # theta and phi with their norms, then psi with its own.
    assert [parameters(a) - parameters(b) for a, b in zip(gates.up, plain.up)] == [
        2 * (b * b // 2 + b // 2 + b) + b // 2 + 1 + 2 for b in (128, 64, 32, 16)]


@pytest.mark.parametrize("name", IMAGES)
def test_shapes_composition_and_gradients(name):
    torch.manual_seed(0)
    network = build(name, in_channels=2, num_classes=3, dropout=0.0).train()
    sides = (64, 96) if name == "efficient_unet" else (32, 48)
    images = torch.randn(2, 2, *sides)
    maps = network.encode(images)
    for part in maps:
        part.retain_grad()
    logits = network.head(network.decode(maps))
    assert logits.shape == (2, 3, *sides)
    logits.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    assert not [key for key, p in network.named_parameters() if (p.grad is None) == p.requires_grad]
    network.eval()
    with torch.no_grad():
        assert torch.equal(network.head(network.decode(network.encode(images))), network(images))
        torch.testing.assert_close(for_inference(network)(images), network(images), atol=1e-4, rtol=1e-4)


def test_maps_of_the_encoders():
    x = torch.empty(1, 1, 32, 48, device="meta")
    assert [tuple(m.shape[1:]) for m in outline("enet").eval().encode(x)] == [(16, 16, 24), (64, 8, 12), (128, 4, 6)]
    assert [tuple(m.shape[1:]) for m in outline("pnet").eval().encode(x)] == [(64, 32, 48)] * 5
    assert [tuple(m.shape[1:]) for m in outline("attention_unet_2D").eval().encode(x)] == [(16 << k, 32 >> k, 48 >> k) for k in range(5)]


def test_the_encoder_of_efficient_unet():
    network = outline("efficient_unet").eval()
    assert [tuple(m.shape[1:]) for m in network.encode(torch.empty(1, 1, 64, 96, device="meta"))] == [
        (40, 32, 48), (32, 16, 24), (48, 8, 12), (136, 4, 6), (384, 2, 3)]
    assert (parameters(network.encoder), parameters(network.up)) == (10_695_512, 2_462_656)
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 592_896, "the unused head"


def test_dropped_branches_of_efficient_unet():
    def rates(scale):
        blocks = outline("efficient_unet", dropout=scale).encoder._blocks.modules()
        return [block.drop_connect_rate for block in blocks if hasattr(block, "drop_connect_rate")]

    assert rates(1.0) == pytest.approx([0.2 * k / 26 for k in range(26)]) and rates(0.5) == pytest.approx([0.1 * k / 26 for k in range(26)])
    assert not any(rates(0.0))
    torch.manual_seed(0)
    network, images = build("efficient_unet", dropout=0.0).train(), torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("channels", [1, 3])
def test_efficient_unet_starts_from_published_weights(tmp_path, channels):
    torch.manual_seed(0)
    whole = build("efficient_unet", in_channels=3).encoder
    published = {re.sub(r"_blocks\.\d+\.", "_blocks.", name): tensor for name, tensor in whole.state_dict().items()}
    torch.save({**published, "_fc.weight": torch.ones(1000, 1536), "_fc.bias": torch.ones(1000)}, tmp_path / "b3.pth")
    network = build("efficient_unet", in_channels=channels)
    said = start(network, tmp_path / "b3.pth")
    assert "with another shape, and 2 have no place here" in said and "0 were offered with another shape" in said
    for (name, mine), theirs in zip(network.encoder.state_dict().items(), whole.state_dict().values(), strict=True):
        if name == "_conv_stem.weight" and channels == 1:
            theirs = theirs.sum(1, keepdim=True)
        assert torch.equal(mine, theirs), name


def test_rates_of_dropout_and_their_scale():
    def rates(name, scale):
        return [m.p for m in outline(name, dropout=scale).modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]

    published = {"enet": [0.01] * 5 + [0.1] * (1 + 16 + 3 + 2), "pnet": [0.3] * 2, "attention_unet_2D": [0.05, 0.1, 0.2, 0.3, 0.5],
                 "efficient_unet": [], "resvnet_2D": [0.5]}
    for name in IMAGES:
        assert sorted(rates(name, 1.0)) == sorted(published[name]) and sorted(rates(name, 0.5)) == sorted(p / 2 for p in published[name])
        assert not rates(name, 0.0)


def test_unpooling_is_torchs():
    torch.manual_seed(0)
    pooled, x = torch.randn(2, 3, 6, 8), torch.randn(2, 3, 3, 4, requires_grad=True)
    place = F.max_pool2d(pooled, 2, return_indices=True)[1]
    expected = F.max_unpool2d(x, place, 2)
    assert torch.equal(unpool(x, pooled), expected)
    cotangent = torch.randn_like(expected)
    (got,), (wanted,) = (torch.autograd.grad(y, x, cotangent) for y in (unpool(x, pooled), expected))
    assert torch.equal(got, wanted)
    flat = unpool(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 4, 4))
    assert torch.equal(flat, F.max_unpool2d(torch.ones(1, 1, 2, 2), F.max_pool2d(torch.zeros(1, 1, 4, 4), 2, return_indices=True)[1], 2))


def test_pnet_sees_as_far_as_its_dilations_say():
    network = build("pnet").eval()
    image = torch.randn(1, 1, 140, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(network(image)[0, 0, 70, 1], image)
    seen = gradient[0, 0].abs().sum(1).nonzero().flatten()
    assert (70 - seen[0], seen[-1] - 70) == (62, 62)  # 2 x (1 + 2 + 4 + 8 + 16)


def test_a_closed_gate_hides_the_skip_map_and_a_gate_half_open_halves_it():
    torch.manual_seed(0)
    gate = build("attention_unet_2D").eval().up[0].gate
    skip, signal = torch.randn(1, 128, 4, 4), torch.randn(1, 128, 4, 4)
    with torch.no_grad():
        gate.psi[0].weight.zero_()
        gate.psi[0].bias.zero_()
        torch.testing.assert_close(gate(skip, signal), skip / 2)
        gate.psi[1].bias.fill_(-40.0)
        torch.testing.assert_close(gate(skip, signal), torch.zeros_like(skip))


def test_gates_read_the_signal_and_the_decoder_reads_the_skip_map_first():
    torch.manual_seed(0)
    network, given = build("attention_unet_2D").eval(), []
    network.up[0].conv.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    with torch.no_grad():
        maps = network.encode(torch.randn(1, 1, 32, 32))
        network.decode(maps)
        network.decode([*maps[:-1], maps[-1] + 1])
        ratio = [x[:, :128] / maps[-2] for x in given]
    assert ((ratio[0] > 0) & (ratio[0] < 1))[maps[-2].abs() > 1e-3].all() and not torch.equal(*ratio)


@pytest.mark.parametrize("name, sides, sentence", [
    ("enet", (36, 32), r"ENet needs sides that are multiples of 8, got \(36, 32\)"),
    ("attention_unet_2D", (32, 40), r"multiples of 16, got \(32, 40\)"),
    ("pnet", (0, 16), r"multiples of 1, got \(0, 16\)"),
    ("enet", (8, 8), r"one position only"),
    ("efficient_unet", (64, 48), r"multiples of 32, got \(64, 48\)"),
    ("pnet", (16, 16, 16), r"PNet needs 2 axes"),
])
def test_sides_that_a_network_cannot_take_are_refused(name, sides, sentence):
    with pytest.raises(ValueError, match=sentence):
        outline(name)(torch.zeros(1, 1, *sides, device="meta"))


def test_pnet_takes_any_size_and_enet_few_channels():
    assert outline("pnet")(torch.zeros(2, 1, 17, 5, device="meta")).shape == (2, 4, 17, 5)
    with pytest.raises(ValueError, match="15 channels at most, got 16"):
        build("enet", in_channels=16)


def test_they_are_known_by_name_for_images_only():
    assert set(IMAGES) <= set(names(2)) and not set(IMAGES) & set(names(3))
