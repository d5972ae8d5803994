"""What every network here offers, and what it asks of its input."""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Size, Tensor, nn


class UnfitImages(ValueError):
    """Images that a network cannot take: too few of them, or of other sides."""


class Network(nn.Module, ABC):
    """A segmentation network: `encode`, `decode` and `head` compose to `forward`.

    A network with several heads returns a tuple of logits, the main ones first.
    """

    dimensions: int
    """Of the images: 2 or 3."""
    multiple: int | tuple[int, ...]
    """What every side of an input, or the side of each axis, must be a multiple of: the factor between the finest and the coarsest map."""
    instance_norm: ClassVar[bool] = False
    """Whether the coarsest map is normalised over each image alone."""
    batch_norm: ClassVar[bool] = True
    """Whether the coarsest map is normalised over the batch in train mode (where not over each image)."""
    pretrained: str = ""
    """The file of ImageNet weights that the network can start from; empty where there is none."""
    backbone_name: str = ""
    """The module that such a file fills wholly or not at all, and that may learn at a rate of its own; empty where there is none."""
    passed_over: tuple[str, ...] = ()
    """Tensors of such a file that belong to its own classifier."""
    several_heads: ClassVar[bool] = False
    """Whether `forward` gives a tuple of logits."""
    main_only: bool = False
    """Set for inference: `forward` gives the main logits alone, without the work of other heads."""

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Images (B, C, *sides) -> maps, the finest first."""

    @abstractmethod
    def decode(self, maps: list[Tensor]) -> Any:
        """The maps -> what the head reads."""

    @abstractmethod
    def head(self, features: Any) -> Any:
        """What `decode` gave -> logits (B, num_classes, *sides)."""

    def main(self, maps: list[Tensor]) -> Any:
        """The maps -> the main logits alone."""
        logits = self.head(self.decode(maps))
        return logits[0] if self.several_heads else logits

    def forward(self, x: Tensor) -> Any:
        maps = self.encode(x)
        return self.main(maps) if self.main_only else self.head(self.decode(maps))

    def check(self, x: Tensor) -> None:
        """Raises `UnfitImages` where the network cannot take images (B, C, *sides) of these sides, or so few in train mode."""
        name, sides = type(self).__name__, tuple(x.shape[2:])
        if len(sides) != self.dimensions:
            raise UnfitImages(f"{name} needs {self.dimensions} axes behind batch and channel, got a tensor of shape {tuple(x.shape)}")
        multiples = (self.multiple,) * self.dimensions if isinstance(self.multiple, int) else self.multiple
        if any(side % multiple or side == 0 for side, multiple in zip(sides, multiples)):
            raise UnfitImages(f"{name} needs sides that are multiples of {self.multiple}, got {sides}")
        # A list, since a generator breaks the compiled graph.
        coarsest = math.prod([side // multiple for side, multiple in zip(sides, multiples)])
        if coarsest == 1 and (self.instance_norm or (self.batch_norm and self.training and x.shape[0] == 1)):
            raise UnfitImages(f"{name} normalises its coarsest map, which has one position only at sides {sides}: double one of them")

    def remark(self, sides: tuple[int, ...]) -> str:
        """What is worth knowing of the network at images of these sides; mostly nothing."""
        return ""

    def offered(self, name: str) -> list[str]:
        """The tensors of this network that may start from the tensor `name` of `pretrained`: of a backbone's file, its own."""
        return [f"{self.backbone_name}.{name}" if self.backbone_name else name]

    def adapted(self, tensor: Tensor, shape: Size) -> Tensor:
        """A tensor of `pretrained` as one of this network's, of that shape, takes it: as it is, but for a first convolution's weights.

        They are summed over red, green and blue where the images have one channel.
        """
        return tensor.sum(1, keepdim=True) if tensor.shape[1:2] == (3,) and shape[1:2] == (1,) else tensor


def chain(modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each module gives, the first fed with x and every other with what the one before gave."""
    maps: list[Tensor] = []
    for module in modules:
        x = module(x)
        maps.append(x)
    return maps


def climb(ups: Iterable[nn.Module], maps: list[Tensor]) -> Tensor:
    """From the last, coarsest map upwards: each of `ups` is given what came so far and the next finer map."""
    x = maps[-1]
    for up, skip in zip(ups, maps[-2::-1]):
        x = up(x, skip)
    return x
