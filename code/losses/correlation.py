"""How like the features of a position are to remembered features of labelled ones (CAML; Gao et al., MICCAI 2023)."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losses.ranks import of_all


class Memory:
    """Vectors of labelled positions by image, the latest of each.

    Args:
        stored: most vectors that are remembered of a class in an image; of more so many are drawn.
    """

    def __init__(self, stored: int, device: torch.device | str = "cpu"):
        self.stored, self.device = stored, device
        self.images: dict[str, dict[str, Tensor]] = {}
        """By image: `vectors` (n, D) and their `classes` (n,)."""

    def chosen(self, labels: Tensor, right: Tensor, rng: np.random.Generator) -> Tensor:
        """Which positions of an image are remembered, in its order: of those that are right as many of each class as are stored."""
        parts = []
        for c in labels[right].unique().tolist():
            places = (right & (labels == c)).flatten().nonzero()[:, 0]
            if len(places) > self.stored:
                drawn = np.sort(rng.choice(len(places), self.stored, replace=False))
                places = places[torch.from_numpy(drawn).to(places.device)]
            parts.append(places)
        return torch.cat(parts).sort().values if parts else labels.new_zeros(0)

    def remember(self, images: dict[str, dict[str, Tensor]]) -> None:
        """Takes `vectors` (n, D) and their `classes` (n,) of images, those of all processes, in place of what was known of them."""
        self.load_state_dict(self.images | of_all(images))

    def drawn(self, number: int, rng: np.random.Generator) -> Tensor | None:
        """So many vectors of each class that has as many, of all images in the order of their names: (classes * number, D), or None."""
        known = [image for _, image in sorted(self.images.items())]
        if not known:
            return None
        vectors, classes = (torch.cat([image[name] for image in known]) for name in ("vectors", "classes"))
        parts = []
        for c in classes.unique().tolist():
            own = vectors[classes == c]
            if len(own) >= number:
                parts.append(own[torch.from_numpy(rng.choice(len(own), number, replace=False)).to(own.device)])
        return torch.cat(parts) if parts else None

    def state_dict(self) -> dict[str, Any]:
        return {name: dict(image) for name, image in self.images.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.images = {name: {key: value.to(self.device) for key, value in image.items()} for name, image in state.items()}


def surest(classes: Tensor, sureness: Tensor, number: int) -> Tensor:
    """Of n positions (n,) the surest of each class, at most so many, class by class, the surest first: their indices."""
    parts = []
    for c in classes.unique().tolist():
        places = (classes == c).nonzero()[:, 0]
        parts.append(places[sureness[places].topk(min(number, len(places))).indices])
    return torch.cat(parts)


def correlation(vectors: Tensor, memory: Tensor, temperature: float) -> Tensor:
    """softmax of z M / T over the remembered vectors: (n, D) and (m, D) -> (n, m). No vector is normalised."""
    return (vectors @ memory.T / temperature).softmax(1)
