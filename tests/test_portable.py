"""A run that leaves the house: predict_onnx.py does what this program does, with numpy alone, and the exported network is the run's."""
from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import export
import nibabel
import numpy as np
import pytest
import torch
from harness import Bench
from PIL import Image
from tiny import AFFINE, ball

from dataloaders.catalog import EVERY, named
from dataloaders.errors import UserError
from dataloaders.intensities import clipped, min_max, scaled, standardised
from dataloaders.layouts.common import read_picture
from dataloaders.zoom import resize_nearest
from inference import inference_of
from inference.windows import sliding_window
from portable import formats, predict_onnx
from portable.checking import Checked
from portable.description import described, reading_of
from system.ending import finish_with

pytestmark = pytest.mark.usefixtures("narrow_module")
OURS = Path(predict_onnx.__file__)
ONNX = pytest.mark.skipif(any(find_spec(name) is None for name in formats.NEEDED),
                          reason=f"{', '.join(formats.NEEDED)} are optional (requirements-optional.txt)")
CPU = torch.device("cpu")


def test_the_script_needs_numpy_pillow_and_onnxruntime_alone() -> None:
    nodes = list(ast.walk(ast.parse(OURS.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", "PIL", "onnxruntime", "nibabel"}


@pytest.mark.parametrize("mapping", ["corner", "floor"])
@pytest.mark.parametrize("size", [(256, 216), (7, 5), (1, 40)])
def test_resizing_is_ours(mapping: str, size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 255, (2, 3, 256, 31), np.uint8)
    assert np.array_equal(predict_onnx.resized(array, size, mapping), resize_nearest(array, size, mapping))  # type: ignore[call-overload]


def test_pictures_are_read_as_ours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    eight, deep = rng.integers(0, 255, (9, 12, 3), np.uint8), rng.integers(0, 4000, (9, 12)).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(eight).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(eight).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(eight).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(rng.random((9, 12), np.float32)).save(tmp_path / "float.tif")
    for file in tmp_path.iterdir():
        for channels in (1, 3):
            for white in (None, 1023.0) if file.stem == "deep" else (None,):
                theirs, size = predict_onnx.read_picture(file, channels, {"white": white, "reduced": None})
                assert np.array_equal(theirs, read_picture(file, channels, white)) and size == theirs.shape[1:], file.name


def test_volumes_are_scaled_as_ours() -> None:
    values, file = np.random.default_rng(0).normal(90, 30, (8, 9, 7)).astype(np.float32), Path("x")
    for scheme in ("zscore", "ct", "none"):
        assert np.array_equal(predict_onnx.scaled(values, scheme), scaled(values, scheme))
    for scheme, ours in (("min_max", min_max), ("standardised", standardised), ("clipped", clipped)):
        assert np.array_equal(predict_onnx.scaled(values, scheme), ours(values, file))


def test_windows_and_borders_are_ours() -> None:
    image = torch.randn(1, 11, 6, 9)
    told = {"size": [8, 8, 4], "stride": [4, 4, 2], "classes": ["a", "b", "c"]}

    def network(windows: torch.Tensor) -> torch.Tensor:
        ramp = torch.arange(8.0).view(1, 1, 8, 1, 1)
        return torch.cat([windows, windows.flip(4) + 0.1 * ramp, -windows], 1)

    ours = sliding_window(network, image, 3, told["size"], told["stride"])  # type: ignore[arg-type]
    theirs = predict_onnx.by_windows(lambda windows: network(torch.from_numpy(windows)).numpy(), image.numpy(), told)
    assert np.array_equal(theirs, ours.numpy()) and len(np.unique(theirs)) == 3
    whole = inference_of(named("CamVid"), (64, 64), None, CPU)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 2, 21, 45), np.uint8)

    def summed(images: torch.Tensor) -> torch.Tensor:
        assert not images.shape[2] % 16 and not images.shape[3] % 16
        return torch.stack([images.cumsum(3).sum(1), images.flip(2).cumsum(2).sum(1)], 1)

    summed.multiple = 16  # type: ignore[attr-defined]
    story = described(whole, summed, {})
    assert np.array_equal(predict_onnx.predict(lambda x: summed(torch.from_numpy(x)).numpy(), pixels, story), whole.labels(summed, pixels))


def test_every_data_set_is_described_or_refused() -> None:
    kinds = {}
    for data in EVERY:
        try:
            kinds[data.name, data.dimensions] = reading_of(data)
        except UserError as error:
            kinds[data.name, data.dimensions] = str(error)
    assert kinds["ISIC", 2]["reduced"] == [224, 224] and kinds["ACDC", 2]["scaling"] == ["min_max"]
    assert kinds["LA", 3]["scaling"] == ["standardised"] and kinds["BraTS2019", 3]["scaling"] == [], "cropped to the brain: arrays alone"
    assert kinds["folder", 2]["kind"] == "picture" and not [told for told in kinds.values() if isinstance(told, str)]


def exported(run: Path, **options: object) -> int:
    return finish_with(lambda: export.main(export.Export(run, **options)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(scratch: Path, tiny_folder: Path, narrow_module: None) -> Path:
    """Mean Teacher on photographs."""
    bench = Bench(scratch / "export", tiny_folder, narrow=True)
    end = bench.train("MeanTeacher", "--dataset", "folder", "--labeled_num", "all", "--max_iterations", "20")
    assert end.code == 0, end.err
    return bench.run_folder()


def test_without_onnx_a_sentence_says_what_to_type(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else True)
    assert exported(run) == 2
    assert "needs onnxscript, which is not installed: python -m pip install -r requirements-optional.txt" in capsys.readouterr().err
    assert all(f"\n{name}>=" in (OURS.parents[2] / formats.OPTIONAL).read_text() for name in formats.NEEDED)


def test_torch_export_is_checked_and_kept(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(run, output=tmp_path, format="torch_export", predictor="teacher") == 0
    said = capsys.readouterr().out
    assert "label maps are equal" in said and "PyTorch" in said and "torch.export" in said
    told = {"semisegbench.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=told).module()
    assert json.loads(told["semisegbench.json"])["predictor"] == "teacher"
    assert [program(torch.zeros(n, 1, 32, 32)).shape[0] for n in (1, 3)] == [1, 3], "a batch of any size"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_a_model_that_fails_the_check_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(formats.Portable, "forward", lambda self, images: self.predictor(images).flip(1))
    assert exported(run, output=tmp_path, format="torch_export") == 3
    assert "The check failed on" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert Checked(1, 9, 2, 1e-5).sound and not Checked(1, 9, 2, 0.1).sound and "within 1e-05" in str(Checked(1, 9, 2, 1e-5))


@ONNX
def test_onnx_predicts_what_the_run_does(run: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(run, output=tmp_path) == 0
    said = capsys.readouterr().out
    assert "label maps are equal" in said and "opset" in said and "ONNX Runtime" in said
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = subprocess.run([sys.executable, *map(str, (tmp_path / "predict_onnx.py", tmp_path / "model.onnx", tiny_folder / "images",
                                                      tmp_path / "masks"))], capture_output=True, text=True)
    assert done.returncode == 0 and "12 predicted" in done.stdout, done.stderr
    masks = {file.stem: np.asarray(Image.open(file)) for file in (tmp_path / "masks").iterdir()}
    assert len(masks) == 12 and all(mask.shape == (48, 48) for mask in masks.values())
    model = predict_onnx.Model(tmp_path / "model.onnx", 1)
    assert model.told["method"] == "MeanTeacher" and model.told["classes"] == ["background", "class 1"]
    assert [model.run(np.zeros((n, 1, 32, 32), np.float32)).shape for n in (1, 5)] == [(n, 2, 32, 32) for n in (1, 5)]
    with pytest.raises(predict_onnx.Unreadable, match="no model that code/export.py wrote"):
        predict_onnx.Model(tmp_path / "broken.png")
    import onnx

    stranger = onnx.load(str(tmp_path / "model.onnx"))
    told = json.loads(stranger.metadata_props[0].value)
    for text, said in ((json.dumps({**told, "format": 2}), "have the format 2, and this file follows 1"),
                       ("{}", "its metadata say nothing under semisegbench")):
        stranger.metadata_props[0].value = text
        onnx.save(stranger, str(tmp_path / "stranger.onnx"))
        with pytest.raises(predict_onnx.Unreadable, match=said):
            predict_onnx.Model(tmp_path / "stranger.onnx")


class Bright:
    """In place of a model of two classes: what is bright."""

    told: ClassVar = {"dimensions": 2, "channels": 1, "classes": ["background", "bright"],
                      "reading": {"kind": "picture", "takes": "photographs", "white": None, "reduced": None}}

    def __init__(self, file: Path, threads: int):
        if not file.is_file():
            raise predict_onnx.Unreadable(f"{file}: there is no such file")

    def __call__(self, files: list[Path]) -> np.ndarray:
        return (predict_onnx.read(files, self.told)[0][0, 0] > 99).astype(np.uint8)


def test_the_script_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(predict_onnx, "Model", Bright)
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/a.png", "in/left/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3), 200).save(name)
    Path("in/c.png").write_bytes(b"no picture")
    Path("model").touch()

    def said(code: int, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["predict_onnx.py", *words])
        assert predict_onnx.main() == code
        return capsys.readouterr().err

    assert "in/c.png: cannot identify" in said(2, "model", "in", "out"), "and the others are predicted"
    assert sorted(file.as_posix() for file in Path("out").rglob("*.*")) == ["out/a.png", "out/a.png.png", "out/left/b.png"]
    assert "out/a.png: is there already, and 2 more" in said(2, "model", "in", "out")
    Path("in/c.png").unlink()
    assert said(0, "model", "in", "out", "--replace") == ""
    for words, why in ((("none", "in", "out"), "none: there is no such file"), (("model", "none", "out"), "none: there is no such file or"),
                       (("model", "in", "in"), "in: holds the images"), (("model", "out/left", "out"), "out: holds the images")):
        assert why in said(2, *words)
    assert "model/a.png: cannot be written" in said(3, "model", "in", "model")
    images = [Path("in") / name for name in ("v.nii.gz", "v_0000.nii", "w.npy", "A.tif", "a.tif")]
    assert [file.name for file in predict_onnx.masks_of([[file] for file in images], Path("in"), Path("out"))] == [
        "v.nii.gz", "v_0000.nii.nii.gz", "w.npy", "A.png", "a.tif.png"]
    with pytest.raises(predict_onnx.Unreadable, match="but for capital letters"):
        predict_onnx.masks_of([[Path("in") / name] for name in ("A.tif", "a.tif", "a.TIF")], Path("in"), Path("out"))


def test_the_script_passes_over_what_the_program_does(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/._a.png", "in/.ipynb_checkpoints/a.png", "in/@eaDir/a.png", "store/b.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, place in (("more", "../store"), ("back", "."), ("loop.png", "loop.png")):
        (tmp_path / "in" / name).symlink_to(place)
    found = predict_onnx.groups_in(tmp_path / "in", Bright.told, tmp_path / "out")
    assert [file.relative_to(tmp_path).as_posix() for (file,) in found] == ["in/a.png", "in/more/b.PNG"]


@ONNX
def test_onnx_takes_volumes(volumes: Path, scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(scratch / "export volumes", volumes, narrow=True)
    words = ("--dataset", "nnunet", "--model", "unet_3D", "--patch_size", "32", "32", "16", "--max_iterations", "2", "--val_every", "2")
    assert bench.train("Supervised", *words).code == 0
    assert exported(bench.run_folder(), output=tmp_path) == 0
    assert "label maps are equal" in capsys.readouterr().out
    model = predict_onnx.Model(tmp_path / "model.onnx", 1)
    file = volumes / "imagesTs" / "Ts0_0000.nii.gz"
    labels = model([file])
    (written,) = predict_onnx.masks_of([[file]], file.parent, tmp_path)
    predict_onnx.write(labels, file, written, model.told)
    assert written.name == "Ts0.nii.gz" and np.allclose(nibabel.load(written).affine, AFFINE, atol=1e-5)  # type: ignore[attr-defined]
    np.save(tmp_path / "voxels.npy", ball(10)[0])
    assert np.array_equal(model([tmp_path / "voxels.npy"]), labels)
