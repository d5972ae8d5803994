"""Networks that fit a run: whether one takes the images and gives what the method reads, and weights trained elsewhere to start from.

Weights are a local file, read without running any code in it.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import networks
from command_line.declarations import PACKAGED
from command_line.options import Options
from dataloaders.description import DataSet
from dataloaders.errors import UserError
from losses.ranks import world
from networks import Network
from storage.weight_files import PACKAGES, packaged, read


def check_network(name: str, network: nn.Module, data: DataSet, options: Options, several_heads: bool) -> None:
    """Raises `UserError` where a network cannot take images of these dimensions or of this patch size, with what it can take, and
    where a method that reads one prediction would get several, or the reverse, with the networks that fit."""
    patch = options.patch_size
    if not isinstance(network, networks.Network):
        if name == options.model:
            raise UserError(f"--model {name}: this is no network that segments; "
                            f"choose one of {', '.join(networks.names(data.dimensions, several_heads))}.")
        return  # critics and the like see what their script hands them
    if network.dimensions != data.dimensions:
        raise UserError(f"--model {name}: a network for {network.dimensions}D images, but {data.name} is {data.dimensions}D; "
                        f"choose one of {', '.join(networks.names(data.dimensions, several_heads))}.")
    if network.several_heads != several_heads:
        found, wanted = ("several predictions", "one") if network.several_heads else ("one prediction", "several")
        raise UserError(f"--model {name}: this network makes {found} of an image, the method reads {wanted}; "
                        f"choose one of {', '.join(networks.names(data.dimensions, several_heads))}.")
    rows = max(options.labeled_bs // world(), 1)
    reason = unfit(network, rows, patch)
    if reason:
        nearest = [" ".join(map(str, sides)) for sides in nearest_sizes(network, rows, patch)]
        if not nearest:
            raise UserError(f"--model {name} {reason}; choose a larger --labeled_bs (now {options.labeled_bs}), at no size would it do.")
        raise UserError(f"--patch_size {' '.join(map(str, patch))}: {name} {reason}; "
                        f"the nearest {'are' if len(nearest) > 1 else 'is'} {' and '.join(nearest)}.")


def unfit(network: networks.Network, batch: int, sides: Sequence[int]) -> str:
    """Why a network cannot take a batch of images of these sides; empty where it can."""
    multiples = multiples_of(network)
    if any(side % multiple for side, multiple in zip(sides, multiples)):
        return f"needs multiples of {multiples[0] if len(set(multiples)) == 1 else ' '.join(map(str, multiples))}"
    try:
        network.check(torch.empty((batch, 1, *sides), device="meta"))
    except ValueError as error:
        return f"cannot take it ({error})"
    return ""


def check_rows(networks: Mapping[str, nn.Module], rows: int, labeled: int, options: Options) -> None:
    """Raises `UserError` where a network cannot take the smallest batch of an epoch, of `rows` of the `labeled` labelled images."""
    for network in networks.values():
        reason = unfit(network, max(rows // world(), 1), options.patch_size) if isinstance(network, Network) else ""
        if reason:
            raise UserError(f"--batch_size {options.batch_size}: {network.spec['name']} {reason}; of {labeled} labelled images "  # type: ignore[index]
                            f"the last batch of an epoch has {rows}. Choose another --batch_size or --labeled_num.")


def nearest_sizes(network: networks.Network, batch: int, sides: Sequence[int]) -> list[tuple[int, ...]]:
    """The nearest size a network takes of those that are nowhere larger, and of those that are nowhere smaller; the nearer one first."""
    axes = list(zip(sides, multiples_of(network)))
    below = [range(max(side // step - 2, 1) * step, side + 1, step) for side, step in axes]
    above = [range(-(-side // step) * step, side + 2 * step + 1, step) for side, step in axes]

    def distance(found: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return sum(abs(a - b) for a, b in zip(found, sides)), found

    legal = [[size for size in itertools.product(*ranges) if not unfit(network, batch, size)] for ranges in (below, above)]
    return sorted((min(sizes, key=distance) for sizes in legal if sizes), key=distance)


def multiples_of(network: networks.Network) -> tuple[int, ...]:
    """What the side of each axis must be a multiple of."""
    return (network.multiple,) * network.dimensions if isinstance(network.multiple, int) else network.multiple


def prepare(network: nn.Module, role: str, options: Options) -> list[str]:
    """Lets a new network start from --pretrained where it can; gives lines about that, and about the network at this size."""
    if not isinstance(network, Network):
        return []
    file = options.pretrained
    if file == PACKAGED and network.pretrained not in PACKAGES and network.spec["name"] != options.model:  # type: ignore[index]
        file = None  # a second network of the method, of another kind: it says that it starts from scratch
    remarks = [start(network, file) if network.pretrained else "", network.remark(options.patch_size)]
    return [f"{role} ({network.spec['name']}): {remark}." for remark in remarks if remark]  # type: ignore[index]


def refuse_unused(networks: Mapping[str, nn.Module], file: Path | None) -> None:
    """Raises `UserError` where --pretrained was given and none of the networks starts from such a file, or from a package."""
    wanted = {getattr(network, "pretrained", "") for network in networks.values()} - {""}
    if file == PACKAGED and not wanted & PACKAGES.keys():
        raise UserError(f"--pretrained {file}: no network of this run starts from weights that come in a package; --model unet_lite0 and "
                        "deeplabv3plus_lite0 do.")
    if file and not wanted:
        raise UserError(f"--pretrained {file}: no network of this run starts from such a file; --model swin_unet, efficient_unet, "
                        "unet_lite0 and the deeplabv3plus ones do.")


def start(network: Network, file: Path | None) -> str:
    """Lets a network start from the weights of `file` (--pretrained); gives the line that says what became of them.

    A tensor is offered to every place that the network names for it (`Network.offered`) and taken where the shape is the same.
    Raises `UserError` for a file that is not there, cannot be read safely, or fits nowhere; and for one that does not fill the whole of
    a network's backbone, or has more than it; where `file` is `PACKAGED`, for a network or an installation without such a package.
    """
    if file is None:
        ways = f"--pretrained {PACKAGED} (from a package) or --pretrained FILE" if network.pretrained in PACKAGES else "--pretrained FILE"
        return f"trained from scratch; ImageNet weights are used with {ways} (a copy of {network.pretrained})"
    if file == PACKAGED:
        file = packaged(network.pretrained, network.spec["name"], f"--pretrained {file}")  # type: ignore[index, arg-type]
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
    if network.backbone_name:
        check_whole(network, file, given, taken)
    if not taken:
        raise UserError(f"--pretrained {file}: none of its {len(given)} tensors fits {network.spec['name']}; a copy of "  # type: ignore[index]
                        f"{network.pretrained} is expected (first names here: {', '.join(list(given)[:3]) or 'none'}).")
    numbers, share = sum(value.numel() for value in own.values()), sum(own[place].numel() for place in taken)
    return (f"{len(taken)} of its {len(own)} tensors ({share / numbers:.0%} of its numbers) start from {file.name}, the others from "
            f"scratch; of the file's tensors {misfits} were offered with another shape, and {strangers} have no place here")


def check_whole(network: Network, file: Path, given: Mapping[str, Tensor], taken: set[str]) -> None:
    """Raises `UserError` where tensors of a network's backbone are missing in a file, or it has others; counters of batches aside."""
    own, start = network.state_dict(), f"{network.backbone_name}."
    wanted = {place for place in own if place.startswith(start) and not place.endswith("num_batches_tracked")}
    missing = sorted(place.removeprefix(start) for place in wanted - taken)
    others = [name for name in given if name not in network.passed_over and not set(network.offered(name)) & taken]
    if missing or others:
        parts = [f"{len(missing)} of its {len(wanted)} tensors are missing or have another shape (first {missing[0]})"] if missing else []
        parts += [f"{len(others)} of the file's tensors belong to no place or fit none (first {others[0]}, "
                  f"{' x '.join(map(str, given[others[0]].shape))})"] if others else []
        raise UserError(f"--pretrained {file}: these are not the weights of the {network.backbone_name} of "
                        f"{network.spec['name']}: {'; '.join(parts)}. A copy of {network.pretrained} is expected.")  # type: ignore[index]


Parts = nn.Module | Sequence[tuple[nn.Module | Sequence[nn.Parameter], float]]
"""A network, or (network or some of its parameters, factor of the rate) pairs."""


def rates_of(modules: Parts, factor: float) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters that take a gradient, in groups, and by what each group's rate is multiplied.

    Of pairs a group each. Of one network two where it has a backbone and `factor` is not 1: the backbone, and by
    `factor` all else.
    """
    if not isinstance(modules, nn.Module):
        return [(trained(part.parameters() if isinstance(part, nn.Module) else part), of) for part, of in modules]
    start = f"{modules.backbone_name}." if isinstance(modules, Network) and modules.backbone_name and factor != 1 else ""
    if not start:
        return [(trained(modules.parameters()), 1.0)]
    named = list(modules.named_parameters())
    inner, outer = ([parameter for name, parameter in named if name.startswith(start) is within] for within in (True, False))
    return [(trained(inner), 1.0), (trained(outer), factor)]


def trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those that take a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]
