"""Pictures that show the same thing twice are found, whatever they are called; what the names tell already is not repeated."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from dataloaders.description import Case
from preparation.copies import copies, print_of


def picture(seed: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (ndimage.gaussian_filter(rng.normal(0, 1, (channels, 64, 64)), (0, 2, 2)) * 400 + 120).clip(0, 255).astype(np.uint8)


def label(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((64, 64)) > 0.7).astype(np.uint8)


def case(name: str, part: str = "train", group: str = "") -> Case:
    return Case(name, Path(name), None, group or name, "", part)  # type: ignore[arg-type]


def found(pictures: dict[str, tuple[np.ndarray, np.ndarray | None]], **changes: Case) -> list[str]:
    return copies([changes.get(name, case(name)) for name in pictures], [print_of(*arrays) for arrays in pictures.values()])


def test_different_pictures_are_not_called_alike():
    assert found({f"p{k}": (picture(k), label(k)) for k in range(40)}) == []
    assert found({}) == []


def test_the_same_bytes_under_two_names():
    (remark,) = found({"a": (picture(1), label(1)), "b": (picture(2), None), "c": (picture(1), label(1))})
    assert remark == ("the same picture, pixel by pixel: 1 pair within a part, as different pieces; for example a (train) and c (train).")


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_picture_that_was_turned_mirrored_and_lit_otherwise(turns, mirrored):
    first = picture(3, 3)
    again = np.rot90(first[:, :, ::-1] if mirrored else first, turns, (1, 2))
    y, x = np.mgrid[:64, :64]
    again = (0.7 * again + 0.4 * y + 0.2 * x + np.random.default_rng(0).normal(0, 4, again.shape)).clip(0, 255).astype(np.uint8)
    (remark,) = found({"a": (first, None), "b": (picture(4, 3), None), "c": (again, None)}, c=case("c", "test"))
    assert "nearly the same picture, turned or mirrored perhaps: 1 pair across parts; for example a (train) and c (test)" in remark


def test_one_reference_of_two_pictures():
    (remark,) = found({"042": (picture(1), label(9)), "050": (picture(2), label(2)), "065": (picture(3), label(9))})
    assert "the same reference though the pictures differ" in remark and "042 (train) and 065 (train)" in remark
    empty = np.zeros((64, 64), np.uint8)
    assert found({"a": (picture(1), empty), "b": (picture(2), empty)}) == [], "no defect is no copy"


def test_what_is_known_as_one_piece_is_told_across_parts_alone():
    pictures = {"a": (picture(1), None), "b": (picture(1), None)}
    assert found(pictures, a=case("a", group="g"), b=case("b", group="g")) == []
    assert found(pictures, a=case("a", group="g"), b=case("b", "test", "g"))


def test_pictures_without_structure_are_like_nothing():
    flat = np.full((1, 64, 64), 7, np.uint8)
    assert found({"a": (flat, None), "b": (flat + np.uint8(1), None), "c": (picture(1), None)}) == []
