"""Masks judged as a set: what their values mean, and whether they can be what somebody drew. Pure functions of what each mask holds.

One file says little: 0 and 255 may be an object, or background and a part that is not to count. So what is known of all files is looked at
together, the same for pictures and volumes, before anything is trained.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataloaders.errors import UserError

IGNORED = 255
FEW = 3
"""Masks of which nothing follows."""
MOST_CLASSES = 64
"""Without names of classes: more different values than this are grey levels, not classes."""
NEARLY = 1e-3
"""How far a stored float may lie from a whole number and still mean it: a scaled uint8 is read as 1.00000006."""
AT_EDGES = 0.8
"""A value is one of soft edges where this share of its pixels lies between a smaller and a greater neighbour."""

Colour = tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What a mask holds."""

    file: Path
    values: frozenset[int]
    soft: frozenset[int] = frozenset()
    """Values that occur between smaller and greater ones alone."""
    colours: Mapping[int, Colour] = field(default_factory=dict)
    """What the file's palette shows for each value, where it has one; with a fourth number where that is not opaque."""
    turned: bool = False
    """Whether the file carries an orientation (EXIF)."""


@dataclass(frozen=True)
class Meaning:
    """What the values of a set of masks mean."""

    binary: bool
    """0 and 255: one kind of object, class 1."""
    ids: tuple[int, ...]
    """Class ids that occur, background included."""
    ignored: int | None
    remarks: tuple[str, ...] = ()


def whole_numbers(values: np.ndarray, file: Path, allowed: str = "") -> np.ndarray:
    """The values of a mask as whole numbers; floats that nearly are some are rounded. Raises `UserError` for all others."""
    if values.dtype.kind in "bui":
        return values.astype(np.uint8) if values.dtype == bool else values
    if values.dtype.kind != "f":
        raise UserError(f"{file}: the mask holds {values.dtype}; expected whole numbers.")
    with np.errstate(invalid="ignore"):
        rounded = np.rint(values)
        whole = np.isfinite(values) & (np.abs(values - rounded) <= NEARLY)
    if not whole.all():
        bad = values[~whole]
        among = f"; allowed are {allowed}" if allowed else ""
        raise UserError(f"{file}: label value {bad.flat[0]} is no whole number ({bad.size} such pixels){among}. Save the label again as "
                        "uint8 (NIfTI: with scl_slope 1 and scl_inter 0), without interpolation.")
    return rounded


def values_of(values: np.ndarray) -> frozenset[int]:
    """The different values of an array of whole numbers."""
    low, high = int(values.min()), int(values.max())
    if high - low < 2**16:
        # Counting is far faster than sorting, which matters for volumes.
        above = values.ravel() - values.dtype.type(low)
        # Of signed numbers the difference may be greater than their type holds; its bits are right.
        above = above.view(f"u{above.itemsize}") if above.dtype.kind == "i" else above
        counts = np.bincount(above.astype(np.uint16), minlength=1)
        return frozenset(int(v) + low for v in np.flatnonzero(counts))
    return frozenset(int(v) for v in np.unique(values))


def soft_values(values: np.ndarray, found: Iterable[int]) -> frozenset[int]:
    """Those of the values, 255 apart, of which nearly all pixels lie between a smaller and a greater neighbour along an axis."""
    inner = sorted(set(found) - {IGNORED})[1:-1]
    if not inner:
        return frozenset()
    between = np.zeros(values.shape, bool)
    for axis in range(values.ndim):
        before, here, after = (np.moveaxis(values, axis, 0)[part] for part in (slice(None, -2), slice(1, -1), slice(2, None)))
        np.moveaxis(between, axis, 0)[1:-1] |= ((before < here) & (here < after)) | ((before > here) & (here > after))
    return frozenset(v for v in inner if between[values == v].mean() >= AT_EDGES)


def shown(values: Iterable[int], most: int = 8) -> str:
    """0, 1, 2, ... for a sentence."""
    ordered = sorted(values)
    return ", ".join(map(str, ordered[:most])) + (", ..." if len(ordered) > most else "")


def meaning(masks: Sequence[Facts], names: Sequence[str], place: Path) -> Meaning:
    """What the values of these masks mean. Raises `UserError` where they cannot be masks, or mean two things.

    names: of the classes, background first; none where they are not known. place: the folder, for the sentences.
    """
    same_palettes(masks, place)
    union = frozenset[int]().union(*(mask.values for mask in masks))
    foreground = union - {0, IGNORED}
    mixed = two_ways(masks, foreground)
    binary = IGNORED in union and len(names) in (0, 2) and (not foreground or (foreground == {1} and bool(mixed)))
    if union == {0}:
        raise UserError(f"{place}: every mask is 0 everywhere, so there is nothing to learn.")
    if len(union) == 1:
        raise UserError(f"{place}: every pixel of every mask is {shown(union)}, so no background is left. Is the mask drawn in the "
                        "transparency of the pictures, or inverted? Save masks as grey PNG: 0 for background and class ids, or 0 and 255.")
    if not foreground and not binary:
        raise UserError(f"{place}: the masks hold {shown(union)} alone, and {len(names)} classes are named; 255 would mean ignored, and no "
                        "pixel of a class is left. Write class ids (1, 2, ...), or name two classes for masks of 0 and 255.")
    if mixed and not binary:
        raise UserError(f"{place}: {mixed}. Beside other classes 255 means ignored. Write all masks alike, or take these masks out: no "
                        "class is in them.")
    ids = (0, 1) if binary else tuple(sorted(union - {IGNORED}))
    if not names:
        _without_names(masks, ids, union, place)
    remarks = list(remarks_on(masks, foreground, names, place))
    if mixed:
        remarks = [f"{place}: {mixed}. Both are read as class 1; if 255 is to be ignored, take these masks out: no class is in them."]
    return Meaning(binary, ids, IGNORED if IGNORED in union and not binary else None, tuple(remarks))


def misplaced_background(names: Sequence[str]) -> int:
    """The value, other than 0, whose class is called background; 0 where there is none. What is 0 is never scored, so such names stand in
    another order than the values."""
    return next((value for value, name in enumerate(names) if value and name.strip().lower() == "background"), 0)


def two_ways(masks: Sequence[Facts], foreground: frozenset[int]) -> str:
    """In words: one kind of object is written as 1 in some masks and as 255 in others, no mask has both; "" where it is not so."""
    ones = [mask for mask in masks if mask.values & foreground and IGNORED not in mask.values]
    tops = [mask for mask in masks if IGNORED in mask.values and not mask.values & foreground]
    both = any(mask.values & foreground and IGNORED in mask.values for mask in masks)
    if ones and tops and not both and len(foreground) == 1:
        value = next(iter(foreground))
        return (f"{len(tops)} masks hold 0 and 255 ({tops[0].file.name}, ...) and {len(ones)} hold 0 and {value} ({ones[0].file.name}, "
                "...), none has both: one object written in two ways")
    return ""


def same_palettes(masks: Sequence[Facts], place: Path) -> None:
    """Raises `UserError` where a value has one colour in one file and another in the next, as pictures quantised one by one have it."""
    first: dict[int, tuple[Colour, Path]] = {}
    for mask in masks:
        for value, colour in mask.colours.items():
            known, file = first.setdefault(value, (colour, mask.file))
            if known != colour:
                raise UserError(f"{place}: the palettes differ: {value} is {known} in {file.name} and {colour} in {mask.file.name}, so the "
                                "same number means two things. Write class ids as grey PNG, or all masks with one palette.")
    grey = [mask for mask in masks if not mask.colours]
    if grey and (black := black_of(masks)):
        file = first[0][1]
        raise UserError(f"{place}: 0 is {first[0][0]} and {black} is black in the palette of {file.name}, and {grey[0].file.name} has no "
                        "palette, so 0 is black there and the same number means two things. Write class ids as grey PNG, 0 for background.")


def black_of(masks: Iterable[Facts]) -> int:
    """The value that palettes show as black, or as nothing, where 0 is neither; 0 where there is none."""
    def dark(colour: Colour) -> bool:
        return colour[:3] == (0, 0, 0) or colour[3:] == (0,)

    colours: dict[int, Colour] = {}
    for mask in masks:
        colours.update(mask.colours)
    return next((value for value in sorted(colours) if value and 0 in colours and dark(colours[value]) and not dark(colours[0])), 0)


def _without_names(masks: Sequence[Facts], ids: Sequence[int], union: frozenset[int], place: Path) -> None:
    """Raises `UserError` where values leave gaps, or are too many for classes."""
    missing = sorted(set(range(max(ids, default=0) + 1)) - set(ids)) if max(ids, default=0) < 2**16 else [1]
    most = max(masks, key=lambda mask: len(mask.values))
    soft = (f" {most.file.name} alone has {len(most.values)} values: grey levels of soft edges? Save masks without smoothing and not by "
            "way of JPEG, or draw a threshold.") if len(most.values) > 8 else ""
    if ids and (missing or ids[0] < 0):
        raise UserError(f"{place}: the masks hold the values {shown(union)}; expected 0, 1, 2, ... without gaps (255: ignored), or 0 and "
                        f"255. Renumber them, or name all classes in classes.txt, one a line.{soft}")
    if len(ids) > MOST_CLASSES:
        raise UserError(f"{place}: the masks hold {len(ids)} different values, 0 to {ids[-1]}, which would be as many classes.{soft} If "
                        "they are classes, name them in classes.txt, one a line.")


def remarks_on(masks: Sequence[Facts], foreground: frozenset[int], names: Sequence[str], place: Path) -> Iterable[str]:
    """What is odd and may be meant."""
    union = frozenset[int]().union(*(mask.values for mask in masks))
    if 0 not in union:
        yield f"{place}: no mask has a pixel of background (0)."
    if black := black_of(masks):
        yield (f"{place}: the palettes show {black} as black and 0, the background, in a colour; is 0 the object? Write class ids as grey "
               "PNG, 0 for background.")
    alone = [mask for mask in masks if IGNORED in mask.values and not mask.values & foreground]
    if foreground and alone:
        yield (f"{place}: {len(alone)} of {len(masks)} masks hold 255 (ignored) and no class, for example {alone[0].file.name}; is 255 "
               "meant as an object there?")
    if not names and foreground == {1, 2} and len(masks) > FEW and not any(mask.values >= foreground for mask in masks):
        yield f"{place}: each mask holds 1 or 2, none has both; if they are one kind of object, write it as one value."
    absent = [name for value, name in enumerate(names) if value and value not in foreground]
    if foreground and absent:
        yield f"{place}: no mask has a pixel of {', '.join(absent)}."
    soft = [v for v in sorted(union) if any(v in mask.soft for mask in masks) and all(v in mask.soft for mask in masks if v in mask.values)]
    if soft:
        yield (f"{place}: the value {shown(soft)} lies nearly always between a smaller and a greater one, as edges do that were smoothed "
               "or resized; is it a class? Resize masks by the nearest pixel.")


def learned(labels: Iterable[np.ndarray], classes: Sequence[str], ignored: int | None, place: str) -> list[str]:
    """Remarks on the labels that a run learns from, of any data set. Raises `UserError` where they hold nothing but background.

    Looks no further once every class has been seen.
    """
    seen, count, empty = set[int](), 0, 0
    for label in labels:
        found = values_of(label)
        count += 1
        empty += ignored in found and not found - {0, ignored}
        seen |= found
        if seen >= set(range(len(classes))):
            break
    if count and not seen - {0, ignored}:
        rest = f", and all else is {ignored}, which is ignored" if ignored in seen else ""
        raise UserError(f"{place}: none of the {count} labelled images has a pixel of {' or '.join(classes[1:])}{rest}, so there is "
                        "nothing to learn. Label others (--labeled_num, --labeled_choice random); prepare.py --check looks at all labels.")
    absent = [name for value, name in enumerate(classes) if value not in seen]
    remarks = [f"No labelled image has a pixel of {', '.join(absent)}."] if absent and count else []
    return remarks + ([f"{empty} of {count} labelled images have ignored pixels and no class."] if empty else [])
