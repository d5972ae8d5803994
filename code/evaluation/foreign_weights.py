"""Weights that SSL4MIS's code (or UA-MT's V-Net) trained, as a finished run that the testers take.

Networks of one architecture differ between programs in the names of their tensors only. `NAMES` says, for each of our networks, how its
parts are called there; what remains of a tensor's name behind its part (".0.weight") is the same on both sides.
"""
from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from os import path
from pathlib import Path

import torch
from torch import Tensor, nn

import networks
from command_line.declarations import fate_of
from command_line.options import Options
from dataloaders import catalog
from dataloaders.errors import UserError
from engine.fitting import check_network
from storage import checkpoint, provenance
from storage.checkpoint import write_json
from storage.folders import REPOSITORY, model_folder, word
from storage.sealed import parsed, sealed
from storage.weight_files import read

Parts = dict[str, str]
"""By the name of a part of our network: its name there."""


def encoder_2d() -> Parts:
    return {"stem": "encoder.in_conv.conv_conv"} | {f"down.{k}.1": f"encoder.down{k + 1}.maxpool_conv.1.conv_conv" for k in range(4)}


def decoder_2d(theirs: str, ours: str = "", reduce: str = "conv1x1") -> Parts:
    parts = {f"{ours}out": f"{theirs}.out_conv"}
    for k in range(4):
        parts |= {f"{ours}up.{k}.reduce": f"{theirs}.up{k + 1}.{reduce}", f"{ours}up.{k}.conv": f"{theirs}.up{k + 1}.conv.conv_conv"}
    return parts


def several_scales_2d() -> Parts:
    return encoder_2d() | decoder_2d("decoder") | {f"side_heads.{k}": f"decoder.out_conv_dp{k + 1}" for k in range(4)}


def several_decoders_2d() -> Parts:
    parts = encoder_2d() | decoder_2d("main_decoder")
    for k in range(3):
        parts |= decoder_2d(f"aux_decoder{k + 1}", f"auxiliary.{k}.")
    return parts


def unet_3d() -> Parts:
    blocks = {"stem": "conv1", **{f"down.{k}.1": f"conv{k + 2}" for k in range(3)}, "down.3.1": "center",
              **{f"up.{k}.conv": f"up_concat{4 - k}.conv" for k in range(4)}}
    return {f"{ours}.{place}": f"{theirs}.conv{i}.0" for ours, theirs in blocks.items() for place, i in ((0, 1), (3, 2))}


def pyramid_3d() -> Parts:
    return unet_3d() | {"heads.0.0": "dsv1"} | {f"heads.{k}.0": f"dsv{k + 1}.dsv.0" for k in range(1, 4)}


def vnet() -> Parts:
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    parts = {"out": "out_conv"}
    for k, number in enumerate(numbers):
        level = f"levels.{k}" if k < 5 else f"up_levels.{k - 5}"
        # Three convolutions at most, each followed by its norm and an activation.
        parts |= {f"{level}.{i}.{j}": f"block_{number}.conv.{3 * i + j}" for i in range(3) for j in range(2)}
    parts |= {f"down.{k}": f"block_{number}_dw.conv" for k, number in enumerate(numbers[:4])}
    return parts | {f"up.{k}": f"block_{number}_up.conv" for k, number in enumerate(numbers[4:8])}


NAMES: dict[str, Callable[[], Parts]] = {
    "unet": lambda: encoder_2d() | decoder_2d("decoder"),
    "unet_transposed": lambda: encoder_2d() | decoder_2d("decoder", reduce="up"),
    "unet_ds": several_scales_2d,
    "unet_urpc": several_scales_2d,
    "unet_cct": several_decoders_2d,
    "unet_3D": lambda: unet_3d() | {"out": "final"},
    "unet_3D_dv_semi": pyramid_3d,
    "vnet": vnet,
}
"""By the name of our network."""


def names_there(model: str, own: Sequence[str]) -> dict[str, str]:
    """By each tensor of our network `model`: its name in SSL4MIS."""
    parts = NAMES[model]()
    found = {}
    for name in own:
        part = max((part for part in parts if name.startswith(f"{part}.")), key=len)
        found[name] = parts[part] + name[len(part) :]
    return found


def adopt(network: nn.Module, model: str, given: Mapping[str, Tensor], file: Path) -> list[str]:
    """Puts the tensors of a file into our network; gives the names of those that have no place in it.

    Raises `UserError` with all that is missing or has another shape. Counters of batch norm, which old versions did not save,
    may be missing.
    """
    own = network.state_dict()
    there = names_there(model, list(own))
    missing = [name for mine, name in there.items() if name not in given and not mine.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in there.values()]
    shapes = [f"{name} has {tuple(given[name].shape)}, {model} needs {tuple(own[mine].shape)}" for mine, name in there.items()
              if name in given and given[name].shape != own[mine].shape]
    bad = [name for name in there.values() if name in given and not given[name].isfinite().all()]
    lines = [f"{len(missing)} tensors of {model} are missing: {some(missing)}"] if missing else []
    lines += [f"{len(unexpected)} tensors have no place in {model}: {some(unexpected)}"] if missing and unexpected else []
    lines += [f"{len(shapes)} tensors have another shape: {some(shapes, '; ')}"] if shapes else []
    lines += [f"{len(bad)} tensors are not finite: {some(bad)}"] if bad else []
    if lines:
        fitting = [name for name in NAMES if missing and fits(name, given)]
        if fitting:
            lines.append(f"Its names are those of --model {' or '.join(fitting)}.")
        elif missing:
            lines.append(f"Known are the networks {', '.join(NAMES)} as SSL4MIS has them.")
        elif shapes:
            lines.append("Channels and classes come from the data set: give the one on which these weights were trained with --dataset.")
        raise UserError("\n".join([f"{file}: these weights do not fit.", *lines]))
    network.load_state_dict({mine: given.get(name, own[mine]) for mine, name in there.items()})
    return unexpected


def fits(model: str, given: Mapping[str, Tensor]) -> bool:
    """Whether a file's names are exactly those of a network."""
    with torch.device("meta"):
        own = list(networks.build(model).state_dict())
    names = {name for mine, name in names_there(model, own).items() if not mine.endswith("num_batches_tracked")}
    return names == {name for name in given if not name.endswith("num_batches_tracked")}


def some(names: Sequence[str], comma: str = ", ") -> str:
    return comma.join(names[:6]) + (f"{comma}..." if len(names) > 6 else "")


UNKNOWN = "not known"



def make_run(file: Path, options: Options, name: str, labeled_num: str | None) -> tuple[Path, list[str]]:
    """A finished run of the weights in `file` below model/; gives its folder and what is worth saying.

    `options` as `engine.parse` gives them; `name` is what the results call the method. Raises `UserError` for weights that do not fit,
    and where another run lies in that folder.
    """
    resolved = options.resolved
    if options.model not in NAMES:
        raise UserError(f"--model {options.model}: names of other programs are known for {', '.join(NAMES)} only.")
    data = catalog.open_source(resolved.data, resolved.root, vars(options)).data
    network = networks.build(options.model, in_channels=data.channels, num_classes=data.num_classes)
    check_network(options.model, network, data, options, network.several_heads)  # type: ignore[arg-type]
    unexpected = adopt(network, options.model, read(file, str(file)), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    remarks = [f"Weights from {file.resolve()} (SHA-256 {digest[:16]}), trained by another program. On which cases (whether test "
               "cases are among them), on what scale of the images and for how long is not known here."]
    if unexpected:
        remarks.append(f"{len(unexpected)} tensors of the file have no place in {options.model} and were left out: {some(unexpected)}.")

    split = options.protocol if options.fold is None else f"fold{options.fold}of{options.folds}"
    patch = "x".join(map(str, options.patch_size))
    folder = model_folder() / data.name / f"{word(name)}_weights" / options.model / f"{split}_patch{patch}"
    claim(folder, digest)
    # What describes the test is known; the other options describe a training of which nothing is.
    settings = {name: getattr(options, name) if fate.tested else None for name, fate in fate_of(type(options)).items()}
    settings["labeled_num"] = labeled_num or UNKNOWN
    write_json(folder / "config.json", sealed({
        "schema": 1, "method": name, "script": "prepare.py", "data_set": data.name, "dimensions": data.dimensions,
        "root": str(resolved.root.resolve()), "options": json.loads(json.dumps(settings, default=str)),
        "split": {"name": split, "labeled": [], "unlabeled": 0, "val": []}, "selection": UNKNOWN,
        "remarks": [*([data.note] if data.note else []), *remarks], "weights": {"file": str(file.resolve()), "sha256": digest},
        "code": provenance.code_digest(REPOSITORY / "code" / "prepare.py"), "commit": provenance.commit(),
        "versions": provenance.versions(), "machine": provenance.machine(torch.device("cpu")), "command": shlex.join(sys.argv),
    }))
    entry = {"score": None, "step": None, "network": network.spec, "state": network.state_dict()}
    checkpoint.save(folder / "best.pt", {"format": 1, "kind": "best", "stage": "", "method": name, "code": "", "order": ["network"],
                                         "predictors": {"network": entry}, "ensembles": {}})
    write_json(folder / "status.json", sealed({"state": "done", "step": None, "of": None}))
    return folder, [*remarks, f"Next: python code/test_{data.dimensions}D.py --run {shlex.quote(path.relpath(folder))}"]


def claim(folder: Path, digest: str) -> None:
    """Makes the folder; raises `UserError` where a run of other weights lies there."""
    try:
        known = parsed((folder / "config.json").read_bytes()).get("weights")
    except OSError:
        known = {"sha256": digest}
    except ValueError:
        known = None
    if not isinstance(known, dict) or known.get("sha256") != digest:
        raise UserError(f"{folder}: a run of other weights lies here. Choose another name with --name, or remove that folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}). Mend the permissions of {model_folder()}.") from error
