"""Volumes from end to end: trained, validated, interrupted, resumed and tested by the scripts; predictions lie where their images lie."""
from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest
import test_3D
from harness import Bench, outcome
from tiny import AFFINE, save_volume

from system.ending import finish_with

VOLUME = ("--dataset", "nnunet", "--model", "unet_3D", "--patch_size", "32", "32", "16", "--max_iterations", "4", "--val_every", "2",
          "--save_every", "1")
METHODS = {
    "Supervised": ("--batch_size", "2"),
    "MeanTeacher": (),
    "simEps": ("--num_branches", "2"),
}


@pytest.fixture(scope="module")
def runs(scratch: Path, volumes: Path) -> Bench:
    """A finished run of one network, of a student and its teacher, and of branches. Every script: test_every_method.py."""
    bench = Bench(scratch / "volumes", volumes, narrow=True)
    for method, words in METHODS.items():
        end = bench.train(method, *VOLUME, "--exp", method, *words)
        assert end.code == 0, end.out + end.err
        assert "validation Dice" in end.out and "test_3D.py --run" in end.out and "training volumes labelled" in end.out
    return bench


def run_test(**options: object) -> int:
    return finish_with(lambda: test_3D.main(test_3D.Test(device="cpu", **options)))  # type: ignore[arg-type]


@pytest.fixture
def places(runs: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, narrow: None) -> Path:
    monkeypatch.setenv("SEMISEG_MODEL", str(runs.folder / "model"))
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_tested(method: str, runs: Bench, volumes: Path, places: Path, capsys: pytest.CaptureFixture[str],
                         request: pytest.FixtureRequest) -> None:
    if method != "Supervised":
        request.getfixturevalue("undrawn")
    assert run_test(exp=method) == 0
    screen = capsys.readouterr().out
    assert "HD95 mm" in screen and "Sliding window 32x32x16, stride 16x16x8" in screen
    files = {path.name: json.loads(path.read_text()) for path in places.rglob("*.json")}
    result = next(value for name, value in files.items() if value["run"]["predictor"] in ("network", "student", "ensemble"))
    assert [case["name"] for case in result["cases"]] == ["Ts0", "Ts1"] and result["cases"][0]["class"] == "ball"
    assert result["run"]["dimensions"] == 3 and result["run"]["test"]["stride"] == [16, 16, 8]
    pictures = sorted(path.name for path in places.rglob("*.png"))
    for kind in ("planes", "surface"):
        assert len([name for name in pictures if kind in name]) == 3 * (method == "Supervised")
    folder = next((runs.folder / "model").glob(f"{method}_*/*/*")) / "predictions"
    image = nibabel.load(volumes / "imagesTs" / "Ts0_0000.nii.gz")
    for kind in ("img", "pred", "gt"):
        written = nibabel.load(folder / f"Ts0_{kind}.nii.gz")
        assert written.shape == image.shape
        assert np.allclose(written.affine, image.affine, atol=0.2), "the affine of the image, up to its small shear"
    reference = np.asanyarray(nibabel.load(volumes / "labelsTs" / "Ts0.nii.gz").dataobj)
    assert np.array_equal(np.asanyarray(nibabel.load(folder / "Ts0_gt.nii.gz").dataobj), reference)


def test_a_prediction_opens_exactly_over_its_image(scratch: Path, volumes: Path, places: Path, tmp_path: Path) -> None:
    """An affine without shear is kept to the precision of the header, oblique and anisotropic as it is."""
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (0.7, 0.8, 2.5), (30, -20, 10)
    root = Path(shutil.copytree(volumes, tmp_path / "data" / "oblique"))
    for file in root.rglob("*.nii.gz"):
        save_volume(file, np.asanyarray(nibabel.load(file).dataobj).copy(), affine)
    bench = Bench(tmp_path / "bench", root, narrow=True)
    assert bench.train("Supervised", *VOLUME, "--max_iterations", "1", "--batch_size", "2").code == 0
    assert run_test(run=bench.run_folder()) == 0
    written = nibabel.load(bench.run_folder() / "predictions" / "Ts1_pred.nii.gz")
    assert np.allclose(written.affine, affine, atol=1e-4)
    assert AFFINE.shape == (4, 4)


def test_a_killed_run_goes_on_to_the_bit(runs: Bench, volumes: Path, scratch: Path) -> None:
    bench = Bench(scratch / "killed volumes", volumes, narrow=True)
    words = (*VOLUME, "--exp", "MeanTeacher")
    assert bench.train("MeanTeacher", *words, fault="kill@step:3").code == -signal.SIGKILL
    end = bench.train("MeanTeacher", *words)
    assert end.code == 0 and "resumed at step 2" in end.out, end.out + end.err
    whole = next((runs.folder / "model").glob("MeanTeacher_*/*/*"))
    assert outcome(bench.run_folder()) == outcome(whole)


def test_options_of_the_tester(runs: Bench, places: Path, undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_test(exp="Supervised", stride=(32, 32, 16), gaussian=True, mirror=True, nms=True, sw_batch=2) == 0
    assert "stride 32x32x16, gaussian, mirror, nms" in capsys.readouterr().out
    (result,) = [json.loads(path.read_text()) for path in places.rglob("*.json")]
    assert result["run"]["test"]["nms"] and result["run"]["test"]["stride"] == [32, 32, 16]
    assert run_test(exp="Supervised", stride=(33, 32, 16)) == 2
    assert "--stride 33 32 16" in capsys.readouterr().err


BAD = {
    "a network for images": (("--model", "unet"), ("--model unet", "2D", "unet_3D")),
    "a patch of two sides": (("--patch_size", "32", "32"), ("--patch_size 32 32", "3 positive sides")),
    "a patch that does not fit": (("--patch_size", "30", "32", "16"), ("multiples of 16", "32 32 16")),
    "a patch of one position": (("--patch_size", "16", "16", "16"), ("--patch_size 16 16 16", "one position")),
    "a stride beyond the patch": (("--stride", "33", "32", "16"), ("--stride 33 32 16", "32 32 16")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_get_a_sentence(name: str, volumes: Path, scratch: Path) -> None:
    words, sentences = BAD[name]
    end = Bench(scratch / f"bad {name}", volumes, narrow=True).train("Supervised", *VOLUME, *words)
    assert end.code == 2 and "Traceback" not in end.err
    assert all(sentence in end.err for sentence in sentences), end.err


def test_an_image_set_has_no_stride(bench: Bench) -> None:
    end = bench.train("Supervised", "--stride", "16", "16", "16")
    assert end.code == 2 and "--stride" in end.err and "volumes" in end.err


def test_a_volume_smaller_than_the_patch_is_padded(volumes: Path, scratch: Path) -> None:
    bench = Bench(scratch / "small volumes", volumes, narrow=True)
    end = bench.train("MeanTeacher", *VOLUME, "--patch_size", "64", "48", "32", "--max_iterations", "1")
    assert end.code == 0, end.out + end.err
