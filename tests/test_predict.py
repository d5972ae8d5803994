"""A finished run on new images: the testers' predictions to the voxel, odd and broken files, going on, and how sure each prediction is."""
from __future__ import annotations

import csv
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel
import numpy as np
import predict
import pytest
import test_2D
import test_3D
import torch
import tyro
from harness import Bench, together
from PIL import Image
from tiny import write_folder

from dataloaders.catalog import named
from dataloaders.description import NewImage
from dataloaders.errors import UserError
from dataloaders.intensities import min_max
from evaluation.results import finished, trained
from inference import inference_of
from prediction.confidence import apart, borders, disagreement, figures, unlike
from prediction.files import FULL, picture_overlay
from prediction.inputs import Entry, Reader, entries_in
from prediction.job import Networks, _native
from prediction.record import Folder, cell
from system.ending import finish_with

pytestmark = pytest.mark.usefixtures("narrow_module")
VOLUME = ("--dataset", "nnunet", "--model", "unet_3D", "--patch_size", "32", "32", "16", "--max_iterations", "2", "--val_every", "2")


@pytest.fixture(scope="module")
def runs(scratch: Path, tiny_acdc: Path, volumes: Path, narrow_module: None) -> dict[str, Path]:
    """Finished runs of three layouts: simEps on h5 slices, supervised on colour photographs, simEps on volumes."""
    pictures = write_folder(scratch / "parts")
    for file in (pictures / "images").iterdir():
        grey = Image.open(file)
        Image.merge("RGB", (grey, grey.point(lambda v: 255 - v), grey)).save(file)
    benches = {name: Bench(scratch / f"predict {name}", root, narrow=True) for name, root in
               (("slices", tiny_acdc), ("pictures", pictures), ("volumes", volumes))}
    ends = together([
        lambda: benches["slices"].train("simEps"),
        lambda: benches["pictures"].train("Supervised", "--dataset", "folder", "--labeled_num", "all", "--max_iterations", "30"),
        lambda: benches["volumes"].train("simEps", *VOLUME, "--num_branches", "2")])
    assert all(end.code == 0 for end in ends), ends
    return {name: bench.run_folder() for name, bench in benches.items()}


def predicted(run: Path, source: Path, output: Path, **options: object) -> int:
    return finish_with(lambda: predict.main(predict.Predict(run, source, output, device="cpu", **options)))  # type: ignore[arg-type]


def table(output: Path, name: str = "confidence.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((output / name).read_text(encoding="utf-8-sig").splitlines()))


def volume(file: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(file).dataobj)


@pytest.fixture(scope="module")
def photographs(runs: dict[str, Path], scratch: Path) -> tuple[Path, Path]:
    """(input, output) of a folder with everything in it that pictures can be."""
    place, source = scratch / "photographs", runs["pictures"]
    images = Path(json.loads((source / "config.json").read_text())["root"]) / "images"
    shutil.copytree(images, place / "whole")
    (place / "left -side").mkdir()
    first = Image.open(images / "piece 0.png")
    for name in ("-x.png", "=1+1.png", "Straße $5$.bmp", "twice.png", "twice.tif", "piece 0.png"):
        first.save(place / "left -side" / name)
    first.convert("L").save(place / "grey.png")
    first.resize((2000, 90)).save(place / "wide.jpg")
    first.save(os.path.join(os.fsencode(place), b"caf\xe9.png"), "PNG")
    whole = (place / "wide.jpg").read_bytes()
    for name, content in {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "page.png": b"<!DOCTYPE html>", "notes.txt": b"x"}.items():
        (place / name).write_bytes(content)
    (place / "gone.png").symlink_to(place / "nowhere")
    output = scratch / "predicted"
    assert predicted(source, place, output, save=("masks", "overlays", "probabilities")) == 0
    return place, output


@pytest.mark.usefixtures("undrawn")
def test_photographs_are_predicted_as_test_2d_does(runs: dict[str, Path], photographs: tuple[Path, Path], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path))
    assert finish_with(lambda: test_2D.main(test_2D.Test(run=runs["pictures"], device="cpu"))) == 0
    tested = sorted((runs["pictures"] / "predictions").glob("*_pred.png"))
    assert tested
    for file in tested:
        ours = np.asarray(Image.open(photographs[1] / "masks" / "whole" / file.name.replace("_pred", "")))
        assert np.array_equal(ours, np.asarray(Image.open(file)))
    assert predicted(runs["pictures"], photographs[0] / "whole", tmp_path / "batches", batch=5, save=("masks",)) == 0
    for file in (tmp_path / "batches" / "masks").iterdir():
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(photographs[1] / "masks" / "whole" / file.name)))


def test_odd_files_get_predictions_and_broken_ones_a_reason(photographs: tuple[Path, Path]) -> None:
    place, output = photographs
    rows = {row["file"]: row for row in table(output)}
    assert len(rows) == 12 + 9
    for name in ("left -side/-x.png", "left -side/=1+1.png", "left -side/Straße $5$.bmp", "grey.png", "wide.jpg"):
        mask = output / "masks" / Path(name).with_suffix(".png")
        assert Image.open(mask).size == Image.open(place / name).size
        assert max(Image.open((output / "overlays" / name).with_suffix(".jpg")).size) in range(350, 1601)
    twins = [output / "masks" / "left -side" / name for name in ("twice.png", "twice.tif.png")]
    assert twins[0].read_bytes() == twins[1].read_bytes() == (output / "masks" / "left -side" / "piece 0.png").read_bytes()
    assert rows["grey.png"]["remarks"] == "grey, read as colour" and "caf\\udce9.png" in rows
    reasons = {row["file"]: row["reason"] for row in table(output, "unreadable.csv")}
    assert sorted(reasons) == ["cut.jpg", "empty.png", "gone.png", "page.png"]
    assert "cut off" in reasons["cut.jpg"] and "web page" in reasons["page.png"] and "empty" in reasons["empty.png"]
    assert reasons["gone.png"] == "there is no such file."
    assert min(Image.open(output / "least_certain.png").size) > 500


def test_probability_maps_sum_to_one(photographs: tuple[Path, Path]) -> None:
    maps = [np.asarray(Image.open(photographs[1] / "probabilities" / "wide" / f"{c}.png")).astype(float) / FULL for c in (0, 1)]
    assert np.abs(sum(maps) - 1).max() < 2 / FULL and 0.01 < maps[1].max() < 1
    mask = np.asarray(Image.open(photographs[1] / "masks" / "wide.png"))
    assert mask.shape == (90, 2000) and np.array_equal(mask, maps[1] > maps[0])


def test_the_least_certain_stand_first(photographs: tuple[Path, Path]) -> None:
    rows = table(photographs[1])
    sure = [float(row["confidence"]) for row in rows]
    assert sure == sorted(sure) and all(0 <= value <= 1 for value in sure)
    for row in rows:
        stem = row["prediction"].replace("\\udce9", "\udce9")
        mask = np.asarray(Image.open(photographs[1] / "masks" / f"{stem}.png"))
        assert ("nothing found" in row["flags"]) == (not mask.any())
        assert float(row["share of class 1"]) == pytest.approx((mask == 1).mean(), abs=0.02), "of the training size"
    flags = next(row["flags"] for row in rows if row["file"] == "wide.jpg")
    assert "image size unlike training's" in flags


def test_the_same_command_goes_on_and_another_is_refused(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output, place = runs["pictures"], tmp_path / "out", tmp_path / "in"
    shutil.copytree(Path(json.loads((run / "config.json").read_text())["root"]) / "images", place)
    assert predicted(run, place, output) == 0
    whole = {file.relative_to(output): file.read_bytes() for file in output.rglob("*.*") if file.name != "done.jsonl"}
    # Killed while the record's fifth line was written, and one mask lost since.
    lines = (output / "done.jsonl").read_text().splitlines(keepends=True)
    (output / "done.jsonl").write_text("".join(lines[:4]) + lines[4][:30])
    lost = output / json.loads(lines[0])["written"][0]
    lost.unlink()
    kept = output / json.loads(lines[1])["written"][0]
    stamp = kept.stat().st_mtime_ns
    capsys.readouterr()
    assert predicted(run, place, output) == 0
    assert "3 of them predicted already" in capsys.readouterr().out and kept.stat().st_mtime_ns == stamp
    assert {file.relative_to(output): file.read_bytes() for file in output.rglob("*.*") if file.name != "done.jsonl"} == whole
    assert predicted(run, place, output) == 0 and "Predicted 0:" in capsys.readouterr().out
    shutil.copy(place / "piece 1.png", place / "piece 0.png")
    assert predicted(run, place, output) == 0 and "11 of them predicted already" in capsys.readouterr().out
    before = kept.read_bytes()
    for words in ({"checkpoint": "last"}, {"save": ("masks",)}):
        assert predicted(run, place, output, **words) == 2
        said = capsys.readouterr().err
        assert "another command" in said and next(iter(words)) in said and "--output" in said
    assert kept.read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("x")
    assert predicted(run, place, tmp_path / "full") == 2 and "thesis.doc" in capsys.readouterr().err


def test_volumes_of_slices_and_the_branches(runs: dict[str, Path], tiny_acdc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    run, case = runs["slices"], "patient009_frame01"
    assert finish_with(lambda: test_2D.main(test_2D.Test(run=run, device="cpu"))) == 0
    tested = volume(run / "predictions" / f"{case}_pred.nii.gz")
    source = tiny_acdc / "data" / f"{case}.h5"
    assert predicted(run, source, tmp_path / "out", save=("masks", "overlays", "probabilities")) == 0
    assert np.array_equal(volume(tmp_path / "out" / "masks" / f"{case}.nii.gz"), tested)
    maps = volume(tmp_path / "out" / "probabilities" / f"{case}.nii.gz")
    assert maps.shape == (*tested.shape, 4) and np.abs(maps.sum(-1) - 1).max() < 1e-5
    assert np.array_equal(maps.argmax(-1), tested)
    (row,) = table(tmp_path / "out")
    differ = float(row["disagreement (1 - Dice)"])
    assert 0 < differ <= 1 and ("networks disagree" in row["flags"]) == (differ > 0.5)
    modules = trained(finished(run), "best", torch.device("cpu")).predictors
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        quoted, each = Networks(modules, "ensemble").logits(images, lambda module: module)
        assert torch.equal(quoted, modules["ensemble"](images)) and len(each) == 3 and not torch.equal(quoted, each[0])
    assert predicted(run, source, tmp_path / "branch", predictor="branch2") == 0
    assert (tmp_path / "branch" / "overlays" / f"{case}.jpg").stat().st_size > 1000
    capsys.readouterr()
    assert predicted(run, source, tmp_path / "no", predictor="branch9") == 2
    assert "branch1" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_volumes_are_predicted_as_test_3d_does(runs: dict[str, Path], volumes: Path, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(test_3D, "draw", lambda *_: None)
    run = runs["volumes"]
    assert finish_with(lambda: test_3D.main(test_3D.Test(run=run, device="cpu"))) == 0
    place = Path(shutil.copytree(volumes / "imagesTs", tmp_path / "in"))
    whole = (place / "Ts0_0000.nii.gz").read_bytes()
    (place / "half_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert predicted(run, place, tmp_path / "out", save=("masks", "overlays", "probabilities")) == 0
    for case in ("Ts0", "Ts1"):
        mask = nibabel.load(tmp_path / "out" / "masks" / f"{case}.nii.gz")
        assert np.array_equal(np.asanyarray(mask.dataobj), volume(run / "predictions" / f"{case}_pred.nii.gz"))
        assert np.array_equal(mask.affine, nibabel.load(place / f"{case}_0000.nii.gz").affine)
        assert np.abs(volume(tmp_path / "out" / "probabilities" / f"{case}.nii.gz").sum(-1) - 1).max() < 1e-5
        assert min(Image.open(tmp_path / "out" / "overlays" / f"{case}.png").size) > 300
    (bad,) = table(tmp_path / "out", "unreadable.csv")
    assert bad["file"] == "half_0000.nii.gz" and "cut off" in bad["reason"]
    assert all(row["disagreement (1 - Dice)"] for row in table(tmp_path / "out"))


def test_bad_arguments_get_a_sentence(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "in"
    place.mkdir()
    (place / "x.txt").write_text("x")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.png").write_bytes(b"")
    unfinished = Path(shutil.copytree(runs["pictures"], tmp_path / "run"))
    (unfinished / "status.json").write_text('{"state": "interrupted"}')
    for run, source, words, said in (
            (tmp_path / "nowhere", place, {}, "no run here"), (unfinished, place, {}, "not finished (interrupted)"),
            (runs["pictures"], tmp_path / "nowhere", {}, "no such file or folder; give the images with --input"),
            (runs["pictures"], place, {}, "found: 1 .txt"),
            (runs["pictures"], bad, {}, "none of 1 files could be read"), (runs["pictures"], bad, {"mirror": True}, "--mirror"),
            (runs["volumes"], place, {"stride": (1, 1)}, "--stride 1 1"), (runs["pictures"], bad, {"save": ()}, "--save"),
            (runs["pictures"], bad, {"batch": -1}, "--batch -1")):
        assert predicted(run, source, tmp_path / "out", **words) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error, error
    assert predicted(runs["pictures"], place, tmp_path) == 2
    assert f"{tmp_path}: holds the images ({place}); give another folder with --output" in capsys.readouterr().err
    asked = tyro.cli(predict.Predict, args=["--run", "r", "--input", "i", "--output", "o", "--save", "masks"], use_underscores=True)
    assert asked.save == ("masks",)


def test_how_raw_files_are_scaled(tmp_path: Path) -> None:
    """A raw volume gets what the converter does, h5 nothing; ISIC's masks have the photograph's size."""
    values = np.random.default_rng(0).integers(0, 900, (7, 6, 3)).astype(np.int16)
    file = tmp_path / "raw.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 2, 3, 1])), file)
    slices = Reader(named("ACDC"))(Entry("raw", (file,), "raw"))
    assert np.array_equal(slices.pixels[0], min_max(values.transpose(), file)) and slices.spacing == (3, 2, 1)
    whole = Reader(named("LA"))(Entry("raw", (file,), "raw"))
    assert whole.pixels.shape == (1, 7, 6, 3) and abs(whole.pixels.mean()) < 1e-6 and abs(whole.pixels.std() - 1) < 1e-6
    head = np.zeros((9, 9, 9), np.int16)
    head[2:7, 1:8, 3:6] = values[:5, :1, :1] + 1
    nibabel.save(nibabel.Nifti1Image(head, np.eye(4)), file)
    brain = Reader(named("BraTS2019"))(Entry("raw", (file,), "raw"))
    assert brain.box == (slice(2, 6), slice(1, 7), slice(3, 5)) and brain.pixels.shape == (1, 4, 6, 2) and brain.size == (9, 9, 9)
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["image"] = values[0].astype(np.float32)
    assert np.array_equal(Reader(named("ACDC"))(Entry("x", (tmp_path / "x.h5",), "x")).pixels[0, 0], values[0])
    with pytest.raises(UserError, match="'image' has the shape"):
        Reader(named("LA"))(Entry("x", (tmp_path / "x.h5",), "x"))
    Image.new("RGB", (300, 500), (9, 9, 9)).save(tmp_path / "skin.jpg")
    skin = Reader(named("ISIC"))(Entry("skin", (tmp_path / "skin.jpg",), "skin"))
    assert skin.pixels.shape == (3, 1, 224, 224) and skin.size == (500, 300)


def test_what_a_mask_is_written_at() -> None:
    """BraTS: the box in the whole volume. Slices: an empty last row of the mapping (256 -> 216) is background, in mask and maps."""
    box = (slice(1, 3), slice(0, 2), slice(2, 3))
    image = NewImage(np.zeros((1, 2, 2, 1)), (4, 3, 3), box=box)
    job = SimpleNamespace(flat=False)
    whole = _native(np.full((2, 2, 2, 1), 0.5, np.float32), SimpleNamespace(image=image), job)  # type: ignore[arg-type]
    assert whole.shape == (2, 4, 3, 3) and (whole.sum(0) == 1).all() and whole[1].sum() == 2 and (whole[1][box] == 0.5).all()
    job = SimpleNamespace(flat=True, inference=inference_of(named("ACDC"), (256, 256), None, torch.device("cpu")))
    ready = SimpleNamespace(image=NewImage(np.zeros((1, 1, 0, 0)), (216, 216)), inner=(216, 216))
    maps = _native(np.full((2, 1, 256, 256), 0.5, np.float32), ready, job)  # type: ignore[arg-type]
    assert maps.shape == (2, 1, 216, 216) and (maps.sum(0) == 1).all() and (maps[0, 0, -1] == 1).all()


def test_figures_by_hand() -> None:
    even = torch.full((4, 1, 6, 6), 0.25)
    told, entropy = figures(even, torch.zeros(1, 6, 6, dtype=torch.uint8), [], flat=True)
    assert told.entropy == pytest.approx(1) and entropy.shape == (1, 6, 6) and told.border_entropy is None
    assert told.confidence == pytest.approx(0.75) and told.shares == (1, 0, 0, 0) and told.disagreement is None
    labels = torch.zeros(1, 6, 6, dtype=torch.uint8)
    labels[0, 2:4, 2:4] = 1
    sure = torch.stack([labels == 0, labels == 1]).float()
    told, _ = figures(sure, labels, [], flat=True)
    assert told.confidence == 1 and told.entropy == 0 and told.border_entropy == 0 and told.shares[1] == pytest.approx(4 / 36)
    told, _ = figures(0.8 * sure + 0.1, labels, [], flat=True)
    assert told.confidence == pytest.approx(2 * 4 * 0.9 / (4 * 0.9 + 32 * 0.1 + 4))
    assert told.entropy == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2))
    assert borders(labels, True).sum() == 4 + 8
    moved = labels.roll(1, 2)
    assert disagreement([labels, moved], 2) == pytest.approx(0.5) and disagreement([labels * 0, labels * 0], 2) == 0
    assert disagreement([labels, labels, moved], 2) == pytest.approx(1 / 3) and disagreement([labels, labels * 0], 2) == 1
    told, _ = figures(sure, labels, [labels, moved], flat=True)
    assert told.confidence == 1 and told.disagreement == pytest.approx(0.5) and apart(told) == []
    assert apart(replace(told, disagreement=0.6)) == ["networks disagree"]
    deep = torch.zeros(3, 3, 3, dtype=torch.uint8)
    deep[1, 1, 1] = 1
    assert borders(deep, False).sum() == 7 and borders(deep, True).sum() == 5


def test_what_is_unlike_training() -> None:
    known = {"cases": 3, "sides": [100, 200], "mean": [0.4, 0.5], "deviation": [0.1, 0.2], "shares": {"crack": [0.01, 0.1]}}
    assert unlike(known, {"crack": 0.05}, (100, 200), (0.45, 0.15)) == []
    assert unlike(known, {"crack": 0.0}, (100, 200), (0.45, 0.15)) == ["nothing found"]
    assert unlike(known, {"crack": 0.3}, (100, 500), (0.9, 0.15)) == [
        "image size unlike training's", "intensities unlike training's", "crack larger than in training"]
    assert unlike({"cases": 0}, {"crack": 0.3}, (1, 1), (9, 9)) == []


def test_names_never_meet_and_cells_are_text(tmp_path: Path) -> None:
    for name in ("b/aB.png", "b/aB.jpg", "b/AB.bmp", "c_0000.nii.gz", "c_0001.nii.gz", ".hidden.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    pictures, others = entries_in(tmp_path / "in", Reader(named("NEU-Seg")), tmp_path / "out")
    assert [entry.name for entry in pictures] == ["b/AB.bmp", "b/aB.jpg", "b/aB.png"] and others == {".gz": 2}
    folder = Folder(tmp_path / "out", {"run": "x"})
    assert sorted(folder.names(pictures).values()) == ["b/AB", "b/aB.jpg", "b/aB.png"]
    with pytest.raises(UserError, match="in use by"):
        Folder(tmp_path / "out", {"run": "x"})
    folder.close()
    two = Reader(replace(named("nnunet"), channels=2))
    (entry,) = entries_in(tmp_path / "in", two, tmp_path / "out")[0]
    assert entry.stem == "c" and [file.name for file in entry.files] == ["c_0000.nii.gz", "c_0001.nii.gz"]
    assert [cell(text) for text in ("=1", "+1", "-1", "@x", "a=1", "a\nb")] == ["'=1", "'+1", "'-1", "'@x", "a=1", "a\\nb"]


def test_a_small_defect_is_seen_in_the_overlay_of_a_large_picture(tmp_path: Path) -> None:
    labels = np.zeros((3000, 5000), np.uint8)
    labels[1001, 2002] = 1
    picture_overlay(tmp_path / "x", np.full((3, 750, 1250), 128, np.uint8), labels)
    drawn = np.asarray(Image.open(tmp_path / "x.jpg")).astype(int)
    assert drawn.shape == (750, 1250, 3) and np.abs(drawn - 128).max() > 40
