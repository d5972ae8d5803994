"""Networks with the layers and names of the published ones and a fraction of their width: their checkpoints are written in no time."""
from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from swin_weights import NARROW

SHARE = 4


def make_narrow(put: Callable[[object, str, object], None] = setattr) -> None:
    """In a process of a run, before it builds a network. A test that is itself that process gives a `put` that is undone."""
    import_module("networks")
    for name, module in list(sys.modules.items()):
        if name.startswith("networks.") and hasattr(module, "WIDTHS"):
            put(module, "WIDTHS", tuple(width // SHARE for width in module.WIDTHS))
    for part, value in NARROW.items():
        put(sys.modules["networks.swin_unet"], part, value)
    fusion = sys.modules["networks.sfm"].SFM.__init__
    put(fusion, "__defaults__", (tuple(width // SHARE for width in fusion.__defaults__[0]), *fusion.__defaults__[1:]))
