"""How this process keeps its memory on the CPU."""
from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Lets glibc hand freed memory to the next tensor rather than back to the system; False where the C library has no such setting.

    Activations of tens of MiB are otherwise mapped, cleared page by page and unmapped at each step: a tenth to a fifth of the U-Net's
    step at 256x256. The process stays as large as its largest step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
