"""The synthetic data set: its files, its determinism, and that a cut-off drawing is never used."""
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloaders.catalog import DATA_SETS, open_source
from dataloaders.errors import UserError
from dataloaders.layouts import drawn
from dataloaders.layouts import phantom as layout
from dataloaders.phantoms.phantom import CONTRACTED, RELAXED, VERSION, draw_patient

CODE = Path(__file__).resolve().parent.parent / "code"
LEFT, MUSCLE, RIGHT = 3, 2, 1


@pytest.fixture(scope="module")
def patients():
    return [draw_patient(0, number) for number in range(1, 9)]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(layout, "PATIENTS", {"train": 2, "val": 1, "test": 1})


def digest(frames):
    return hashlib.sha256(b"".join(array.tobytes() for frame in frames for array in frame)).hexdigest()[:16]


def test_the_bytes_of_a_seed_are_the_same_on_every_machine(patients):
    assert [digest(p) for p in patients[:2]] == ["197cad0b9f294557", "9557057b8da84beb"], "the drawing changed: raise VERSION"
    assert digest(draw_patient(1, 1)) != digest(patients[0])


def test_arrays_are_what_real_data_are(patients):
    for frames in patients:
        for image, label in frames:
            assert image.dtype == np.float32 and label.dtype == np.uint8 and image.shape == label.shape
            assert image.min() == 0 and image.max() == 1
            depth, height, width = image.shape
            assert 6 <= depth <= 8 and 64 <= height <= 80 and 64 <= width <= 80
            assert set(np.unique(label)) == {0, 1, 2, 3}
    assert len({frames[0][0].shape for frames in patients}) > 4


def test_the_heart_beats_and_tapers(patients):
    for frames in patients:
        relaxed, contracted = frames[RELAXED][1], frames[CONTRACTED][1]
        assert (contracted == LEFT).sum() < (relaxed == LEFT).sum()
        for label in (relaxed, contracted):
            areas = [(label == c).sum((1, 2)) for c in (RIGHT, MUSCLE, LEFT)]
            assert all(a[-1] < a[0] for a in areas)
            assert areas[0][-1] == 0 and all(areas[1] > 0) and all(areas[2] > 0)


def test_blood_is_inside_the_ring(patients):
    """Every neighbour of a pixel of the left ventricle is blood or muscle."""
    for frames in patients:
        for _, label in frames:
            inside = label == LEFT
            for axis in (1, 2):
                for step in (-1, 1):
                    assert set(np.unique(np.roll(label, step, axis)[inside])) <= {MUSCLE, LEFT}


def test_no_threshold_finds_the_heart(patients):
    """Many pixels elsewhere have the intensities of muscle, and these differ from patient to patient."""
    means, elsewhere, all_muscle = [], 0, 0
    for frames in patients:
        image, label = frames[RELAXED]
        muscle = image[label == MUSCLE]
        low, high = np.percentile(muscle, (10, 90))
        elsewhere += ((image >= low) & (image <= high) & (label == 0)).sum()
        all_muscle += muscle.size
        means.append(muscle.mean())
    assert elsewhere > all_muscle
    assert max(means) > 1.5 * min(means)


def test_layout_is_that_of_acdc(tmp_path, small):
    root = tmp_path / "made" / "on" / "the" / "way" / "Phantom"
    source = open_source(DATA_SETS["Phantom"], root)
    assert [case.name for case in source.cases("val")] == ["patient003_frame01", "patient003_frame02"]
    train = source.cases("train")
    items = source.items(train)
    assert len(train) == 4 and {case.group for case in train} == {"patient001", "patient002"}
    assert len(items) == sum(source.image(case).shape[1] for case in train)
    for item in items[:3]:
        k = int(item.name.rsplit("_", 1)[1]) - 1
        np.testing.assert_array_equal(source.image(item), source.image(item.case)[:, k])
        np.testing.assert_array_equal(source.label(item), source.label(item.case)[k])
    with h5py.File(root / "data" / "slices" / "patient004_frame02_slice_1.h5") as file:
        assert file["image"].ndim == 2
    description = json.loads((root / "dataset.json").read_text())
    assert description["synthetic"] is True and description["seed"] == 0
    assert type(source).fits(root) and not type(source).fits(tmp_path)


def test_drawn_once(tmp_path, small, monkeypatch):
    layout.ensure(tmp_path / "P")
    monkeypatch.setattr(layout, "draw", lambda *_: pytest.fail("drawn again"))
    layout.ensure(tmp_path / "P")
    assert [p.name for p in tmp_path.iterdir()] == ["P"]


def test_cut_off_drawing_is_not_used(tmp_path, small, monkeypatch):
    def cut(path, image, label):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(layout, "write_h5", cut)
        with pytest.raises(UserError, match="No space left.*--root_path"):
            layout.ensure(tmp_path / "P")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "P").mkdir()
    layout.ensure(tmp_path / "P")
    assert (tmp_path / "P" / "dataset.json").is_file()


def test_killed_drawing_leaves_nothing_at_the_place(tmp_path):
    program = "import sys; from pathlib import Path; from dataloaders.layouts.phantom import ensure; ensure(Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "P")], cwd=CODE, env=os.environ | {"PYTHONPATH": str(CODE)})
    limit = time.monotonic() + 60
    try:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert [p.name.startswith(".P.drawing-") for p in tmp_path.iterdir()] == [True]


def test_two_at_once(tmp_path, small, monkeypatch):
    """The second one finds the place taken when it has drawn, and leaves what is there."""
    move_in = drawn.move_in

    def overtaken(workshop, root, expected):
        with monkeypatch.context() as patch:
            patch.setattr(drawn, "move_in", move_in)
            layout.ensure(root)
        (root / "first").touch()
        move_in(workshop, root, expected)

    monkeypatch.setattr(drawn, "move_in", overtaken)
    layout.ensure(tmp_path / "P")
    assert (tmp_path / "P" / "first").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["P"]


@pytest.mark.parametrize("found, message", [
    ({"name": "Phantom", "synthetic": True, "seed": 7, "version": VERSION}, "seed 7 instead of 0"),
    ({"name": "other"}, "name 'other' instead of 'Phantom'"),
    ([], "holds another data set"),
])
def test_another_drawing_is_refused(tmp_path, found, message):
    (tmp_path / "dataset.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        layout.ensure(tmp_path)


def test_nothing_is_drawn_over_other_files(tmp_path):
    (tmp_path / "precious.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        layout.ensure(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        layout.ensure(tmp_path)
    with pytest.raises(UserError):
        layout.ensure(tmp_path / "precious.txt")
    with pytest.raises(UserError):
        layout.ensure(tmp_path / "precious.txt" / "P")
