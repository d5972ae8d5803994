"""Networks that start from weights trained elsewhere: a local file, read without running any code in it."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from command_line.options import Options
from dataloaders.errors import UserError
from networks import Network
from storage.weight_files import read


def prepare(network: nn.Module, role: str, options: Options) -> list[str]:
    """Lets a new network start from --pretrained where it can; gives lines about that, and about the network at this size."""
    if not isinstance(network, Network):
        return []
    remarks = [start(network, options.pretrained) if network.pretrained else "", network.remark(options.patch_size)]
    return [f"{role} ({network.spec['name']}): {remark}." for remark in remarks if remark]  # type: ignore[index]


def refuse_unused(networks: Mapping[str, nn.Module], file: Path | None) -> None:
    """Raises `UserError` where --pretrained was given and none of the networks starts from such a file."""
    if file and not any(getattr(network, "pretrained", "") for network in networks.values()):
        raise UserError(f"--pretrained {file}: no network of this run starts from such a file; --model swin_unet and efficient_unet do.")


def start(network: Network, file: Path | None) -> str:
    """Lets a network start from the weights of `file` (--pretrained); gives the line that says what became of them.

    A tensor is offered to every place that the network names for it (`Network.offered`) and taken where the shape is the same.
    Raises `UserError` for a file that is not there, cannot be read safely, or fits nowhere.
    """
    if file is None:
        return f"trained from scratch; ImageNet weights are used with --pretrained FILE (a copy of {network.pretrained})"
    given, own = read(file, f"--pretrained {file}"), network.state_dict()
    taken, misfits, strangers = set(), 0, 0
    for name, tensor in given.items():
        places = [place for place in network.offered(name) if place in own]
        strangers += not places
        for place in places:
            adapted = network.adapted(tensor, own[place].shape)
            if own[place].shape == adapted.shape:
                own[place].copy_(adapted)
                taken.add(place)
            else:
                misfits += 1
    if not taken:
        raise UserError(f"--pretrained {file}: none of its {len(given)} tensors fits {network.spec['name']}; a copy of "  # type: ignore[index]
                        f"{network.pretrained} is expected (first names here: {', '.join(list(given)[:3]) or 'none'}).")
    numbers, share = sum(value.numel() for value in own.values()), sum(own[place].numel() for place in taken)
    return (f"{len(taken)} of its {len(own)} tensors ({share / numbers:.0%} of its numbers) start from {file.name}, the others from "
            f"scratch; of the file's tensors {misfits} were offered with another shape, and {strangers} have no place here")
