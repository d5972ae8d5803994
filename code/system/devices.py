"""Where a run computes, how repeatably, and how much memory it takes."""
from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from dataloaders.errors import UserError
from losses.ranks import world
from system import distributed


def computes_on(kind: str) -> bool:
    """Whether torch can compute on a device of this kind: cpu, cuda (NVIDIA, AMD) or mps (Apple)."""
    return kind == "cpu" or (torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available())


def choose_device(wanted: str) -> torch.device:
    """The device of --device; of several processes each takes a GPU of its own. Raises `UserError` where there is none for it.

    auto: a GPU of kind cuda, else the CPU. Apple's has to be asked for: nobody has measured yet whether it is faster.
    """
    if wanted == "cuda" and not computes_on("cuda"):
        raise UserError("--device cuda: torch sees no GPU here. Use --device cpu, or mend the driver (nvidia-smi shows whether it works).")
    if wanted == "mps" and not computes_on("mps"):
        raise UserError("--device mps: torch sees no Apple GPU here (it takes macOS 14 on an Apple processor). Use --device cpu.")
    if wanted == "mps":
        if world() > 1:
            raise UserError(f"--device mps: an Apple GPU serves one process, and {world()} were started. Leave torchrun out.")
        return torch.device("mps")
    if wanted == "cpu" or not computes_on("cuda"):
        return torch.device("cpu")
    if world() == 1:
        return torch.device("cuda")
    place, count = distributed.Place.local_rank, torch.cuda.device_count()
    if place >= count:
        raise UserError(f"Process {place} of this machine needs a GPU of its own, and torch sees {count}. Use --nproc_per_node {count}.")
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def check_precision(precision: str, device: torch.device) -> None:
    """Raises `UserError` for bfloat16 on a card that has none: torch would imitate it, slower than float32."""
    if precision == "bf16-mixed" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name, of = torch.cuda.get_device_name(device), ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise UserError(f"--precision bf16-mixed: {name} (compute capability {of}) does not compute in bfloat16, which needs 8.0 or more. "
                        "Use --precision 32.")


def set_determinism(level: int, device: torch.device, fast: bool = False) -> None:
    """0: fast, 1: deterministic cuDNN, 2: operations that are not deterministic raise.

    On a GPU convolutions compute in TF32, as the published code had it (torch's default); matrix products do so where `fast`.
    """
    torch.backends.cudnn.deterministic = level > 0
    torch.backends.cudnn.benchmark = level == 0
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high" if fast else "highest")
    if level == 2:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def keep_compiled(folder: Path) -> bool:
    """Has torch.compile keep what it makes in `folder`, for later runs; False where it must not lie there.

    What lies there is code that runs load, so the folder is this user's alone, and another's is not used. One that the environment
    names stays.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return True
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            found = folder.stat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                return False
    except OSError:
        return False
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    return True


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
    """Bytes: of a GPU's allocator (of Apple's what it holds now), of the process elsewhere (0 where the system does not tell)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
