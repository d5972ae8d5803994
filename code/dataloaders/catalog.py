"""The data sets this suite knows, found in the modules of `layouts/`, and how one is found from what was typed."""
from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Any

from dataloaders import layouts
from dataloaders.description import DataSet, Source
from dataloaders.errors import UserError
from dataloaders.layouts.common import PICTURES
from dataloaders.layouts.images import ImageSource
from dataloaders.layouts.nifti import ENDINGS
from dataloaders.listing import entries, walk


def loose(name: str) -> str:
    """A name without case, hyphens, underscores and blanks."""
    return "".join(c for c in name.lower() if c not in "-_ ")


def described() -> tuple[DataSet, ...]:
    """All that the modules of `layouts/` describe in their `DATA_SETS`. Raises `UserError` where two have one name and dimension."""
    found: dict[tuple[str, int], tuple[DataSet, str]] = {}
    for module in pkgutil.iter_modules(layouts.__path__):
        for data in vars(import_module(f"{layouts.__name__}.{module.name}")).get("DATA_SETS", ()):
            _, other = found.setdefault((loose(data.name), data.dimensions), (data, module.name))
            if other != module.name:
                raise UserError(f"layouts/{other}.py and layouts/{module.name}.py both describe a data set {data.name}; rename one.")
    return tuple(data for data, _ in found.values())


EVERY = described()
DATA_SETS = {name: next(data for data in EVERY if data.name == name) for name in dict.fromkeys(data.name for data in EVERY)}
"""By name; of two of one name ("folder": pictures or volumes) the first."""


def named(name: str, dimensions: int | None = None) -> DataSet:
    """The data set of this name, however it is spelt; raises `UserError` with all names for any other."""
    fitting = [data for data in EVERY if loose(data.name) == loose(name)]
    if not fitting:
        raise UserError(f"--dataset {name}: not known; the data sets are {', '.join(DATA_SETS)}.")
    return next((data for data in fitting if data.dimensions == dimensions), fitting[0])


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
        root = root_path or default_place(data, repository)
        if root_path is None and data.own and not root.is_dir():
            raise UserError(f"--dataset {data.name}: give its place too, --root_path D, where D is the folder with your files.")
        if not root.is_dir() and not data.synthetic:
            raise UserError(f"{root}: there is no such folder; {data.name} is expected there (data/README.md says where to get it), "
                            "or give its place with --root_path.")
        if data.own:
            refuse_unlabelled(root)
        return in_place(data, root), root, f"{data.name} in {root}, as given."
    assert root_path is not None
    if not root_path.is_dir():
        raise UserError(f"{root_path}: there is no such folder; give the folder of a data set, or --dataset alone.")
    fitting = [data for data in EVERY if data.reader.fits(root_path)] or unpacked(root_path)
    fitting = [data for data in fitting if data.special] or [data for data in fitting if data.own] or fitting
    if len(fitting) != 1:
        if not fitting:
            refuse_unlabelled(root_path)
        found = " and ".join(data.name for data in fitting)
        what = f"looks like {found}" if fitting else "has the layout of no data set that is known here"
        raise UserError(f"{root_path}: {what}; add --dataset with one of {', '.join(DATA_SETS)}.")
    if fitting[0].own:
        refuse_unlabelled(root_path)
    return fitting[0], root_path, f"{fitting[0].name}, recognised by the layout of {root_path}."


def unpacked(root: Path) -> list[DataSet]:
    """Published sets of pictures that lie in one folder inside, as their archive unpacks: their readers find it (`ImageSource.located`)."""
    places = [place for place in entries(root) if place.is_dir()]
    published = [data for data in EVERY if not data.own and issubclass(data.reader, ImageSource)]
    return [data for data in published if sum(map(data.reader.fits, places)) == 1]


def refuse_unlabelled(root: Path) -> None:
    """Raises `UserError` with the next steps for a folder of images of one's own beside which no mask lies yet."""
    if (root / "images").is_dir() and not entries(root / "masks") and any(  # else the reader tells what lies there
            file.name.lower().endswith((*PICTURES, *ENDINGS)) for file in walk(root / "images")):
        typed, no_masks = quote(str(root)), "nothing in masks/" if (root / "masks").is_dir() else "no masks/"
        raise UserError(f"{root}: holds images/ and {no_masks}, so nothing is labelled yet. Which images to label first: python "
                        f"code/advise.py --root_path {typed} --next 12. Masks of what was drawn in a tool: python code/prepare.py "
                        f"labels EXPORT --images {typed}. A data set of another kind: add --dataset.")


def in_place(data: DataSet, root: Path) -> DataSet:
    """Of the data sets of this name the one whose layout the folder (or one inside it) has: "folder" may hold pictures or volumes."""
    alike = [other for other in EVERY if other.name == data.name and other is not data]
    places = [root, *(place for place in entries(root) if place.is_dir())] if alike and root.is_dir() else []
    return next((other for other in alike if any(other.reader.fits(place) for place in places)), data)


def open_source(data: DataSet, root: Path, options: Mapping[str, Any] | None = None) -> Source:
    """The reader of a data set; `options` by name, of which it takes those that `DataSet.options` names.

    Raises `UserError` where the folder is not of the data set's layout. Phantom is drawn into `root` if it is not there.
    """
    return data.reader(data, Path(root), options)
