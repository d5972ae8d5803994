"""Networks with the layers and names of the published ones and a fraction of their width: their checkpoints are written in no time."""
from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module

from swin_weights import NARROW

SHARE = 4


@cache
def published() -> dict[str, tuple[int, ...]]:
    """The widths of every module of networks that has some, as they stand before anything is made narrow."""
    import_module("networks")
    found = {name: getattr(module, "WIDTHS", None) for name, module in list(sys.modules.items()) if name.startswith("networks.")}
    return {name: widths for name, widths in found.items() if widths}


def make_narrow(put: Callable[[object, str, object], None] = setattr) -> None:
    """In a process of a run, before it builds a network. A test that is itself that process gives a `put` that is undone."""
    for name, widths in published().items():
        put(sys.modules[name], "WIDTHS", tuple(width // SHARE for width in widths))
    for part, value in NARROW.items():
        put(sys.modules["networks.swin_unet"], part, value)
    fusion, unet = sys.modules["networks.sfm"].SFM.__init__, published()["networks.unet"]
    put(fusion, "__defaults__", (tuple(width // SHARE for width in unet[1:4]), *fusion.__defaults__[1:]))
