"""Networks that are made of another one, their body: asked for one class at a time (C3PS), or with two classifiers (DC-Net)."""
from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn

from networks.base import Network


class Composed(Network):
    """What a network has of its body: the sides and images that it takes, its encoder, and the weights that it may start from.

    Raises ValueError for a body that is no network that segments, or has several heads.
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        if not isinstance(body, Network):
            raise ValueError("this is no network that segments")
        if body.several_heads:
            raise ValueError("this network makes several predictions of an image, the method reads one")
        self.body = body
        self.dimensions, self.multiple = body.dimensions, body.multiple
        self.pretrained, self.passed_over = body.pretrained, body.passed_over
        self.backbone_name = body.backbone_name and f"body.{body.backbone_name}"

    def check(self, x: Tensor) -> None:
        self.body.check(x)

    def remark(self, sides: tuple[int, ...]) -> str:
        return self.body.remark(sides)

    def offered(self, name: str) -> list[str]:
        return [f"body.{place}" for place in self.body.offered(name)]

    def adapted(self, tensor: Tensor, shape: Size) -> Tensor:
        return self.body.adapted(tensor, shape)

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.body.encode(x)


class Conditional(Composed):
    """Segments the class that it is asked for, one a row; asked for none, all of them.

    The condition scales and shifts every map of the encoder, channel by channel, by numbers that are learned for each class (FiLM; Perez
    et al., AAAI 2018). The decoder says of each position whether it is of that class.

    Args:
        body: a network with one logit a position.
        in_channels: channels of the images.
        classes: foreground classes.
    """

    def __init__(self, body: nn.Module, in_channels: int, classes: int):
        super().__init__(body)
        self.classes = classes
        self.tables = nn.ModuleList(nn.Embedding(classes, 2 * channels) for channels in widths(self.body, in_channels))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.5)  # type: ignore[arg-type]

    def conditioned(self, maps: list[Tensor], classes: Tensor) -> list[Tensor]:
        """m (1 + s_c) + b_c of each map (B, D, *sides); classes (B,) from 1 on."""
        found = []
        for x, table in zip(maps, self.tables):
            scale, shift = table(classes - 1).view(len(x), -1, *[1] * (x.dim() - 2)).chunk(2, 1)
            found.append(x * (1 + scale) + shift)
        return found

    def decode(self, maps: list[Tensor]) -> list[Any]:
        """The maps -> what the head reads, for each class."""
        numbers = torch.arange(1, self.classes + 1, device=maps[0].device)
        return [self.body.decode(self.conditioned(maps, one.expand(len(maps[0])))) for one in numbers]

    def head(self, features: list[Any]) -> Tensor:
        """What `decode` gave -> logits (B, classes + 1, *sides), 0 for the background."""
        logits = [self.body.head(one) for one in features]
        return torch.cat([torch.zeros_like(logits[0]), *logits], 1)

    def forward(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """Logits of all classes; or, for classes (B,) from 1 on, (B, 2, *sides): 0, and that of the row's class."""
        if classes is None:
            return super().forward(x)
        logits = self.body.head(self.body.decode(self.conditioned(self.encode(x), classes)))
        return torch.cat([torch.zeros_like(logits), logits], 1)


class TwoClassifiers(Composed):
    """One encoder and decoder, and two classifiers that read the same features. Tested is the first.

    Args:
        body: a network with twice as many logits a position as there are classes.
    """

    several_heads = True

    def decode(self, maps: list[Tensor]) -> Any:
        return self.body.decode(maps)

    def head(self, features: Any) -> tuple[Tensor, ...]:
        """What `decode` gave -> the logits of either classifier, (B, num_classes, *sides)."""
        return self.body.head(features).chunk(2, 1)


@torch.no_grad()
def widths(network: Network, in_channels: int) -> list[int]:
    """Channels of the maps that a network's encoder gives, found by a small image."""
    multiples = (network.multiple,) * network.dimensions if isinstance(network.multiple, int) else network.multiple
    maps = network.eval().encode(torch.zeros(1, in_channels, *(2 * side for side in multiples)))
    network.train()
    return [x.shape[1] for x in maps]
