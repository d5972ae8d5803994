"""2D U-Nets that predict several times: at four scales (deep supervision, URPC), or by four decoders (CCT)."""
from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import climb
from networks.dropout import Dropout, dropped
from networks.perturbations import feature_dropout, feature_noise
from networks.unet import WIDTHS, UNet, decoder_blocks

NOISE, ATTENTION = 0.3, (0.7, 0.9)
"""Published strengths of feature noise and of feature dropout."""


class Decoder(nn.Module):
    """A decoder with a head of its own: the encoder's five maps -> features (B, 16, H, W)."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.up = decoder_blocks()
        self.out = nn.Conv2d(WIDTHS[0], num_classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return climb(self.up, maps)


class SeveralHeads(UNet):
    """A U-Net whose main output is that of `unet`, without work for the others where it alone is wanted."""

    several_heads = True

    def main(self, maps: list[Tensor]) -> Tensor:
        """The five maps -> the main logits (B, num_classes, H, W)."""
        return self.out(climb(self.up, maps))


class UNetDS(SeveralHeads):
    """The U-Net with deep supervision (`unet_ds` in SSL4MIS, 1,831,060 parameters): a head at each level of the decoder.

    As in the published network there is a fifth head, on the coarsest map, which is never used; here it takes no gradient.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rates; 0 switches dropout off.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout=dropout)
        self.side_heads = nn.ModuleList(nn.Conv2d(width, num_classes, 3, padding=1) for width in WIDTHS[1:])
        self.side_heads[-1].requires_grad_(False)

    def decode(self, maps: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """The five maps of the encoder -> four of the decoder, (B, 16, H, W) first."""
        x = maps[-1]
        decoded: list[Tensor] = []
        for up, skip in zip(self.up, maps[-2::-1]):
            x = up(x, skip)
            decoded.insert(0, x)
        return decoded

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The four maps -> four logits (B, num_classes, H, W): at full size, then those of 1/2, 1/4, 1/8, enlarged by nearest neighbour."""
        coarse = [head(x) for head, x in zip(self.side_heads, features[1:])]
        return self.out(features[0]), *(F.interpolate(logits, scale_factor=2.0**k) for k, logits in enumerate(coarse, 1))


class UNetURPC(UNetDS):
    """The U-Net of URPC (Luo et al., MICCAI 2021; 1,831,060 parameters): `unet_ds` with perturbed features in train mode.

    What the side heads read is perturbed, not what goes on to the next level: feature noise at 1/2, feature dropout at 1/4, dropout
    at 1/8 (p = 0.5, multiplied by `dropout`).
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__(in_channels, num_classes, dropout)
        self.side_dropout = Dropout(dropout * 0.5)

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """As in `unet_ds`, of perturbed maps in train mode."""
        if self.training:
            full, half, quarter, eighth = features
            features = [full, feature_noise(half, NOISE), feature_dropout(quarter, ATTENTION), self.side_dropout(eighth)]
        return super().head(features)


class UNetCCT(SeveralHeads):
    """The U-Net of CCT in SSL4MIS (Ouali et al., CVPR 2020; 3,713,664 parameters): one encoder and four decoders.

    The three auxiliary decoders read all five maps of the encoder perturbed, in train mode and out of it: by feature noise, by dropout,
    by feature dropout, drawn anew for each map.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: multiplies the published rates of the encoder and that of the perturbation.
        noise: largest relative change by feature noise.
        rate: of the perturbing dropout.
        attention: share of the largest activation from which on feature dropout sets to 0, drawn between these two.
        auxiliary: how many auxiliary decoders, in this order; the first alone makes the network of UCC, 2,447,064 parameters.
        by_depth: the k-th auxiliary decoder reads the k finest maps as they are (HCE).
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0, noise: float = NOISE, rate: float = 0.3,
                 attention: tuple[float, float] = ATTENTION, auxiliary: int = 3, by_depth: bool = False):
        super().__init__(in_channels, num_classes, dropout=dropout)
        self.noise, self.rate, self.attention, self.by_depth = noise, dropout * rate, attention, by_depth
        self.auxiliary = nn.ModuleList(Decoder(num_classes) for _ in range(auxiliary))

    def decode(self, maps: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """The five maps -> features (B, 16, H, W) of the main decoder, then of the auxiliary ones."""
        changes = (partial(feature_noise, largest=self.noise), partial(dropped, rate=self.rate),
                   partial(feature_dropout, share=self.attention))
        perturbed = []
        for k, (change, _) in enumerate(zip(changes, self.auxiliary), 1):
            kept = k if self.by_depth else 0
            perturbed.append([*maps[:kept], *(change(x) for x in maps[kept:])])
        return [climb(self.up, maps), *(decoder(inputs) for decoder, inputs in zip(self.auxiliary, perturbed))]

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Features of the decoders -> as many logits (B, num_classes, H, W)."""
        heads = [self.out, *(decoder.get_submodule("out") for decoder in self.auxiliary)]
        return tuple(head(x) for head, x in zip(heads, features))
