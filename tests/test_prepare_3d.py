"""prepare.py la, brats and promise12, on downloads that the tests write."""
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
from skimage.exposure import cumulative_distribution

from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.geometry import affine_of, place
from dataloaders.intensities import capped as capped_by_ours
from preparation import brats as convert_brats
from preparation import convert
from preparation import la as convert_la
from preparation import promise12 as convert_promise12
from preparation.convert import published

CODE = Path(__file__).resolve().parent.parent / "code"
TRAIN_LA, TEST_LA = published("LA", "train.list")[0], published("LA", "test.list")[0]
TRAIN_BRATS, TEST_BRATS = published("BraTS2019", "train.txt")[0], published("BraTS2019", "test.txt")[0]
CASES_PROMISE = [published("PROMISE12", f"{part}.list")[0] for part in ("train", "val", "test")]


def prepare(*arguments):
    return subprocess.run([sys.executable, str(CODE / "prepare.py"), *map(str, arguments)], capture_output=True, text=True, timeout=120)


def write(file, array, affine):
    """Writes an (x, y, z) array in SimpleITK's formats."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    place(image, affine)
    SimpleITK.WriteImage(image, str(file))


def affine(*spacing):
    matrix = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    matrix[:3, 3] = 30, 20, -10
    return matrix


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Starting processes takes seconds; that they work is tested with ACDC, and by what calls `prepare` here."""
    def run_all(jobs, out, work, workers, problems):
        for message, _ in (convert.guarded(work, job, out) for job in jobs):
            if message:
                problems.add(message)

    monkeypatch.setattr(convert, "run_all", run_all)


@pytest.fixture
def la(tmp_path):
    rng = np.random.default_rng(0)
    for case, shift in ((TRAIN_LA, 0), (TEST_LA, 9)):
        image = rng.integers(0, 255, (200, 160, 6)).astype(np.uint8)
        label = np.zeros(image.shape, np.uint8)
        label[60 + shift:180 + shift, 40:70, 1:4] = 255
        folder = tmp_path / "raw" / "Training Set" / case
        write(folder / "lgemri.nrrd", image, affine(0.625, 0.625, 1.25))
        write(folder / "laendo.nrrd", label, affine(0.625, 0.625, 1.25))
    return tmp_path / "raw"


def test_la_is_prepared_as_published(la, tmp_path):
    out = tmp_path / "LA"
    remarks = convert_la.convert_la(la, out, workers=1)
    assert len(remarks) == 1 and "98 of the 100 cases" in remarks[0]
    folder = la / "Training Set" / TRAIN_LA
    whole = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "lgemri.nrrd"))).transpose().astype(np.float64)
    with h5py.File(out / "2018LA_Seg_Training Set" / TRAIN_LA / "mri_norm2.h5") as file:
        image, label, place_of = file["image"][:], file["label"][:], file.attrs["affine"]
        np.testing.assert_allclose(file.attrs["spacing"], (0.625, 0.625, 1.25))
    assert image.dtype == np.float32 and label.dtype == np.uint8 and set(np.unique(label)) == {0, 1} and label.sum() == 120 * 30 * 3
    start = np.rint((place_of[:3, 3] - affine(0.625, 0.625, 1.25)[:3, 3]) / (-0.625, -0.625, 1.25)).astype(int)
    stop = start + image.shape
    expected = ((whole - whole.mean()) / whole.std())[tuple(map(slice, start, stop))]
    np.testing.assert_allclose(image, expected, atol=1e-5)
    # x: 120 voxels and margins of 10 to 19; y: 30 voxels, margins and (112 - 29) // 2 = 41 more on either side, cut at the border.
    assert 41 <= start[0] <= 50 and 189 <= stop[0] <= 198
    assert start[1] == 0 and 69 + 10 + 41 <= stop[1] <= 69 + 19 + 41 and image.shape[2] == 6
    assert (out / "train.list").read_text() == f"{TRAIN_LA}\n" and (out / "test.list").read_text() == f"{TEST_LA}\n"
    source = open_source(DATA_SETS["LA"], out)
    case = source.cases("train")[0]
    assert source.image(case).shape == (1, *image.shape)
    np.testing.assert_allclose(source.affine(case), place_of)


def test_margins_follow_from_the_name():
    from preparation.convert import Job

    label = np.zeros((200, 200, 3), np.uint8)
    label[80:100, 90:110] = 1
    windows = {case: convert_la.crop(label, Job(case, Path("a"), Path("b"))) for case in ("A", "B", "C")}
    assert windows["A"] == convert_la.crop(label, Job("A", Path("elsewhere"), Path("b")))
    assert len({str(window) for window in windows.values()}) > 1
    assert all(window[0].stop - window[0].start >= 112 for window in windows.values())
    with pytest.raises(UserError, match="the label is empty"):
        convert_la.crop(np.zeros((4, 4, 4)), Job("A", Path("a"), Path("b")))


@pytest.fixture
def brats(tmp_path):
    rng = np.random.default_rng(1)
    for case, grade in ((TRAIN_BRATS, "HGG"), (TEST_BRATS, "LGG")):
        image = np.zeros((30, 28, 20), np.int16)
        image[3:25, 5:26, 2:18] = rng.gamma(2, 120, (22, 21, 16)).astype(np.int16) + 1
        label = np.zeros(image.shape, np.uint8)
        label[10:14, 10:14, 6:9], label[11:13, 11:13, 7], label[12, 12, 7] = 2, 1, 4
        folder = tmp_path / "raw" / grade / case
        folder.mkdir(parents=True)
        for ending, array in (("flair", image), ("seg", label)):
            nibabel.save(nibabel.Nifti1Image(array, affine(1, 1, 1)), folder / f"{case}_{ending}.nii.gz")
    return tmp_path / "raw"


def test_brats_is_prepared_as_published(brats, tmp_path):
    out = tmp_path / "BraTS2019"
    assert "333 of the 335 cases" in convert_brats.convert_brats(brats, out, workers=1)[0]
    image = np.asarray(nibabel.load(brats / "HGG" / TRAIN_BRATS / f"{TRAIN_BRATS}_flair.nii.gz").dataobj)[3:24, 5:25, 2:17]
    cumulative, centres = cumulative_distribution(image)
    capped = np.clip(image, image.min(), centres[cumulative >= 0.999][0]).astype(np.float64)
    brain = capped[capped > 0]
    with h5py.File(out / "data" / f"{TRAIN_BRATS}.h5") as file:
        np.testing.assert_allclose(file["image"][:], (capped - brain.mean()) / brain.std(), atol=1e-5)
        assert file["label"].shape == (21, 20, 15) and file["label"][:].sum() == 48 and file["label"][:].max() == 1
        np.testing.assert_allclose(file.attrs["affine"][:3, 3], (30 - 3, 20 - 5, -10 + 2))
    assert (out / "train.txt").read_text() == f"{TRAIN_BRATS}\n"
    data, root, _ = resolve(None, out, tmp_path)
    assert data.name == "BraTS2019" and len(open_source(data, root).cases("test")) == 1


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_cap_is_that_of_scikit_image(dtype):
    image = np.random.default_rng(2).gamma(2, 90, (20, 20, 20)).astype(dtype)
    cumulative, centres = cumulative_distribution(image)
    assert capped_by_ours(image).max() == pytest.approx(centres[cumulative >= 0.999][0])


@pytest.fixture
def promise(tmp_path):
    rng = np.random.default_rng(3)
    for case in CASES_PROMISE:
        image = rng.integers(20, 600, (24, 20, 5)).astype(np.int16)
        image[0, 0, 0] = 9000
        label = np.zeros(image.shape, np.uint8)
        label[8:14, 6:12, 1:4] = 1
        write(tmp_path / "raw" / "TrainingData_Part1" / f"{case}.mhd", image, affine(0.6, 0.6, 3.6))
        write(tmp_path / "raw" / "TrainingData_Part1" / f"{case}_segmentation.mhd", label, affine(0.6, 0.6, 3.6))
    return tmp_path / "raw"


def test_promise12_lies_as_acdc_does(promise, tmp_path):
    out = tmp_path / "PROMISE12"
    result = prepare("promise12", "--raw", promise, "--out", out, "--workers", 1)
    assert result.returncode == 0 and "47 of the 50 cases" in result.stdout, result.stderr
    data, root, _ = resolve(None, out, tmp_path)
    source = open_source(data, root)
    case = source.cases("train")[0]
    assert data.name == "PROMISE12" and data.num_classes == 2 and case.name == CASES_PROMISE[0]
    image, label = source.image(case), source.label(case)
    assert image.shape == (1, 5, 20, 24) and image.min() == 0 and image.max() == 1 and label.sum() == 6 * 6 * 3
    assert np.median(image) > 0.3, "one bright voxel must not darken the volume"
    assert source.spacing(case) == pytest.approx((3.6, 0.6, 0.6))
    file = promise / "TrainingData_Part1" / f"{case.name}.mhd"
    np.testing.assert_allclose(source.affine(case)[:, [2, 1, 0, 3]], affine_of(SimpleITK.ReadImage(str(file))), atol=1e-9)
    items = source.items([case])
    assert [item.name for item in items] == [f"{case.name}_slice_{k}" for k in range(1, 6)]
    np.testing.assert_array_equal(source.image(items[2])[0], image[0, 2])
    assert len(published("PROMISE12", "train.list")) == 35 and len(set(published(
        "PROMISE12", "train.list", "val.list", "test.list"))) == 50
    checked = prepare("--check", out)
    assert checked.returncode == 0 and "0 problems" in checked.stdout, checked.stdout


@pytest.mark.parametrize("name, conversion, damaged", [
    ("la", convert_la.convert_la, f"2018LA_Seg_Training Set/{TEST_LA}/mri_norm2.h5"),
    ("brats", convert_brats.convert_brats, f"data/{TEST_BRATS}.h5"),
    ("promise", convert_promise12.convert_promise12, f"data/{CASES_PROMISE[2]}.h5"),
])
def test_goes_on_where_it_stopped(name, conversion, damaged, tmp_path, request):
    raw, out = request.getfixturevalue(name), tmp_path / "out"
    conversion(raw, out, workers=1)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.h5")}
    content = (out / damaged).read_bytes()
    (out / damaged).write_bytes(content[: len(content) // 2])
    conversion(raw, out, workers=1)
    assert len((out / damaged).read_bytes()) == len(content)
    changed = {file.relative_to(out).as_posix() for file, time in before.items() if file.stat().st_mtime_ns != time}
    slices = {file for file in changed if "/slices/" in file}
    assert changed - slices == {damaged} and all(Path(damaged).stem in file for file in slices)
    assert not list(out.rglob(".*.part"))


@pytest.mark.parametrize("conversion, fixture, file, named", [
    (convert_la.convert_la, "la", f"Training Set/{TRAIN_LA}/laendo.nrrd", "laendo.nrrd"),
    (convert_brats.convert_brats, "brats", f"HGG/{TRAIN_BRATS}/{TRAIN_BRATS}_flair.nii.gz", f"{TRAIN_BRATS}_flair.nii.gz"),
    (convert_promise12.convert_promise12, "promise", f"TrainingData_Part1/{CASES_PROMISE[0]}.raw", f"{CASES_PROMISE[0]}.mhd"),
])
def test_damaged_downloads_get_a_sentence(conversion, fixture, file, named, tmp_path, request):
    raw, out = request.getfixturevalue(fixture), tmp_path / "out"
    content = (raw / file).read_bytes()
    (raw / file).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match="cut off or damaged") as caught:
        conversion(raw, out, 1)
    assert named in str(caught.value) and not list(out.glob("*.list")) and not list(out.glob("*.txt"))
    assert len(list(out.rglob("*.h5"))) >= 1, "what is sound is converted"
    (raw / file).unlink()
    with pytest.raises(UserError, match="missing|no such file"):
        conversion(raw, out, 1)


@pytest.mark.parametrize("conversion, sentence", [
    (convert_la.convert_la, "Training Set/"), (convert_brats.convert_brats, "HGG/ and LGG/"),
    (convert_promise12.convert_promise12, "no Case00.mhd")])
def test_downloads_that_are_something_else(conversion, sentence, tmp_path):
    for raw, expected in ((tmp_path, sentence), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=expected):
            conversion(raw, tmp_path / "out", 1)
