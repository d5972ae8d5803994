"""MoNuSeg: from the challenge's TIFF files and XML annotations to PNG, with a number a nucleus, and patches of the training images.

A pixel belongs to a nucleus when its centre lies in the nucleus's outline or on it; where two overlap, it belongs to the one that is
annotated later. Patches of 256 x 256 cover an image evenly, overlapping where they must (16 of 1000 x 1000). All images of the download
are taken, the 7 of 37 too that papers leave out for their annotation: take them out of train.list if you want that.
"""
from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import read_picture
from dataloaders.listing import walk
from preparation.convert import Job, make_folder, replacing, run_all, write_list

SIDE = 256
"""Of a patch."""
FOLDERS = ("images", "instances", "patches/images", "patches/instances")
TEST = "MoNuSegTestData"
"""The folder of the test images, as the archive unpacks; all others are training images."""


def convert_monuseg(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every image of the download; returns remarks. Raises `UserError` with all problems together."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked downloads of MoNuSeg with --raw.")
    files = list(walk(raw))
    images = sorted((file for file in files if file.suffix.lower() in (".tif", ".tiff", ".png")), key=lambda file: file.stem)
    outlines = {file.stem: file for file in files if file.suffix.lower() == ".xml"}
    if not images or not outlines:
        raise UserError(f"{raw}: {len(images)} images (.tif) and {len(outlines)} annotations (.xml) in it or below; expected both. Give "
                        "the folder that holds MoNuSeg 2018 Training Data and MoNuSegTestData.")
    problems, jobs, parts = Problems(), dict[str, Job](), dict[str, list[str]]()
    for image in images:
        if image.stem not in outlines:
            problems.add(f"{image}: there is no {image.stem}.xml; download the annotations too.")
        elif image.stem in jobs:
            problems.add(f"{image} and {jobs[image.stem].image}: two images of one name; keep one of them.")
        else:
            part = "test" if TEST in image.parts else "train"
            jobs[image.stem] = Job(image.stem, image, outlines[image.stem])
            parts.setdefault(part, []).append(image.stem)
    for folder in FOLDERS:
        make_folder(out / folder)
    work = {"train": convert_training_case, "test": convert_case}
    for part, names in parts.items():
        waiting = [jobs[name] for name in names if not (out / "instances" / f"{name}.png").is_file()]
        run_all(waiting, out, work[part], workers, problems)
    problems.messages.sort()
    problems.raise_any(f"{raw}", most=1000)
    for part, names in parts.items():
        write_list(out / f"{part}.list", names)
    counts = {part: len(names) for part, names in parts.items()}
    return [f"{out}: {counts.get('train', 0)} training and {counts.get('test', 0)} test images; the challenge of 2018 has 37 (of which "
            "papers use 30) and 14."]


def convert_training_case(job: Job, out: Path) -> None:
    """Writes the patches of an image, and then the image."""
    write(job, out, patches=True)


def convert_case(job: Job, out: Path) -> None:
    """Writes an image and then its instances."""
    write(job, out, patches=False)


def write(job: Job, out: Path, patches: bool) -> None:
    """The instances come last: an image that has them is whole."""
    pixels = np.ascontiguousarray(read_picture(job.image, 3).transpose(1, 2, 0))
    ids = instances_in(job.label, (pixels.shape[0], pixels.shape[1]))
    if patches:
        for top in corners(pixels.shape[0]):
            for left in corners(pixels.shape[1]):
                window = np.s_[top : top + SIDE, left : left + SIDE]
                for kind, array in (("images", pixels), ("instances", ids)):
                    write_png(out / "patches" / kind / f"{job.case}_{top}_{left}.png", np.ascontiguousarray(array[window]))
    write_png(out / "images" / f"{job.case}.png", pixels)
    write_png(out / "instances" / f"{job.case}.png", ids)


def corners(side: int) -> list[int]:
    """Where patches begin that cover a side evenly; one patch of what is there where the side is shorter."""
    count = math.ceil(side / SIDE)
    return [round(k * (side - SIDE) / (count - 1)) for k in range(count)] if count > 1 else [0]


def instances_in(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint16 of an annotation: a number a nucleus, 0 elsewhere. Raises `UserError`."""
    from skimage.draw import polygon  # here alone: it takes a second to load, and no other command needs it

    try:
        regions = ElementTree.parse(file).getroot().findall("./Annotation/Regions/Region")
        outlines = [[(float(vertex.attrib["Y"]), float(vertex.attrib["X"])) for vertex in region.iter("Vertex")] for region in regions]
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"{file}: no readable XML ({error}); download it again.") from None
    except (KeyError, ValueError):
        raise UserError(f"{file}: a vertex without numbers X and Y; download it again.") from None
    outlines = [outline for outline in outlines if len(outline) > 2]
    if not outlines:
        raise UserError(f"{file}: no outline of a nucleus in it (Annotation, Regions, Region, Vertices, Vertex); download it again.")
    if len(outlines) >= 2**16:
        raise UserError(f"{file}: {len(outlines)} outlines; 16 bits number 65535.")
    ids = np.zeros(shape, np.uint16)
    for number, outline in enumerate(outlines, 1):
        rows, columns = np.array(outline).T
        ids[polygon(rows, columns, shape)] = number
    return ids


def write_png(file: Path, array: np.ndarray) -> None:
    with replacing(file) as temporary:
        Image.fromarray(array).save(temporary, format="PNG")
