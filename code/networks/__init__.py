"""Networks and the factory that builds one by name. Each offers encode(x), decode(maps), head(features) and forward, their composition."""
from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from networks.attention_decoders import MTNet, UNetCDMA
from networks.attention_unet import AttentionUNet2D, AttentionUNet3D
from networks.averaging import average_weights, ema_update, frozen_copy, risen_decay, weighted_mean
from networks.base import Network, UnfitImages
from networks.cma import CorrelationHeads, UNetCMA, VNetCMA
from networks.composed import Conditional, TwoClassifiers
from networks.critic import PointCritic
from networks.deeplabv3plus import DeepLabV3Plus
from networks.discriminator import Discriminator
from networks.efficient_unet import EfficientUNet
from networks.enet import ENet
from networks.lite0 import DeepLabV3PlusLite0, UNetLite0
from networks.nnunet import NNUNet2D, NNUNet3D
from networks.passes import (
    deepest,
    deepest_width,
    entropy_over_passes,
    feature_channels,
    grouped,
    logits_and_features,
    logits_of,
    logits_with_dropped_channels,
    with_parameters,
)
from networks.perturbations import noisy
from networks.pg_fanet import PGFANet
from networks.pnet import PNet
from networks.projection import ProjectionHead
from networks.resvnet import ResVNet2D, ResVNet3D
from networks.sfm import SFM
from networks.swin_unet import SwinUNet
from networks.unet import UNet
from networks.unet_3D import UNet3D, UNet3DPyramid
from networks.unet_heads import UNetCCT, UNetDS, UNetURPC
from networks.vnet import VNet
from networks.voxresnet import VoxResNet


def conditional(body: str = "unet", in_channels: int = 1, num_classes: int = 4, **others: object) -> Conditional:
    """A network, known by its name, that is asked for one class at a time; `others`: arguments of its builder."""
    return Conditional(build(body, in_channels=in_channels, num_classes=1, **others), in_channels, num_classes - 1)


def two_classifiers(body: str = "unet", num_classes: int = 4, **others: object) -> TwoClassifiers:
    """A network, known by its name, with two classifiers on its last features; `others`: arguments of its builder."""
    return TwoClassifiers(build(body, num_classes=2 * num_classes, **others))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "unet_32": partial(UNet, finest=2),
    "unet_cma": UNetCMA,
    "unet_transposed": partial(UNet, transposed=True),
    "unet_ds": UNetDS,
    "unet_urpc": UNetURPC,
    "unet_cct": UNetCCT,
    "unet_ucc": partial(UNetCCT, auxiliary=1),
    "unet_cdma": UNetCDMA,
    "nnunet_2D": NNUNet2D,
    "swin_unet": SwinUNet,
    "efficient_unet": EfficientUNet,
    "enet": ENet,
    "deeplabv3plus_resnet18": partial(DeepLabV3Plus, depth=18),
    "deeplabv3plus_resnet50": partial(DeepLabV3Plus, depth=50, deep_stem=True),
    "deeplabv3plus_resnet101": partial(DeepLabV3Plus, depth=101, deep_stem=True),
    "deeplabv3plus_resnet50_stride8": partial(DeepLabV3Plus, depth=50, output_stride=8),
    "deeplabv3plus_resnet101_stride8": partial(DeepLabV3Plus, depth=101, output_stride=8),
    "deeplabv3plus_lite0": DeepLabV3PlusLite0,
    "unet_lite0": UNetLite0,
    "pnet": PNet,
    "attention_unet_2D": AttentionUNet2D,
    "resvnet_2D": ResVNet2D,
    "mtnet": MTNet,
    "pg_fanet": PGFANet,
    "unet_3D": UNet3D,
    "unet_3D_dv_semi": UNet3DPyramid,
    "attention_unet": AttentionUNet3D,
    "vnet": VNet,
    "vnet_32": partial(VNet, wide=2),
    "vnet_cma": VNetCMA,
    "resvnet": ResVNet3D,
    "voxresnet": VoxResNet,
    "nnunet": NNUNet3D,
    "discriminator_2D": partial(Discriminator, 2),
    "discriminator_3D": partial(Discriminator, 3),
    "point_critic_2D": partial(PointCritic, 2),
    "point_critic_3D": partial(PointCritic, 3),
    "caml_heads": CorrelationHeads,
    "conditional": conditional,
    "patch_projection": ProjectionHead,
    "two_classifiers": two_classifiers,
    "sfm": SFM,
    "projection": nn.Linear,
}

__all__ = ["BUILDERS", "Network", "UnfitImages", "arguments", "average_weights", "build", "deepest", "deepest_width", "ema_update",
           "entropy_over_passes", "feature_channels", "frozen_copy", "grouped", "logits_and_features", "logits_of",
           "logits_with_dropped_channels", "names", "noisy", "risen_decay", "weighted_mean", "with_parameters"]


def names(dimensions: int, several_heads: bool | None = None) -> list[str]:
    """The networks for images of 2 or 3 dimensions, in alphabetical order; all, or those with several heads, or those with one."""
    def fits(builder: object) -> bool:
        kind = builder.func if isinstance(builder, partial) else builder
        return getattr(kind, "dimensions", None) == dimensions and several_heads in (None, getattr(kind, "several_heads", None))

    return sorted(name for name, builder in BUILDERS.items() if fits(builder))


def arguments(name: str, body: str = "") -> set[str]:
    """Names of the arguments that the builder of a network takes, of one that is made of a `body` the body's too; none of no network."""
    found = set(inspect.signature(BUILDERS[name]).parameters) if name in BUILDERS else set()
    return found - {"others"} | arguments(body) if "others" in found else found


def build(name: str, **arguments: object) -> nn.Module:
    """Builds network `name`; `spec` of the result (name and arguments) is enough to build it again.

    Raises ValueError for an unknown name, with the known ones.
    """
    if name not in BUILDERS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(sorted(BUILDERS))}")
    network = BUILDERS[name](**arguments)
    network.spec = {"name": name, "arguments": dict(arguments)}  # type: ignore[assignment]
    return network
