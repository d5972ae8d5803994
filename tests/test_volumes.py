"""h5 volumes (LA, BraTS 2019, Pancreas-CT): where they may lie, what is wrong with them, and what a batch of them is."""
from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import prepare
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloaders.augmentation.recipes import draw
from dataloaders.batches.loader import Loader
from dataloaders.batches.sampling import AUGMENTATION, generator
from dataloaders.batches.store import build_store
from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.layouts.common import read_list
from dataloaders.reading import problems
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest

LA, BRATS, PANCREAS = DATA_SETS["LA"], DATA_SETS["BraTS2019"], DATA_SETS["Pancreas-CT"]
LISTS = Path(__file__).resolve().parent.parent / "code" / "dataloaders" / "lists"
SIZE = (14, 12, 10)
SEEDS = st.integers(0, 2**32 - 1)


def volume(seed=0, size=SIZE):
    """(X, Y, Z) float32 image and uint8 label."""
    rng = np.random.default_rng(seed)
    label = (rng.random(size) < 0.2).astype(np.uint8)
    return rng.normal(0, 1, size).astype(np.float32) + 2 * label, label


def write_h5(file, image, label=None, **others):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        for key, array in {"image": image, "label": label, **others}.items():
            if array is not None:
                h5[key] = array


def la_file(root, case):
    return root / "2018LA_Seg_Training Set" / case / "mri_norm2.h5"


def write_la(root, train=4, test=2, file=la_file, lists=".", entry="{}", suffix="list"):
    """Cases A, B, ... for training, T0, T1, ... for test, and their lists."""
    names = {"train": [chr(65 + k) for k in range(train)], "test": [f"T{k}" for k in range(test)]}
    (root / lists).mkdir(parents=True, exist_ok=True)
    for part, cases in names.items():
        for k, case in enumerate(cases):
            write_h5(file(root, case), *volume(k))
        (root / lists / f"{part}.{suffix}").write_text("".join(f"{entry.format(c)}\n" for c in cases))
    return root


def la_split(source, labeled_num="2", fold=None, choice="first", seed=0):
    return splits.make_split(source, SplitRequest(None, fold, 3, seed, labeled_num, choice, seed))


def said(call, *arguments, **options):
    """The sentence with which a call is refused."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert error.value.code == 2
    return str(error.value)


# Where they lie

@pytest.mark.parametrize("folder", ["2018LA_Seg_Training Set", "data/2018LA_Seg_Training Set", "data", "."])
@pytest.mark.parametrize("lists, entry", [(".", "{}"), ("data", "{}/mri_norm2.h5"), (".", "2018LA_Seg_Training Set/{}")])
def test_la_as_people_have_it(tmp_path, folder, lists, entry):
    root = write_la(tmp_path / "LA", file=lambda r, c: r / folder / c / "mri_norm2.h5", lists=lists, entry=entry)
    data, _, why = resolve(None, root, tmp_path)
    assert data is LA and "recognised" in why
    source = open_source(data, root)
    split = la_split(source)
    assert [c.name for c in split.labeled] == ["A", "B"] and [c.name for c in split.unlabeled] == ["C", "D"]
    assert split.val == () and split.selection == "last"
    assert [c.name for c in splits.test_cases(source, SplitRequest())] == ["T0", "T1"]
    image, label = volume(1)
    item = source.items(list(split.labeled))[1]
    np.testing.assert_array_equal(source.image(item), image[None])
    np.testing.assert_array_equal(source.label(item), label)
    assert source.image(item).dtype == np.float32 and source.label(item).dtype == np.uint8 and item.index is None
    assert source.spacing(item.case) is None and source.affine(item.case) is None
    assert any("4 entries, published 80" in remark for remark in source.remarks)


@pytest.mark.parametrize("data, file, suffix", [
    (BRATS, "data/{}.h5", "txt"), (PANCREAS, "Pancreas_h5/{}_norm.h5", "list"), (PANCREAS, "data/{}_norm.h5", "list"),
])
def test_other_volumes(tmp_path, data, file, suffix):
    def place(root, case):
        return root / file.format(f"BraTS19_{case}" if data is BRATS else f"image{case}")

    entry = "BraTS19_{}" if data is BRATS else "image{}"
    write_la(tmp_path, file=place, entry=entry, suffix=suffix)
    if data is BRATS:
        write_h5(place(tmp_path, "V"), *volume())
        (tmp_path / "val.txt").write_text("data/BraTS19_V.h5\n")
    assert resolve(None, tmp_path, tmp_path)[0] is data
    source = open_source(data, tmp_path)
    split = la_split(source)
    assert [c.name for c in split.labeled] == [entry.format("A"), entry.format("B")]
    assert [c.name for c in split.val] == (["BraTS19_V"] if data is BRATS else [])
    assert source.image(split.labeled[0]).shape == (1, *SIZE)


def test_published_lists():
    parts = {name: [e.name for e in read_list(LISTS / name)] for name in (
        "LA/train.list", "LA/test.list", "BraTS2019/train.txt", "BraTS2019/val.txt", "BraTS2019/test.txt")}
    assert [len(names) for names in parts.values()] == [80, 20, 250, 25, 60]
    for data, count in (("LA", 100), ("BraTS2019", 335)):
        assert len({name for part, names in parts.items() if part.startswith(data) for name in names}) == count


def test_published_lists_serve_where_none_lies_beside(tmp_path):
    cases = [e.name for e in read_list(LISTS / "LA" / "train.list")]
    for case in cases[:78]:
        write_h5(la_file(tmp_path, case), *volume())
    message = said(open_source(LA, tmp_path).cases, "train")
    assert "2 of 80 cases have no file" in message and cases[78] in message and str(tmp_path / "train.list") in message
    for case in cases[78:]:
        write_h5(la_file(tmp_path, case), *volume())
    source = open_source(LA, tmp_path)
    assert [c.name for c in source.cases("train")] == cases and not source.remarks


def test_lists_that_cannot_be(tmp_path):
    write_la(tmp_path)
    (tmp_path / "train.list").write_text("A\nB\nZ\n")
    assert "line 3: 1 of 3 cases have no file (Z)" in said(open_source(LA, tmp_path).cases, "train")
    (tmp_path / "train.list").write_text("A\nA/mri_norm2.h5\n")
    assert "A stands there 2 times" in said(open_source(LA, tmp_path).cases, "train")
    (tmp_path / "train.list").write_text("A\nT1\n")
    source = open_source(LA, tmp_path)
    source.cases("train")
    assert "line 2: T1 stands in" in said(source.cases, "test")
    (tmp_path / "train.list").write_text("../A\n")
    assert "leads out" in said(open_source(LA, tmp_path).cases, "train")
    assert "no published one is known" in said(open_source(PANCREAS, tmp_path / "none").cases, "test")


def test_training_opens_no_test_list(tmp_path):
    write_la(tmp_path)
    (tmp_path / "test.list").write_bytes(b"\xff\xfe\x00")
    source = open_source(LA, tmp_path)
    la_split(source)
    assert "UTF-8" in said(splits.test_cases, source, SplitRequest())


# Geometry

AFFINE = np.array([[-0.9, 0.1, 0, 4], [0.2, -0.8, 0, 5], [0, 0, 2.5, -6], [0, 0, 0, 1]])


@pytest.mark.parametrize("as_attribute", [True, False])
def test_geometry_where_the_file_has_it(tmp_path, as_attribute):
    write_la(tmp_path)
    for case, stored in (("A", {"affine": AFFINE}), ("B", {"spacing": np.array([0.5, 0.6, 0.7])})):
        write_h5(la_file(tmp_path, case), *volume(), **({} if as_attribute else stored))
        with h5py.File(la_file(tmp_path, case), "a") as h5:
            h5.attrs.update(stored if as_attribute else {})
    source = open_source(LA, tmp_path)
    first, second = la_split(source).labeled
    np.testing.assert_array_equal(source.affine(first), AFFINE)
    assert source.spacing(first) == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0))
    assert source.affine(second) is None and source.spacing(second) == (0.5, 0.6, 0.7)


def test_slices_first_means_another_order_of_the_affine(tmp_path):
    """ACDC's arrays are (z, y, x), its stored affines take (x, y, z)."""
    write_h5(tmp_path / "data" / "patient001_frame01.h5", *volume(), affine=AFFINE)
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.list").write_text("patient001_frame01\n")
    source = open_source(DATA_SETS["ACDC"], tmp_path)
    case = source.cases("train")[0]
    z, y, x = 3, 2, 5
    np.testing.assert_allclose(source.affine(case) @ (z, y, x, 1), AFFINE @ (x, y, z, 1))
    assert source.spacing(case) == pytest.approx(np.linalg.norm(AFFINE[:3, [2, 1, 0]], axis=0))


# What is wrong with them

IMAGE, LABEL = volume()
NAN = np.where(np.arange(IMAGE.size).reshape(SIZE) < 5, np.nan, IMAGE).astype(np.float32)
DAMAGE = {
    "2D": (dict(image=IMAGE[0], label=LABEL[0]), "'image' has the shape (12, 10); expected 3 dimensions"),
    "4D": (dict(image=IMAGE[None], label=LABEL[None]), "'image' has the shape (1, 14, 12, 10); expected 3 dimensions"),
    "empty": (dict(image=IMAGE[:, :0], label=LABEL[:, :0]), "(14, 0, 10); expected 3 dimensions, none of them empty"),
    "shapes": (dict(image=IMAGE, label=LABEL[:-1]), "(14, 12, 10) and (13, 12, 10); they must be the same"),
    "turned": (dict(image=IMAGE, label=LABEL.T), "(14, 12, 10) and (10, 12, 14); they must be the same"),
    "key": (dict(image=None, label=LABEL, volume=IMAGE), "no dataset 'image' in it; found: label, volume. Store the array under this name"),
    "no label": (dict(image=IMAGE), "no dataset 'label' in it; found: image"),
    "complex": (dict(image=IMAGE.astype(np.complex64), label=LABEL), "'image' holds complex64; expected numbers, float32"),
    "strings": (dict(image=np.full(SIZE, b"x"), label=LABEL), "'image' holds |S1; expected numbers, float32"),
    "objects": (dict(image=np.full(SIZE, "x", object), label=LABEL), "'image' holds object; expected numbers, float32"),
    "complex label": (dict(image=IMAGE, label=LABEL.astype(np.complex64)), "'label' holds complex64"),
    "NaN": (dict(image=NAN, label=LABEL), "5 of 1680 pixels are NaN or infinite; repair"),
    "overflow": (dict(image=np.full(SIZE, 1e300), label=LABEL), "1680 of 1680 pixels are NaN or infinite"),
    "label 2": (dict(image=IMAGE, label=LABEL * 2), "label value 2 in"),
    "label 255": (dict(image=IMAGE, label=LABEL * 255), "kind 0/255"),
    "label 0.5": (dict(image=IMAGE, label=LABEL * 0.5), "label value 0.5 is no whole number"),
    "label NaN": (dict(image=IMAGE, label=NAN), "no whole number"),
}
PLACE = {
    "spacing 0": (dict(spacing=[1, 0, 1]), "spacing (1.0, 0.0, 1.0); expected three positive numbers (x, y, z) in mm"),
    "spacing -1": (dict(spacing=[1, 1, -1.0]), "spacing (1.0, 1.0, -1.0); expected three positive"),
    "spacing NaN": (dict(spacing=[1, 1, np.nan]), "spacing (1.0, 1.0, nan); expected three positive"),
    "two spacings": (dict(spacing=[1, 1.0]), "spacing (1.0, 1.0); expected three positive"),
    "spacing text": (dict(spacing=[b"1", b"1", b"1"]), "'spacing' holds"),
    "one spacing": (dict(spacing=1.0), "'spacing' has the shape ()"),
    "flat affine": (dict(affine=np.diag([1, 1, 0, 1.0])), "expected an invertible 4x4 matrix"),
    "short affine": (dict(affine=np.eye(3)), "expected an invertible 4x4 matrix"),
    "affine NaN": (dict(affine=np.diag([1, 1, np.nan, 1])), "expected an invertible 4x4 matrix"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_volume(tmp_path, name):
    content, words = DAMAGE[name]
    source = open_source(LA, write_la(tmp_path))
    split = la_split(source)
    file = la_file(tmp_path, "B")
    write_h5(file, **content)
    message = said(problems, source, split.labeled, (), split.unlabeled)
    assert words in message and str(file) in message and "\n" not in message
    stored = said(build_store, source, source.items(list(split.labeled)), [True, True], "ram", progress=False)
    assert words in stored


@pytest.mark.parametrize("name", PLACE)
@pytest.mark.parametrize("as_attribute", [True, False])
def test_damaged_geometry(tmp_path, name, as_attribute):
    stored, words = PLACE[name]
    source = open_source(LA, write_la(tmp_path))
    file = la_file(tmp_path, "T0")
    write_h5(file, IMAGE, LABEL, **({} if as_attribute else stored))
    with h5py.File(file, "a") as h5:
        h5.attrs.update(stored if as_attribute else {})
    message = said(problems, source, (), source.cases("test"), ())
    words = words.replace("'spacing' holds", "'spacing' is").replace("'spacing' has the shape", "'spacing' is") if as_attribute else words
    assert words.split(" ()")[0] in message and str(file) in message and "\n" not in message


def test_whole_numbers_of_any_width_are_read(tmp_path):
    source = open_source(LA, write_la(tmp_path))
    for case, (pixels, ids) in {"A": (np.int16, np.int64), "B": (np.float64, bool), "C": (np.uint8, np.float32)}.items():
        write_h5(la_file(tmp_path, case), (IMAGE * 10).clip(0).astype(pixels), LABEL.astype(ids))
    for case in source.cases("train")[:3]:
        assert source.image(case).dtype == np.float32
        np.testing.assert_array_equal(source.label(case), LABEL)


# Check of a folder

def test_check_of_a_cut_folder(tmp_path, capsys):
    write_la(tmp_path)
    write_h5(la_file(tmp_path, "X"), *volume())
    write_h5(la_file(tmp_path, "D"), IMAGE, LABEL * 0)
    assert prepare.check(tmp_path, None, 1) == 0
    out = capsys.readouterr().out
    assert "LA: 4 train, 0 val, 2 test. 0 problems" in out and "1 files are in no list" in out and "no pixel of atrium" in out
    write_h5(la_file(tmp_path, "X"), NAN, LABEL)
    write_h5(la_file(tmp_path, "T1"), IMAGE, LABEL, spacing=[0, 1, 1])
    (tmp_path / "train.list").write_text("A\nB\nZ\n")
    assert prepare.check(tmp_path, None, 1) == 2
    out = capsys.readouterr().out
    assert all(words in out for words in ("5 of 1680 pixels are NaN", "spacing (0.0, 1.0, 1.0)", "cases have no file (Z)", "3 problems"))


# Folds, draws, batches

@settings(max_examples=15, deadline=None)
@given(st.integers(3, 12), st.integers(1, 4), st.integers(2, 3), SEEDS, st.data())
def test_folds_and_draws_of_volumes(tmp_path_factory, train, test, folds, seed, data):
    root = tmp_path_factory.mktemp("la")
    for part, count in (("train", train), ("test", test)):
        for k in range(count):
            la_file(root, f"{part}{k}").parent.mkdir(parents=True)
            la_file(root, f"{part}{k}").touch()
        (root / f"{part}.list").write_text("".join(f"{part}{k}\n" for k in range(count)))
    source = open_source(LA, root)
    tested = []
    for fold in range(folds):
        split = splits.make_split(source, SplitRequest(None, fold, folds, seed, "1", "random", seed))
        test_part = splits.test_cases(source, SplitRequest(fold=fold, folds=folds, split_seed=seed))
        names = [c.name for c in (*split.labeled, *split.unlabeled, *split.val, *test_part)]
        assert len(names) == len(set(names)) == train + test and split.val and test_part and split.selection == "validation"
        tested += [c.name for c in test_part]
    assert len(tested) == len(set(tested)) == train + test
    few = data.draw(st.integers(1, train))
    small, large = (la_split(source, str(n), choice="random", seed=seed).labeled for n in (few, train))
    assert len(small) == few and {c.name for c in small} <= {c.name for c in large}


def published_view(array, turns, flip, start, patch):
    """RandomRotFlip and RandomCrop as the field has them: turn, flip, pad where any side is short, cut."""
    array = np.flip(np.rot90(array, turns), flip)
    pad = [0, 0, 0]
    if any(side <= p for side, p in zip(array.shape, patch)):
        pad = [max((p - side) // 2 + 3, 0) for side, p in zip(array.shape, patch)]
        array = np.pad(array, [(w, w) for w in pad])
    corner = [int(np.floor(u * (side - p))) for u, side, p in zip(start, array.shape, patch)]
    return array[tuple(slice(c, c + p) for c, p in zip(corner, patch))]


def batches_are_as_published(source, labeled, unlabeled, patch, steps):
    """Compares batches of a `Loader` with the definition; the recipe's draws give turns, flip and place."""
    items = source.items([*labeled, *unlabeled])
    store = build_store(source, items, [True] * len(labeled) + [False] * len(unlabeled), "ram", progress=False)
    loader = Loader(store, range(len(labeled)), range(len(labeled), len(items)), batch_size=4, labeled_bs=2, patch_size=patch,
                    recipe="rot_flip", seed=5)
    case_of = {item.name: item for item in items}
    for t in range(steps):
        batch = loader.batch(t)
        assert tuple(batch.images.shape) == (4, 1, *patch) and tuple(batch.labels.shape) == (2, *patch)
        draws = draw(loader.augmenter.recipe, generator(5, AUGMENTATION, t), 4, 3)
        for row, name in enumerate(batch.cases):
            view = int(draws["turns"][row]), int(draws["flip"][row]), draws["start"][row], patch
            np.testing.assert_array_equal(batch.images[row, 0].numpy(), published_view(source.image(case_of[name])[0], *view))
            if row < 2:
                np.testing.assert_array_equal(batch.labels[row].numpy(), published_view(source.label(case_of[name]), *view))
    loader.close()


@pytest.mark.parametrize("patch", [(8, 8, 8), (14, 12, 10), (16, 8, 8), (32, 32, 16)])
def test_a_volume_smaller_than_the_patch_is_padded(tmp_path, patch):
    source = open_source(LA, write_la(tmp_path))
    split = la_split(source)
    batches_are_as_published(source, split.labeled, split.unlabeled, patch, 3)


@pytest.mark.skipif(not os.environ.get("SEMISEG_DATA"), reason="SEMISEG_DATA names no folder with LA")
def test_real_la():
    root = Path(os.environ["SEMISEG_DATA"]) / "LA"
    if not root.is_dir():
        pytest.skip(f"{root}: LA is not there")
    data, _, _ = resolve(None, root, root)
    source = open_source(data, root)
    split = la_split(source)
    assert data is LA and split.selection == "last"
    for case in split.labeled:
        image, label = source.image(case)[0], source.label(case)
        assert image[label == 1].mean() > image[label == 0].mean() + 0.5, "blood is brighter than its surroundings"
    batches_are_as_published(source, split.labeled, split.unlabeled[:2], (112, 112, 80), 1)
