"""Where a run computes, how repeatably, and how much memory it takes."""
from __future__ import annotations

import ctypes
import os
import sys

import torch

from dataloaders.errors import UserError
from losses.ranks import world
from system import distributed


def choose_device(wanted: str) -> torch.device:
    """The device of --device; of several processes each takes a GPU of its own. Raises `UserError` where there is none for it."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here. Use --device cpu, or mend the driver (nvidia-smi shows whether it works).")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world() == 1:
        return torch.device("cuda")
    place, count = distributed.Place.local_rank, torch.cuda.device_count()
    if place >= count:
        raise UserError(f"Process {place} of this machine needs a GPU of its own, and torch sees {count}. Use --nproc_per_node {count}.")
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def set_determinism(level: int) -> None:
    """0: fast, 1: deterministic cuDNN, 2: operations that are not deterministic raise."""
    torch.backends.cudnn.deterministic = level > 0
    torch.backends.cudnn.benchmark = level == 0
    if level == 2:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


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


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on a GPU, of the process elsewhere (0 where the system does not tell)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
