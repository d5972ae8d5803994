"""Pictures of more than eight bits on one scale for the data set, pictures that are turned, and what training and check say of them."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloaders.catalog import named, open_source, resolve
from dataloaders.description import Case, Source
from dataloaders.errors import UserError
from dataloaders.layouts.common import picture_remarks, picture_size, read_mask, read_picture, to_eight_bits, white_of
from engine.claim import differences
from preparation.check import Reading, oddities

RAMP = np.linspace(0, 1, 30 * 44).reshape(30, 44)
MASK = (RAMP > 0.5).astype(np.uint8)


def folder(root: Path, arrays: list[np.ndarray], ending: str = ".png") -> Source:
    """Own images of these pixels, a mask each."""
    for place in ("images", "masks"):
        (root / place).mkdir(parents=True)
    for k, array in enumerate(arrays):
        Image.fromarray(array).save(root / "images" / f"p{k}{ending}")
        Image.fromarray(MASK).save(root / "masks" / f"p{k}.png")
    return open_source(*resolve("folder", root, root)[:2])


def levels(source: Source) -> list[int]:
    return [len(np.unique(source.image(case))) for case in source.cases("train")]


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_data_set_has_one_scale_by_the_depth_that_it_uses(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    bright, dark = (top * RAMP).astype(np.uint16), (top * RAMP / 300).astype(np.uint16)
    source = folder(tmp_path, [bright, dark, bright])
    assert source.data.white == top and any(f"0 to {top}, the scale of all" in remark for remark in source.remarks)
    first, second, _ = (source.image(case) for case in source.cases("train"))
    assert len(np.unique(first)) == 256 and second.max() <= 1, "a dark image stays dark beside a bright one"
    assert f"white {top}" in source.cache_key


def test_whole_numbers_of_eight_bits_in_a_larger_type_stay(tmp_path: Path) -> None:
    values = (255 * RAMP).astype(np.uint16)
    source = folder(tmp_path, [values, values // 2, values // 3])
    assert np.array_equal(source.image(source.cases("train")[0])[0], values) and source.data.white == 255


@pytest.mark.parametrize("top, white", [(1.0, 1), (0.02, 1), (255.0, 255), (65535.0, 65535)])
def test_floats_are_scaled_by_what_they_reach(tmp_path: Path, top: float, white: int) -> None:
    source = folder(tmp_path, [(top * RAMP).astype(np.float32)] * 3, ".tif")
    assert source.data.white == white and levels(source)[0] == (256 if top > 0.5 else 6)


def test_a_pgm_has_no_scale_of_its_own(tmp_path: Path) -> None:
    bright, dark = (4000 * RAMP).astype(">u2"), (1000 * RAMP).astype(">u2")
    source = folder(tmp_path, [bright.astype(np.uint16)] * 3)
    for k, values in enumerate((bright, dark)):
        (tmp_path / f"images/p{k}.png").unlink()
        (tmp_path / f"images/p{k}.pgm").write_bytes(b"P5\n44 30\n%d\n" % values.max() + values.tobytes())
    again = open_source(source.data.__class__(**{**source.data.__dict__, "white": None}), tmp_path)
    first, second, third = (again.image(case) for case in again.cases("train"))
    assert again.data.white == 4095 and np.array_equal(first, third) and second.max() == 62


def test_a_tiff_in_which_0_is_white_is_turned_round(tmp_path: Path) -> None:
    for name, kind, top in (("8", np.uint8, 255), ("16", np.uint16, 65535)):
        stored = (top * (1 - RAMP)).astype(kind)
        file = Image.fromarray(np.uint8(255) - stored if top == 255 else stored)  # Pillow turns those of eight bits when it writes them
        file.save(tmp_path / f"{name}.tif", tiffinfo={0x0106: 0})
    dark = [read_picture(tmp_path / f"{name}.tif", 1)[0] for name in ("8", "16")]
    assert all(pixels[0, 0] < 2 and pixels[-1, -1] > 253 for pixels in dark)


def test_images_of_two_scales_are_told_of(tmp_path: Path) -> None:
    source = folder(tmp_path, [(65535 * RAMP).astype(np.uint16), (255 * RAMP).astype(np.uint16)])
    assert any("only up to 255 in p1.png: two scales?" in remark for remark in source.remarks)


def test_a_dark_float_image_among_others_is_of_their_scale(tmp_path: Path) -> None:
    source = folder(tmp_path, [RAMP.astype(np.float32), (0.01 * RAMP).astype(np.float32)], ".tif")
    assert any("only up to 0.01 in p1.tif: two scales? 0 to 1 is used" in remark for remark in source.remarks)


@pytest.mark.parametrize("train, test, words", [
    (np.uint8(255), np.uint16(900), "test images have 16 bits or floats"), (np.uint8(255), np.float32(1), "test images have 16 bits"),
    (np.uint16(4000), np.float32(1), "floats up to 1, but the scale of the data set is 0 to 4095"),
    (np.float32(1), np.uint16(900), "whole numbers up to 900, but the scale of the data set is 0 to 1"),
    (np.float32(1), np.float32(255), "floats up to 255, but"), (np.uint8(255), np.uint16(255), ""), (np.float32(1), np.uint8(255), ""),
    (np.uint16(4000), np.uint16(900), "")])
def test_test_images_have_the_scale_of_training(tmp_path: Path, train: np.generic, test: np.generic, words: str) -> None:
    def ramp(top: np.generic) -> np.ndarray:
        return (RAMP * float(top)).astype(top.dtype)

    source = folder(tmp_path, [ramp(train)] * 2, ".tif")
    folder(tmp_path / "test", [ramp(test)] * 2, ".tif")
    if not words:
        assert [source.image(case).max() > 50 for case in source.cases("test")] == [True, True]
        return
    with pytest.raises(UserError, match=words):
        [source.image(case) for case in source.cases("test")]


@pytest.mark.parametrize("arrays, words", [
    ([RAMP.astype(np.float32), (255 * RAMP).astype(np.float32)], "one scale is expected"),
    ([RAMP.astype(np.float32) * 2] * 3, "neither 0 to 1 nor 0 to 255"),
    ([RAMP.astype(np.float32), (60000 * RAMP).astype(np.int32), RAMP.astype(np.float32)], "one scale is expected"),
])
def test_scales_that_cannot_be_known_are_refused(tmp_path: Path, arrays: list[np.ndarray], words: str) -> None:
    with pytest.raises(UserError, match=words):
        folder(tmp_path, arrays, ".tif")


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 70000.0])
def test_values_that_are_no_intensities_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="expected floats from 0 to 1"):
        to_eight_bits(np.array([[0.0, value]], np.float32), Path("p"))


def test_sixteen_whole_bits_are_read_as_ever() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(to_eight_bits(values, Path("p")), np.rint(values / 257).astype(np.uint8))
    assert np.array_equal(to_eight_bits(values, Path("p"), 65535), to_eight_bits(values, Path("p")))
    assert white_of(256, False, Path("p")) == 1023 and white_of(65535, False, Path("p")) == 65535


def test_new_images_are_read_on_the_scale_of_training(tmp_path: Path) -> None:
    data = replace(named("folder"), channels=1, white=4095.0)
    for name, factor in (("alike", 4095), ("dark", 40), ("brighter", 65535)):
        Image.fromarray((factor * RAMP).astype(np.uint16)).save(tmp_path / f"{name}.png")
    alike, dark, brighter = (data.reader.read_new(data, [tmp_path / f"{name}.png"]) for name in ("alike", "dark", "brighter"))
    assert len(np.unique(alike.pixels)) == 256 and dark.pixels.max() == 2
    assert any("another scale?" in remark for remark in brighter.remarks) and not any("another" in remark for remark in alike.remarks)


def test_a_run_does_not_go_on_with_another_scale() -> None:
    old = {"method": "m", "data_set": "d", "root": "r", "options": {}, "split": {}, "white": 4095.0}
    assert "read as white: 4095.0 then, 65535.0 now" in differences(old, old | {"white": 65535.0}, {})[0]
    assert differences({key: old[key] for key in old if key != "white"}, old, {}) == [], "a run of before it was written down"


def test_sixteen_bits_a_colour_are_told_of(tmp_path: Path) -> None:
    import SimpleITK

    colour = np.repeat((65535 * RAMP).astype(np.uint16)[..., None], 3, 2)
    for name in ("a.png", "a.tif"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colour, isVector=True), str(tmp_path / name))
        assert "16 bit colour, read as its upper 8 bit" in picture_remarks(tmp_path / name, 3)


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_and_masks_are_turned_alike(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = {"a.png": MASK * 255, "b.png": (65535 * RAMP).astype(np.uint16), "c.jpg": MASK * 255}
    for name, array in stored.items():
        Image.fromarray(array).save(tmp_path / name, exif=exif)
    for name, compression in (("d.tif", "raw"), ("e.tif", "tiff_lzw"), ("f.tif", "tiff_adobe_deflate")):
        Image.fromarray(MASK * 255).save(tmp_path / name, tiffinfo={0x0112: turn}, compression=compression)
    wanted = read_picture(tmp_path / "a.png", 1)[0]
    assert wanted.shape == (MASK.shape[::-1] if turn > 4 else MASK.shape)
    for name in (*stored, "d.tif", "e.tif", "f.tif"):
        pixels = read_picture(tmp_path / name, 1)[0]
        assert picture_size(tmp_path / name) == pixels.shape == wanted.shape and ((pixels > 127) == (wanted > 127)).mean() > 0.99, name
        if name[0] in "adef":
            assert np.array_equal(read_mask(tmp_path / name), wanted), name
        assert ("turned as its EXIF says" in picture_remarks(tmp_path / name, 1)) == (turn > 1), name


def test_training_and_check_say_what_predict_says(tmp_path: Path) -> None:
    source = folder(tmp_path, [(255 * RAMP).astype(np.uint8)] * 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.open(tmp_path / "images/p0.png")
    picture.save(tmp_path / "images/turned.jpg", exif=exif)
    picture.save(tmp_path / "images/film.gif", save_all=True, append_images=[picture.rotate(90), picture.rotate(180)], duration=40)
    said = "\n".join(open_source(source.data, tmp_path).remarks)
    assert "1 of 5 images are turned as their EXIF says (turned.jpg" in said and "1 of 5 images have several pages (film.gif" in said


def test_check_doubts_stored_values_on_two_scales() -> None:
    cases = [Case(name, Path(name), None, name) for name in ("a", "b", "c")]
    for greatest, doubted in (((1.0, 255.0, 240.0), True), ((3.0, 90.0, 40.0), False), ((0.0, 1.0, 2.0), False)):
        said = oddities(named("LA"), list(cases), [Reading(greatest=value) for value in greatest])
        assert any("two scales?" in remark for remark in said) == doubted


def test_check_says_that_images_are_black_or_on_another_scale(tmp_path: Path) -> None:
    source = folder(tmp_path, [MASK] * 3)
    cases = source.cases("train")
    assert any("nearly black" in remark for remark in oddities(source.data, list(cases), [Reading(greatest=1.0)] * 3))
    assert not any("nearly black" in remark for remark in oddities(source.data, list(cases), [Reading(greatest=g) for g in (1, 250, 2)]))
