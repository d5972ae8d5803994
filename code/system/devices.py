"""Where a run computes, and how repeatably."""
from __future__ import annotations

import os

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
