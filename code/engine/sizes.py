"""Whether a network can take the images that a run would hand it."""
from __future__ import annotations

import torch
from torch import nn

import networks
from dataloaders.description import DataSet
from dataloaders.errors import UserError
from engine.options import Options


def check_size(name: str, network: nn.Module, data: DataSet, options: Options) -> None:
    """Raises `UserError` where a network cannot take images of these dimensions or of this patch size, with what it can take."""
    patch = options.patch_size
    if not isinstance(network, networks.Network):
        return  # critics and the like see what their script hands them
    if network.dimensions != data.dimensions:
        raise UserError(f"--model {name}: a network for {network.dimensions}D images, but {data.name} is {data.dimensions}D; "
                        f"choose one of {', '.join(networks.names(data.dimensions))}.")
    given = f"--patch_size {' '.join(map(str, patch))}: "
    multiples = (network.multiple,) * data.dimensions if isinstance(network.multiple, int) else network.multiple
    if any(side % multiple for side, multiple in zip(patch, multiples)):
        nearest = [max(multiple, round(side / multiple) * multiple) for side, multiple in zip(patch, multiples)]
        needed = str(network.multiple) if isinstance(network.multiple, int) else " ".join(map(str, multiples))
        raise UserError(f"{given}{name} needs multiples of {needed}; the nearest are {' '.join(map(str, nearest))}.")
    try:
        network.check(torch.empty((options.labeled_bs, 1, *patch), device="meta"))
    except ValueError as error:
        raise UserError(f"{given}{error}.") from error
