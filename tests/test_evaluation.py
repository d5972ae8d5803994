"""test_2D: what it chooses, what it writes, what it says of bad test cases; and validation's prediction of a case."""
from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel
import numpy as np
import pytest
import test_2D
import torch
from harness import Bench
from PIL import Image
from scipy import ndimage
from tiny import write_folder

from dataloaders import catalog
from dataloaders.catalog import DATA_SETS
from dataloaders.errors import UserError
from evaluation.results import Trained, check_names, check_same_kind
from prediction.inputs import reader_for
from storage import checkpoint
from storage.sealed import parsed
from system.ending import finish_with

pytestmark = pytest.mark.usefixtures("narrow_module")


@pytest.fixture(scope="module")
def trained(scratch: Path, tiny_acdc: Path) -> Bench:
    """A finished simEps run on the tiny ACDC."""
    bench = Bench(scratch / "evaluation", tiny_acdc, narrow=True)
    assert bench.train("simEps").code == 0
    return bench


@pytest.fixture
def copied(trained: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run to test or to damage; gives its folder."""
    shutil.copytree(trained.folder / "model", tmp_path / "model")
    monkeypatch.setenv("SEMISEG_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    return next((tmp_path / "model").rglob("config.json")).parent


def run_test(**options: object) -> int:
    return finish_with(lambda: test_2D.main(test_2D.Test(device="cpu", **options)))  # type: ignore[arg-type]


def results(tmp_path: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")}


def with_data(run: Path, root: Path) -> None:
    config = parsed((run / "config.json").read_bytes())
    (run / "config.json").write_text(json.dumps({**config, "root": str(root)}))


def test_everything_is_written(copied: Path, tmp_path: Path, tiny_acdc: Path, capsys: pytest.CaptureFixture[str],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read(path))
    assert run_test() == 0
    assert opened.count("best.pt") == 1, "whatever the number of predictors"
    screen = capsys.readouterr().out
    assert "the newest finished 2D run" in screen and "right ventricle" in screen and "spacing of 1 cases is unknown" in screen
    found = results(tmp_path)
    main = [name for name in found if not name.endswith(("branch1", "branch2", "branch3"))]
    assert len(found) == 4 and len(main) == 1
    result = found[main[0]]
    assert result["schema"] == 1 and result["run"]["predictor"] == "ensemble" and result["run"]["selection"] == "best on validation cases"
    assert set(result["run"]["selected"]) == {"branch1", "branch2", "branch3"}
    assert result["run"]["split"]["labeled"] == ["patient001_frame01", "patient002_frame01"]
    assert {row["class"] for row in result["cases"]} == {"right ventricle", "myocardium", "left ventricle"}
    assert {"dice", "jaccard", "hd95_vox", "asd_vox", "missed"} <= set(result["summary"]["mean"])
    case = "patient009_frame01"
    with h5py.File(tiny_acdc / "data" / f"{case}.h5") as file:
        label = file["label"][()]
    reference = np.asarray(nibabel.load(copied / "predictions" / f"{case}_gt.nii.gz").dataobj).T
    assert np.array_equal(reference, label)
    prediction = np.asarray(nibabel.load(copied / "predictions" / f"{case}_pred.nii.gz").dataobj).T
    assert prediction.shape == label.shape
    overlap = 2 * ((prediction == 3) & (label == 3)).sum() / ((prediction == 3).sum() + (label == 3).sum())
    written = next(row["dice"] for row in result["cases"] if row["class"] == "left ventricle")
    assert written == pytest.approx(overlap)
    for picture in ("best_median_worst.png", "learning_curves.png"):
        assert min(Image.open(copied / picture).size) > 200


def test_long_names_fit_above_a_panel() -> None:
    from pictures.sheets import brief
    assert brief("patient001") == "patient001" and brief("ab" * 14) == "ab" * 14 and brief("a" * 40 + "b" * 24) == "a" * 13 + "…" + "b" * 13


@pytest.mark.usefixtures("undrawn")
def test_spacing_travels(copied: Path, tmp_path: Path, tiny_acdc: Path) -> None:
    root = Path(shutil.copytree(tiny_acdc, tmp_path / "data"))
    with h5py.File(root / "data" / "patient009_frame01.h5", "a") as file:
        file.attrs["spacing"] = (9.0, 1.5, 1.25)
    with_data(copied, root)
    assert run_test() == 0
    image = nibabel.load(copied / "predictions" / "patient009_frame01_pred.nii.gz")
    assert image.header.get_zooms() == pytest.approx((1.25, 1.5, 9.0))
    assert all("hd95_mm" in result["summary"]["mean"] for result in results(tmp_path).values())


@pytest.mark.usefixtures("undrawn")
def test_background_only_is_worst_case_not_a_crash(copied: Path, tmp_path: Path) -> None:
    best = torch.load(copied / "best.pt", weights_only=True)
    for entry in best["predictors"].values():
        entry["state"]["out.weight"].zero_()
        entry["state"]["out.bias"].copy_(torch.tensor([1.0, 0, 0, 0]))
    checkpoint.save(copied / "best.pt", best)
    assert run_test() == 0
    for result in results(tmp_path).values():
        mean = result["summary"]["mean"]
        assert mean["dice"] == 0 and mean["missed"] == 3
        assert mean["hd95_vox"] == pytest.approx(np.sqrt(3**2 + 48**2 + 40**2))
    assert run_test(empty="published") == 0
    assert all(result["summary"]["mean"]["hd95_vox"] == 0 for result in results(tmp_path).values())


@pytest.mark.usefixtures("undrawn")
def test_medpy_agrees(copied: Path, tmp_path: Path) -> None:
    summaries = []
    for backend in ("numba", "medpy"):
        assert run_test(metric_backend=backend) == 0
        summaries.append([row["hd95_vox"] for result in results(tmp_path).values() for row in result["cases"]])
    assert summaries[0] == pytest.approx(summaries[1], rel=1e-9)


@pytest.mark.usefixtures("undrawn")
def test_last_step(copied: Path, tmp_path: Path) -> None:
    assert run_test(checkpoint="last") == 0
    assert all(result["run"]["selection"] == "last step" for result in results(tmp_path).values())


def damage(how: str, root: Path) -> None:
    file = root / "data" / "patient009_frame01.h5"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:500])
    elif how == "missing":
        file.unlink()
    elif how == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    else:
        with h5py.File(file, "a") as h5:
            if how == "label value":
                h5["label"][0, 0, 0] = 7
            elif how == "no label":
                del h5["label"]
            elif how == "nan":
                h5["image"][0, 0, 0] = np.nan
            elif how == "shape":
                label = h5["label"][:, :-1]
                del h5["label"]
                h5["label"] = label


@pytest.mark.parametrize("how", ["truncated", "missing", "pointer", "label value", "no label", "nan", "shape"])
def test_bad_test_case_is_a_sentence(how: str, copied: Path, tmp_path: Path, tiny_acdc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(tiny_acdc, tmp_path / "data"))
    damage(how, root)
    with_data(copied, root)
    assert run_test() == 2
    said = capsys.readouterr()
    assert "patient009_frame01" in said.err and "Traceback" not in said.err
    assert not (tmp_path / "results").exists()


def test_damaged_checkpoint(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((copied / "best.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "best.pt").write_bytes(content)
    assert run_test() == 4
    assert "best.pt" in capsys.readouterr().err


def test_what_is_not_there(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test(seed=5) == 2
    assert "--seed 5" in capsys.readouterr().err
    assert run_test(run=copied.parent) == 2
    (copied / "status.json").write_text(json.dumps({"state": "interrupted", "step": 3}))
    assert run_test(run=copied) == 2
    assert "not finished" in capsys.readouterr().err


def test_newest_run_is_taken(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(copied, copied.with_name("other")))
    os.utime(other / "status.json", (0, 0))
    assert run_test() == 0
    assert f"Testing {copied} " in capsys.readouterr().out


def test_own_folder(scratch: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(scratch / "own evaluation", tiny_folder, narrow=True)
    assert bench.train("Supervised", "--dataset", "folder").code == 0
    monkeypatch.setenv("SEMISEG_MODEL", str(bench.folder / "model"))
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    assert run_test() == 0
    (result,) = results(tmp_path).values()
    images = result["images"]["native"]
    assert {"per_image", "data_set", "detection"} == set(images)
    run = bench.run_folder()
    prediction = np.asarray(Image.open(next((run / "predictions").glob("*_pred.png"))))
    assert prediction.shape == (48, 48) and set(np.unique(prediction)) <= {0, 1}


def test_resize_is_scipys() -> None:
    from dataloaders.zoom import resize_nearest

    image = np.random.default_rng(1).normal(size=(3, 37, 29))
    assert np.array_equal(resize_nearest(image, (32, 40)), np.stack([ndimage.zoom(one, (32 / 37, 40 / 29), order=0) for one in image]))


def test_refusal_names_the_run() -> None:
    with pytest.raises(UserError, match="no run here"):
        test_2D.main(test_2D.Test(run=Path("nowhere")))


def test_a_result_names_its_script_without_the_place_of_the_repository() -> None:
    from evaluation.results import as_typed
    from storage.folders import REPOSITORY
    assert as_typed(f"{REPOSITORY}/code/train_CPS.py --seed 1") == "code/train_CPS.py --seed 1"
    assert as_typed("code/train_CPS.py --root_path /data/x") == "code/train_CPS.py --root_path /data/x"


def test_data_of_another_kind_than_the_networks_are_refused() -> None:
    data = DATA_SETS["ACDC"]
    network = SimpleNamespace(spec={"arguments": {"num_classes": data.num_classes, "in_channels": 1}})
    found = Trained({"ensemble": SimpleNamespace(), "network": network}, {}, "")  # type: ignore[dict-item]
    check_same_kind(found, data, "D")
    for other, said in ((replace(data, classes=("background", "a")), r"D: has 2 classes \(background, a\) now, and had 4"),
                        (replace(data, channels=3), "D: has 3 channels now, and had 1")):
        with pytest.raises(UserError, match=said):
            check_same_kind(found, other, "D")


def test_classes_that_are_called_otherwise_by_now_are_told(tmp_path: Path) -> None:
    """Names are written beside the run: the folder's may have changed, and say nothing of what the networks learned."""
    root = write_folder(tmp_path / "D", 3, 2)
    config = {"root": str(root), "data_set": "folder", "dimensions": 2, "options": {}, "classes": ["background", "scratch", "spot"]}
    for names, said in (("background scratch spot", ""), ("background scratch blot", "called background, scratch, blot now")):
        (root / "classes.txt").write_text("\n".join(names.split()) + "\n")
        data = dataclasses.replace(catalog.named("folder", 2), classes=tuple(names.split()), channels=3)
        assert (said in check_names(config, data)) if said else check_names(config, data) == ""
        reader = reader_for(config, {"num_classes": 3, "in_channels": 3})
        assert list(reader.data.classes) == config["classes"] and bool(reader.remark) == bool(said)
    data = dataclasses.replace(data, classes=("background", "spot", "scratch"))
    with pytest.raises(UserError, match="same names in another order"):
        check_names(config, data)
    assert check_names({"root": str(root)}, data) == "", "a run of before they were written down"
    (root / "classes.txt").unlink()
    reader = reader_for(config, {"num_classes": 3, "in_channels": 3})
    assert list(reader.data.classes) == config["classes"] and not reader.remark, "whose folder is no longer as it was"
