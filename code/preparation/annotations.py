"""What annotation tools export, read: COCO, LabelMe, VIA and Label Studio (JSON), ImageJ regions (by roifile, where it is installed).

A reader gives what was drawn on each image, in the order of the file, and notes every entry that cannot be used as a sentence that names
file and entry. Nothing of the images is opened here.
"""
from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import MOST_TEXT, PICTURES, regular, unreadable, what_lies_there
from dataloaders.listing import composed, natural, walk
from preparation.regions import Region, Wrong, counts_of, ellipse, from_brush, from_runs, outline_of, rectangle

MOST_BYTES = 2**29
"""Of an export; larger ones are not read."""
BACKGROUND = ("background", "_background_")
ROIS = (".roi", ".zip")


@dataclass
class Annotated:
    """What was drawn on one image."""

    image: str
    """Its file, as the tool names it."""
    where: str
    """Where it stands: a file, and which entry of it."""
    size: tuple[int, int] | None = None
    """(H, W) as the tool has it."""
    regions: list[Region] = field(default_factory=list)


@dataclass
class Export:
    """All that an export holds."""

    tool: str
    images: list[Annotated]
    labels: list[str]
    """Names in the tool's own order, where it has one; else none."""
    remarks: list[str] = field(default_factory=list)


def read_export(place: Path, problems: Problems, attribute: str | None = None) -> Export:
    """A file, or a folder of them (LabelMe: one for each image; ImageJ: IMAGE.roi or IMAGE.zip). `attribute`: VIA's, which holds the class.

    Raises `UserError` where it is of no known tool; what is wrong with single entries goes to `problems`.
    """
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder; give what the annotation tool exported.")
    files = [place] if place.is_file() else sorted((file for file in walk(place) if file.suffix.lower() in (".json", *ROIS)),
                                                   key=lambda file: natural(file.relative_to(place).as_posix()))
    exports = []
    for file in files:
        found = imagej(file, place, problems) if file.suffix.lower() in ROIS else of_json(file, problems, attribute)
        if found is not None:
            exports.append(found)
    if not exports:
        if problems.messages:
            return Export("", [], [])
        raise UserError(f"{place}: no annotations in it; expected a JSON file of COCO, LabelMe, VIA or Label Studio, a folder of "
                        "LabelMe's, or ImageJ's IMAGE.roi and IMAGE.zip.")
    tools = list(dict.fromkeys(export.tool for export in exports))
    if len(tools) > 1:
        raise UserError(f"{place}: exports of {' and '.join(tools)} in one folder; give one of them.")
    return Export(tools[0], [image for export in exports for image in export.images],
                  list(dict.fromkeys(label for export in exports for label in export.labels)),
                  list(dict.fromkeys(said for export in exports for said in export.remarks)))


def of_json(file: Path, problems: Problems, attribute: str | None) -> Export | None:
    """Of one JSON file by the tool that wrote it; None for one that is of none, noted in `problems`."""
    try:
        content = read_json(file)
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            return coco(content, file, problems)
        if isinstance(content, dict) and "shapes" in content:
            return labelme(content, file, problems)
        if isinstance(content, list) and content and all(isinstance(task, dict) for task in content):
            return label_studio(content, file, problems)
        if isinstance(content, dict) and ("_via_img_metadata" in content or any(
                isinstance(one, dict) and {"filename", "regions"} <= one.keys() for one in content.values())):
            return via(content, file, problems, attribute)
        if isinstance(content, dict) and {"project", "metadata", "view"} <= content.keys():
            raise UserError(f"{file}: a project of VIA 3; export it as COCO JSON there, and give that.")
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{file}: of no tool that is known here (it holds {keys or 'nothing'}); expected COCO (images, annotations, "
                        "categories), LabelMe (shapes), VIA (filename, regions) or Label Studio's JSON, a list of tasks.")
    except UserError as error:
        problems.add(error)
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a list where its tool writes an object, and the like
        problems.add(f"{file}: not as its tool writes it ({type(error).__name__}: {error}). Export it again.")
        return None


def read_json(file: Path) -> Any:
    try:
        regular(file)
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: {file.stat().st_size} bytes; such an export is not read. Export the images in several parts.")
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(file, error) from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text in UTF-8; {what_lies_there(file)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: no valid JSON ({error}); export it again.") from None


def noted(problems: Problems, where: str, work: Callable[[], Region | None]) -> Iterator[Region]:
    """The region that `work` gives; what is wrong with it becomes a sentence about `where`."""
    try:
        found = work()
        if found is not None:
            yield found
    except Wrong as error:
        problems.add(f"{where}: {error}. Mend it in the tool, and export again.")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        problems.add(f"{where}: not as its tool writes it ({type(error).__name__}: {error}). Export it again.")


def number_of(value: Any) -> float:
    """A finite number; raises `Wrong` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise Wrong(f"{value!r} stands where a number is expected")
    return float(value)


def tidied(name: object) -> str:
    """The name of a class as classes.txt, a line each, gives it back: tools keep blanks that nobody sees."""
    return composed(" ".join(str(name).split()))


def class_of(name: object) -> str:
    """The class of a region. Raises `Wrong` for one without a name, which would have no line in classes.txt."""
    if not tidied(name):
        raise Wrong("its class has no name")
    return tidied(name)


# COCO


def coco(content: Mapping[str, Any], file: Path, problems: Problems) -> Export:
    """Polygons, and run lengths plain or packed. Classes are the categories in the order of their ids."""
    images: dict[Any, Annotated] = {}
    try:
        entries = [(one.get("id", place), one) for place, one in enumerate(content["annotations"])]
        names = {one["id"]: tidied(one["name"]) for one in drawn_of(content["categories"], entries)}
        for one in content["images"]:
            if one["id"] in images:
                problems.add(f"{file}, image {one['id']}: {one['file_name']} and {images[one['id']].image} have the same id, so nobody can "
                             "tell what is drawn on which. Export the sets one by one.")
            images[one["id"]] = Annotated(str(one["file_name"]), f"{file}, image {one['id']}",
                                          size_of(one.get("height"), one.get("width")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: COCO's images need id and file_name, its categories id and name, its annotations to be objects "
                        f"({type(error).__name__}: {error}). Export it again.") from None
    boxes = 0
    for number, entry in entries:
        where = f"{file}, annotation {number}"
        if not_in(entry.get("image_id"), images):
            problems.add(f"{where}: its image {entry.get('image_id')!r} is not in the file. Export it again.")
            continue
        image = images[entry["image_id"]]
        if not_in(entry.get("category_id"), names):
            problems.add(f"{where}: its category {entry.get('category_id')!r} is not in the file. Export it again.")
            continue
        outline = entry.get("segmentation")
        if not outline or isinstance(outline, list) and not any(outline):  # [[]] too
            boxes += 1
            continue
        label = names[entry["category_id"]]
        image.regions += noted(problems, where, lambda e=entry, n=label, w=where, i=image: coco_region(e["segmentation"], n, w, i))  # type: ignore[misc]
    remarks = [f"{file}: {boxes} annotations are boxes without an outline, and were left out."] if boxes else []
    return Export("COCO", list(images.values()), [name for name in names.values() if name], remarks)


def drawn_of(categories: Sequence[Mapping[str, Any]], entries: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The categories in the order of their ids, without the roots of others on which nothing is drawn: Roboflow writes one, id 0, above all
    classes, and it would be a class that no image ever shows."""
    roots = {str(one.get("supercategory")) for one in categories if one.get("supercategory") != one["name"]}
    drawn = {str(entry.get("category_id")) for _, entry in entries}
    return [one for one in sorted(categories, key=lambda one: one["id"]) if str(one["name"]) not in roots or str(one["id"]) in drawn]


def not_in(key: Any, known: Mapping[Any, Any]) -> bool:
    """Also of what is no key at all."""
    return not isinstance(key, int | float | str) or key not in known


def coco_region(found: Any, name: str, where: str, image: Annotated) -> Region:
    label = class_of(name)
    if isinstance(found, list):
        return Region(label, where, tuple(outline_of(part) for part in (found if isinstance(found[0], list) else [found])))
    size = size_of(*found["size"])
    if size is None or (image.size and size != image.size):
        raise Wrong(f"its mask has the size {found['size']}, its image {image.size}, height first")
    counts = found["counts"]
    return Region(label, where, mask=from_runs(counts_of(counts) if isinstance(counts, str) else counts, size))


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """(H, W), None where the tool does not say."""
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


# LabelMe


def labelme(content: Mapping[str, Any], file: Path, problems: Problems) -> Export:
    """One file an image: polygons, rectangles, circles and masks."""
    path = content.get("imagePath")
    image = Annotated(path if isinstance(path, str) and path else f"{file.stem}.png", str(file),
                      size_of(content.get("imageHeight"), content.get("imageWidth")))
    shapes = content["shapes"]
    if not isinstance(shapes, list):
        raise UserError(f"{file}: shapes is a {type(shapes).__name__}; expected a list. Save it again in LabelMe.")
    for number, shape in enumerate(shapes, 1):
        where = f"{file}, shape {number}"
        image.regions += noted(problems, where, lambda s=shape, w=where: labelme_region(s, w))  # type: ignore[misc]
    return Export("LabelMe", [image], [])


def labelme_region(shape: Mapping[str, Any], where: str) -> Region:
    label, points, kind = class_of(shape["label"]), shape["points"], shape.get("shape_type") or "polygon"
    if kind == "polygon" or kind == "rectangle" and len(points) == 4:  # newer programs write all corners, perhaps turned
        return Region(label, where, (outline_of(points),))
    if kind in ("rectangle", "circle", "mask"):
        (x, y), (to_x, to_y) = ((number_of(a), number_of(b)) for a, b in points)
    if kind == "rectangle":
        return Region(label, where, (rectangle(min(x, to_x), min(y, to_y), abs(to_x - x), abs(to_y - y)),))
    if kind == "circle":
        radius = float(np.hypot(to_x - x, to_y - y))
        return Region(label, where, (ellipse(x, y, radius, radius),))
    if kind == "mask":
        return Region(label, where, mask=packed_picture(shape["mask"]), corner=(round(x), round(y)))
    raise Wrong(f"a {kind}, which covers no area; expected polygon, rectangle, circle or mask")


def packed_picture(text: Any) -> np.ndarray:
    """(h, w) bool of a PNG in base64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as picture:
            if picture.width * picture.height > 2**28:
                raise Wrong("its mask claims too many pixels")
            return np.asarray(picture.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, TypeError, Image.DecompressionBombError):
        raise Wrong("its mask is no PNG in base64") from None


# VIA


def via(content: Mapping[str, Any], file: Path, problems: Problems, attribute: str | None) -> Export:
    """Versions 1 and 2, projects and annotations: polygons, rectangles, circles, ellipses. The class stands in a region's attribute."""
    entries = content.get("_via_img_metadata", content)
    names: dict[str, None] = {}
    images = []
    for key, entry in entries.items():
        if not isinstance(entry, dict) or "filename" not in entry:
            continue
        image = Annotated(str(entry["filename"]), f"{file}, {key}")
        regions = entry.get("regions") or []
        listed = list(regions.values()) if isinstance(regions, dict) else regions
        for number, region in enumerate(listed, 1):
            where = f"{image.where}, region {number}"
            image.regions += noted(problems, where, lambda r=region, w=where: via_region(r, w, attribute, names))  # type: ignore[misc]
        images.append(image)
    return Export("VIA", images, [])


def via_region(region: Mapping[str, Any], where: str, attribute: str | None, seen: dict[str, None]) -> Region:
    shape = region["shape_attributes"]
    label = via_label(region.get("region_attributes") or {}, attribute, seen)
    kind = shape.get("name")

    def at(*keys: str) -> list[float]:
        return [number_of(shape[key]) for key in keys]

    if kind == "polygon":
        return Region(label, where, (outline_of(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))),))
    if kind == "rect":
        return Region(label, where, (rectangle(*at("x", "y", "width", "height")),))
    if kind == "circle":
        x, y, radius = at("cx", "cy", "r")
        return Region(label, where, (ellipse(x, y, radius, radius),))
    if kind == "ellipse":
        x, y, radius_x, radius_y = at("cx", "cy", "rx", "ry")
        return Region(label, where, (ellipse(x, y, radius_x, radius_y, math.degrees(number_of(shape.get("theta", 0)))),))
    raise Wrong(f"a {kind}, which covers no area; expected polygon, rect, circle or ellipse")


def via_label(attributes: Mapping[str, Any], wanted: str | None, seen: dict[str, None]) -> str:
    """The class of a region: the value of the attribute that was named, or of the only one; of boxes to tick the one that is."""
    if wanted is not None and wanted not in attributes:
        raise Wrong(f"it has no attribute {wanted!r} (there are: {', '.join(attributes) or 'none'})")
    if wanted is None and len(attributes) > 1:
        raise Wrong(f"it has the attributes {', '.join(attributes)}; say with --attribute which of them is the class")
    if not attributes:
        return "object"
    value = attributes[wanted or next(iter(attributes))]
    ticked = [tidied(name) for name, on in value.items() if on] if isinstance(value, dict) else [tidied(value)]
    if len(ticked) != 1 or not ticked[0]:
        raise Wrong(f"its class is {value!r}; expected one name")
    seen[ticked[0]] = None
    return ticked[0]


# Label Studio


def label_studio(tasks: Sequence[Mapping[str, Any]], file: Path, problems: Problems) -> Export:
    """The JSON export (not JSON-MIN): polygons, brush, rectangles, ellipses. Of several annotations of an image the last counts."""
    images, several = [], 0
    for place, task in enumerate(tasks):
        where = f"{file}, task {task.get('id', place)}"
        given = task.get("annotations", task.get("completions"))
        if not isinstance(given, list) or not isinstance(task.get("data"), dict):
            problems.add(f"{where}: no task with data and annotations; export as JSON (not JSON-MIN), and give that.")
            continue
        done = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
        several += len(done) > 1
        image = Annotated(task_image(task), where)
        for number, result in enumerate(done[-1].get("result") or [] if done else [], 1):
            entry = f"{where}, result {number}"
            image.regions += noted(problems, entry, lambda r=result, e=entry: studio_region(r, e))  # type: ignore[misc]
            image.size = image.size or size_of(result.get("original_height"), result.get("original_width"))
        images.append(image)
    remarks = [f"{file}: {several} images have several annotations; the last one of each is taken."] if several else []
    return Export("Label Studio", images, [], remarks)


def task_image(task: Mapping[str, Any]) -> str:
    """The file of a task: what was uploaded, or the end of its address."""
    values = [value for value in task["data"].values() if isinstance(value, str)]
    path = next((value for value in values if re.search(r"\.\w{2,4}($|[?&#])", value)), str(task.get("file_upload") or ""))
    path = unquote(path.split("?d=", 1)[1]) if "?d=" in path else unquote(re.split(r"[?#]", path)[0])
    return path


def studio_region(result: Mapping[str, Any], where: str) -> Region | None:
    """None for what is no region: choices, texts, relations."""
    value, kind = result.get("value") or {}, str(result.get("type", ""))
    names = value.get(kind)
    if kind not in ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels"):
        expected = "expected PolygonLabels, BrushLabels, RectangleLabels or EllipseLabels"
        if kind in ("polygon", "brush", "rectangle", "ellipse", "keypoint"):
            raise Wrong(f"a {kind} without a label; {expected}")
        if kind.endswith("labels") and kind != "labels":  # a drawing of another kind, which must not be lost in silence
            raise Wrong(f"its type is {kind}, which is not read; {expected}")
        return None
    if not isinstance(names, list) or len(names) != 1:
        raise Wrong(f"its labels are {names!r}; expected one name")
    if result.get("image_rotation"):
        raise Wrong(f"its image was turned in the tool (image_rotation {result['image_rotation']}), and its places are of the turned one")
    label = class_of(names[0])
    height, width = size_of(result.get("original_height"), result.get("original_width")) or (0, 0)
    if not height:
        raise Wrong("original_width and original_height are missing")
    if kind == "brushlabels":
        if value.get("format") != "rle":
            raise Wrong(f"its brush has the format {value.get('format')!r}; expected rle")
        return Region(label, where, mask=from_brush(value["rle"], (height, width)))
    if kind == "polygonlabels":
        return Region(label, where, (outline_of(value["points"]) * (width / 100, height / 100),))
    turn = number_of(value.get("rotation") or 0)
    x, y = number_of(value["x"]) * width / 100, number_of(value["y"]) * height / 100
    if kind == "rectanglelabels":
        sides = number_of(value["width"]) * width / 100, number_of(value["height"]) * height / 100
        return Region(label, where, (rectangle(x, y, *sides, turn),))
    radii = number_of(value["radiusX"]) * width / 100, number_of(value["radiusY"]) * height / 100
    return Region(label, where, (ellipse(x, y, *radii, turn),))


# ImageJ


def imagej(file: Path, place: Path, problems: Problems) -> Export | None:
    """IMAGE.roi, or a set IMAGE.zip. The class is the letters with which a region's name begins; without any it is "object"."""
    try:
        import roifile  # optional
    except ImportError:
        raise UserError(f"{file}: ImageJ's regions are read by roifile, which is not installed: python -m pip install -r "
                        "requirements-optional.txt. Or save masks from ImageJ as PNG (Edit, Selection, Create Mask).") from None
    try:
        regular(file)
        check_unpacked(file)
        found = roifile.roiread(file)
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, IndexError, TypeError) as error:
        problems.add(f"{file}: no regions of ImageJ ({type(error).__name__}: {error}); save them again from the ROI Manager.")
        return None
    below = file.relative_to(place) if place.is_dir() else Path(file.name)
    image = Annotated(below.with_suffix(".tif").as_posix(), str(file))
    for number, roi in enumerate(found if isinstance(found, list) else [found], 1):
        where = f"{file}, region {number} ({roi.name or 'without a name'})"
        image.regions += noted(problems, where, lambda r=roi, w=where: roi_region(r, w))  # type: ignore[misc]
    return Export("ImageJ", [image], [])


def check_unpacked(file: Path) -> None:
    """Raises ValueError for a set of regions that would unpack to more than a text may have."""
    if file.suffix.lower() == ".zip":
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_TEXT:
            raise ValueError(f"it unpacks to {size} bytes")


def roi_region(roi: Any, where: str) -> Region:
    kind = roi.roitype.name.lower()
    if kind in ("line", "freeline", "polyline", "angle", "point", "noroi"):
        raise Wrong(f"a {kind}, which covers no area; expected an outline")
    name = re.match(r"[^\W\d_]+(?:[ _-][^\W\d_]+)*", roi.name or "")
    parts = roi.coordinates(multi=True)
    return Region(name[0] if name else "object", where, tuple(outline_of(part) for part in parts if len(part) > 2))


FROM_ROBOFLOW = re.compile(rf"[_-](?:{'|'.join(end[1:] for end in PICTURES)})\.rf\.[0-9a-z]{{8,}}$", re.IGNORECASE)
MARKED = re.compile(r"^[0-9a-f]{8}-")
NUMBERED = re.compile(r"^(?:[0-9]{3}|[1-9][0-9]{3,})_")
"""What Roboflow puts behind a name, Label Studio before it, and `advise.py --next` before the name of a link."""


def candidates(name: str) -> Iterator[str]:
    """How an image of this name may be called below images/, without its ending, the longest first; what tools add is taken off last."""
    for written in dict.fromkeys((composed(name), composed(unquote(name)))):
        parts = [part for part in re.split(r"[\\/]+", written) if part not in ("", ".", "..")]
        if not parts:
            return
        ends = sorted((end for end in PICTURES if parts[-1].lower().endswith(end)), key=len)
        stem = parts[-1][: -len(ends[-1])] if ends else parts[-1]
        for last in dict.fromkeys((stem, *(added.sub("", stem) for added in (MARKED, FROM_ROBOFLOW, NUMBERED)))):
            for first in range(len(parts)):
                yield "/".join([*parts[first:-1], last])


def without_odd_letters(name: str) -> str:
    """A file's name as Label Studio keeps it: blanks become underscores, brackets and the like go."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))
