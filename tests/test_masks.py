"""Masks judged as a set: pictures and volumes, values, palettes, transparency, pages, and what a run learns from."""
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import save_volume

from dataloaders.catalog import open_source, resolve
from dataloaders.description import Source
from dataloaders.errors import UserError
from dataloaders.layouts.common import checked_label, read_mask
from dataloaders.masks import learned, soft_values, values_of
from preparation.check import Reading, judged, oddities, outside

SIZE = (14, 18)
BOX = np.zeros(SIZE, np.uint8)
BOX[3:9, 4:12] = 1


def write(root: Path, masks: list[np.ndarray | Image.Image], ending: str = ".png", names: str = "") -> Path:
    """A folder of own images with these masks."""
    for k, mask in enumerate(masks):
        for place, content in (("images", np.random.default_rng(k).integers(0, 256, SIZE, np.uint8)), ("masks", mask)):
            (root / place).mkdir(parents=True, exist_ok=True)
            if ending != ".png":
                save_volume(root / place / f"case {k}{ending}", np.repeat(np.asarray(content)[..., None], 3, 2))
            else:
                (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(root / place / f"piece {k}.png")
    if names:
        (root / "classes.txt").write_text(names)
    return root


def opened(root: Path) -> Source:
    return open_source(*resolve(None, root, root)[:2])


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(root)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_one_object_written_as_1_and_as_255_is_one_class_and_it_is_said(tmp_path: Path, ending: str) -> None:
    source = opened(write(tmp_path / "a", [BOX, BOX * 255, BOX, BOX * 0], ending))
    assert source.data.num_classes == 2 and source.data.ignored is None
    assert all((source.label(case) > 0).sum() in (0, BOX.sum() * (3 if ending != ".png" else 1)) for case in source.cases("train"))
    assert any("one object written in two ways. Both are read as class 1" in remark for remark in source.remarks)
    assert "Beside other classes 255 means ignored" in refused(write(tmp_path / "c", [BOX, BOX * 255], ending, "ground\ncrack\nhole\n"))
    borders = BOX.copy()
    borders[2, 4:12] = 255
    source = opened(write(tmp_path / "b", [BOX, borders, BOX * 255], ending))
    assert source.data.ignored == 255 and any("1 of 3 masks hold 255 (ignored) and no class" in remark for remark in source.remarks)


def test_a_mask_of_one_bit_beside_one_of_eight_means_the_same(tmp_path: Path) -> None:
    source = opened(write(tmp_path, [Image.fromarray(BOX.astype(bool)), Image.fromarray(BOX * 255)]))
    assert all(np.array_equal(source.label(case), BOX) for case in source.cases("train"))


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_masks_of_which_no_class_or_no_background_is_left_are_refused(tmp_path: Path, ending: str) -> None:
    assert "255 would mean ignored" in refused(write(tmp_path / "a", [BOX * 255] * 3, ending, "ground\ncrack\nhole\nstain\n"))
    assert "no background is left" in refused(write(tmp_path / "b", [BOX * 0 + 255] * 3, ending))
    assert "no background is left" in refused(write(tmp_path / "c", [BOX * 0 + 1] * 3, ending, "ground\ncrack\n"))
    assert "nothing to learn" in refused(write(tmp_path / "d", [BOX * 0] * 3, ending, "ground\ncrack\n"))


def test_named_classes_that_no_mask_has_are_said(tmp_path: Path) -> None:
    assert any(remark.endswith("no mask has a pixel of hole.") for remark in
               opened(write(tmp_path, [BOX, BOX, BOX], names="ground\ncrack\nhole\n")).remarks)


def test_more_values_than_classes_can_be_are_refused(tmp_path: Path) -> None:
    grey = np.arange(14 * 18, dtype=np.uint8).reshape(SIZE) % 90
    message = refused(write(tmp_path, [grey, grey.T.reshape(SIZE).copy(), BOX]))
    assert "90 different values" in message and "way of JPEG" in message
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {k}" for k in range(90)))
    assert opened(tmp_path).data.num_classes == 90


def test_values_of_smoothed_edges_are_told_from_classes(tmp_path: Path) -> None:
    smooth = BOX * 2
    smooth[2:10, 3], smooth[2:10, 12], smooth[2, 3:13], smooth[9, 3:13] = 1, 1, 1, 1
    assert soft_values(smooth, {0, 1, 2}) == {1}
    thick = BOX * 1
    thick[5:7, 6:10] = 2
    assert soft_values(thick, {0, 1, 2}) == set()
    said = opened(write(tmp_path, [smooth, smooth, smooth])).remarks
    assert any("the value 1 lies nearly always between" in remark for remark in said)


def palette(mask: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(mask, "P")
    image.putpalette([part for colour in colours for part in colour])
    return image


def test_palettes_that_give_a_number_two_colours_are_refused(tmp_path: Path) -> None:
    red, green, black = (255, 0, 0), (0, 255, 0), (0, 0, 0)
    message = refused(write(tmp_path / "a", [palette(BOX, black, red, green), palette(BOX, black, green, red), palette(BOX, black, red)]))
    assert "the palettes differ" in message and "(255, 0, 0)" in message and "piece 1.png" in message
    opened(write(tmp_path / "b", [palette(BOX, black, red, green), palette(BOX * 0, black, green), palette(BOX, black, red)]))


def test_palettes_in_which_0_is_the_object(tmp_path: Path) -> None:
    white, black = (255, 255, 255), (0, 0, 0)
    inverted = [palette(1 - BOX, white, black), palette(1 - BOX, white, black)]
    assert any("show 1 as black and 0, the background, in a colour" in said for said in opened(write(tmp_path / "a", inverted)).remarks)
    assert "has no palette, so 0 is black there" in refused(write(tmp_path / "b", [*inverted, BOX]))
    root = write(tmp_path / "c", [palette(BOX, black, white), palette(BOX, black, white)])
    assert not any("palette" in said for said in opened(root).remarks)
    write(root / "test", [inverted[0]])
    with pytest.raises(UserError, match="palettes differ"):
        opened(root).cases("test")
    for place, clear in (("0", b"\0\xff"), ("1", b"\xff\0")):
        palette(BOX if place == "0" else 1 - BOX, white, white).save(root / f"masks/piece {place}.png", transparency=clear)
    assert "0 is (255, 255, 255, 0) in piece 0.png and (255, 255, 255) in" in refused(root), "drawn in the palette's transparency"


@pytest.mark.parametrize("ending, options, fine", [
    (".webp", {"quality": 60}, False), (".webp", {"lossless": True}, True), (".tif", {"compression": "jpeg"}, False),
    (".tif", {"compression": "tiff_lzw"}, True), (".png", {"format": "JPEG2000"}, False)])
def test_what_is_packed_with_losses_is_no_mask(tmp_path: Path, ending: str, options: dict, fine: bool) -> None:
    file = tmp_path / f"mask{ending}"
    Image.fromarray(BOX).save(file, **options)
    if fine:
        assert (read_mask(file) == BOX).all()
        return
    with pytest.raises(UserError, match="changes the values of a mask"):
        read_mask(file)


def test_black_and_white_that_came_through_a_packing_with_losses_is_read(tmp_path: Path) -> None:
    """Nothing else can have been meant."""
    values = np.zeros((32, 32), np.uint8)
    values[8:24, 8:24] = 255  # whole blocks of a JPEG
    Image.fromarray(values).save(tmp_path / "mask.tif", compression="jpeg")
    assert (read_mask(tmp_path / "mask.tif") == values).all()


@pytest.mark.parametrize("top", [2, 3, 255, 1000])
def test_a_mask_as_pgm_has_the_values_of_its_file(tmp_path: Path, top: int) -> None:
    values = BOX * np.uint8(2)
    pixels = values.astype(">u2" if top > 255 else np.uint8).tobytes()
    (tmp_path / "mask.pgm").write_bytes(b"P5\n%d %d\n%d\n" % (*SIZE[::-1], top) + pixels)
    assert (read_mask(tmp_path / "mask.pgm") == values).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_mask_of_few_bits_has_the_ids_of_its_file(tmp_path: Path, bits: int) -> None:
    ids, white = BOX[:, :16], BOX[:, :16] * np.uint8(2**bits - 1)
    for values, wanted in ((ids, ids), (white, ids * 255 if bits > 1 else ids)):
        rows = np.packbits(np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(len(values), -1), axis=1)
        parts = (b"IHDR", struct.pack(">IIBBBBB", 16, len(values), bits, 0, 0, 0, 0)), (
            b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")
        content = b"".join(struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts)
        (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        assert (read_mask(tmp_path / "mask.png") == wanted).all()


def test_classes_of_which_each_mask_has_one_are_told_of(tmp_path: Path) -> None:
    assert any("none has both" in said for said in opened(write(tmp_path / "a", [BOX, BOX * 2, BOX, BOX * 2])).remarks)
    both = BOX.copy()
    both[0] = 2
    assert not any("none has both" in said for said in opened(write(tmp_path / "b", [BOX, BOX * 2, BOX, both])).remarks)
    root = write(tmp_path / "c", [BOX, BOX * 2, BOX, BOX * 2], names="ground\nhole\ncrack\n")
    assert not any("none has both" in said for said in opened(root).remarks)


def test_signed_numbers_that_lie_far_apart_are_told_as_they_are() -> None:
    assert values_of(np.array([-100, 100], np.int8)) == {-100, 100} and values_of(np.array([-1, 32767], np.int16)) == {-1, 32767}


def test_a_mask_that_is_turned_beside_an_image_that_is_not_is_told_of(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    root = write(tmp_path, [BOX, BOX, BOX])
    Image.fromarray(BOX).save(root / "masks/piece 1.png", exif=exif)
    (said,) = (remark for remark in opened(root).remarks if "turned" in remark)
    assert "piece 1.png" in said and "(1 such masks)" in said
    Image.fromarray(BOX).save(root / "images/piece 1.png", exif=exif)
    assert all("its image has no such mark" not in remark for remark in opened(root).remarks)


@pytest.mark.parametrize("values, fine", [(BOX, False), (BOX * np.uint16(65535), True)])
def test_class_ids_in_sixteen_bits_a_colour_are_refused(tmp_path: Path, values: np.ndarray, fine: bool) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.tobytes() for row in np.repeat(values.astype(">u2")[..., None], 3, 2))
    head = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 2, 0, 0, 0)
    file = tmp_path / "mask.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    if fine:
        assert (read_mask(file) == BOX * 255).all()
        return
    with pytest.raises(UserError, match="16 bits a colour"):
        read_mask(file)


def test_background_stands_first_among_the_names(tmp_path: Path) -> None:
    assert "Background is line 2 of the names" in refused(write(tmp_path, [BOX * 255] * 4, names="crack\nBackground\n"))


@pytest.mark.parametrize("mode, colour, alpha, fine", [
    ("LA", BOX * 0 + 200, BOX * 255, False), ("LA", BOX * 255, BOX * 0 + 255, True), ("RGBA", BOX * 0, BOX * 255, False),
    ("RGBA", BOX * 255, BOX * 255, True), ("RGBA", BOX * 0 + 255 - BOX, BOX * 255, False)])
def test_masks_drawn_in_transparency_are_refused(tmp_path: Path, mode: str, colour: np.ndarray, alpha: np.ndarray, fine: bool) -> None:
    file = tmp_path / "mask.png"
    Image.fromarray(np.stack([colour] * (len(mode) - 1) + [alpha], -1).astype(np.uint8), mode).save(file)
    if fine:
        assert (read_mask(file) == BOX * 255).all()
        return
    with pytest.raises(UserError, match=r"transparency \(alpha\)"):
        read_mask(file)


@pytest.mark.parametrize("ending, options", [(".tif", {}), (".gif", {"duration": 40}), (".png", {}), (".webp", {"lossless": True})])
def test_masks_of_several_pages_are_refused(tmp_path: Path, ending: str, options: dict) -> None:
    pages = [Image.fromarray(np.roll(BOX, j, 1) * np.uint8(255)) for j in range(3)]
    pages[0].save(tmp_path / f"mask{ending}", save_all=True, append_images=pages[1:], **options)
    with pytest.raises(UserError, match="3 pages of one size"):
        read_mask(tmp_path / f"mask{ending}")


def test_a_preview_behind_a_mask_is_no_second_page(tmp_path: Path) -> None:
    mask = Image.fromarray(BOX)
    mask.save(tmp_path / "mask.tif", save_all=True, append_images=[mask.resize((7, 7))])
    assert (read_mask(tmp_path / "mask.tif") == BOX).all()


def test_inks_are_no_class_ids(tmp_path: Path) -> None:
    Image.fromarray(BOX * np.uint8(255)).convert("CMYK").save(tmp_path / "mask.tif")
    with pytest.raises(UserError, match="colours CMYK"):
        read_mask(tmp_path / "mask.tif")


def test_floats_that_nearly_are_whole_are_rounded_and_others_get_advice() -> None:
    label = np.array([[0, 1.00000006, 2.0009]], np.float32)
    assert checked_label(label, Path("m"), ("a", "b", "c"), None).tolist() == [[0, 1, 2]]
    for value in (0.5, np.nan, np.inf, -np.inf, 1.01):
        with pytest.raises(UserError, match="m: label value .* uint8 .*scl_slope 1"):
            checked_label(np.array([[0, value]], np.float32), Path("m"), ("a", "b", "c"), None)


def test_a_scaled_float_mask_of_0_and_255_is_one_class(tmp_path: Path) -> None:
    write(tmp_path, [BOX.astype(np.float32) * np.float32(254.9999), BOX * 255.0, BOX * 255.0], ".nii.gz")
    source = opened(tmp_path)
    assert source.data.num_classes == 2 and set(np.unique(source.label(source.cases("train")[0]))) == {0, 1}


def test_check_tells_of_floats_that_were_rounded_and_of_files_behind_links(tmp_path: Path) -> None:
    case = opened(write(tmp_path / "D", [BOX, BOX])).cases("train")[0]
    said = oddities(opened(tmp_path / "D").data, [case], [Reading(counts={0: 1, 1: 1}, rounded=True)])
    assert any("they are rounded" in remark and "scl_slope 1" in remark for remark in said) and outside(tmp_path / "D", [case]) == []
    (tmp_path / "D/masks").rename(tmp_path / "store")
    (tmp_path / "D/masks").symlink_to(tmp_path / "store")
    assert "1 of 2 files lie elsewhere, behind links" in outside(tmp_path / "D", [case])[0]


def test_test_masks_written_otherwise_than_those_of_training_are_refused(tmp_path: Path) -> None:
    borders = BOX.copy()
    borders[2, 4:12] = 255
    write(tmp_path, [borders, BOX, BOX])
    write(tmp_path / "test", [BOX * 255, BOX * 255])
    source = opened(tmp_path)
    with pytest.raises(UserError, match="nothing could be scored"):
        source.cases("test")


def test_what_a_run_learns_from_is_looked_at() -> None:
    said = learned([BOX, BOX * 0], ("ground", "crack", "hole"), None, "D")
    assert said == ["No labelled image has a pixel of hole."]
    assert learned([BOX, np.full(SIZE, 9)], ("ground", "crack"), None, "D") == [], "no further than needed"
    assert "1 of 2 labelled images have ignored pixels and no class." in learned([BOX * 255, BOX], ("ground", "crack", "hole"), 255, "D")
    for labels, ignored in (([BOX * 0, BOX * 0], None), ([BOX * 255], 255)):
        with pytest.raises(UserError, match="none of the . labelled images has a pixel of crack"):
            learned(labels, ("ground", "crack"), ignored, "D")


def test_check_judges_the_labels_of_each_side(tmp_path: Path) -> None:
    source = opened(write(tmp_path, [BOX, BOX]))
    data = source.data.__class__(**{**source.data.__dict__, "ignored": 255})
    cases = source.cases("train")
    assert judged(data, tmp_path, list(cases), [Reading(counts={0: 9, 1: 1}), Reading(counts={0: 9, 255: 1})])
    assert judged(data, tmp_path, list(cases), [Reading(counts={0: 9}), Reading(counts={0: 9, 255: 1})])
    assert not judged(data, tmp_path, list(cases), [Reading(counts={0: 9, 1: 1}), Reading(counts={0: 9, 1: 2, 255: 1})])
