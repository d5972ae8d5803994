"""What made a run: versions, commit, machine, and the digest of the code that shaped it."""
from __future__ import annotations

import hashlib
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from command_line.options import REPOSITORY

SHAPING = ("engine", "command_line", "storage", "system", "dataloaders", "networks", "losses")


def code_digest(script: Path) -> str:
    """SHA-256 over a script and the packages that shape a training run (line ends apart)."""
    digest = hashlib.sha256()
    code = Path(__file__).resolve().parents[1]
    for path in [script, *sorted(file for name in SHAPING for file in (code / name).rglob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


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
    """Host, device and thread count."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or platform.machine())
    return {"host": socket.gethostname(), "device": name, "threads": torch.get_num_threads(), "system": platform.platform()}
