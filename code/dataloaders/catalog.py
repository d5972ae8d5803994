"""The data sets this suite knows, each described as data, and how one is found from what was typed."""
from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from dataloaders.description import DataSet, Evaluation, Source
from dataloaders.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEART = ("background", "right ventricle", "myocardium", "left ventricle")

SSL4MIS: dict[str, object] = {
    "model": "unet", "patch_size": (256, 256), "batch_size": 24, "labeled_bs": 12, "max_iterations": 30000, "labeled_num": "7",
    "optimizer": "sgd", "base_lr": 0.01, "schedule": "poly", "val_every": 200,
}
"""Common protocol of SSL4MIS in 2D (github.com/HiLab-git/SSL4MIS)."""

CROSS_VAL_DEV: dict[str, object] = {
    "batch_size": 16, "labeled_bs": 8, "base_lr": 0.03, "max_iterations": 30000, "labeled_num": "1/8", "passes": "apart", "ramp": "whole",
}
"""The fold scripts of SSL4MIS's branch cross_val_dev: labelled and unlabelled images from two loaders, ramps scaled to the training."""

VOLUMES: dict[str, object] = {
    "model": "vnet", "batch_size": 4, "labeled_bs": 2, "max_iterations": 6000, "optimizer": "sgd", "base_lr": 0.01, "schedule": "step",
    "val_every": 1000,
}
"""Common protocol of UA-MT and its followers in 3D (github.com/yulequan/UA-MT)."""

OWN_VOLUMES = VOLUMES | {"model": "unet_3D", "patch_size": (96, 96, 96), "max_iterations": 30000, "schedule": "poly", "val_every": 200,
                         "labeled_num": "all"}
WINDOWS = Evaluation(predicted="window")
DEFECTS = Evaluation(scored="image", detection=True)
OWN_SCALE = ("Own volumes: each is scaled by its own mean and deviation, channel by channel (CT: clipped to its 0.5 and 99.5 percentiles "
             "before); the defaults are those of ACDC (2D) and BraTS 2019 (3D).")


def simeps(**values: object) -> dict[str, object]:
    """Published protocol of simEps (Sime et al., IEEE TII 2022; github.com/djene-mengistu/simEps), one validation an epoch."""
    return {"model": "unet", "patch_size": (256, 256), "batch_size": 32, "labeled_bs": 16, "optimizer": "adam", "schedule": "plateau",
            "dice": "linear", "passes": "apart", "val_every": values["steps_per_epoch"], **values}


DATA_SETS = {data.name: data for data in (
    DataSet("ACDC", "acdc", HEART, unit="patient", protocols=("official", "ctct", "cross_val_dev"), defaults=SSL4MIS,
            protocol_defaults={"cross_val_dev": CROSS_VAL_DEV},
            strata="diagnosis, by the patient's number in the challenge (twenty patients each)"),
    DataSet("Phantom", "phantom", HEART, unit="patient", synthetic=True, special=True,
            defaults=SSL4MIS | {"patch_size": (64, 64), "batch_size": 8, "labeled_bs": 4, "max_iterations": 350, "val_every": 50,
                                "consistency_rampup": 1.0},
            note="Phantom is synthetic: drawn by this program, no measured images."),
    DataSet("NEU-Seg", "neu", ("background", "inclusion", "patches", "scratches"), channels=3, protocols=("clean", "official"),
            augmentation="simeps_neu", resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, evaluation=DEFECTS,
            family="defect", defaults=simeps(steps_per_epoch=59, max_iterations=47141, base_lr=1e-3, labeled_num="10%")),
    DataSet("DAGM", "dagm", ("background", *(f"class {k}" for k in range(1, 11))), augmentation="simeps_dagm",
            resizing="floor", intensities="8-bit", mean=(0.5314,), std=(0.1357,), evaluation=DEFECTS, family="defect",
            options=("include_free", "dagm_classes"), strata="class, by the folder",
            defaults=simeps(steps_per_epoch=30, max_iterations=23970, base_lr=2e-3, labeled_num="10%")),
    DataSet("MT", "mt", ("background", "blowhole", "break", "crack", "fray", "uneven"), channels=3, protocols=("clean", "official"),
            augmentation="simeps_mt", resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, evaluation=DEFECTS,
            family="defect", options=("mask_threshold", "include_free"), strata="class of the defect, by the folder",
            defaults=simeps(steps_per_epoch=29, max_iterations=17371, base_lr=2e-3, labeled_num="40%")),
    DataSet("LA", "la", ("background", "atrium"), dimensions=3, evaluation=WINDOWS,
            defaults=VOLUMES | {"labeled_num": "8", "patch_size": (112, 112, 80), "stride": (18, 18, 4), "dice": "foreground",
                                "consistency_rampup": 40.0},
            note="LA: the published preparation crops every volume around its reference label, test volumes too."),
    DataSet("BraTS2019", "brats", ("background", "whole tumour"), dimensions=3, evaluation=WINDOWS,
            defaults=VOLUMES | {"model": "unet_3D", "labeled_num": "25", "patch_size": (96, 96, 96), "stride": (64, 64, 64),
                                "max_iterations": 30000, "schedule": "poly", "val_every": 200}),
    DataSet("Pancreas-CT", "pancreas", ("background", "pancreas"), dimensions=3, evaluation=WINDOWS,
            defaults=VOLUMES | {"labeled_num": "12", "patch_size": (96, 96, 96), "stride": (16, 16, 16), "dice": "foreground",
                                "consistency_rampup": 40.0},
            note="Pancreas-CT: the published preparation crops every volume around its reference label, test volumes too."),
    DataSet("PROMISE12", "promise12", ("background", "prostate"), unit="patient", special=True, defaults=SSL4MIS | {"labeled_num": "2"},
            note="PROMISE12: nobody has published the lists of its 35/5/10 cases; ours are drawn, compare figures with care."),
    DataSet("ISIC", "isic", ("background", "lesion"), channels=3, protocols=("official", "challenge"),
            intensities="8-bit", mean=(0.0,) * 3, std=(1.0,) * 3,
            defaults=SSL4MIS | {"labeled_num": "181", "patch_size": (224, 224), "batch_size": 16, "labeled_bs": 8},
            note="ISIC: images are reduced to 224x224 when they are read, and scored so."),
    DataSet("nnunet", "nnunet", dimensions=3, evaluation=WINDOWS, own=True, special=True, defaults=OWN_VOLUMES, note=OWN_SCALE),
    DataSet("nnunet2D", "nnunet", unit="patient", own=True, defaults=SSL4MIS | {"labeled_num": "all"}, note=OWN_SCALE),
    DataSet("Phantom3D", "phantom3d", ("background", "atrium"), dimensions=3, evaluation=WINDOWS, synthetic=True, special=True,
            defaults=VOLUMES | {"labeled_num": "4", "patch_size": (48, 48, 32), "stride": (24, 24, 16), "max_iterations": 300,
                                "schedule": "poly", "val_every": 50, "consistency_rampup": 1.0},
            note="Phantom3D is synthetic: drawn by this program, no measured images."),
    DataSet("folder", "folder", intensities="8-bit", evaluation=Evaluation(detection=True), own=True,
            defaults=SSL4MIS | {"labeled_num": "all"},
            note="Own images: nobody has published values for them; the defaults are those of ACDC."),
)}

VOLUME_FOLDER = DataSet("folder", "pairs", dimensions=3, evaluation=WINDOWS, own=True, defaults=OWN_VOLUMES, note=OWN_SCALE)
"""What --dataset folder means where its images are volumes."""


def loose(name: str) -> str:
    """A name without case, hyphens, underscores and blanks."""
    return "".join(c for c in name.lower() if c not in "-_ ")


def named(name: str) -> DataSet:
    """The data set of this name, however it is spelt; raises `UserError` with all names for any other."""
    for data in DATA_SETS.values():
        if loose(data.name) == loose(name):
            return data
    raise UserError(f"--dataset {name}: not known; the data sets are {', '.join(DATA_SETS)}.")


def own_options() -> dict[str, list[str]]:
    """Common options that belong to some data sets: the names of these, by option."""
    owners: dict[str, list[str]] = {}
    for data in DATA_SETS.values():
        for name in data.options:
            owners.setdefault(name, []).append(data.name)
    return owners


def default_place(data: DataSet, repository: Path) -> Path:
    """data/<name> of the repository, or the folder there whose name differs in case, hyphens and underscores only."""
    place = repository / "data" / data.name
    if place.exists() or not place.parent.is_dir():
        return place
    alike = sorted(p for p in place.parent.iterdir() if p.is_dir() and loose(p.name) == loose(data.name))
    return alike[0] if alike else place


def resolve(dataset: str | None, root_path: Path | None, repository: Path) -> tuple[DataSet, Path, str]:
    """(data set, its folder, a sentence that says why these) of what was typed.

    Without a name the folder is recognised by its layout; without either it is ACDC if data/ACDC is there, else Phantom.
    Raises `UserError` for a name or folder that is not known or not there.
    """
    if dataset is None and root_path is None:
        place = default_place(DATA_SETS["ACDC"], repository)
        if place.is_dir():
            return DATA_SETS["ACDC"], place, f"ACDC, because {place} is there and no --dataset was given."
        return DATA_SETS["Phantom"], default_place(DATA_SETS["Phantom"], repository), (
            f"Phantom (synthetic), because no --dataset was given and {place} is not there.")
    if dataset is not None:
        data = named(dataset)
        if root_path is None and data.layout == "folder":
            raise UserError("--dataset folder: give its place too, --root_path D, where D holds images/ and masks/.")
        root = root_path or default_place(data, repository)
        if not root.is_dir() and not data.synthetic:
            raise UserError(f"{root}: there is no such folder; {data.name} is expected there (data/README.md says where to get it), "
                            "or give its place with --root_path.")
        return as_volumes(data, root), root, f"{data.name} in {root}, as given."
    assert root_path is not None
    if not root_path.is_dir():
        raise UserError(f"{root_path}: there is no such folder; give the folder of a data set, or --dataset alone.")
    fitting = [data for data in DATA_SETS.values() if reader(data.layout).fits(root_path)]
    fitting = [data for data in fitting if data.special] or fitting
    if len(fitting) != 1:
        found = " and ".join(data.name for data in fitting)
        what = f"looks like {found}" if fitting else "has the layout of no data set that is known here"
        raise UserError(f"{root_path}: {what}; add --dataset with one of {', '.join(DATA_SETS)}.")
    return as_volumes(fitting[0], root_path), root_path, f"{fitting[0].name}, recognised by the layout of {root_path}."


def as_volumes(data: DataSet, root: Path) -> DataSet:
    """`VOLUME_FOLDER` in place of "folder" where the images are volumes; other data sets as they are."""
    if data.layout != "folder" or not root.is_dir():
        return data
    places = [root, *(place for place in sorted(root.iterdir()) if place.is_dir())]
    return VOLUME_FOLDER if any(reader("pairs").fits(place) for place in places) else data


def open_source(data: DataSet, root: Path, options: object | None = None) -> Source:
    """The reader of a data set; `options` may have `mask_threshold` (MT), `include_free` (MT, DAGM) and `dagm_classes`.

    Raises `UserError` where the folder is not of the data set's layout. Phantom is drawn into `root` if it is not there.
    """
    return reader(data.layout)(data, Path(root), options)


def reader(layout: str) -> Any:
    """The reader class of a layout."""
    module, name = READERS[layout].split(".")
    return getattr(import_module(f"dataloaders.layouts.{module}"), name)


READERS = {
    "acdc": "acdc.AcdcSource", "neu": "neu.NeuSource", "dagm": "dagm.DagmSource", "mt": "mt.MtSource", "phantom": "phantom.PhantomSource",
    "phantom3d": "phantom3d.Phantom3DSource",
    "folder": "folder.FolderSource", "la": "volumes.LaSource", "brats": "volumes.BratsSource", "pancreas": "volumes.PancreasSource",
    "promise12": "promise12.PromiseSource", "isic": "isic.IsicSource", "nnunet": "nnunet.NnunetSource", "pairs": "pairs.PairsSource",
}
"""By layout: the module in `layouts/` and the class."""
