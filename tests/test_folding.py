"""Networks for inference: batch norms folded, the same outputs."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import networks
from networks.folding import FusedConvolution, for_inference

SIDES = {2: (32, 48), 3: (32, 16, 48)}


def warmed(network: nn.Module) -> nn.Module:
    """With statistics and affine parameters as after training: none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                values.data.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return network


@pytest.mark.parametrize("name, dimensions, fused", [("unet", 2, 18), ("unet_transposed", 2, 18), ("vnet", 3, 29), ("unet_3D", 3, 0)])
def test_the_same_logits(name, dimensions, fused):
    torch.manual_seed(0)
    network = warmed(networks.build(name, in_channels=2, num_classes=3))
    before = copy.deepcopy(network.state_dict())
    assert network.training
    folded = for_inference(network)
    assert network.training and all((before[key] == value).all() for key, value in network.state_dict().items())
    images = torch.randn(2, 2, *SIDES[dimensions])
    with torch.no_grad():
        want, got = network.eval()(images), folded(images)
        again, largest = folded(images), want.abs().max()
    assert (got - want).abs().max() < 1e-5 * largest and (got == again).all()
    kinds = [type(module).__name__ for module in folded.modules()]
    assert not any(kind.startswith("BatchNorm") for kind in kinds)
    if torch.backends.mkldnn.is_available():
        assert kinds.count("FusedConvolution") == fused
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize("name", networks.names(2, several_heads=True) + networks.names(3, several_heads=True))
def test_no_layer_with_weights_stands_in_two_places(name):
    """A convolution takes its norm over in place, so it may have one alone."""
    with torch.device("meta"):
        network = networks.build(name)
    every = [id(module) for _, module in network.named_modules(remove_duplicate=False) if [*module.parameters(recurse=False)]]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("blocks", [
    [nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.3)],
    [nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU()],
    [nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.ReLU()],
    [nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), nn.ReLU()],
    [nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(6), nn.Dropout2d(), nn.LeakyReLU()],
    [nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Sigmoid()],
    [nn.Conv2d(4, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)],
    [nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()],
    [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.Identity(), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)],
])
def test_other_orders_and_settings(blocks):
    torch.manual_seed(0)
    network = nn.Sequential(*blocks)
    images = torch.randn(2, 4, 9, 12)
    with torch.no_grad():
        for _ in range(3):
            network(3 * images + 1)
        folded = for_inference(network)
        torch.testing.assert_close(folded(images), network.eval()(images), rtol=1e-5, atol=1e-6)
    assert len(folded) == len(network)


def test_autocast_has_its_precision():
    network = warmed(networks.build("vnet", in_channels=1, num_classes=2, dropout=0.0)).eval()
    images = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want, got = network(images), for_inference(network)(images)
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05 * float(want.abs().max()))


def test_double_precision_is_folded_without_onednn():
    network = warmed(networks.build("unet", in_channels=1, num_classes=2)).double()
    folded, images = for_inference(network), torch.randn(1, 1, 32, 32, dtype=torch.double)
    assert not any(isinstance(module, FusedConvolution) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network.eval()(images), rtol=1e-10, atol=1e-10)
