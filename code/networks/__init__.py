"""Networks and the factory that builds one by name. Each offers encode(x), decode(maps), head(features) and forward, their composition."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from networks.averaging import average_weights, ema_update, frozen_copy
from networks.unet import UNet

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "unet_transposed": partial(UNet, transposed=True),
}

__all__ = ["BUILDERS", "average_weights", "build", "ema_update", "frozen_copy"]


def build(name: str, **arguments: object) -> nn.Module:
    """Builds network `name`; `spec` of the result (name and arguments) is enough to build it again.

    Raises ValueError for an unknown name, with the known ones.
    """
    if name not in BUILDERS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(sorted(BUILDERS))}")
    network = BUILDERS[name](**arguments)
    network.spec = {"name": name, "arguments": dict(arguments)}  # type: ignore[assignment]
    return network
