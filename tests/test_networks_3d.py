"""The 3D networks and nnU-Net. Numbers of parameters, buffers and operations were measured on the published classes."""
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from networks import BUILDERS, build, names

VOLUMES = ["attention_unet", "nnunet", "resvnet", "unet_3D", "unet_3D_dv_semi", "vnet", "voxresnet"]
SMALL = dict.fromkeys(VOLUMES, (16, 16, 32)) | {"nnunet": (4, 64, 128), "nnunet_2D": (64, 128)}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def outline(name, **arguments):
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(name, **arguments)


def small(name, batch=1, channels=1):
    torch.manual_seed(0)
    return torch.randn(batch, channels, *SMALL[name])


def main(logits):
    return logits[0] if isinstance(logits, tuple) else logits


@pytest.mark.parametrize("name, classes, count, buffers", [
    ("vnet", 2, 9_448_866, 5629), ("unet_3D", 2, 5_884_050, 0), ("unet_3D_dv_semi", 2, 5_884_504, 0), ("unet_3D_dv_semi", 3, 5_884_748, 0),
    ("attention_unet", 2, 6_469_328, 1353), ("voxresnet", 2, 1_992_578, 0), ("nnunet", 2, 30_446_256, 0), ("nnunet_2D", 2, 10_726_064, 0),
    ("vnet_32", 2, 37_777_730, 11_229), ("resvnet", 2, 17_930_354, 10_386),
])
def test_exact_number_of_parameters_and_buffers(name, classes, count, buffers):
    network = outline(name, in_channels=1, num_classes=classes)
    assert parameters(network) == count and sum(b.numel() for b in network.buffers()) == buffers


@pytest.mark.parametrize("name, sides, gflop, left_out", [
    ("vnet", (112, 112, 80), 80.217, 0), ("vnet", (96, 96, 96), 70.722, 0), ("unet_3D", (96, 96, 96), 121.980, 0),
    ("unet_3D", (112, 112, 80), 138.357, 0), ("unet_3D_dv_semi", (96, 96, 96), 121.999, 0), ("attention_unet", (96, 96, 96), 124.634, 0),
    # The head works at half the sides: seven eighths of 2 x 64 x 2 x 96^3 are spared.
    ("voxresnet", (96, 96, 96), 197.445, 0.198),
    # Five heads that the published code evaluates and throws away.
    ("nnunet", (64, 128, 128), 196.120, 0.056), ("nnunet", (32, 192, 192), 220.635, 0.063),
])
def test_published_number_of_operations_and_shape_at_the_published_sides(name, sides, gflop, left_out):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = outline(name).eval()(torch.empty(1, 1, *sides, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop - left_out, abs=1e-3)
    assert main(logits).shape == (1, 2, *sides)


def test_parts_have_their_published_sizes():
    vnet = outline("vnet")
    assert [parameters(part) for part in vnet.levels] == [480, 55_488, 332_352, 1_328_256, 5_310_720]
    assert [parameters(part) for part in vnet.down] == [4_192, 16_576, 65_920, 262_912]
    assert [parameters(part) for part in (*vnet.up, *vnet.up_levels, vnet.out)] == [
        262_528, 65_728, 16_480, 4_144, 1_328_256, 332_352, 55_488, 6_960, 34]
    unet = outline("unet_3D")
    assert [parameters(part) for part in (unet.stem, *unet.down)] == [7_376, 41_536, 166_016, 663_808, 2_654_720]
    assert [parameters(part) for part in (*unet.up, unet.out)] == [1_769_728, 442_496, 110_656, 27_680, 34]
    attention = outline("attention_unet")
    assert [parameters(part) for part in (attention.signal, *attention.attention)] == [65_792, 394_882, 99_138, 24_994]
    voxresnet = outline("voxresnet")
    assert [parameters(part) for part in (*voxresnet.levels, *voxresnet.up)] == [2 * 221_184] * 3 + [331_776] * 2
    nnunet = outline("nnunet")
    assert [parameters(part) for part in (nnunet.levels, nnunet.up_levels, nnunet.up, nnunet.heads)] == [
        14_012_976, 15_356_448, 1_075_200, 1_632]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_shapes_composition_and_gradients(name):
    network = build(name, in_channels=2, num_classes=3, dropout=0.0).eval()
    images = small(name, channels=2)
    maps = network.encode(images)
    for part in maps:
        part.retain_grad()
    logits = network.head(network.decode(maps))
    with torch.no_grad():
        again = network(images)
    several = isinstance(logits, tuple)
    assert several == (name == "unet_3D_dv_semi")
    for one, other in zip(*[(x if several else (x,)) for x in (logits, again)], strict=True):
        assert torch.equal(one, other) and one.shape == (1, 3, *SMALL[name])
    sum(part.square().sum() for part in (logits if several else (logits,))).backward()
    assert all(m.grad.abs().sum() > 0 for m in maps), "a skip map is not read"
    assert not [key for key, p in network.named_parameters() if p.requires_grad and p.grad is None]
    frozen = [key for key, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ([f"heads.{i}.weight" for i in range(5)] if name.startswith("nnunet") else [])


def test_rates_of_dropout_and_their_scale():
    def rates(name, scale):
        return [m.p for m in outline(name, dropout=scale).modules() if isinstance(m, nn.modules.dropout._DropoutNd)]

    published = {"vnet": [0.5], "resvnet": [0.5], "unet_3D": [0.3], "unet_3D_dv_semi": [0.5, 0.3, 0.2, 0.1]}
    for name in VOLUMES:
        expected = published.get(name, [])
        assert rates(name, 1.0) == expected and rates(name, 0.5) == [p / 2 for p in expected]
        assert not any(rates(name, 0.0))


def test_dropout_of_vnet_takes_whole_channels_of_the_coarsest_map_and_before_the_head():
    torch.manual_seed(0)
    network = build("vnet").train()
    nn.init.constant_(network.levels[-1][-1][1].bias, 20.0)  # no zeros but those of dropout
    with torch.no_grad():
        coarsest = network.encode(small("vnet", batch=2))[-1]
        zero = coarsest.flatten(2) == 0
        assert torch.equal(zero.any(2), zero.all(2)) and 0.4 < zero.float().mean() < 0.6
        nn.init.ones_(network.out.weight)
        nn.init.zeros_(network.out.bias)
        kept = network.head(torch.ones(8, 16, 2, 2, 2))[:, 0] / 2  # each channel kept counts twice
        assert torch.equal(kept, kept.round()) and kept.min() < kept.max() and torch.equal(kept.amin((1, 2, 3)), kept.amax((1, 2, 3)))


def test_dropout_of_the_unet_takes_single_positions():
    torch.manual_seed(0)
    network = build("unet_3D").train()
    with torch.no_grad():
        coarsest = network.dropout(torch.ones(2, 256, 1, 2, 2))
        nn.init.ones_(network.out.weight)
        nn.init.zeros_(network.out.bias)
        kept = network.head(torch.ones(1, 16, 16, 16, 16)) * 0.7
    zero = (coarsest == 0).flatten(2)
    assert 0.25 < zero.float().mean() < 0.35 and not torch.equal(zero.any(2), zero.all(2))
    assert kept.mean().item() == pytest.approx(16 * 0.7, rel=0.02) and kept.std() > 1


def test_dropout_of_urpc_takes_whole_channels_inside_the_path():
    torch.manual_seed(0)
    network = build("unet_3D_dv_semi").train()
    seen = []
    for up in network.up[1:]:
        up.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        features = network.decode(network.encode(small("unet_3D_dv_semi", batch=2)))
    fractions = [(x.flatten(2) == 0).all(2).float().mean().item() for x in features]
    assert fractions[3] == pytest.approx(0.5, abs=0.12) and fractions[2] == pytest.approx(0.3, abs=0.12)
    assert all(torch.equal(a, b) for a, b in zip(seen, features[:0:-1])), "the dropped map goes on to the next level"


def test_vnet_adds_its_skip_maps():
    network, given = build("vnet", dropout=0.0).eval(), []
    network.up_levels[-1].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        maps = network.encode(small("vnet"))
        for finest in (maps[0], maps[0] + 1):
            network.decode([finest, *maps[1:]])
    torch.testing.assert_close(given[1] - given[0], torch.ones_like(given[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name, first, skip_first", [
    ("unet_3D", lambda network: network.up[0].conv, True),
    ("voxresnet", lambda network: network.up[0], True),
    ("nnunet", lambda network: network.up_levels[0], False),
])
def test_order_of_what_a_level_of_the_decoder_reads(name, first, skip_first):
    network, given = build(name).eval(), []
    first(network).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    with torch.no_grad():
        maps = network.encode(small(name))
        network.decode(maps)
    width = maps[-2].shape[1]
    assert torch.equal(given[0][:, :width] if skip_first else given[0][:, -width:], maps[-2])


def test_corners_are_aligned_in_voxresnet_only():
    ramp = torch.arange(2.0).expand(1, 1, 1, 1, 2)
    torch.testing.assert_close(outline("unet_3D").up[0].enlarge(ramp)[0, 0, 0, 0], torch.tensor([0, 0.25, 0.75, 1]))
    torch.testing.assert_close(outline("unet_3D_dv_semi").heads[1][1](ramp)[0, 0, 0, 0], torch.tensor([0, 0.25, 0.75, 1]))
    torch.testing.assert_close(outline("voxresnet").enlarge(ramp)[0, 0, 0, 0], torch.tensor([0, 1 / 3, 2 / 3, 1]))


def test_blocks_of_voxresnet_add_their_input():
    block, x = build("voxresnet").levels[0][0], torch.randn(1, 64, 2, 2, 4)
    with torch.no_grad():
        block[-1].weight.zero_()
        assert torch.equal(block(x), x)


def test_the_head_of_voxresnet_gives_what_enlarging_first_gives():
    network = build("voxresnet", num_classes=3).eval()
    features = torch.randn(1, 64, 6, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(network.head(features), network.out(network.enlarge(features)), atol=1e-5, rtol=1e-5)


def test_auxiliary_logits_of_urpc_are_enlarged_from_their_own_scale():
    network = build("unet_3D_dv_semi").eval()
    features = [torch.randn(1, 16 * 2**k, 16 >> k, 16 >> k, 32 >> k) for k in range(4)]
    with torch.no_grad():
        logits = network.head(features)
        for k, (x, z) in enumerate(zip(features, logits, strict=True)):
            assert z.shape == (1, 2, 16, 16, 32)
            # Trilinear without aligned corners: the mean over the map stays.
            torch.testing.assert_close(z.mean((2, 3, 4)), network.heads[k][0](x).mean((2, 3, 4)), atol=1e-4, rtol=1e-3)


def test_attention_gates_scale_the_skip_map():
    network = build("attention_unet").eval()
    gate = network.attention[0].gates[0]
    skip, signal = torch.randn(1, 128, 4, 4, 4), torch.randn(1, 256, 2, 2, 2)
    with torch.no_grad():
        gate.psi.weight.zero_()
        gate.psi.bias.fill_(-40.0)
        torch.testing.assert_close(gate(skip, signal), gate.out(torch.zeros_like(skip)))
        gate.psi.bias.zero_()
        torch.testing.assert_close(gate(skip, signal), gate.out(skip / 2))


@pytest.mark.parametrize("name", ["attention_unet", "nnunet", "unet_3D", "vnet"])
def test_weights_start_as_published(name):
    torch.manual_seed(0)
    network = build(name)
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            gain = 2 / (1 + 1e-4) if name == "nnunet" else 2.0
            variance = gain / fan_in if name != "vnet" else 1 / (3 * fan_in)
            assert module.weight.var().item() == pytest.approx(variance, rel=0.05)
            if module.bias is not None:
                assert (module.bias.abs().max() == 0) == (name == "nnunet")
        if isinstance(module, nn.BatchNorm3d):
            spread = (module.weight - 1).abs().max()
            assert (0 < spread < 0.1) if name == "attention_unet" else spread == 0


def test_instance_norm_makes_a_prediction_independent_of_its_batch_and_of_training():
    images = small("unet_3D", batch=2)
    network = build("unet_3D", dropout=0.0)
    with torch.no_grad():
        torch.testing.assert_close(network.train()(images)[:1], network.eval()(images[:1]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name, sides, sentence", [
    ("vnet", (112, 112, 72), r"VNet needs sides that are multiples of 16, got \(112, 112, 72\)"),
    ("unet_3D", (0, 16, 16), r"multiples of 16, got \(0, 16, 16\)"),
    ("voxresnet", (16, 20, 16), r"multiples of 8, got \(16, 20, 16\)"),
    ("nnunet", (96, 96, 96), r"multiples of \(4, 64, 64\), got \(96, 96, 96\)"),
    ("nnunet_2D", (224, 224), r"multiples of 64, got \(224, 224\)"),
    ("vnet", (32, 32), r"VNet needs 3 axes behind batch and channel, got a tensor of shape \(1, 1, 32, 32\)"),
    ("unet", (32, 32, 32), r"UNet needs 2 axes behind batch and channel"),
    ("unet_3D", (16, 16, 16), r"one position only at sides \(16, 16, 16\): double one"),
    ("voxresnet", (8, 8, 8), r"one position only"),
    ("nnunet", (4, 64, 64), r"one position only"),
    ("vnet", (16, 16, 16), r"one position only"),
])
def test_sides_that_a_network_cannot_take_are_refused(name, sides, sentence):
    with pytest.raises(ValueError, match=sentence):
        outline(name)(torch.zeros(1, 1, *sides, device="meta"))


def test_vnet_takes_the_smallest_volume_where_its_batch_norm_can():
    network, volume = outline("vnet"), torch.zeros(2, 1, 16, 16, 16, device="meta")
    assert network.train()(volume).shape == (2, 2, 16, 16, 16) and network.eval()(volume[:1]).shape == (1, 2, 16, 16, 16)


def test_names_by_dimension_cover_all_networks():
    assert [name for name in names(3) if name in VOLUMES] == VOLUMES
    assert {"unet", "unet_transposed", "nnunet_2D"} <= set(names(2)) and not set(names(2)) & set(names(3))
    for name in VOLUMES:
        assert outline(name).dimensions == 3 and name in BUILDERS
