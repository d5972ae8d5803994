"""prepare.py: ACDC's download to h5, and the check of a data folder, on files that the tests write."""
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
from tiny import write_folder

from dataloaders.catalog import DATA_SETS, named, open_source, resolve
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.intensities import min_max
from dataloaders.layouts.nifti import read_volume
from preparation import acdc as convert_acdc
from preparation import convert
from preparation.check import Children, check_folder

CODE = Path(__file__).resolve().parent.parent / "code"
TRAIN, VAL, TEST = "patient099", "patient028", "patient011"
PHASES = {TRAIN: (1, 9), VAL: (11, 4), TEST: (1, 12)}
SHAPE = (24, 20, 5)
SPACING = (1.5, 1.25, 8.0)


def prepare(*arguments):
    return subprocess.run([sys.executable, str(CODE / "prepare.py"), *map(str, arguments)], capture_output=True, text=True, timeout=120)


def write_nifti(file, values):
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = 3, 2, 1
    picture = nibabel.Nifti1Image(values, affine)
    picture.header.set_zooms(SPACING)
    nibabel.save(picture, file)


@pytest.fixture
def download(tmp_path):
    """Three patients as the challenge gives them: 4D cine, two annotated frames, Info.cfg."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "raw"
    for patient, (ed, es) in PHASES.items():
        folder = raw / "training" / patient
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
        (folder / f"{patient}_4d.nii.gz").touch()
        for number in (ed, es):
            image = rng.integers(7, 900, SHAPE).astype(np.int16)
            image[0, 0, 0], image[1, 0, 0] = number, 1000 + number
            label = np.zeros(SHAPE, np.uint8)
            label[4:12, 4:12], label[5:11, 5:11], label[14:18, 4:8] = 2, 3, 1
            write_nifti(folder / f"{patient}_frame{number:02d}.nii.gz", image)
            write_nifti(folder / f"{patient}_frame{number:02d}_gt.nii.gz", label)
    return raw


def names(folder):
    return sorted(file.name for file in folder.iterdir() if file.is_file())


def test_arrays_are_those_of_the_protocol(download, tmp_path):
    out = tmp_path / "ACDC"
    remarks = convert_acdc.convert_acdc(download, out, workers=2)
    for patient, phases in PHASES.items():
        for order, number in enumerate(sorted(phases), start=1):
            stem = download / "training" / patient / f"{patient}_frame{number:02d}"
            image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{stem}.nii.gz")).astype(np.float64)
            label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{stem}_gt.nii.gz"))
            expected = ((image - image.min()) / (image.max() - image.min())).astype(np.float32)
            case = f"{patient}_frame{order:02d}"
            with h5py.File(out / "data" / f"{case}.h5") as file:
                assert file["image"].dtype == np.float32 and file["label"].dtype == np.uint8 and file["image"].shape == SHAPE[::-1]
                np.testing.assert_array_equal(file["image"], expected)
                np.testing.assert_array_equal(file["label"], label)
                np.testing.assert_allclose(file.attrs["spacing"], SPACING[::-1])
                np.testing.assert_allclose(file.attrs["affine"], nibabel.load(f"{stem}.nii.gz").affine)
            for k in range(SHAPE[2]):
                with h5py.File(out / "data" / "slices" / f"{case}_slice_{k + 1}.h5") as file:
                    np.testing.assert_array_equal(file["image"], expected[k])
                    np.testing.assert_array_equal(file["label"], label[k])
    assert len(names(out / "data")) == 6 and len(names(out / "data" / "slices")) == 30
    assert (out / "val.list").read_text() == "patient028_frame01\npatient028_frame02\n"
    slices = [f"{TRAIN}_frame0{frame}_slice_{k}" for frame in (1, 2) for k in range(1, 6)]
    assert sorted((out / "train_slices.list").read_text().split()) == slices
    assert any("97 of the 100 patients" in remark for remark in remarks)
    assert any("22 slices of the published train_slices.list are in no volume" in remark for remark in remarks)


def test_what_is_written_is_what_the_reader_takes(download, tmp_path):
    convert_acdc.convert_acdc(download / "training", tmp_path / "ACDC", workers=1)
    source = open_source(DATA_SETS["ACDC"], tmp_path / "ACDC")
    case = source.cases("test")[0]
    assert source.image(case).shape == (1, *SHAPE[::-1]) and source.spacing(case) == pytest.approx(SPACING[::-1])
    assert len(source.items(source.cases("train"))) == 10


def test_goes_on_where_it_stopped(download, tmp_path, monkeypatch):
    out = tmp_path / "ACDC"
    convert_acdc.convert_acdc(download, out, workers=1)
    (out / "data" / f"{VAL}_frame01.h5").write_bytes(b"cut")
    (out / "data" / "slices" / f"{TEST}_frame02_slice_3.h5").unlink()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.h5")}
    done = []
    monkeypatch.setattr(convert_acdc, "run_all", lambda jobs, *_: done.extend(job.case for job in jobs))
    convert_acdc.convert_acdc(download, out, workers=1)
    assert sorted(done) == [f"{TEST}_frame02", f"{VAL}_frame01"]
    monkeypatch.undo()
    convert_acdc.convert_acdc(download, out, workers=1)
    changed = {file.name[:18] for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed == {f"{TEST}_frame02", f"{VAL}_frame01"}
    assert len(names(out / "data" / "slices")) == 30


def test_writing_is_atomic(tmp_path, monkeypatch):
    """A write that fails half-way leaves the old file and no temporary one."""
    file = tmp_path / "a.h5"
    convert.write_h5(file, np.zeros((2, 2)), np.zeros((2, 2)), {})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        convert.write_h5(file, np.ones((2, 2)), np.array(object()), {})
    assert file.read_bytes() == before and names(tmp_path) == ["a.h5"]


def test_everything_wrong_with_a_download_is_said_at_once(download, tmp_path):
    folder = download / "training"
    image = folder / TRAIN / f"{TRAIN}_frame01.nii.gz"
    image.write_bytes(image.read_bytes()[:3000])
    (folder / TRAIN / f"{TRAIN}_frame09_gt.nii.gz").unlink()
    write_nifti(folder / VAL / f"{VAL}_frame04_gt.nii.gz", np.zeros((24, 20, 4), np.uint8))
    write_nifti(folder / VAL / f"{VAL}_frame11.nii.gz", np.full(SHAPE, 3, np.int16))
    write_nifti(folder / TEST / f"{TEST}_frame01_gt.nii.gz", np.full(SHAPE, 7, np.uint8))
    (folder / TEST / f"{TEST}_frame12.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\n")
    result = prepare("acdc", "--raw", download, "--out", tmp_path / "ACDC", "--workers", 2)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    for sentence in (f"{TRAIN}_frame01.nii.gz: the file is cut off",
                     f"{TRAIN}_frame09_gt.nii.gz: the reference segmentation of frame 9 is missing",
                     f"{VAL}_frame04_gt.nii.gz differ in shape: (5, 20, 24) and (4, 20, 24)", f"{VAL}_frame11.nii.gz: every voxel is 3",
                     f"{TEST}_frame01_gt.nii.gz: label value 7", f"{TEST}_frame12.nii.gz: this is a git-LFS pointer"):
        assert sentence in result.stderr
    assert "6 problems" in result.stderr
    assert not (tmp_path / "ACDC" / "train.list").exists(), "lists would make an incomplete conversion look whole"


@pytest.mark.parametrize("values, sentence", [
    (np.zeros((4, 4, 3, 2), np.int16), r"has 4 dimensions, \(4, 4, 3, 2\)"),
    (np.array([[[0, np.nan]]], np.float32), "NaN"),
])
def test_images_that_are_no_volumes(tmp_path, values, sentence):
    write_nifti_4d = nibabel.Nifti1Image(values, np.eye(4))
    nibabel.save(write_nifti_4d, tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match=sentence):
        min_max(read_volume(tmp_path / "a.nii.gz")[0], tmp_path / "a.nii.gz")


@pytest.mark.parametrize("content", [
    b"", b"hello", gzip.compress(b"hello", mtime=0), gzip.compress(bytes(400), mtime=0), b"\x1f\x8b", bytes(1000)])
def test_files_that_are_no_nifti(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(UserError, match="a.nii.gz"):
        read_volume(tmp_path / "a.nii.gz")


def test_frames_without_and_with_a_wrong_info(download):
    folder = download / "training" / TEST
    assert convert_acdc.annotated_numbers(folder) == [1, 12]
    (folder / "Info.cfg").unlink()
    assert convert_acdc.annotated_numbers(folder) == [1, 12]
    (folder / "Info.cfg").write_text("ED: 1\nES: x\n")
    with pytest.raises(UserError, match="ES: <frame>"):
        convert_acdc.annotated_numbers(folder)


def test_command_line_mistakes(tmp_path):
    for arguments, sentence in (
        ((), "give either"), (("acdc", "--raw", tmp_path / "none"), "there is no such folder"),
        (("acdc", "--raw", tmp_path), "no folders patient001"), (("--check", tmp_path / "none"), "no such folder"),
        (("--check", tmp_path), "add --dataset"), (("--check", tmp_path, "--workers", "0"), "no number from 1 on"),
        (("--check", tmp_path, "--dataset", "xyz"), "not known"),
    ):
        result = prepare(*arguments)
        assert result.returncode == 2 and sentence in result.stderr and "Traceback" not in result.stderr, arguments


@pytest.fixture
def converted(download, tmp_path):
    convert_acdc.convert_acdc(download, tmp_path / "ACDC", workers=1)
    return tmp_path / "ACDC"


def test_check_of_a_sound_folder(converted):
    result = prepare("--check", converted)
    assert result.returncode == 0, result.stdout
    assert "remark: " in result.stdout and "published 140" in result.stdout
    assert "2 train, 2 val, 2 test, 10 slices. 0 problems" in result.stdout


def edit(file, name, array):
    with h5py.File(file, "r+") as h5:
        del h5[name]
        if array is not None:
            h5[name] = array


def test_check_lists_everything_wrong(converted):
    volumes, slices = converted / "data", converted / "data" / "slices"
    shape = SHAPE[::-1]
    edit(volumes / f"{VAL}_frame01.h5", "label", np.full(shape, 9, np.uint8))
    edit(volumes / f"{VAL}_frame02.h5", "label", np.zeros((5, 3, 3), np.uint8))
    edit(volumes / f"{TEST}_frame01.h5", "image", np.full(shape, np.nan, np.float32))
    edit(volumes / f"{TEST}_frame02.h5", "image", None)
    edit(slices / f"{TRAIN}_frame01_slice_1.h5", "image", np.full(shape[1:], 0.5, np.float32))
    cut = slices / f"{TRAIN}_frame01_slice_2.h5"
    cut.write_bytes(cut.read_bytes()[:2000])
    (slices / f"{TRAIN}_frame02_slice_3.h5").unlink()
    edit(slices / f"{TRAIN}_frame01_slice_4.h5", "label", np.full(shape[1:], 4, np.uint8))
    edit(volumes / f"{TRAIN}_frame01.h5", "label", np.zeros(shape, np.uint8))
    (volumes / f"{TRAIN}_frame02.h5").unlink()
    report = check_folder(DATA_SETS["ACDC"], converted, workers=2)
    problems, remarks = "\n".join(report.problems), "\n".join(report.remarks)
    for sentence in (f"{VAL}_frame01.h5: label value 9", f"{VAL}_frame02.h5: image and label differ in shape",
                     f"{TEST}_frame01.h5: 2400 of 2400 pixels are NaN", f"{TEST}_frame02.h5: no dataset 'image'",
                     "slice_2.h5: the HDF5 file is damaged", f"{TRAIN}_frame02_slice_3 has no file", "slice_4.h5: label value 4"):
        assert sentence in problems
    assert len(report.problems) == 7 + 1, problems
    assert f"{TRAIN}_frame02.h5: there is no such file" in problems
    assert "slice_1.h5: every pixel has the same value" in remarks
    assert f"{TRAIN}_frame01.h5: no pixel of right ventricle, myocardium, left ventricle" in remarks


def test_check_reads_what_no_list_names(converted):
    (converted / "test.list").write_text(f"{TEST}_frame01\npatient100_frame01\n")
    (converted / "data" / f"{TEST}_frame02.h5").write_bytes(b"rubbish")
    report = check_folder(DATA_SETS["ACDC"], converted, workers=1)
    assert any("patient100_frame01 has no file" in p for p in report.problems)
    assert any(f"{TEST}_frame02.h5: not of the expected format" in p for p in report.problems)


def test_volumes_of_training_cases_may_be_missing(converted):
    for frame in (1, 2):
        (converted / "data" / f"{TRAIN}_frame0{frame}.h5").unlink()
    report = check_folder(DATA_SETS["ACDC"], converted, workers=1)
    assert not report.problems and any("--fold needs the volumes" in remark for remark in report.remarks)


def test_own_images_before_there_are_enough_masks(tmp_path):
    """The first states of a folder: nothing labelled, which is no fault, and fewer masks than parts."""
    own = write_folder(tmp_path / "D", 4, 2)
    report = check_folder(named("folder"), own, workers=1)
    assert not report.problems and any("2 images with a mask; training needs 3 at least" in remark for remark in report.remarks)
    shutil.rmtree(own / "masks")
    for name in (None, "folder"):
        with pytest.raises(UserError, match=r"D: holds images/ and no masks/.* code/advise.py --root_path .*D --next 12"):
            resolve(name, own, tmp_path)
    (own / "masks").mkdir()
    (own / "masks/.DS_Store").touch()
    with pytest.raises(UserError, match="D: holds images/ and nothing in masks/"):
        resolve(None, own, tmp_path)
    shutil.rmtree(own / "images")
    (own / "images" / "case1").mkdir(parents=True)
    (own / "images" / "case1" / "IM0001.dcm").write_bytes(bytes(128) + b"DICM")
    assert resolve("folder", own, tmp_path)[0].name == "folder"  # no image is there to be labelled: its reader says what is passed over


class Crash(Case):
    """Ends the process that receives it, as a fault in a C library would."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_crash_costs_one_file_only(converted):
    source = open_source(DATA_SETS["ACDC"], converted)
    sound = source.cases("val")
    crash = Crash("crash", converted / "crash.h5", None, "crash")
    with Children(DATA_SETS["ACDC"], converted, 2) as children:
        readings = list(children.map([sound[0], crash, sound[1], crash, sound[0]]))
    assert ["crashes the library" in r.problem for r in readings] == [False, True, False, True, False]
    assert all(readings[k].counts[3] == 6 * 6 * 5 for k in (0, 2, 4))


@pytest.mark.skipif("SEMISEG_DATA" not in os.environ, reason="SEMISEG_DATA is not set: no real data")
@pytest.mark.parametrize("name", ["ACDC", "NEU_Seg", "MT"])
def test_real_data_are_sound(name):
    folder = Path(os.environ["SEMISEG_DATA"]) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    result = prepare("--check", folder)
    assert result.returncode == 0, result.stdout
