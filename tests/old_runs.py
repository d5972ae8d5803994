"""The runs that the code of commit bab049a left, kept in golden_runs/: what they are, their data drawn again, a copy put in place."""
from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dagm_fixture import write_dagm
from PIL import Image
from tiny import write_acdc, write_balls, write_folder

FOLDER = Path(__file__).parent / "golden_runs"
FLAT = ("--model", "unet", "--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2", "--val_every", "40", "--save_every", "40",
        "--log_every", "20", "--device", "cpu")
SLICES = (*FLAT, "--dataset", "ACDC", "--labeled_num", "2", "--base_lr", "0.05")


@dataclass(frozen=True)
class Kind:
    """A kind of run. `data`: which tiny data set; `images`: its folder that predict.py was given, where it was.

    `killed_at`: it never ended, killed at this step. `made_again`: its weights are not kept, so that the scores are of the very
    training that the options give.
    """

    name: str
    script: str
    data: str
    words: tuple[str, ...]
    images: str = ""
    dimensions: int = 2
    killed_at: int = 0
    seeds: tuple[int, ...] = (1,)
    made_again: bool = False
    grid: float = 2.0
    """Weights are kept as multiples of this part of a standard deviation."""


KINDS = (
    Kind("slices", "MeanTeacher", "acdc", (*SLICES, "--max_iterations", "240", "--consistency_start", "20"), "data"),
    Kind("photographs", "Supervised", "folder", (*FLAT, "--dataset", "folder", "--labeled_num", "all", "--max_iterations", "240",
                                                  "--base_lr", "0.05"), "images"),
    Kind("defects", "CPS", "dagm", (*FLAT, "--dataset", "DAGM", "--dagm_classes", "1", "2", "7", "--labeled_num", "12", "--optimizer",
                                    "sgd", "--schedule", "poly", "--base_lr", "0.05", "--max_iterations", "240")),
    Kind("volumes", "Supervised", "balls", (
        "--dataset", "nnunet", "--model", "unet_3D", "--patch_size", "32", "32", "16", "--batch_size", "2", "--max_iterations", "60",
        "--val_every", "30", "--save_every", "30", "--log_every", "10", "--device", "cpu", "--base_lr", "0.05"), "imagesTs", 3, grid=2.0),
    Kind("stages", "awkward_stages", "acdc", (*SLICES, "--max_iterations", "120", "--pretraining", "120")),
    Kind("begun", "MeanTeacher", "acdc", (*SLICES, "--max_iterations", "12", "--save_every", "3", "--val_every", "4"),
         killed_at=8, grid=0.2),
    Kind("seeds", "Supervised", "acdc", (*SLICES, "--max_iterations", "60"), seeds=(1, 2, 3), made_again=True),
)


def write_data(name: str, root: Path) -> Path:
    """A tiny data set as the runs saw it, with nothing but these names and seeds."""
    if name == "acdc":
        return write_acdc(root / "ACDC")
    if name == "folder":
        return write_folder(root / "own")
    if name == "balls":
        return write_balls(root / "Dataset007_Ball")
    write_dagm(root / "DAGM", n_train=10, n_test=4, defective=6, side=32)
    for file in sorted((root / "DAGM").rglob("*_label.PNG")):  # defects that a small network can find
        image = file.parents[1] / file.name.replace("_label", "")
        grey = np.asarray(Image.open(image)).astype(int) - 60 * (np.asarray(Image.open(file)) > 0)
        Image.fromarray(grey.clip(0).astype(np.uint8)).save(image)
    return root / "DAGM"


def place(kind: Kind, folder: Path, root: Path) -> list[Path]:
    """Puts a copy of the kind's runs below `folder` (model/, results/, predicted/), moved to the data in `root`; gives their folders."""
    with tarfile.open(FOLDER / f"{kind.name}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    found = sorted((folder / "model").rglob("config.json"))
    for file in found:
        config = json.loads(file.read_text())
        config["root"] = str(root.resolve())
        file.write_text(json.dumps(config))
    return [file.parent for file in found]
