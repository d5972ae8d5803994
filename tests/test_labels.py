"""Masks of what annotation tools export: each format drawn by hand, to the pixel, and bad files told by file and entry."""
from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import prepare
import pytest
from advice.handing import linked
from PIL import Image

from dataloaders.errors import UserError
from dataloaders.layouts.common import MOST_TEXT
from preparation.labels import Written, convert_labels, sheet
from preparation.regions import Wrong, counts_of, ellipse, from_brush, from_runs

SIZE = (20, 30)
SQUARE = np.zeros(SIZE, bool)
SQUARE[4:10, 5:15] = True
CORNERS = [[5, 4], [15, 4], [15, 10], [5, 10]]
"""Of the square's outline, x first."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three grey images, one of them in a subfolder."""
    for name in ("a.png", "b.jpg", "left/c.png"):
        (tmp_path / "D" / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE[::-1], 90).save(tmp_path / "D" / "images" / name)
    return tmp_path / "D"


def put(folder: Path, content: object, name: str = "export.json") -> Path:
    file = folder.parent / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def mask(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "masks" / f"{name}.png"))


def coco(*annotations: dict, names: tuple[str, ...] = ("scratch", "spot")) -> dict:
    images = [{"id": k, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
              for k, name in enumerate(("a.png", "x/b.jpg", "left/c.png"))]
    return {"images": images, "categories": [{"id": 10 * k + 7, "name": name} for k, name in enumerate(names)],
            "annotations": [{"id": 100 + k, "image_id": 0, "category_id": 7, **one} for k, one in enumerate(annotations)]}


def runs(found: np.ndarray) -> list[int]:
    """COCO's run lengths, column by column, off first."""
    flat = np.concatenate([[0], found.T.ravel().astype(int), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], ends])).tolist()


def packed(counts: list[int]) -> str:
    """COCO's string of run lengths."""
    text = ""
    for place, count in enumerate(counts):
        value, more = count - counts[place - 2] if place > 2 else count, True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | (32 if more else 0)) + 48)
    return text


def brushed(found: np.ndarray) -> list[int]:
    """Label Studio's bytes of a mask, single values and repeated ones."""
    rgba = np.zeros((*found.shape, 4), np.uint8)
    rgba[found] = 255
    values, bits = rgba.ravel().tolist(), f"{rgba.size:032b}{7:05b}{2:04b}{7:04b}{9:04b}{15:04b}"
    place = 0
    while place < len(values):
        same = next((k for k in range(place, len(values)) if values[k] != values[place]), len(values)) - place
        if same > 3:
            bits += f"101{min(same, 256) - 1:08b}{values[place]:08b}"
            place += min(same, 256)
        else:
            bits += f"000{same - 1:03b}" + "".join(f"{value:08b}" for value in values[place : place + same])
            place += same
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def turned(folder: Path, mark: int) -> None:
    """The first image as a camera stores it: with an EXIF mark that turns it to `SIZE`."""
    exif = Image.Exif()
    exif[0x0112] = mark
    Image.new("L", SIZE if mark > 4 else SIZE[::-1], 90).save(folder / "images" / "a.png", exif=exif)


def test_coco_polygons_and_run_lengths(folder: Path) -> None:
    column = np.zeros(SIZE, bool)
    column[:, 29] = True
    export = put(folder, coco(
        {"segmentation": [sum(CORNERS, []), [0, 0, 3, 0, 3, 2, 0, 2]]},
        {"image_id": 1, "category_id": 17, "segmentation": {"counts": runs(SQUARE), "size": list(SIZE)}},
        {"image_id": 1, "segmentation": {"counts": packed(runs(column)), "size": list(SIZE)}},
        {"image_id": 1, "segmentation": [], "bbox": [1, 2, 3, 4]}))
    written = convert_labels(export, folder)
    assert written.classes == ["background", "scratch", "spot"]
    assert (folder / "classes.txt").read_text() == "background\nscratch\nspot\n"
    assert np.array_equal(mask(folder, "a"), SQUARE + np.pad(np.ones((2, 3)), ((0, 18), (0, 27))))
    assert np.array_equal(mask(folder, "b"), 2 * SQUARE + column)
    assert sorted(file.stem for file in (folder / "masks").iterdir()) == ["a", "b"]
    assert any("boxes without an outline" in said for said in written.remarks)
    assert any("1 of them have no region" in said for said in written.remarks)
    assert counts_of("04") == [0, 4], "the string of a mask of 2 x 2 ones, as pycocotools writes it"
    assert counts_of(packed([3, 500, 7, 2, 90000])) == [3, 500, 7, 2, 90000]


def test_later_regions_lie_above_and_what_is_there_is_kept(folder: Path) -> None:
    export = put(folder, coco({"segmentation": [sum(CORNERS, [])]}, {"category_id": 17, "segmentation": [[10, 4, 20, 4, 20, 10, 10, 10]]}))
    assert any("overlap in 30 pixels" in said for said in convert_labels(export, folder).remarks)
    assert mask(folder, "a")[5].tolist() == [0] * 5 + [1] * 5 + [2] * 10 + [0] * 10
    again = convert_labels(export, folder)
    assert not again.masks and any("are the same" in said for said in again.remarks)
    other = put(folder, coco({"segmentation": [sum(CORNERS, [])]}))
    kept = convert_labels(other, folder)
    assert not kept.masks and any("--replace" in said for said in kept.remarks) and mask(folder, "a").max() == 2
    assert convert_labels(other, folder, replace=True).masks and mask(folder, "a").max() == 1
    assert len(convert_labels(other, folder, empty=True).masks) == 2 and not mask(folder, "left/c").any()
    (folder / "classes.txt").write_text("background\nspot\n")
    with pytest.raises(UserError, match=r"classes.txt: has background, spot, but the export draws scratch"):
        convert_labels(other, folder)


def test_labelme(folder: Path) -> None:
    small = np.zeros((3, 4), np.uint8)
    small[1, 1:3] = 255
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "PNG")
    common = {"version": "5.5", "flags": {}, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    put(folder, {**common, "imagePath": "..\\images\\a.png", "shapes": [
        {"label": "spot", "points": CORNERS, "shape_type": "polygon"},
        {"label": "dent", "points": [[20, 0], [22, 5]], "shape_type": "rectangle"},
        {"label": "dent", "points": [[24, 10], [28, 13]], "shape_type": "mask", "mask": base64.b64encode(stream.getvalue()).decode()}]},
        "labelme/a.json")
    put(folder, {**common, "imagePath": "c.png", "shapes": [{"label": "spot", "points": [[15, 10], [15, 15]], "shape_type": "circle"}]},
        "labelme/c.json")
    written = convert_labels(folder.parent / "labelme", folder)
    assert written.classes == ["background", "dent", "spot"], "in alphabetical order, since the tool has none"
    expected = 2 * SQUARE.astype(int)
    expected[0:5, 20:22] = 1
    expected[11, 25:27] = 1
    assert np.array_equal(mask(folder, "a"), expected)
    assert abs((mask(folder, "left/c") == 2).sum() - np.pi * 25) < 5


def test_via_and_its_attribute(folder: Path) -> None:
    polygon = {"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [4, 4, 10, 10]}
    entries = {"a.png12": {"filename": "a.png", "size": 12, "regions": [
        {"shape_attributes": polygon, "region_attributes": {"kind": "spot", "grade": "1"}},
        {"shape_attributes": {"name": "rect", "x": 20, "y": 0, "width": 2, "height": 5},
         "region_attributes": {"kind": {"dent": True, "x": False}}}]},
        "b": {"filename": "b.jpg", "size": 1, "regions": {}}}
    export = put(folder, {"_via_settings": {}, "_via_img_metadata": entries})
    with pytest.raises(UserError, match=r"export.json, a.png12, region 1: it has the attributes kind, grade; say with --attribute"):
        convert_labels(export, folder)
    assert convert_labels(export, folder, attribute="kind").classes == ["background", "dent", "spot"]
    assert (mask(folder, "a")[SQUARE] == 2).all() and (mask(folder, "a") == 1).sum() == 10


def test_label_studio_polygons_and_brush(folder: Path) -> None:
    common = {"original_width": SIZE[1], "original_height": SIZE[0], "from_name": "l", "to_name": "i"}
    percent = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in CORNERS]
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/3/0a1b2c3d-a.png"}, "annotations": [
            {"result": []}, {"result": [{**common, "type": "polygonlabels", "value": {"points": percent, "polygonlabels": ["spot"]}},
                                        {"type": "choices", "value": {"choices": ["blurred"]}}]}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=all%2Fleft%2Fc.png"}, "annotations": [{"result": [
            {**common, "type": "brushlabels", "value": {"format": "rle", "rle": brushed(SQUARE), "brushlabels": ["spot"]}}]}]},
        {"id": 3, "data": {"image": "b.jpg"}, "annotations": [{"was_cancelled": True, "result": [{"type": "x"}]}]}]
    written = convert_labels(put(folder, tasks), folder)
    assert np.array_equal(mask(folder, "a"), SQUARE) and np.array_equal(mask(folder, "left/c"), SQUARE)
    assert any("several annotations" in said for said in written.remarks) and not (folder / "masks" / "b.png").exists()


def test_imagej(folder: Path) -> None:
    roifile = pytest.importorskip("roifile", reason="roifile is optional (requirements-optional.txt)")
    regions = folder.parent / "rois"
    regions.mkdir()
    roifile.ImagejRoi.frompoints(np.array(CORNERS), name="spot-1").tofile(regions / "a.roi")
    assert convert_labels(regions, folder).classes == ["background", "spot"]
    assert np.array_equal(mask(folder, "a"), SQUARE)
    with zipfile.ZipFile(regions / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.roi", b"0" * (MOST_TEXT + 1))
    with pytest.raises(UserError, match="b.zip: no regions of ImageJ .*it unpacks to"):
        convert_labels(regions, folder)


@pytest.mark.parametrize("written", ["001_a.png", "012_left_c.png", "a_png.rf.0123456789abcdef0123456789abcdef.jpg", "%61.png",
                                     "C:\\all\\0a1b2c3d-a.png", "1a2b3c4d-the_b_1.jpg"])
def test_tools_change_names(folder: Path, written: str) -> None:
    """The links of advise.py --next, Roboflow, an address, Windows, Label Studio."""
    (folder / "images" / "b.jpg").rename(folder / "images" / "the b (1).jpg")
    image = "left/c" if "c" in Path(written).stem.split("_") else "the b (1)" if "_b_" in written else "a"
    content = coco({"segmentation": [sum(CORNERS, [])]})
    content["images"] = [{"id": 0, "file_name": written}]
    said = convert_labels(put(folder, content), folder).remarks
    assert np.array_equal(mask(folder, image), SQUARE) and len(list((folder / "masks").rglob("*.png"))) == 1
    assert any(f"have other names in the export than in images/ ({written} is {image}, ...)" in one for one in said) != ("all" in written)


def test_names_composed_otherwise_are_the_same(folder: Path) -> None:
    """macOS stores letters and their marks apart."""
    (folder / "images" / "a.png").rename(folder / "images" / "\u00e9.png")
    (folder / "classes.txt").write_text("background\nscrat\u00e9\nspot\n", encoding="utf-8")
    content = coco({"segmentation": [sum(CORNERS, [])]}, names=("scrate\u0301", "spot"))
    content["images"] = [{"id": 0, "file_name": "e\u0301.png"}]
    assert not any("have other names" in said for said in convert_labels(put(folder, content), folder).remarks)
    assert np.array_equal(mask(folder, "\u00e9"), SQUARE)


def test_names_of_links_come_back() -> None:
    """What `advise.py --next` calls a link is what `prepare.py labels` looks for."""
    for name, file in (("a", "images/a.JPG"), ("left/c.v2", "images/left/c.v2.png"), ("case", "images/case.nii.gz")):
        assert linked(12, name, Path(file)) == f"012_{name.replace('/', '_')}" + Path(file).name.removeprefix(Path(name).name)


def test_classes_are_those_that_are_drawn(folder: Path) -> None:
    """Roboflow's root is none; blanks at the ends are no part of a name, which classes.txt would not give back."""
    content = coco({"segmentation": [sum(CORNERS, [])]}, names=("scratch ", "spot"))
    content["categories"] = [{"id": 0, "name": "defects", "supercategory": "none"},
                             *({**one, "supercategory": "defects"} for one in content["categories"])]
    export = put(folder, content)
    for _ in range(2):
        assert convert_labels(export, folder).classes == ["background", "scratch", "spot"]
    (folder / "classes.txt").unlink()
    for name, said in (("", "annotation 100: its class has no name"), ("#1", "which a line of classes.txt cannot hold")):
        with pytest.raises(UserError, match=said):
            convert_labels(put(folder, coco({"segmentation": [sum(CORNERS, [])]}, names=(name, "spot"))), folder)
    twice = coco({"segmentation": [[]]})
    twice["images"][1]["id"] = 0
    with pytest.raises(UserError, match=r"image 0: x/b.jpg and a.png have the same id"):
        convert_labels(put(folder, twice), folder)


def test_what_no_size_tells_is_said(folder: Path) -> None:
    turned(folder, 3)
    export = put(folder, coco({"segmentation": [sum(CORNERS, [])]}))
    assert any("1 images are turned by their EXIF mark (a, ...)" in said for said in convert_labels(export, folder).remarks)
    turned(folder, 6)
    assert not any("EXIF" in said for said in convert_labels(export, folder).remarks), "the sides tell that the tool turned it too"


def test_drawings_of_other_kinds_are_not_lost_in_silence(folder: Path) -> None:
    result = {"original_width": 30, "original_height": 20, "type": "polygonlabels", "value": {"points": CORNERS, "polygonlabels": ["spot"]}}
    for one, said in (({**result, "type": "bitmasklabels"}, "task 1, result 1: its type is bitmasklabels, which is not read"),
                      ({**result, "image_rotation": 90}, "task 1, result 1: its image was turned in the tool")):
        with pytest.raises(UserError, match=said):
            convert_labels(put(folder, [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [one]}]}]), folder)
    four = {"label": "spot", "points": CORNERS, "shape_type": "rectangle"}
    convert_labels(put(folder, {"imagePath": "a.png", "shapes": [four]}), folder)
    assert np.array_equal(mask(folder, "a"), SQUARE)


def test_a_mask_that_cannot_be_written_keeps_the_one_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "masks").mkdir()
    Image.new("L", SIZE[::-1]).save(folder / "masks" / "a.bmp")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"classes.txt: cannot be written \(No space left") as error:
        convert_labels(put(folder, coco({"segmentation": [sum(CORNERS, [])]}, names=("spot",))), folder, replace=True)
    assert error.value.code == 3 and [file.name for file in (folder / "masks").iterdir()] == ["a.bmp"]
    monkeypatch.undo()
    convert_labels(put(folder, coco({"segmentation": [sum(CORNERS, [])]}, names=("spot",))), folder, replace=True)
    assert [file.name for file in (folder / "masks").iterdir()] == ["a.png"]


@pytest.mark.parametrize("entry, said", [
    ({"segmentation": [CORNERS], "image_id": [0]}, "its image [0] is not in the file"),
    ({"segmentation": [[1, 2, 3, 4]]}, "annotation 100: an outline of 2 points"),
    ({"segmentation": [[1, 2, 3]]}, "annotation 100: its points have the shape"),
    ({"segmentation": [[1, 2, 3, float("nan"), 5, 6]]}, "annotation 100: a coordinate is not finite"),
    ({"segmentation": [[40, 2, 50, 2, 50, 9]]}, "annotation 100: it lies outside the image of 30x20"),
    ({"segmentation": {"counts": [3, 4], "size": [20, 30]}}, "sum to 7, and the image has 20 x 30"),
    ({"segmentation": {"counts": "04", "size": [2, 2]}}, "its mask has the size"),
    ({"segmentation": {"counts": "~", "size": [20, 30]}}, "hold the character '~'"),
    ({"segmentation": {"counts": [-3], "size": [20, 30]}}, "no whole numbers"),
    ({"segmentation": {"size": [20, 30]}}, "annotation 100: not as its tool writes it"),
    ({"segmentation": [CORNERS], "category_id": 9}, "its category 9 is not in the file"),
    ({"segmentation": [CORNERS], "image_id": 77}, "its image 77 is not in the file")])
def test_bad_entries_are_told(folder: Path, entry: dict, said: str) -> None:
    with pytest.raises(UserError, match="export.json") as error:
        convert_labels(put(folder, coco(entry)), folder)
    assert said in str(error.value) and not (folder / "masks").exists() and not (folder / "classes.txt").exists()


def test_bad_files_are_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    content = coco({"segmentation": [sum(CORNERS, [])]})
    content["images"][0].update(height=30, width=20)
    strange = {**content, "images": [{"id": 0, "file_name": "zzz.png"}]}
    for made, said in ((content, r"is 30x20 pixels, but was annotated at 20x30\. Annotate the image"), (strange, "zzz.png is not in"),
                       *(([{"id": 1, "data": {}, "annotations": [{"result": odd}]}], "not as its tool writes it") for odd in (["x"], 7)),
                       ({"_via_img_metadata": []}, "not as its tool writes it"), ([1, 2], "of no tool"),
                       ({"a": 1}, "it holds a"), ({"project": {}, "metadata": {}, "view": {}}, "VIA 3")):
        with pytest.raises(UserError, match=said):
            convert_labels(put(folder, made), folder)
    turned(folder, 6)
    with pytest.raises(UserError, match="turned by its EXIF mark, which the tool did not heed"):
        convert_labels(put(folder, content), folder)
    (tmp_path / "cut.json").write_text('{"images": [')
    for place, said in ((tmp_path / "cut.json", "no valid JSON"), (tmp_path / "none", "no such file"),
                        (folder / "images", "no annotations in it")):
        monkeypatch.setattr("sys.argv", ["prepare.py", "labels", str(place), "--images", str(folder)])
        assert prepare.main() == 2 and said in capsys.readouterr().err
    with pytest.raises(Wrong, match="cut off"):
        from_brush(brushed(SQUARE)[:-9], SIZE)
    with pytest.raises(Wrong, match="holds 2400 values; expected 16"):
        from_brush(brushed(SQUARE), (2, 2))
    assert np.array_equal(from_runs(runs(SQUARE), SIZE), SQUARE) and len(ellipse(0, 0, 1, 2)) == 64


def test_the_command_writes_a_picture_to_look_at(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    export = put(folder, coco({"segmentation": [sum(CORNERS, [])]}, {"image_id": 1, "category_id": 17, "segmentation": [sum(CORNERS, [])]}))
    monkeypatch.setattr("sys.argv", ["prepare.py", "labels", str(export), "--images", str(folder)])
    assert prepare.main() == 0
    said = capsys.readouterr().out
    assert "2 masks written" in said and f"--check {folder}" in said
    drawn = np.asarray(Image.open(folder / "labels.png")).astype(int)
    assert drawn.shape[1] > 600 and (np.ptp(drawn, 2) > 60).sum() > 1000, "tinted regions"
    many = Written(["background", *9 * ["a class with a long name"]], [folder / "masks" / "a.png"], [folder / "images" / "a.png"])
    sheet(many, folder / "one.png")
    one = np.asarray(Image.open(folder / "one.png")).astype(int)
    assert one.shape[1] == 336 and one.shape[0] > drawn.shape[0] and (np.ptp(one[-22:], 2) > 60).any(), "the legend has lines"
