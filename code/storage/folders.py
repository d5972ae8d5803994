"""Where runs and results lie, and the words of which their names are made."""
from __future__ import annotations

import os
import re
from pathlib import Path

from dataloaders.description import DataSet
from dataloaders.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def budget_word(labeled_num: str) -> str:
    """A label budget in the name of a folder: 7, 10%, all, 1_of_8 (as the peer has it) for 1/8."""
    return labeled_num.replace("/", "_of_")


def split_name(split: str, protocol: str, default: str, fold: int | None, folds: int, split_seed: int) -> str:
    """A split in the name of a run's folder, and in splits.json: official, drawn, fold0of5, fold0of5_cross_val_dev, ..._split1."""
    name = split if fold is None else f"fold{fold}of{folds}" + ("" if protocol == default else f"_{protocol}")
    return name + (f"_split{split_seed}" if split_seed else "")


def data_name(data: DataSet, root: Path) -> str:
    """The data set in the names of folders. Own folders are told apart by their names: two of them are two data sets."""
    return f"{data.name}/{word(root.resolve().name)}" if data.own else data.name


def word(value: object) -> str:
    text = "x".join(map(str, value)) if isinstance(value, tuple) else value.name if isinstance(value, Path) else str(value)
    return re.sub(r"[^A-Za-z0-9.+%-]", "-", text)


def model_folder() -> Path:
    """$SEMISEG_MODEL, else model/ of the repository, wherever one stands."""
    return Path(os.environ.get("SEMISEG_MODEL") or REPOSITORY / "model")


def results_folder() -> Path:
    """$SEMISEG_RESULTS, else results/ of the repository."""
    return Path(os.environ.get("SEMISEG_RESULTS") or REPOSITORY / "results")


def result_path(run_folder: Path, predictor: str = "") -> Path:
    """The run's scores: under results/ by the same path, one file a predictor (the method's own without a suffix)."""
    try:
        below = run_folder.resolve().relative_to(model_folder().resolve())
    except ValueError:
        below = Path(run_folder.name)
    name = f"{below.name}_{predictor}.json" if predictor else f"{below.name}.json"
    return results_folder() / below.parent / name


def is_run(text: str) -> bool:
    """Whether this names a run's folder, as `find_run` finds it."""
    return bool(text) and any((folder / "config.json").is_file() for folder in (Path(text), model_folder() / text))


def find_run(text: str) -> Path:
    """The run's folder that a user named: a path, or a path below model/."""
    for folder in (Path(text), model_folder() / text):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"{text}: there is no run here (no config.json). Give a run's folder, for example "
                    "--run model/ACDC/simEps_7_labeled/unet/official_seed1337.")
