"""One's own volumes: nnU-Net's raw layout, folders of pairs, and everything that can be wrong with their files."""
import gzip
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from tiny import AFFINE, save_volume

from dataloaders.catalog import named, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.geometry import place, reversed_axes
from dataloaders.intensities import scaled
from dataloaders.layouts.nifti import read_header, read_volume
from dataloaders.layouts.pairs import PairsSource
from dataloaders.splits.split import SplitRequest, make_split
from dataloaders.splits.split import test_cases as cases_of_test
from preparation.check import check_folder

CODE = Path(__file__).resolve().parent.parent / "code"
SHAPE = (12, 10, 6)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def save(file, values, affine=AFFINE):
    if ".nii" in file.name:
        save_volume(file, values, affine)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.transpose()))
        place(image, affine)
        SimpleITK.WriteImage(image, str(file), useCompression=True)


def volume(seed):
    """An image, and its label with the values 0, 1 and 2 (in the corner)."""
    image = np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)
    label = (image > 110).astype(np.uint8)
    label[0, 0, 0] = 2
    return image, label


def describe(root, **changes):
    content = {"channel_names": {"0": "CT", "1": "T2"}, "labels": {"background": 0, "liver": 1, "tumour": 2}, "numTraining": 6,
               "file_ending": ".nii.gz"} | changes
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return root


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Two channels; six cases in imagesTr, the last without a label, one in imagesUn, three test cases, the last without a label."""
    root = describe(tmp_path_factory.mktemp("nnunet") / "Dataset001_Liver")
    for seed, (part, number) in enumerate([("Tr", k) for k in range(6)] + [("Un", 0)] + [("Ts", k) for k in range(3)]):
        image, label = volume(seed)
        name = f"{part.lower()}_{number:03d}"
        save(root / f"images{part}" / f"{name}_0000.nii.gz", image)
        save(root / f"images{part}" / f"{name}_0001.nii.gz", (image * 7).astype(np.int16))
        if (part, number) not in (("Tr", 5), ("Un", 0), ("Ts", 2)):
            save(root / f"labels{part}" / f"{name}.nii.gz", label)
    return root


@pytest.fixture
def own(whole, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "own"))


def opened(root, name="nnunet"):
    return open_source(named(name), root)


def split_of(source):
    return make_split(source, SplitRequest(labeled_num="all"))


def test_nnunet_in_three_dimensions(whole, tmp_path):
    data, root, why = resolve(None, whole, tmp_path)
    source = open_source(data, root)
    assert (data.name, data.dimensions) == ("nnunet", 3) and "recognised" in why
    assert source.data.classes == ("background", "liver", "tumour") and source.data.channels == 2 and source.data.ignored is None
    split = split_of(source)
    assert [case.name for case in cases_of_test(source, SplitRequest())] == ["ts_000", "ts_001"]
    assert {case.name for case in split.unlabeled} == {"tr_005", "un_000"} and (len(split.labeled), len(split.val)) == (4, 1)
    assert any("1 of 3 test cases have no label" in remark for remark in source.remarks)
    case = next(case for case in source.cases("train") if case.name == "tr_001")
    image, label = volume(1)
    found = source.image(source.items([case])[0])
    clipped = np.clip(image, *np.percentile(image, (0.5, 99.5)))
    second = (image * 7).astype(np.int16).astype(np.float64)
    np.testing.assert_allclose(found[0], (clipped - clipped.mean()) / clipped.std(), atol=1e-5)
    np.testing.assert_allclose(found[1], (second - second.mean()) / second.std(), atol=1e-5)
    np.testing.assert_array_equal(source.label(case), label)
    assert found.dtype == np.float32 and source.label(case).dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_allclose(source.affine(case), nibabel.load(case.image).affine, atol=1e-6)
    assert source.spacing(case) == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0), abs=1e-6)


def test_nnunet_slice_by_slice(whole):
    volumes, slices = opened(whole), opened(whole, "nnunet-2d")
    assert slices.data.dimensions == 2 and slices.data.defaults["patch_size"] == (256, 256)
    case = slices.cases("train")[2]
    items = slices.items([case])
    assert [item.name for item in items] == [f"tr_002_slice_{k}" for k in range(1, 7)] and items[3].index == 3
    whole_image, whole_label = volumes.image(case), volumes.label(case)
    np.testing.assert_array_equal(slices.image(case), whole_image.transpose(0, 3, 2, 1))
    np.testing.assert_array_equal(slices.label(case), whole_label.transpose(2, 1, 0))
    for k in (3, 0):
        np.testing.assert_array_equal(slices.image(items[k]), whole_image[:, :, :, k].transpose(0, 2, 1))
        np.testing.assert_array_equal(slices.label(items[k]), whole_label[:, :, k].T)
    np.testing.assert_allclose(slices.affine(case), reversed_axes(volumes.affine(case)))
    assert slices.spacing(case) == pytest.approx(volumes.spacing(case)[::-1])
    other = slices.items([slices.cases("train")[5]])[3]
    assert slices.label(other) is None and not np.array_equal(slices.image(other), slices.image(items[3]))


def test_version_1_and_names_without_channels(tmp_path):
    """The Medical Segmentation Decathlon's own files: version 1, CASE.nii.gz; without test labels a part is held out."""
    root = describe(tmp_path / "Task02", channel_names=None, file_ending=None, modality={"0": "MRI"},
                    labels={"0": "background", "2": "tumour", "1": "liver"}, training=[{"image": "./imagesTr/../../x.nii.gz"}])
    for k in range(4):
        image, label = volume(k)
        save(root / "imagesTr" / f"la_{k:03d}.nii.gz", image)
        save(root / "labelsTr" / f"la_{k:03d}.nii.gz", label)
    (root / "imagesTr" / "._la_000.nii.gz").write_bytes(b"left by a Mac")
    source = opened(root)
    assert source.data.classes == ("background", "liver", "tumour") and source.image(source.cases("train")[3]).shape == (1, *SHAPE)
    split = split_of(source)
    assert len(split.labeled) == 2 and len(split.val) == 1 and any("names no test images" in remark for remark in split.remarks)
    assert len(cases_of_test(source, SplitRequest())) == 1


def test_ignored_voxels(own):
    describe(own, labels={"background": 0, "liver": 1, "ignore": 2})
    source = opened(own)
    assert source.data.classes == ("background", "liver") and source.data.ignored == 255
    assert source.label(source.cases("train")[0])[0, 0, 0] == 255 and set(np.unique(source.label(source.cases("train")[0]))) == {0, 1, 255}


def test_scaling():
    values = np.random.default_rng(0).normal(5, 3, (20, 20, 20)).astype(np.float32)
    values[0, 0, 0] = 1e6
    assert scaled(values, "zscore").max() > 50 and scaled(values, "ct").max() < 4
    assert scaled(values, "none") is values and not scaled(np.full((3, 3, 3), 7, np.float32), "zscore").any()


def test_another_channel_makes_another_cache(own):
    before = opened(own).cache_key
    image, _ = volume(50)
    save(own / "imagesTr" / "tr_000_0001.nii.gz", image)
    assert opened(own).cache_key != before


def write_pairs(root, ending, values=(0, 1, 2), parts=("",)):
    for part in parts:
        for k in range(5 if not part else 2):
            image, label = volume(k)
            save(root / part / "images" / f"case {k}{ending}", image)
            if part or k < 4:
                save(root / part / "masks" / f"case {k}{ending}", np.asarray(values, np.uint8)[label])
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_folder_of_pairs(tmp_path, ending):
    """Recognised with and without its name; every format gives the same arrays in the same place."""
    affine = AFFINE.copy()
    affine[:3, :3] = np.diag([-0.7, 0.8, 2.5])
    root = write_pairs(tmp_path / "own", ending, parts=("", "val", "test"))
    image, label = volume(1)
    save(root / "images" / f"case 1{ending}", image, affine)
    save(root / "masks" / f"case 1{ending}", label, affine)
    for name in ("folder", None):
        data, place_of, _ = resolve(name, root, tmp_path)
        assert (data.name, data.dimensions, data.reader) == ("folder", 3, PairsSource)
    source = open_source(data, place_of)
    assert source.data.classes == ("background", "class 1", "class 2") and source.data.channels == 1
    case = next(case for case in source.cases("train") if case.name == "case 1")
    np.testing.assert_allclose(source.image(case)[0], (image - image.mean()) / image.std(), atol=1e-4)
    np.testing.assert_array_equal(source.label(case), label)
    np.testing.assert_allclose(source.affine(case), affine, atol=1e-4)
    split = split_of(source)
    assert [c.name for c in split.unlabeled] == ["case 4"] and {c.name for c in split.val} == {"val/case 0", "val/case 1"}
    assert len(cases_of_test(source, SplitRequest())) == 2 and source.label(split.unlabeled[0]) is None


def test_binary_masks_and_named_classes(tmp_path):
    write_pairs(tmp_path, ".nii.gz", values=(0, 255, 255))
    data, root, _ = resolve("folder", tmp_path, tmp_path)
    source = open_source(data, root)
    assert source.data.num_classes == 2 and source.label(source.cases("train")[0]).max() == 1
    (tmp_path / "classes.txt").write_text("background\nliver\n")
    assert open_source(data, root).data.classes == ("background", "liver")
    (tmp_path / "classes.txt").write_text("background\nliver\ntumour\n")
    with pytest.raises(UserError, match="3 classes are named; 255 would mean ignored"):
        open_source(data, root)


def test_pictures_stay_pictures(tmp_path):
    from PIL import Image

    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for k in range(4):
            Image.fromarray(np.full((8, 8), k % 2, np.uint8)).save(tmp_path / folder / f"{k}.png")
    assert resolve("folder", tmp_path, tmp_path)[0].dimensions == 2 and resolve(None, tmp_path, tmp_path)[0].dimensions == 2


def header_bytes(file, offset, form, *numbers):
    """Writes into the header of a packed NIfTI file."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into(form, content, offset, *numbers)
    file.write_bytes(gzip.compress(bytes(content)))


def cut(share):
    return lambda file: file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))


def moved(file):
    affine = AFFINE.copy()
    affine[0, 3] += 0.2
    save(file, volume(0)[1], affine)


IMAGE, LABEL = "imagesTr/tr_000_0000.nii.gz", "labelsTr/tr_000.nii.gz"
DAMAGES = [
    ("cut in the middle", IMAGE, cut(0.5), "cut off or damaged"),
    ("cut in the checksum", IMAGE, lambda file: file.write_bytes(file.read_bytes()[:-4]), "cut off or damaged"),
    ("a bit has flipped", IMAGE, flip, "cut off or damaged"),
    ("unpacked and cut", IMAGE, lambda file: file.write_bytes(gzip.decompress(file.read_bytes())[:1000]), "cut off or damaged"),
    ("no bytes", IMAGE, lambda file: file.write_bytes(b""), "the file is empty"),
    ("a pointer", IMAGE, lambda file: file.write_bytes(POINTER), "git lfs pull"),
    ("a web page", IMAGE, lambda file: file.write_bytes(b"<!DOCTYPE html><html>log in</html>" * 20), "web page"),
    ("rubbish", IMAGE, lambda file: file.write_bytes(bytes(range(256)) * 4), "not of the expected format"),
    ("packed rubbish", IMAGE, lambda file: file.write_bytes(gzip.compress(bytes(500))), "not of the expected format"),
    ("four dimensions", IMAGE, lambda file: save(file, np.zeros((*SHAPE, 2), np.float32)), "has 4 dimensions"),
    ("two dimensions", IMAGE, lambda file: save(file, np.zeros(SHAPE[:2], np.float32)), "has 2 dimensions"),
    ("an empty side", IMAGE, lambda file: header_bytes(file, 42, "<3h", 12, 0, 6), "is empty, its shape is"),
    ("a huge claim", IMAGE, lambda file: header_bytes(file, 42, "<3h", 32000, 32000, 32000), "such a file is not read"),
    ("more than there is", IMAGE, lambda file: header_bytes(file, 42, "<3h", 12, 10, 600), "cut off or damaged"),
    ("zero spacing", IMAGE, lambda file: header_bytes(file, 80, "<3f", 0, 0.8, 2.5), r"spacing \(0, "),
    ("negative spacing", IMAGE, lambda file: header_bytes(file, 80, "<3f", -0.7, 0.8, 2.5), r"spacing \(-0.7, "),
    ("no place", IMAGE, lambda file: header_bytes(file, 280, "<12f", *[0.0] * 12), "three positive numbers"),
    ("place is NaN", IMAGE, lambda file: header_bytes(file, 280, "<f", float("nan")), "three positive numbers"),
    ("complex", IMAGE, lambda file: save(file, np.zeros(SHAPE, np.complex64)), "complex64; expected one number"),
    ("colours", IMAGE, lambda file: save(file, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "RGB"),
    ("unknown type", IMAGE, lambda file: header_bytes(file, 70, "<h", 999), "header is damaged"),
    ("half of a pair", IMAGE, lambda file: header_bytes(file, 344, "<4s", b"ni1\0"), "half of a pair"),
    ("NaN", IMAGE, lambda file: save(file, np.where(volume(0)[0] > 120, np.nan, 1).astype(np.float32)), "NaN or infinite"),
    ("another shape", LABEL, lambda file: save(file, np.zeros((12, 10, 5), np.uint8)), "differ in shape"),
    ("another place", LABEL, moved, "at most 0.0701 mm, a tenth of a voxel"),
    ("an unknown class", LABEL, lambda file: save(file, np.full(SHAPE, 7, np.uint8)), r"label value 7 .*0 to 2 \(background, liver"),
    ("255 is no class", LABEL, lambda file: save(file, np.full(SHAPE, 255, np.uint8)), "label value 255"),
    ("a negative class", LABEL, lambda file: save(file, np.full(SHAPE, -1, np.int16)), "label value -1"),
    ("a half class", LABEL, lambda file: save(file, np.full(SHAPE, 0.5, np.float32)), "no whole number"),
    ("channels differ", "imagesTr/tr_000_0001.nii.gz", lambda file: save(file, np.zeros((5, 5, 5), np.uint8)), "differ in shape"),
    ("channels lie apart", "imagesTr/tr_000_0001.nii.gz", moved, "lies elsewhere than tr_000_0000.nii.gz"),
    ("a channel is missing", "imagesTr/tr_000_0001.nii.gz", Path.unlink, "channel 1 of tr_000"),
    ("too many channels", "imagesTr/tr_000_0001.nii.gz", lambda file: shutil.copy(file, file.with_name("tr_000_0002.nii.gz")),
     "names 2 channels; expected CASE_0000 to CASE_0001"),
    ("a link to a device", IMAGE, lambda file: (file.unlink(), file.symlink_to("/dev/zero")), "channel 0 of tr_000"),
    ("a name twice", "imagesTr/tr_001_0000.nii.gz", lambda file: [
        shutil.copy(file, file.parents[1] / "imagesUn" / f"tr_001_000{k}.nii.gz") for k in (0, 1)], "a case belongs to one folder"),
    ("no images", "imagesTr", lambda folder: [file.unlink() for file in folder.iterdir()], "no file that ends in .nii.gz"),
    ("no labels", "labelsTr", shutil.rmtree, "no case of imagesTr has a label"),
]


@pytest.mark.parametrize("file, damage, sentence", [damage[1:] for damage in DAMAGES], ids=[damage[0] for damage in DAMAGES])
def test_bad_files_get_a_sentence(own, file, damage, sentence):
    damage(own / file)
    with pytest.raises(UserError, match=sentence) as caught:
        source = opened(own)
        for case in source.cases("train"):
            source.image(case)
            source.label(case)
    name = Path(file).name.replace(".nii.gz", "")[:6]
    assert name in str(caught.value) and "\n" not in str(caught.value)


DESCRIPTIONS = [
    ("no JSON", "{", "no valid JSON"), ("a list", "[]", "holds a list"), ("a pointer", POINTER.decode(), "git lfs pull"),
    ("empty", "", "the file is empty"), ("no text", b"\xff\xfe\x00", "not a text in UTF-8"),
    ("no labels", {"labels": None}, "'labels' is missing"), ("no channels", {"channel_names": None}, "'channel_names' is missing"),
    ("labels a list", {"labels": ["a", "b"]}, "expected an object"),
    ("a key twice", '{"labels": {"background": 0, "a": 2, "a": 1}, "channel_names": {"0": "MR"}}', "the key 'a' stands twice"),
    ("regions", {"labels": {"background": 0, "all": [1, 2]}}, "is a region"),
    ("a gap", {"labels": {"background": 0, "b": 2}}, "values 0, 2; expected 0"), ("a word", {"labels": {"background": 0, "b": "x"}}, "'x'"),
    ("one class", {"labels": {"background": 0}}, "at least two"), ("no background", {"labels": {"a": 1, "b": 2}}, "values 1, 2"),
    ("background is 1", {"labels": {"a": 0, "background": 1}}, "'background' has the value 1"),
    ("ignore inside", {"labels": {"background": 0, "a": 1, "ignore": 1}}, "above all classes"),
    ("channels from 1", {"channel_names": {"1": "MR"}}, "numbered 1"), ("pictures", {"file_ending": ".png"}, "file_ending is '.png'"),
    ("out of the folder", {"file_ending": "/../../x.nii.gz"}, "file_ending is"),
    ("one channel said, two there", {"channel_names": {"0": "MR"}}, "names 1 channel; expected CASE_0000 to CASE_0000"),
]


@pytest.mark.parametrize("content, sentence", [row[1:] for row in DESCRIPTIONS], ids=[row[0] for row in DESCRIPTIONS])
def test_bad_descriptions_get_a_sentence(own, content, sentence):
    if isinstance(content, dict):
        describe(own, **content)
    else:
        (own / "dataset.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence) as caught:
        opened(own)
    assert str(own) in str(caught.value)


def edited(old, new):
    return lambda file: file.write_bytes(file.read_bytes().replace(old, new))


@pytest.mark.parametrize("ending, damage, sentence", [
    (".nrrd", cut(0.6), "cut off or damaged"), (".nrrd", flip, "cut off or damaged"),
    (".nrrd", edited(b"encoding: gzip", b"encoding: gzip\ndata file: ../x.raw"), "out of its folder"),
    (".nrrd", lambda file: file.write_bytes(POINTER), "git lfs pull"),
    (".mha", cut(0.6), "cut off or damaged"), (".mha", flip, "cut off or damaged"),
    (".mha", lambda file: file.write_bytes(b""), "is empty"),
    (".mhd", lambda file: cut(0.6)(file.with_suffix(".zraw")), "cut off or damaged"),
    (".mhd", lambda file: flip(file.with_suffix(".zraw")), "cut off or damaged"),
    (".mhd", lambda file: file.with_suffix(".zraw").unlink(), "there is no such file"),
    (".mhd", lambda file: file.with_suffix(".zraw").write_bytes(POINTER), "git lfs pull"),
    (".mhd", edited(b"a.zraw", b"../a.zraw"), "out of its folder"), (".mhd", edited(b"a.zraw", b"LIST"), "in many files"),
    (".mhd", edited(b"ElementSpacing = 0.5", b"ElementSpacing = 0"), "gives the spacing 0 0.75 2.5"),
    (".mha", lambda file: SimpleITK.WriteImage(SimpleITK.Image([4, 4, 4], SimpleITK.sitkVectorUInt8, 3), str(file)), "3 numbers each"),
    (".mha", lambda file: SimpleITK.WriteImage(SimpleITK.Image([4, 4, 4, 4], SimpleITK.sitkUInt8), str(file)), "has 4 dimensions"),
    (".mha", lambda file: SimpleITK.WriteImage(SimpleITK.Image([4, 4], SimpleITK.sitkUInt8), str(file)), "has 2 dimensions"),
])
def test_bad_files_of_simpleitk(tmp_path, ending, damage, sentence):
    file = tmp_path / f"a{ending}"
    save(file, volume(0)[0], np.diag([0.5, 0.75, 2.5, 1]))
    assert read_header(file).shape == SHAPE
    damage(file)
    with pytest.raises(UserError, match=sentence) as caught:
        read_volume(file)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind, dtype", [(nibabel.Nifti1Image, ">i2"), (nibabel.Nifti2Image, "<f8"), (nibabel.Nifti1Image, "u1")])
def test_every_kind_of_nifti(tmp_path, kind, dtype):
    """Big-endian, NIfTI-2, scaled values, a fourth side of one: as nibabel reads them."""
    picture = kind(np.arange(720).reshape(*SHAPE, 1).astype(dtype), AFFINE)
    picture.header.set_slope_inter(0.5, -3)
    nibabel.save(picture, tmp_path / "a.nii.gz")
    loaded = nibabel.load(tmp_path / "a.nii.gz")
    values, affine = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(values, loaded.get_fdata()[..., 0])
    np.testing.assert_array_equal(affine, loaded.affine)


def test_check_of_own_volumes(own):
    flip(own / IMAGE)
    moved(own / "labelsTs" / "ts_000.nii.gz")
    report = check_folder(named("nnunet"), own, 1)
    assert report.sizes["train"] == 7 and report.sizes["test"] == 2 and len(report.problems) == 2
    assert "tr_000_0000.nii.gz: the file is cut off or damaged" in report.problems[0] and "lies elsewhere" in report.problems[1]


def test_check_of_pairs_from_the_command_line(tmp_path):
    write_pairs(tmp_path / "own", ".mha")
    result = subprocess.run([sys.executable, str(CODE / "prepare.py"), "--check", str(tmp_path / "own"), "--workers", "1"],
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "folder: 5 train" in result.stdout and "1 cases have no label" in result.stdout, result.stdout
