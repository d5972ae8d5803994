"""PatchCL: the contrast of embeddings with Gaussians, the only part of the published code that runs by itself."""
from __future__ import annotations

import torch
from parity_tools import Computed, Golden, Parity, gradient
from torch import Tensor

from losses.correlation import gaussian_contrast


def contrast(golden: Golden) -> Computed:
    constants = [golden[f"par_{name}"].item() for name in ("temperature", "lambda", "keys")]
    vectors = {int(c): golden.leaf(f"in_embeddings_{c}") for c in golden.endings("in_embeddings_")}
    queues = [golden.tensor(f"in_queue_{c}") for c in golden.endings("in_queue_")]

    def loss(*classes: int) -> Tensor:
        shown = torch.cat([torch.full((len(vectors[c]),), c) for c in classes])
        return gaussian_contrast(torch.cat([vectors[c] for c in classes]), shown, queues, classes, *constants)

    whole = loss(*vectors)
    slopes = dict(zip(vectors, gradient(whole, *vectors.values())))
    return {"out_loss": whole, "out_loss_two_classes": loss(0, 3)} | {f"grad_embeddings_{c}": slope for c, slope in slopes.items()}


def contrast_of_patches(golden: Golden) -> Computed:
    """The same loss on queues of unequal lengths, and with a class absent of which there is a queue."""
    constants = [golden[f"par_{name}"].item() for name in ("tau", "lambda", "psi")]
    vectors = {int(c): golden.leaf(f"in_patches_{c}") for c in golden.endings("in_patches_")}
    queues = [golden.tensor(f"in_queue_{c}") for c in golden.endings("in_queue_")]
    found: Computed = {}
    for word, classes in (("", tuple(vectors)), ("_without_1", tuple(c for c in vectors if c != 1))):
        shown = torch.cat([torch.full((len(vectors[c]),), c) for c in classes])
        loss = gaussian_contrast(torch.cat([vectors[c] for c in classes]), shown, queues, classes, *constants)
        slopes = gradient(loss, *(vectors[c] for c in classes))
        found |= {f"out_loss{word}": loss} | {f"grad_patches{word}_{c}": slope for c, slope in zip(classes, slopes)}
    return found


FILES = {"patchcl_loss": Parity(contrast), "patchcl": Parity(contrast_of_patches)}
