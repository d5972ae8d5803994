"""Synapse and AMOS: as downloaded and as prepared, their published lists; and the published folds of LA and Pancreas-CT."""
from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.layouts import organs
from dataloaders.layouts.common import read_list
from dataloaders.layouts.listed import LISTS
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest
from preparation import convert
from preparation import organs as conversion

SMALL = (8, 8, 4)
AFFINE = np.array([[-0.8, 0, 0, 100.0], [0, -0.8, 0, 90.0], [0, 0, 5.0, -40.0], [0, 0, 0, 1.0]])


@pytest.fixture(autouse=True)
def in_this_process_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(jobs, out, work, workers, problems):
        for message, _ in (convert.guarded(work, job, out) for job in jobs):
            if message:
                problems.add(message)

    monkeypatch.setattr(convert, "run_all", run_all)
    monkeypatch.setattr(organs, "SIZE", SMALL)


def write_nifti(file: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), file)


def scan(seed: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(16, 12, 6) whole Hounsfield units and a label with two organs."""
    rng = np.random.default_rng(seed)
    label = np.zeros((16, 12, 6), np.uint8)
    label[:8, :6], label[8:, 6:] = 1, top
    return rng.integers(-1000, 1000, label.shape).astype(np.int16), label


def write_synapse(root: Path, cases: list[str], place: str = "RawData/Training") -> Path:
    for case in cases:
        image, label = scan(int(case), 13)
        write_nifti(root / place / "img" / f"img{case}.nii.gz", image)
        write_nifti(root / place / "label" / f"label{case}.nii.gz", label)
    return root


def write_amos(root: Path, parts: dict[str, list[str]]) -> Path:
    for part, cases in parts.items():
        for case in cases:
            image, label = scan(int(case[-4:]), 15)
            write_nifti(root / f"images{part}" / f"{case}.nii.gz", image)
            write_nifti(root / f"labels{part}" / f"{case}.nii.gz", label)
    (root / "dataset.json").write_text("{}")
    return root


def names_in(*files: str) -> list[list[str]]:
    return [[entry.name for entry in read_list(LISTS / file)] for file in files]


def test_published_lists_of_organs():
    for name, sizes, budgets in (
            ("Synapse", (20, 4, 6), (2, 4, 8)), ("Synapse/generic", (20, 4, 6), (4,)), ("AMOS", (216, 24, 120), (4, 10, 21))):
        parts = names_in(*(f"{name}/{part}.txt" for part in ("train", "val", "test")))
        assert tuple(map(len, parts)) == sizes and len({case for part in parts for case in part}) == sum(sizes)
        for count in budgets:
            (labeled,) = names_in(f"{name}/labeled_{count}.txt")
            assert len(labeled) == count and set(labeled) <= set(parts[0])


def test_budgets_are_the_published_lists(tmp_path: Path) -> None:
    every = [case for part in names_in(*(f"Synapse/{part}.txt" for part in ("train", "val", "test"))) for case in part]
    source = open_source(DATA_SETS["Synapse"], write_synapse(tmp_path, every, ""))
    for asked, count in (("10%", 2), ("20%", 4), ("40%", 8), ("4", 4)):
        split = splits.make_split(source, SplitRequest(labeled_num=asked))
        assert [case.name for case in split.labeled] == names_in(f"Synapse/labeled_{count}.txt")[0] and not split.remarks
        assert len(split.unlabeled) == 20 - count and len(split.val) == 4
    with pytest.raises(UserError, match="published lists of 2, 4, 8 labelled images"):
        splits.make_split(source, SplitRequest(labeled_num="3"))
    assert len(splits.make_split(source, SplitRequest(labeled_num="3", labeled_choice="random")).labeled) == 3
    generic = SplitRequest("generic", labeled_num="20%")
    assert [case.name for case in splits.make_split(source, generic).labeled] == ["0009", "0021", "0025", "0034"]
    assert [case.name for case in splits.test_cases(source, generic)] == ["0008", "0027", "0029", "0033", "0037", "0039"]
    assert [case.name for case in splits.test_cases(source, SplitRequest())] == ["0004", "0007", "0010", "0033", "0035", "0036"]


def test_a_download_is_what_its_preparation_is(tmp_path: Path) -> None:
    """Voxel by voxel, and in space: corners of the volume stay where they are."""
    raw, out = write_synapse(tmp_path / "raw", ["0001", "0004", "0006"]), tmp_path / "Synapse"
    assert "27 of the 30 cases" in conversion.convert_synapse(raw, out, workers=1)[0]
    data, root, _ = resolve(None, out, tmp_path)
    assert data.name == "Synapse" and resolve(None, raw, tmp_path)[0] is data and data.num_classes == 14
    for name in ("train", "val", "test"):
        (raw / f"{name}.txt").write_text((out / f"{name}.txt").read_text())
    prepared, downloaded = open_source(data, root), open_source(data, raw)
    for part in ("train", "val", "test"):
        (case,), (other,) = prepared.cases(part), downloaded.cases(part)
        assert case.name == other.name and other.image.name == f"img{case.name}.nii.gz"
        image = prepared.image(case)
        assert image.shape == (1, *SMALL) and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
        np.testing.assert_array_equal(image, downloaded.image(other))
        np.testing.assert_array_equal(prepared.label(case), downloaded.label(other))
        np.testing.assert_allclose(prepared.affine(case), downloaded.affine(other))
        assert prepared.spacing(case) == pytest.approx((1.6, 1.2, 7.5)) == downloaded.spacing(other)
        corners = np.array([[-0.5, -0.5, -0.5, 1], [*(np.array(SMALL) - 0.5), 1]]).T
        whole = np.array([[-0.5, -0.5, -0.5, 1], [15.5, 11.5, 5.5, 1]]).T
        np.testing.assert_allclose(prepared.affine(case) @ corners, AFFINE @ whole)
    label = prepared.label(prepared.cases("train")[0])
    assert set(np.unique(label)) == {0, 1, 13} and (label[:4, :4] == 1).all() and (label[4:, 4:] == 13).all()
    # Halved along x, so each voxel is the mean of two; along y and z it lies between.
    values = scan(1, 13)[0].astype(float)
    np.testing.assert_allclose(organs.resized(values, 1).mean(), values.mean(), atol=50)


def test_values_are_cut_after_resizing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DHC does: the mean of air and tissue is what is cut, not the mean of what was cut."""
    monkeypatch.setattr(organs, "SIZE", (3, 1, 1))
    write_nifti(tmp_path / "image.nii.gz", np.array([-1000, 200, 100, 100, 275, 275], np.int16).reshape(6, 1, 1))
    assert organs.prepared_image(tmp_path / "image.nii.gz")[0].ravel().tolist() == [0, 0.5, 1]


def test_halving_takes_means_and_labels_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(organs, "SIZE", (2, 1, 1))
    np.testing.assert_allclose(organs.resized(np.array([0.0, 2, 4, 8]).reshape(4, 1, 1), 1).ravel(), [1, 6])
    monkeypatch.setattr(organs, "SIZE", (4, 1, 1))
    assert organs.resized(np.array([3, 9], np.uint8).reshape(2, 1, 1), 0).ravel().tolist() == [3, 3, 9, 9]


def test_amos_is_prepared(tmp_path: Path) -> None:
    train, test = names_in("AMOS/train.txt", "AMOS/test.txt")
    raw, out = write_amos(tmp_path / "amos22", {"Tr": train[:2], "Va": test[:1]}), tmp_path / "AMOS"
    source = open_source(resolve("AMOS", raw, tmp_path)[0], raw)
    assert source.files(raw).keys() == {*train[:2], test[0]}, "the download as it is, by its name: it looks like nnU-Net's layout too"
    assert "357 of the 360 cases" in conversion.convert_amos(tmp_path, out, workers=1)[0]
    with h5py.File(out / "data" / f"{train[0]}.h5") as file:
        assert file["image"].shape == SMALL and set(np.unique(file["label"])) == {0, 1, 15}
    source = open_source(resolve(None, out, tmp_path)[0], out)
    assert [case.name for case in source.cases("train")] == train[:2] and [case.name for case in source.cases("test")] == test[:1]


def test_bad_downloads_of_organs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder.*Synapse"):
        conversion.convert_synapse(tmp_path / "none", tmp_path / "out", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="0001, 0002.*imagesTr|no volume of the published lists"):
        conversion.convert_amos(tmp_path / "empty", tmp_path / "out", 1)
    raw = write_synapse(tmp_path / "raw", ["0001", "0002", "0003"], "")
    (raw / "label" / "label0002.nii.gz").unlink()
    write_nifti(raw / "label" / "label0003.nii.gz", np.full((16, 12, 6), 14, np.uint8))
    with pytest.raises(UserError) as refused:
        conversion.convert_synapse(raw, tmp_path / "out", 1)
    assert "label0002.nii.gz: the reference segmentation of 0002 is missing" in str(refused.value)
    assert "label0003.nii.gz: label value 14" in str(refused.value) and not (tmp_path / "out" / "train.txt").exists()
    far = AFFINE.copy()
    far[0, 3] += 50
    write_nifti(raw / "label" / "label0001.nii.gz", scan(1, 13)[1], far)
    with pytest.raises(UserError, match="lies elsewhere"):
        organs.prepared_label(raw / "img" / "img0001.nii.gz", raw / "label" / "label0001.nii.gz", organs.SYNAPSE)


# Published folds


def write_volumes(root: Path, files: list[str]) -> Path:
    """Tiny h5 volumes of these names."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / name, "w") as file:
            file["image"], file["label"] = np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8)
    return root


@pytest.mark.parametrize("name, folds, sizes", [("LA", 5, [(80, 20)] * 5), ("Pancreas-CT", 4, [(62, 20), (62, 20), (61, 21), (61, 21)])])
def test_published_folds_cover_every_volume_once(name: str, folds: int, sizes: list[tuple[int, int]]):
    lists = [names_in(f"{name}/mcf/train{k}.list", f"{name}/mcf/test{k}.list") for k in range(folds)]
    assert [(len(train), len(test)) for train, test in lists] == sizes
    every = [case for _, test in lists for case in test]
    assert len(every) == len(set(every)) and all(set(train) == set(every) - set(test) for train, test in lists)
    if name == "LA":
        official = names_in("LA/train.list", "LA/test.list")
        assert lists[0][0] == official[0] and sorted(lists[0][1]) == sorted(official[1])


def test_a_published_fold_of_la(tmp_path: Path) -> None:
    train, test = names_in("LA/train.list", "LA/test.list")
    root = write_volumes(tmp_path, [f"2018LA_Seg_Training Set/{case}/mri_norm2.h5" for case in (*train, *test)])
    source, asked = open_source(DATA_SETS["LA"], root), SplitRequest("mcf", fold=3, labeled_num="16")
    split = splits.make_split(source, asked)
    wanted = names_in("LA/mcf/train3.list", "LA/mcf/test3.list")
    assert split.name == "fold3of5_mcf" and [case.name for case in split.labeled] == wanted[0][:16] and not split.val and not split.remarks
    assert [case.name for case in splits.test_cases(source, asked)] == sorted(wanted[1])
    for change, words in (({"fold": None}, "--fold 0 to 4"), ({"fold": 1, "folds": 4}, "write --folds 5"),
                          ({"fold": 1, "split_seed": 2}, "nothing is drawn")):
        with pytest.raises(UserError, match=words):
            splits.make_split(source, SplitRequest("mcf", **change))  # type: ignore[arg-type]


def test_folds_of_pancreas_need_no_lists_and_know_both_names(tmp_path: Path) -> None:
    (test,) = names_in("Pancreas-CT/mcf/test0.list")
    numbers = [f"{number:04d}" for number in range(1, 83) if number not in (25, 70)]
    root = write_volumes(tmp_path, [f"Pancreas_h5/image{number}_norm.h5" if int(number) < 40 else f"Pancreas_h5/PANCREAS_{number}.h5"
                                    for number in numbers])
    source, asked = open_source(DATA_SETS["Pancreas-CT"], root), SplitRequest("mcf", fold=0, folds=4, labeled_num="6")
    split = splits.make_split(source, asked)
    assert len(split.labeled) + len(split.unlabeled) == 61 and split.labeled[0].name == "image0001"
    assert "2 of the 82 volumes of the published folds are not there (image0025, ...)" in split.remarks[0]
    assert len(splits.test_cases(source, asked)) == len(test) - 1
    source.label(split.unlabeled[-1])
    assert source.image(split.unlabeled[-1]).shape == (1, 2, 2, 2)


@pytest.mark.parametrize("name, recipe", [("Pancreas-CT", "none"), ("Synapse", "mirrors"), ("AMOS", "mirrors"), ("LA", "rot_flip")])
def test_volumes_are_augmented_as_published(name: str, recipe: str) -> None:
    """Pancreas-CT is only cropped (BCP, AD-MT, Co-BioNet); DHC mirrors two axes; UA-MT turns and flips."""
    assert DATA_SETS[name].augmentation == recipe
