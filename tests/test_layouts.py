"""Readers of the file layouts: what lies on disk in the usual ways is read, what is wrong is said with the file's name."""
from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from dagm_fixture import write_dagm
from PIL import Image

from dataloaders.catalog import DATA_SETS, named, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.layouts.common import checked_label, read_list
from dataloaders.layouts.mt import tiles
from dataloaders.layouts.neu import piece
from dataloaders.reading import problems
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest

ACDC = DATA_SETS["ACDC"]
DEPTH, SIZE = 3, (12, 10)


def write_h5(file, image, label=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as handle:
        handle["image"] = image
        if label is not None:
            handle["label"] = label


def write_acdc(root, train=4, val=1, test=1):
    """A small ACDC: `train` + `val` + `test` patients of two frames and three slices."""
    rng = np.random.default_rng(0)
    number = 0
    for part, count in (("train", train), ("val", val), ("test", test)):
        cases = []
        for _ in range(count):
            number += 1
            for frame in (1, 2):
                case = f"patient{number:03d}_frame{frame:02d}"
                image, label = rng.random((DEPTH, *SIZE), np.float32), rng.integers(0, 4, (DEPTH, *SIZE)).astype(np.uint8)
                write_h5(root / "data" / f"{case}.h5", image, label)
                for z in range(DEPTH):
                    write_h5(root / "data" / "slices" / f"{case}_slice_{z + 1}.h5", image[z], label[z])
                cases.append(case)
        (root / f"{part}.list").write_text("\n".join(cases) + "\n")
        if part == "train":
            slices = [f"{case}_slice_{z}" for case in cases for z in (3, 1, 2)]
            (root / "train_slices.list").write_text("\n".join(slices) + "\n")
    return root


def make_split(source, labeled_num="1", fold=None):
    return splits.make_split(source, SplitRequest(fold=fold, folds=3, labeled_num=labeled_num))


def save(file, values, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file, **options)


def said(call, *arguments, **options):
    """The sentence with which a call is refused."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert error.value.code == 2
    return str(error.value)


# Lists

@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_lists_of_any_editor(tmp_path, encoding):
    file = tmp_path / "train.list"
    file.write_bytes("\ufeff# a comment\r\npatient001_frame01  \r\n\r\n  Häuser für Bäume \t\r\n心臓_01\r\n".encode(encoding))
    entries = read_list(file)
    assert [e.name for e in entries] == ["patient001_frame01", "Häuser für Bäume", "心臓_01"] and entries[1].line == 4


@pytest.mark.parametrize("text, words", [
    ("", "empty"), ("# nothing\n\n", "empty"), ("a\n../b\n", "line 2"), ("/etc/passwd\n", "out of the data set"), ("a/../../b\n", "out of"),
    ("a\n\nb\na\n", "line 4: a stands in line 1"), ("C:\\x\n", "out of"), ("..\\x\n", "out of"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
])
def test_lists_refused(tmp_path, text, words):
    file = tmp_path / "train.list"
    file.write_text(text)
    message = said(read_list, file)
    assert words in message and str(file) in message


def test_all_mistakes_of_a_list_are_told_together(tmp_path):
    file = tmp_path / "train.list"
    file.write_text("a\n../b\na\n")
    message = said(read_list, file)
    assert "line 2" in message and "line 3" in message and "2 problems" in message


# ACDC

def test_acdc_is_read(tmp_path):
    source = open_source(ACDC, write_acdc(tmp_path))
    split = make_split(source)
    items = source.items(list(split.labeled))
    assert [i.name for i in items][:2] == ["patient001_frame01_slice_3", "patient001_frame01_slice_1"] and len(items) == 6
    image, label = source.image(items[0]), source.label(items[0])
    assert image.shape == (1, *SIZE) and image.dtype == np.float32 and label.shape == SIZE and label.dtype == np.uint8
    volume = split.val[0]
    assert source.image(volume).shape == (1, DEPTH, *SIZE) and source.label(volume).shape == (DEPTH, *SIZE)
    assert source.spacing(volume) is None and split.labeled[0].stratum == "dilated"
    assert any("differs from the published list" in remark for remark in source.remarks)


def test_acdc_slices_of_other_cases_come_from_their_volumes(tmp_path):
    source = open_source(ACDC, write_acdc(tmp_path))
    case = source.cases("test")[0]
    items = source.items([case])
    assert [i.index for i in items] == [0, 1, 2] and items[2].name == f"{case.name}_slice_3"
    np.testing.assert_array_equal(source.image(items[1])[0], source.image(case)[0, 1])
    np.testing.assert_array_equal(source.label(items[1]), source.label(case)[1])


def test_acdc_without_a_list_of_slices_or_lists_at_all(tmp_path):
    write_acdc(tmp_path)
    (tmp_path / "train_slices.list").write_text("patient001_frame01_slice_1\n")
    source = open_source(ACDC, tmp_path)
    assert len(source.items(source.cases("train"))) == 1 + 7 * DEPTH
    assert any("from the volumes" in remark for remark in source.remarks)
    (tmp_path / "train_slices.list").write_text("patient001_frame01_slice_1\npatient001_frame01_s1ice_2\n")
    source = open_source(ACDC, tmp_path)
    assert len(source.items(source.cases("train"))) == 1 + 7 * DEPTH
    assert any("line 2: patient001_frame01_s1ice_2 is a slice of no case" in remark for remark in source.remarks)
    (tmp_path / "train.list").unlink()
    assert len(open_source(ACDC, tmp_path).cases("train")) == 140


def test_official_training_opens_no_test_file(tmp_path):
    write_acdc(tmp_path)
    test = (tmp_path / "test.list").read_text().split()
    (tmp_path / "test.list").write_bytes(b"\xff\xfe broken")
    for file in (tmp_path / "data").rglob("*.h5"):
        if file.stem.split("_slice")[0] in test:
            file.write_text("broken")
    source = open_source(ACDC, tmp_path)
    split = make_split(source)
    problems(source, split.labeled, split.val, split.unlabeled)
    assert "test.list" in said(splits.test_cases, source, SplitRequest())


def test_a_patient_in_two_parts(tmp_path):
    write_acdc(tmp_path)
    with open(tmp_path / "val.list", "a") as file:
        file.write("patient002_frame02\n")
    message = said(make_split, open_source(ACDC, tmp_path))
    assert "val.list, line 3" in message and "train.list, line 3" in message and "patient002" in message


def test_missing_files_are_told_with_list_and_line(tmp_path):
    write_acdc(tmp_path)
    for name in ("slices/patient001_frame01_slice_1", "slices/patient001_frame02_slice_3", "patient005_frame02"):
        (tmp_path / "data" / f"{name}.h5").unlink()
    source = open_source(ACDC, tmp_path)
    message = said(source.items, source.cases("train"))
    assert "train_slices.list, line 2" in message and "train_slices.list, line 4" in message
    assert "val.list, line 2" in said(source.cases, "val")


def test_labels_of_unlabelled_cases_are_never_read(tmp_path):
    write_acdc(tmp_path)
    source = open_source(ACDC, tmp_path)
    split = make_split(source)
    item = source.items(list(split.unlabeled))[0]
    before = source.image(item)
    write_h5(item.image, before[0])
    np.testing.assert_array_equal(source.image(item), before)
    problems(source, split.labeled, split.val, split.unlabeled)
    write_h5(item.image, before[0], np.full((2, 2), 99))
    problems(source, split.labeled, split.val, split.unlabeled)
    assert "(2, 2)" in said(source.label, item)


def external(file):
    with h5py.File(file, "w") as handle:
        handle["label"] = np.zeros(SIZE, np.uint8)
        handle.create_dataset("image", SIZE, "f4", external=[("/etc/passwd", 0, 480)])


def linked(file):
    with h5py.File(file, "w") as handle:
        handle["image"] = h5py.ExternalLink("other.h5", "/image")


def virtual(file):
    layout = h5py.VirtualLayout(SIZE, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "image", SIZE)
    with h5py.File(file, "w") as handle:
        handle.create_virtual_dataset("image", layout)


def huge(file):
    with h5py.File(file, "w") as handle:
        handle.create_dataset("image", (10**6, 10**6), "f4", chunks=(64, 64))


def group(file):
    with h5py.File(file, "w") as handle:
        handle.create_group("image")


def renamed(file):
    with h5py.File(file, "w") as handle:
        handle["img"] = np.zeros(SIZE, np.float32)
        handle["label"] = np.zeros(SIZE, np.uint8)


ZEROS = np.zeros(SIZE, np.uint8)
DAMAGE = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:900]), "damaged or cut off"),
    "empty": (lambda f: f.write_bytes(b""), "empty"),
    "pointer": (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "git lfs pull"),
    "page": (lambda f: f.write_text("\n<!DOCTYPE html><html>log in</html>"), "web page"),
    "noise": (lambda f: f.write_bytes(b"abc" * 400), "not of the expected format"),
    "key": (renamed, "found: img, label"),
    "group": (group, "is a group"),
    "text": (lambda f: write_h5(f, b"text", ZEROS), "expected numbers"),
    "dimensions": (lambda f: write_h5(f, np.zeros((2, *SIZE), np.float32), ZEROS), "(2, 12, 10)"),
    "no pixels": (lambda f: write_h5(f, np.zeros((0, 10), np.float32), ZEROS), "(0, 10)"),
    "nan": (lambda f: write_h5(f, np.full(SIZE, np.nan, np.float32), ZEROS), "120 of 120 pixels are NaN"),
    "infinite": (lambda f: write_h5(f, np.full(SIZE, np.inf), ZEROS), "NaN or infinite"),
    "huge": (huge, "1000000"),
    "external storage": (external, "other files"),
    "external link": (linked, "link to elsewhere"),
    "virtual": (virtual, "other files"),
    "no label": (lambda f: write_h5(f, np.zeros(SIZE, np.float32)), "no dataset 'label' in it; found: image"),
    "shapes": (lambda f: write_h5(f, np.zeros(SIZE, np.float32), np.zeros((10, 12), np.uint8)), "(12, 10) and (10, 12)"),
    "value": (lambda f: write_h5(f, np.zeros(SIZE, np.float32), np.full(SIZE, 4, np.uint8)), "label value 4 in 120 pixels"),
    "negative": (lambda f: write_h5(f, np.zeros(SIZE, np.float32), np.full(SIZE, -1)), "label value -1"),
    "fraction": (lambda f: write_h5(f, np.zeros(SIZE, np.float32), np.full(SIZE, 0.5)), "no whole number"),
    "nan label": (lambda f: write_h5(f, np.zeros(SIZE, np.float32), np.full(SIZE, np.nan)), "no whole number"),
    "0/255": (lambda f: write_h5(f, np.zeros(SIZE, np.float32), np.eye(*SIZE, dtype=np.uint8) * 255), "kind 0/255"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_h5(tmp_path, name):
    source = open_source(ACDC, write_acdc(tmp_path))
    split = make_split(source)
    damage, words = DAMAGE[name]
    file = tmp_path / "data" / "slices" / "patient001_frame01_slice_2.h5"
    damage(file)
    message = said(problems, source, split.labeled, split.val, split.unlabeled)
    assert words in message and str(file) in message and "\n" not in message


def test_all_damages_are_told_together(tmp_path):
    source = open_source(ACDC, write_acdc(tmp_path))
    split = make_split(source)
    for number, (damage, _) in enumerate(list(DAMAGE.values())[:3], start=1):
        damage(tmp_path / "data" / "slices" / f"patient001_frame01_slice_{number}.h5")
    DAMAGE["nan"][0](tmp_path / "data" / "slices" / "patient003_frame01_slice_1.h5")
    message = said(problems, source, split.labeled, split.val, split.unlabeled)
    assert "4 problems" in message and "patient003_frame01_slice_1" in message


def test_a_link_is_followed_to_a_file_and_to_nothing_else(tmp_path):
    root = write_acdc(tmp_path / "ACDC")
    secret = tmp_path / "secret.h5"
    file = root / "data" / "slices" / "patient001_frame01_slice_2.h5"
    file.rename(secret)
    file.symlink_to(secret)
    source = open_source(ACDC, root)
    item = next(i for i in source.items(source.cases("train")) if i.image == file)
    assert source.image(item).shape == (1, *SIZE), "clusters keep the files in a store, and links to them in the data set's folder"
    file.unlink()
    file.symlink_to("/dev/zero")
    assert "no regular file" in said(source.image, item)
    (tmp_path / "link").symlink_to(root)
    other = open_source(ACDC, tmp_path / "link")
    assert other.image(other.items(other.cases("train"))[0]).shape == (1, *SIZE)


def test_label_values():
    assert checked_label(np.array([[0, 3, 255]]), Path("m"), ACDC.classes, 255).tolist() == [[0, 3, 255]]
    assert checked_label(np.array([[0.0, 3.0]]), Path("m"), ACDC.classes, None).dtype == np.uint8
    assert "m: label value 256" in said(checked_label, np.array([[256]]), Path("m"), ACDC.classes, 255)


# Defect data sets

@pytest.mark.parametrize("folders", [
    ("images/training", "annotations/training", "images/test", "annotations/test"),
    ("train_images", "training_annot", "test_images", "test_annot"),
])
def test_neu_in_both_conventions(tmp_path, folders):
    for index, images, masks in ((201, 0, 1), (901, 0, 1), (201, 2, 3), (11, 2, 3)):
        save(tmp_path / folders[images] / f"{index:06d}.jpg", np.full((20, 20, 3), 90, np.uint8))
        save(tmp_path / folders[masks] / f"{index:06d}.png", np.full((20, 20), index % 4, np.uint8))
    source = open_source(named("neu_seg"), tmp_path)
    train, test = source.cases("train"), source.cases("test")
    assert [c.name for c in train] == ["training/000201", "training/000901"] and [c.name for c in test] == ["test/000011", "test/000201"]
    assert source.image(train[0]).shape == (3, 20, 20) and source.image(train[0]).dtype == np.uint8
    assert source.label(train[0]).tolist() == np.full((20, 20), 1).tolist()
    assert train[1].group == test[0].group == "piece000" and train[0].group != test[1].group


def test_neu_pieces():
    numbers = [*range(201, 301), *range(501, 701), *range(901, 3511), *range(3591, 3901), *range(3981, 4391)]
    pieces = Counter(p for part, ids in (("train", numbers), ("test", range(1, 841))) for i in ids if (p := piece(part, i)) is not None)
    assert len(pieces) == 870 and set(pieces.values()) == {4}
    assert sum(piece("test", i) is None for i in range(1, 841)) == 270


def write_mt(root):
    rng = np.random.default_rng(0)
    for number, name in enumerate(("Blowhole", "Break", "Crack", "Fray", "Uneven", "Free")):
        for index in range(4):
            stem = f"exp{index % 2 + 1}_num_{1000 * number + 300 * (index // 2) + index}"
            folder = root / f"MT_{name}" / "Imgs"
            save(folder / f"{stem}.jpg", rng.integers(0, 255, (30, 20)).astype(np.uint8))
            mask = np.zeros((30, 20), np.uint8)
            if name != "Free":
                mask[5:9, 5:9], mask[5:9, 9] = 255, 90
            save(folder / f"{stem}.png", mask)
    save(root / "MT_Uneven" / "Imgs" / "exp3_num_45042.jpg", np.zeros((30, 20), np.uint8))
    save(root / "MT_Uneven" / "Imgs" / "exp3_num_45042.png", np.zeros((30, 20), np.uint8))
    return root


def test_mt(tmp_path):
    write_mt(tmp_path)
    source = open_source(named("MT"), tmp_path)
    cases = source.cases("train")
    assert len(cases) == 20 and len({c.group for c in cases}) == 10 and "exp3_num_45042" not in {c.name for c in cases}
    assert source.image(cases[0]).shape == (3, 30, 20)
    assert Counter(source.label(c).max() for c in cases) == dict.fromkeys(range(1, 6), 4)
    assert (source.label(cases[0]) > 0).sum() == 20
    strict = open_source(named("MT"), tmp_path, {"mask_threshold": 127, "include_free": True})
    assert (strict.label(cases[0]) > 0).sum() == 16 and strict.cache_key != source.cache_key
    free = [c for c in strict.cases("train") if c.stratum == "Free"]
    assert len(free) == 4 and not strict.label(free[0]).any()
    assert "0 to 254" in said(open_source, named("MT"), tmp_path, {"mask_threshold": 300})


def test_mt_tiles():
    stems = ["exp1_num_10", "exp2_num_12", "exp6_num_160", "exp1_num_170", "exp2_num_330", "other"]
    assert tiles(stems) == {"exp1_num_10": 0, "exp2_num_12": 0, "exp6_num_160": 0, "exp1_num_170": 1, "exp2_num_330": 2}


def options(**values):
    return {"dagm_classes": (1, 2, 7), **values}


def test_dagm(tmp_path):
    write_dagm(tmp_path / "DAGM_KaggleUpload")
    source = open_source(named("dagm"), tmp_path, options())
    train, test = source.cases("train"), source.cases("test")
    assert Counter(c.stratum for c in train) == Counter(c.stratum for c in test) == {"Class1": 2, "Class2": 2, "Class7": 2}
    assert len({c.name for c in train + test}) == 12
    assert train[0].name == "Class1/Train/0576" and train[-1].name.startswith("Class7/Train/115")
    assert source.data.classes == ("background", "class 1", "class 2", "class 7") and source.image(train[0]).shape == (1, 64, 64)
    assert [int(source.label(c).max()) for c in train] == [1, 1, 2, 2, 3, 3]
    free = open_source(named("dagm"), tmp_path, options(include_free=True))
    every = free.cases("train")
    assert len(every) == 18 and sum(bool(free.label(c).any()) for c in every) == 6
    assert "Class1/Train/0577" in {c.name for c in every} - {c.name for c in train} and "Class2/Train/0577" in {c.name for c in train}
    assert any("published data set has 575" in remark for remark in source.remarks)


def test_dagm_labels_txt_must_agree(tmp_path):
    write_dagm(tmp_path, classes=(1,))
    file = tmp_path / "Class1" / "Train" / "Label" / "Labels.txt"
    file.write_bytes(file.read_bytes().replace(b"577\t0\t", b"577\t1\t"))
    only = {"dagm_classes": (1,)}
    message = said(open_source(named("dagm"), tmp_path, only).cases, "train")
    assert str(file) in message and "0577" in message
    file.unlink()
    assert len(open_source(named("dagm"), tmp_path, only).cases("train")) == 2
    assert "Class2/Train" in said(open_source(named("dagm"), tmp_path, {"dagm_classes": (1, 2)}).cases, "train")
    assert "1 to 10" in said(open_source, named("dagm"), tmp_path, {"dagm_classes": (11,)})


def test_dagm_fixture_is_the_same_each_time(tmp_path):
    for name in "ab":
        write_dagm(tmp_path / name)
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "ab"]
    assert files[0] == files[1]
    write_dagm(tmp_path / "c", classes=(3,), side=512, n_train=1, n_test=1)
    assert Image.open(tmp_path / "c" / "Class3" / "Train" / "0576.PNG").size == (512, 512)


# Own images

def write_folder(root, values=(0, 1, 2), n=20, unlabeled=3, color=True, suffix=".jpg"):
    rng = np.random.default_rng(0)
    for i in range(n + unlabeled):
        size = (16 + i, 20, 3) if color else (16 + i, 20)
        save(root / "images" / f"teil {i}{suffix}", rng.integers(0, 255, size).astype(np.uint8))
        if i < n:
            save(root / "masks" / f"teil {i}.png", rng.choice(np.array(values, np.uint8), size[:2]))
    return root


def test_own_folder(tmp_path):
    source = open_source(named("folder"), write_folder(tmp_path))
    assert source.data.classes == ("background", "class 1", "class 2") and source.data.channels == 3 and source.data.ignored is None
    split = make_split(source, "all")
    test = splits.test_cases(source, SplitRequest())
    assert (len(split.labeled), len(split.unlabeled), len(split.val), len(test)) == (14, 3, 2, 4)
    assert len({c.name for c in (*split.labeled, *split.unlabeled, *split.val, *test)}) == 23
    assert sum("held out" in remark for remark in split.remarks) == 2
    case = split.labeled[0]
    assert source.image(case).shape[1:] == source.label(case).shape and source.image(case).shape[0] == 3
    assert make_split(open_source(named("folder"), tmp_path), "all") == split


def test_own_folder_with_parts(tmp_path):
    write_folder(tmp_path, color=False, suffix=".png")
    for part in ("val", "test"):
        write_folder(tmp_path / part, n=2, unlabeled=0, color=False, suffix=".tif")
    source = open_source(named("folder"), tmp_path)
    split = make_split(source, "5")
    assert [c.name for c in split.val] == ["val/teil 0", "val/teil 1"] and len(split.labeled) == 5 and len(split.unlabeled) == 18
    assert not split.remarks and source.data.channels == 1 and len(splits.test_cases(source, SplitRequest())) == 2
    (tmp_path / "test" / "masks" / "teil 1.png").unlink()
    assert "teil 1.tif" in said(splits.test_cases, open_source(named("folder"), tmp_path), SplitRequest())
    make_split(open_source(named("folder"), tmp_path), "5")


@pytest.mark.parametrize("values, classes, ignored, top", [
    ((0, 255), 2, None, 1), ((0, 1), 2, None, 1), ((0, 1, 255), 2, 255, 255), ((0, 1, 2, 255), 3, 255, 255),
])
def test_own_masks(tmp_path, values, classes, ignored, top):
    source = open_source(named("folder"), write_folder(tmp_path, values))
    assert (source.data.num_classes, source.data.ignored) == (classes, ignored)
    assert source.label(source.cases("train")[0]).max() == top


def test_own_classes_have_names(tmp_path):
    write_folder(tmp_path, (0, 1, 3))
    assert "0, 1, 3" in said(open_source, named("folder"), tmp_path)
    (tmp_path / "classes.txt").write_text("ground\nscratch\ndent\nstain\n")
    assert open_source(named("folder"), tmp_path).data.classes == ("ground", "scratch", "dent", "stain")


def flat(root):
    for file in (root / "masks").iterdir():
        save(file, np.zeros((16, 20), np.uint8))


def strangers(root):
    for file in (root / "masks").iterdir():
        file.rename(file.with_name(f"mask {file.name}"))


@pytest.mark.parametrize("damage, words", [
    (lambda r: (r / "masks" / "teil 3.png").write_bytes(b""), "teil 3.png: the file is empty"),
    (lambda r: save(r / "masks" / "teil 3.png", np.full((16, 20), 17, np.uint8)), "without gaps"),
    (lambda r: save(r / "masks" / "teil 3.png", np.random.default_rng(0).integers(0, 2, (19, 20, 3)).astype(np.uint8)), "colour picture"),
    (lambda r: ((r / "masks" / "teil 3.png").unlink(), save(r / "masks" / "teil 3.jpg", ZEROS)), "JPEG"),
    (lambda r: save(r / "images" / "teil 3.png", ZEROS), "two files of one stem"),
    (flat, "nothing to learn"), (strangers, "no image has a mask of its name"),
    (lambda r: [p.unlink() for p in (r / "images").iterdir()], "no pictures"),
])
def test_own_folder_refused(tmp_path, damage, words):
    write_folder(tmp_path)
    damage(tmp_path)
    assert words in said(open_source, named("folder"), tmp_path)


def test_damaged_pictures(tmp_path):
    source = open_source(named("folder"), write_folder(tmp_path))
    split = make_split(source, "all")
    split.labeled[0].image.write_bytes(split.labeled[0].image.read_bytes()[:700])
    save(split.val[0].label, np.zeros((5, 5), np.uint8))
    split.unlabeled[0].image.write_text("version https://git-lfs.github.com/spec/v1\n")
    message = said(problems, source, split.labeled, split.val, split.unlabeled)
    assert "cut off" in message and "(5, 5)" in message and "git lfs pull" in message and "3 problems" in message


def test_pictures_of_sixteen_bits(tmp_path):
    write_folder(tmp_path, color=False, suffix=".png")
    Image.fromarray((np.arange(320, dtype=np.uint16) * 200).reshape(16, 20)).save(tmp_path / "images" / "teil 0.png")
    source = open_source(named("folder"), tmp_path)
    assert source.image(source.cases("train")[0]).max() == round(319 * 200 / 257)


def test_photographs_are_turned_as_their_exif_says(tmp_path):
    write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "images" / "teil 0.jpg", np.zeros((20, 16, 3), np.uint8), exif=exif)
    source = open_source(named("folder"), tmp_path)
    case = source.cases("train")[0]
    assert source.image(case).shape == (3, 16, 20) and source.label(case).shape == (16, 20)


# Finding data sets

def test_names_are_matched_loosely():
    assert named("neu_seg") is named("NEUSEG") is named("neu-Seg") is DATA_SETS["NEU-Seg"]
    assert "ACDC" in said(named, "ACDCC")


def test_resolve(tmp_path):
    assert resolve(None, None, tmp_path)[0].name == "Phantom"
    write_acdc(tmp_path / "data" / "ACDC")
    data, root, why = resolve(None, None, tmp_path)
    assert data.name == "ACDC" and root == tmp_path / "data" / "ACDC" and "no --dataset" in why
    assert "data/README.md" in said(resolve, "MT", None, tmp_path)
    write_mt(tmp_path / "data" / "mt")
    assert resolve("MT", None, tmp_path)[1].name == "mt"
    assert "--root_path" in said(resolve, "folder", None, tmp_path)
    assert "no such folder" in said(resolve, None, tmp_path / "nowhere", tmp_path)
    assert "no such folder" in said(resolve, "ACDC", tmp_path / "nowhere", tmp_path)


def test_folders_are_recognised(tmp_path):
    write_acdc(tmp_path / "a")
    write_mt(tmp_path / "b")
    write_dagm(tmp_path / "c")
    write_folder(tmp_path / "d")
    (tmp_path / "e").mkdir()
    assert [resolve(None, tmp_path / n, tmp_path)[0].name for n in "abcd"] == ["ACDC", "MT", "DAGM", "folder"]
    assert "--dataset" in said(resolve, None, tmp_path / "e", tmp_path)
    for layout in ("MT", "DAGM", "NEU-Seg", "folder"):
        assert "expected" in said(open_source, named(layout), tmp_path / "e")


@pytest.mark.parametrize("name, folder", [("ACDC", "ACDC"), ("NEU-Seg", "NEU_Seg"), ("MT", "MT")])
def test_real_files_are_sound(name, folder):
    root = Path(os.environ.get("SEMISEG_DATA", "/nowhere")) / folder
    if not root.is_dir():
        pytest.skip(f"SEMISEG_DATA has no {folder}")
    source = open_source(DATA_SETS[name], root)
    cases = source.cases("train")
    problems(source, cases[:40], cases[:4], cases[40:60])
