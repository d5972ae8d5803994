"""How kernels of this package are compiled."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's njit without the interpreter's lock; kept on disk where some folder for it can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write: compile again in each process
        return numba.njit(**options)(function)
