"""How like features are to remembered ones: of positions (CAML; Gao et al., MICCAI 2023), and of patches, each class of which is a Gaussian
(PatchCL; Basak and Yin, CVPR 2023)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losses.ranks import batch_sums, gathered, of_all

RIDGE, FLOOR = 1e-3, 1e-6
"""Share of the mean variance, and variance, that are added to every variance before a covariance is inverted: of few embeddings it has no
inverse."""


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


class Queues:
    """The newest embeddings of each class, those of all processes, first in first out.

    Args:
        classes: number of classes.
        longest: most embeddings that are kept of a class.
    """

    def __init__(self, classes: int, longest: int):
        self.longest = longest
        self.keys: list[Tensor] = [torch.zeros(0) for _ in range(classes)]

    @torch.no_grad()
    def take(self, keys: Tensor, classes: Tensor) -> list[int]:
        """Takes embeddings (n, D) of the classes (n,) from every process, as many from each; gives the classes that were among them.

        255 is no class.
        """
        keys, classes = gathered(keys.float()), gathered(classes)
        present = [c for c in classes.unique().tolist() if c < len(self.keys)]
        for c in present:
            # An empty tensor, of whatever shape, adds nothing.
            self.keys[c] = torch.cat([self.keys[c].to(keys.device), keys[classes == c]])[-self.longest :]
        return present

    def state_dict(self) -> dict[str, Tensor]:
        return {str(c): keys for c, keys in enumerate(self.keys)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.keys = [state[str(c)] for c in range(len(self.keys))]


def gaussian_contrast(vectors: Tensor, classes: Tensor, queues: Sequence[Tensor], present: Sequence[int], temperature: float,
                      spread: float, keys: int, hard: float = 1.0) -> Tensor:
    """Mean over embeddings v of classes c of ln[e^(E_c) + (k / K) sum_j e^(E_j)] - v m_c / T, j the other K - 1 of the `present` classes.

    E_j = v m_j / T + s v^T S_j v / (2 T^2), m_j and S_j the mean and the covariance (divisor n) of `queues[j]`; with s = 1 it is ln of the
    mean of e^(v x / T) over a normal distribution, as if k negatives had been drawn. T `temperature`, s `spread`, k `keys`.
    Of the other classes the `hard` share alone counts that is `nearest` to class c. vectors (n, D), classes (n,): rows of classes that are
    not present do not count; with one class alone there is nothing to tell apart, and the loss is 0.
    """
    vectors = vectors.float()
    total, counted = 0 * vectors.sum(), torch.zeros((), device=vectors.device)
    for c in present if len(present) > 1 else ():
        rows = vectors[classes == c]
        exponents = [_exponent(rows, queues[c], temperature, spread)]
        for other in present:
            if other != c:
                among = nearest(queues[other], queues[c], hard)
                exponents.append(_exponent(rows, among, temperature, spread) + log(keys / len(present)))
        positive = (rows @ queues[c].T).mean(1) / temperature
        total = total + (torch.stack(exponents).logsumexp(0) - positive).sum()
        counted = counted + len(rows)
    total, counted = batch_sums(total, counted)
    return total / counted.clamp(min=1)


def _exponent(rows: Tensor, keys: Tensor, temperature: float, spread: float) -> Tensor:
    """E of each row: mean and variance of its products with the keys are v m and v^T S v."""
    products = rows @ keys.T
    mean = products.mean(1)
    return mean / temperature + spread / (2 * temperature**2) * (products - mean[:, None]).square().mean(1)


@torch.no_grad()
def nearest(keys: Tensor, towards: Tensor, share: float) -> Tensor:
    """The share of the keys (m, D) that is nearest to the Gaussian of other ones (n, D) by Mahalanobis' distance; at least one."""
    number = max(ceil(share * len(keys)), 1)
    if number >= len(keys):
        return keys
    mean = towards.mean(0)
    covariance = torch.cov(towards.T, correction=0)
    ridge = (RIDGE * covariance.diagonal().mean() + FLOOR) * torch.eye(len(mean), device=keys.device)
    factor = torch.linalg.cholesky(covariance + ridge)
    distances = torch.linalg.solve_triangular(factor, (keys - mean).T, upper=False).square().sum(0)
    return keys[distances.topk(number, largest=False).indices.sort().values]
