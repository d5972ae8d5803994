"""Patches that are moved between two views of an image, by how sure two networks are of them (ABD).

Images (B, C, *sides) of two or three dimensions are cut by a grid of so many patches an axis, in raster order; sides are multiples of it.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dataloaders.errors import UserError


class Moves(NamedTuple):
    """Numbers of patches, (B,) each: into which patch of a view which patch of the other view is copied."""

    into1: Tensor
    from2: Tensor
    into2: Tensor
    from1: Tensor


def check_grid(grid: Sequence[int], sides: Sequence[int]) -> None:
    """Raises `UserError` where the grid does not divide the images."""
    if len(grid) != len(sides) or any(count < 1 or side % count for count, side in zip(grid, sides)):
        raise UserError(f"--grid {' '.join(map(str, grid))}: images of {'x'.join(map(str, sides))} cannot be cut into equal patches by it; "
                        f"a number for each of the {len(sides)} sides is needed that divides it.")


def cut(x: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, C, *sides) -> (B, patches, C, pixels)."""
    axes = len(grid)
    parted = x.reshape(*x.shape[:2], *(n for count, side in zip(grid, x.shape[2:]) for n in (count, side // count)))
    counts, pixels = [2 + 2 * k for k in range(axes)], [3 + 2 * k for k in range(axes)]
    return parted.permute(0, *counts, 1, *pixels).flatten(2 + axes).flatten(1, axes)


def joined(patches: Tensor, grid: Sequence[int], sides: Sequence[int]) -> Tensor:
    """The inverse of `cut`."""
    axes, (rows, _, channels, _) = len(grid), patches.shape
    parted = patches.reshape(rows, *grid, channels, *(side // count for count, side in zip(grid, sides)))
    order = [n for k in range(axes) for n in (1 + k, 2 + axes + k)]
    return parted.permute(0, 1 + axes, *order).reshape(rows, channels, *sides)


def sureness(logits: Tensor, grid: Sequence[int]) -> Tensor:
    """The mean over each patch of the largest probability: (B, patches)."""
    return cut(logits.detach().softmax(1).amax(1, keepdim=True), grid).mean((2, 3))


def sure_into_unsure(logits1: Tensor, logits2: Tensor, grid: Sequence[int], candidates: int, plain: Tensor | None = None) -> Moves:
    """Each view's least sure patch is replaced by one that the other network is sure of.

    Of its `candidates` surest patches a view gives the one whose classes are most like those of the patch that it replaces: the least
    KL(unsure || candidate) of softmax(mean logits of a patch). Where `plain` (B,), if given, is True it gives its surest.
    """
    sure1, sure2 = sureness(logits1, grid), sureness(logits2, grid)
    classes1, classes2 = (cut(z.detach(), grid).mean(3).log_softmax(2) for z in (logits1, logits2))
    unsure1, unsure2 = sure1.argmin(1), sure2.argmin(1)
    rows = torch.arange(len(sure1), device=sure1.device)

    def given(sure: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
        best = sure.topk(min(candidates, sure.shape[1]), 1).indices
        distance = (wanted.exp() * (wanted - classes[rows[:, None], best])).sum(2)
        fitting = best.gather(1, distance.argmin(1, keepdim=True))[:, 0]
        return fitting if plain is None else torch.where(plain, sure.argmax(1), fitting)

    return Moves(unsure1, given(sure2, classes2, classes1[rows, unsure1][:, None]),
                 unsure2, given(sure1, classes1, classes2[rows, unsure2][:, None]))


def unsure_into_sure(logits1: Tensor, logits2: Tensor, grid: Sequence[int]) -> Moves:
    """Each view's surest patch is replaced by the least sure one of the other."""
    sure1, sure2 = sureness(logits1, grid), sureness(logits2, grid)
    return Moves(sure1.argmax(1), sure2.argmin(1), sure2.argmax(1), sure1.argmin(1))


def displaced(first: Tensor, second: Tensor, moves: Moves, grid: Sequence[int], which: Tensor | None = None) -> Tensor:
    """Two views (B, C, *sides) after the moves, one behind the other: (2B, C, *sides). Patches are copied, not exchanged.

    Only in the rows where `which` (B,) is True, if it is given.
    """
    one, two = cut(first, grid), cut(second, grid)
    rows = torch.arange(len(one), device=one.device)
    new_one, new_two = one.clone(), two.clone()
    new_one[rows, moves.into1] = two[rows, moves.from2]
    new_two[rows, moves.into2] = one[rows, moves.from1]
    if which is not None:
        moved = which.view(-1, 1, 1, 1)
        new_one, new_two = torch.where(moved, new_one, one), torch.where(moved, new_two, two)
    return joined(torch.cat([new_one, new_two]), grid, first.shape[2:])
