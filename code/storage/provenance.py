"""What made a run: versions, commit, machine, and the digest of the code that shaped it."""
from __future__ import annotations

import hashlib
import json
import platform
import shlex
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from storage.folders import REPOSITORY

CODE = Path(__file__).resolve().parents[1]

SHAPING = {
    "engine": "the loop, what it is fed, rates, precision, initial weights; not what only watches, tells or plans",
    "losses": "", "networks": "", "metrics": "they score the validation that chooses the best step, and under plateau the rate",
    "inference": "so does how a case is predicted",
    "system/distributed.py": "which rows a process has, and what is averaged", "system/devices.py": "how repeatably it computes",
    "dataloaders": "which cases, which pixels, which batches; not how the synthetic sets are drawn, which their version tells",
}
"""What of code/ decides weights and the chosen step, and why. All else (converters, pictures, evaluation, prediction, reports, sweeps, what
lies on the disk) may change under a run that has begun."""
NOT_SHAPING = ("engine/monitor.py", "engine/plan.py", "engine/launch.py", "engine/claim.py", "engine/changes.py", "dataloaders/phantoms",
               "dataloaders/errors.py", "dataloaders/progress.py")
"""Below these, what does not."""


def words_of(command: str) -> list[str]:
    """The words of a recorded command, of which those with a blank in them (a folder called "my data") are quoted; of an older one, and of
    one in which a quotation mark stands alone, what lies between blanks."""
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def shaping_files(script: Path) -> list[Path]:
    """A script, and the files of code/ that shape a training run, sorted."""
    code = script.parent if (script.parent / "engine").is_dir() else CODE
    found = [path for name in SHAPING for path in ([code / name] if name.endswith(".py") else sorted((code / name).rglob("*.py")))]
    kept = [path for path in found if not path.relative_to(code).as_posix().startswith(NOT_SHAPING)]
    return [script, *sorted(path for path in kept if path.is_file())]


def code_files(script: Path) -> dict[str, str]:
    """By file: a digest of its content (line ends apart), of 12 digits."""
    root = script.parent if (script.parent / "engine").is_dir() else CODE
    return {(path.name if path == script else path.relative_to(root).as_posix()):
            hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:12] for path in shaping_files(script)}


def digest_of(files: Mapping[str, str]) -> str:
    """One digest of all."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:16]


def code_digest(script: Path) -> str:
    """One digest of a script and all that shapes its training."""
    return digest_of(code_files(script))


def changed_files(old: Mapping[str, str] | None, new: Mapping[str, str]) -> str:
    """What became of the files between two runs, in words; empty where an old run did not note them."""
    if not old:
        return ""
    words = {"changed": [name for name in new if name in old and old[name] != new[name]],
             "new": [name for name in new if name not in old], "gone": [name for name in old if name not in new]}
    return "; ".join(f"{kind}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for kind, names in words.items() if names)


def commit() -> str:
    """The repository's commit, "+changes" where files differ from it, "unknown" outside git."""
    try:
        git = ["git", "-C", str(REPOSITORY)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        state = subprocess.run([*git, "status", "--porcelain", "--", "code"], capture_output=True, text=True, timeout=20, check=True)
        return head + ("+changes" if state.stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "numba", "h5py", "medpy", "SimpleITK", "scikit-image"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine(device: torch.device) -> dict[str, object]:
    """Host, device and thread count; of a GPU also how it multiplies float32."""
    name = platform.processor() or platform.machine()
    found: dict[str, object] = {}
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        found = {"cudnn": torch.backends.cudnn.version(), "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32, "matrix products": torch.get_float32_matmul_precision() != "highest"}}
    elif device.type == "mps":
        name = torch.backends.mps.get_name()
    return {"host": socket.gethostname(), "device": name, "threads": torch.get_num_threads(), "system": platform.platform(), **found}
