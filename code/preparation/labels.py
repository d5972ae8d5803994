"""Masks of what was drawn in an annotation tool: `python code/prepare.py labels EXPORT --images D`, and a picture of the first ones."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from os import path
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from dataloaders.errors import Problems, UserError, shown
from dataloaders.layouts.common import ORIENTATION, leaves_folder, open_picture, picture_size, read_mask, read_picture
from dataloaders.layouts.folder import class_names
from dataloaders.layouts.images import pictures, pictures_in
from pictures.flat import colour_of, overlay
from preparation.annotations import BACKGROUND, MARKED, Annotated, candidates, read_export, without_odd_letters
from preparation.convert import replacing
from preparation.regions import Wrong, painted

SHOWN = 20
"""Overlays in the picture."""
COLUMNS, TILE, TEXT = 5, 320, 22
"""Of the picture: overlays in a row, pixels of the longer side of each, and of the line below it."""
MOST_CLASSES = 254


@dataclass
class Written:
    """What became of an export."""

    classes: list[str]
    """Background first."""
    masks: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    """Of these masks."""
    remarks: list[str] = field(default_factory=list)


def convert_labels(export: Path, data: Path, replace: bool = False, empty: bool = False, attribute: str | None = None) -> Written:
    """Writes a mask into `data`/masks for every annotated image of `data`/images, and classes.txt where there is none.

    replace: masks that are there and differ are written anew; empty: images without a region get a mask of background alone, else they
    stay unlabelled. Raises `UserError` with all that is wrong, file and entry named; then nothing has been written.
    """
    if not (data / "images").is_dir():
        raise UserError(f"{data}: there is no folder images in it; give the folder that holds images/ with --images.")
    problems, files = Problems(), pictures(data / "images")
    found = read_export(export, problems, attribute)
    tally = Tally()
    matched = by_image(found.images, files, problems, tally)
    drawn = {name: one for name, one in matched.items() if one.regions or empty}
    there = pictures_in(data / "masks").files if (data / "masks").is_dir() else {}
    classes = classes_of(data, [*found.labels, *sorted({region.label for one in drawn.values() for region in one.regions})], bool(there),
                         problems)
    problems.raise_any(str(export))
    if not drawn:
        raise UserError(f"{export}: nothing is drawn on any of its {len(found.images)} images ({found.tool}).")
    masks: dict[str, bytes] = {}
    kept: list[Path] = []
    same = 0
    for name, one in drawn.items():
        size = picture_size(files[name])
        mark = orientation(files[name])
        if one.size and one.size != size:
            turned = " It is turned by its EXIF mark, which the tool did not heed." if one.size == size[::-1] and mark > 4 else ""
            problems.add(f"{one.where}: {files[name]} is {size[1]}x{size[0]} pixels, but was annotated at {one.size[1]}x{one.size[0]}."
                         f"{turned} Annotate the image as it is, or put the annotated one into images/.")
            continue
        tally.turned += [name] if mark > 1 and (one.size is None or size[0] == size[1] or mark < 5) else []
        mask = mask_of(one, size, classes, problems, tally)
        if name in there and np.array_equal(old_ids(there[name]), mask):
            same += 1
        elif name in there and not replace:
            kept.append(there[name])
        else:
            masks[name] = png(mask)
    problems.raise_any(str(export))
    written = Written(classes, remarks=list(found.remarks))
    # First, since masks whose ids nobody has written down are refused by the next command.
    if not (data / "classes.txt").exists():
        put(data / "classes.txt", "".join(f"{name}\n" for name in classes).encode())
    for name, content in masks.items():
        before = there.get(name, data / "masks" / f"{name}.png")
        target = before if before.suffix.lower() == ".png" else before.with_name(f"{before.stem}.png")
        put(target, content)
        if before != target:
            before.unlink()
        written.masks.append(target)
        written.images.append(files[name])
    written.remarks += told(found.tool, len(found.images), len(matched) - len(drawn), same, kept, tally)
    return written


def put(file: Path, content: bytes) -> None:
    """Writes a file in one piece. Raises `UserError`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); what was written before it is whole. Make room or give the rights, "
                        "and run the same command again.", 3) from None


def by_image(annotated: Sequence[Annotated], files: Mapping[str, Path], problems: Problems, tally: Tally) -> dict[str, Annotated]:
    """What was drawn on each image that is there, by its name; the others become problems."""
    last, changed = dict[str, list[str]](), dict[str, list[str]]()
    for known in files:
        bare = known.rpartition("/")[2]
        last.setdefault(bare, []).append(known)
        for text in {without_odd_letters(bare), known.replace("/", "_")}:  # as Label Studio and the links of advise.py have it
            changed.setdefault(text, []).append(known)
    found: dict[str, Annotated] = {}
    for one in annotated:
        name: str | None = next((text for text in candidates(one.image) if text in files), None)
        if name is None:
            alike = next((table[text] for table in (last, changed) for text in candidates(one.image) if text in table), [])
            if len(alike) > 1:
                problems.add(f"{one.where}: {one.image} may be {' or '.join(alike[:3])}; give the images different names.")
                continue
            name = alike[0] if alike else None
        if name is None and one.regions:
            problems.add(f"{one.where}: {one.image or 'an image without a name'} is not in images/; put it there, or take the entry out.")
        elif name is not None and name in found:
            problems.add(f"{one.where}: {name} stands in {found[name].where} too; keep one of them.")
        elif name is not None:
            found[name] = one
            stem = next(candidates(one.image)).rpartition("/")[2]
            if name.rpartition("/")[2] not in (stem, MARKED.sub("", stem)):
                tally.renamed.append(f"{one.image} is {name}")
    return found


def classes_of(data: Path, labels: Sequence[str], masks_there: bool, problems: Problems) -> list[str]:
    """Class names, background first: those of classes.txt, which must have all that was drawn; else the export's, in its order."""
    names = [name for name in dict.fromkeys(labels) if name.lower() not in BACKGROUND]
    for name in names:
        if name.startswith("#") or leaves_folder(name):
            problems.add(f"The export has a class {name!r}, which a line of classes.txt cannot hold; rename it in the tool.")
    known = class_names(data)
    if known:
        missing = [name for name in names if name not in known[1:]]
        if missing:
            problems.add(f"{data / 'classes.txt'}: has {', '.join(known)}, but the export draws {', '.join(missing)}; add the line, or "
                         "rename the class in the tool.")
        return known
    if masks_there and len(names) > 1:
        problems.add(f"{data / 'masks'}: has masks already, and which class their ids mean is not written down. Write classes.txt into "
                     f"{data}: background, and then a line for each id, with the names {', '.join(names)} as the export has them.")
    if len(names) > MOST_CLASSES:
        problems.add(f"The export has {len(names)} classes; at most {MOST_CLASSES} are supported.")
    return ["background", *names]


@dataclass
class Tally:
    """What is odd in what was drawn."""

    over: int = 0
    """Pixels that two classes share."""
    thin: list[str] = field(default_factory=list)
    """Regions without a pixel."""
    renamed: list[str] = field(default_factory=list)
    """Images that the export calls otherwise, as sentences."""
    turned: list[str] = field(default_factory=list)
    """Images that their EXIF mark turns, where no size tells whether the tool turned them too."""


def orientation(file: Path) -> int:
    """How the EXIF mark turns a picture: 1 not at all, up to 4 into one of the same sides, from 5 into one that lies on its side."""
    with open_picture(file) as picture:
        return int(picture.getexif().get(ORIENTATION, 1) or 1)


def png(mask: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


def mask_of(one: Annotated, size: tuple[int, int], classes: Sequence[str], problems: Problems, tally: Tally) -> np.ndarray:
    """(H, W) uint8 class ids; a pixel that two regions share is the later one's."""
    mask = np.zeros(size, np.uint8)
    for region in one.regions:
        try:
            inside = painted(region, size)
        except Wrong as error:
            problems.add(f"{region.where}: {error}. Mend it in the tool, and export again.")
            continue
        value = 0 if region.label.lower() in BACKGROUND else classes.index(region.label)
        tally.over += int(np.count_nonzero((mask[inside] > 0) & (mask[inside] != value)))
        tally.thin += [] if inside.any() else [region.where]
        mask[inside] = value
    return mask


def old_ids(file: Path) -> np.ndarray:
    """Class ids of a mask that is there, 0 and 255 as 0 and 1."""
    values = read_mask(file)
    return np.where(values == 255, 1, values) if not ((values > 0) & (values < 255)).any() else values


def told(tool: str, images: int, bare: int, same: int, kept: Sequence[Path], tally: Tally) -> list[str]:
    """Sentences on what was left as it is."""
    said = [f"{tool}: {images} images in the export."]
    if tally.renamed:
        said.append(f"{len(tally.renamed)} images have other names in the export than in images/ ({tally.renamed[0]}, ...).")
    if tally.turned:
        said.append(f"{len(tally.turned)} images are turned by their EXIF mark ({tally.turned[0]}, ...), and no size tells whether the "
                    "tool turned them too. The picture shows them as they are trained on: look whether the outlines fit.")
    if bare:
        said.append(f"{bare} of them have no region and stay unlabelled; where that means that nothing is there, add --empty.")
    if same:
        said.append(f"{same} masks are there already, and are the same.")
    if kept:
        said.append(f"{len(kept)} masks are there already and differ from the export ({kept[0]}, ...); they were kept. --replace writes "
                    "them anew.")
    if tally.thin:
        said.append(f"{len(tally.thin)} regions are so thin that no pixel has its centre in them ({tally.thin[0]}, ...).")
    if tally.over:
        said.append(f"Regions of different classes overlap in {tally.over} pixels, which are of the one that stands later in the export.")
    return said


def sheet(written: Written, file: Path) -> None:
    """Writes overlays of the first masks, with their names, and the colours of the classes."""
    pairs = list(zip(written.images, written.masks))[:SHOWN]
    columns = min(COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    # matplotlib's, since the letters of Pillow's own end with English.
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)
    width = columns * (TILE + 8) + 8
    legend, x, line = [], 8, 0
    for number, name in enumerate(written.classes[1:], 1):
        wide = 42 + round(font.getlength(shown(name)))
        if x > 8 and x + wide > width:
            x, line = 8, line + 1
        legend.append((x, line, number, shown(name)))
        x += wide
    canvas = Image.new("RGB", (width, rows * (TILE + TEXT) + (line + 2) * TEXT), "white")
    pen = ImageDraw.Draw(canvas)
    for place, (image, mask) in enumerate(pairs):
        pixels, ids = read_picture(image, None), read_mask(mask)
        scale = TILE / max(ids.shape)
        size = (max(1, round(ids.shape[1] * scale)), max(1, round(ids.shape[0] * scale)))
        pixels = np.asarray(Image.fromarray(np.moveaxis(np.repeat(pixels, 3, 0) if len(pixels) == 1 else pixels, 0, -1)).resize(size))
        ids = np.asarray(Image.fromarray(ids.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        x, y = 8 + place % columns * (TILE + 8), place // columns * (TILE + TEXT) + 6
        canvas.paste(Image.fromarray(overlay(np.moveaxis(pixels, -1, 0), ids)), (x, y))
        pen.text((x, y + TILE + 2), shown(mask.stem)[:44], fill="black", font=font)
    for x, line, number, name in legend:
        y = rows * (TILE + TEXT) + line * TEXT + TEXT
        pen.rectangle((x, y, x + 12, y + 12), fill=tuple(int(part) for part in colour_of(number)))
        pen.text((x + 18, y), name, fill="black", font=font)
    try:
        canvas.save(file, format="PNG")
    except OSError as error:
        raise UserError(f"{path.relpath(file)}: cannot be written ({error.strerror}); give another place with --sheet.", 3) from None
