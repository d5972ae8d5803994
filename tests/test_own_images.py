"""The page docs/own_images.md, walked: every command of its blocks in order, on a tiny folder, with few steps."""
from __future__ import annotations

import json
import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tyro
from harness import Commands
from PIL import Image
from tiny import slice_of

from engine.claim import brief
from portable import formats, predict_onnx
from storage.folders import word
from system.ending import finish_with

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_images.md"
KINDS = {"predict": "Predict", "advise": "Advise", "export": "Export"}
SMALLER = (("=300", "=8"), ("_iterations 300", "_iterations 8"), ("64x64", "32x32"), ("64 64", "32 32"))


def drawn(place: Path, names: range) -> None:
    """What LabelMe would have of these images: a square where the disc is."""
    place.mkdir()
    for k in names:
        shapes = [{"label": label, "points": [[x, x], [x + 12, x], [x + 12, x + 12], [x, x + 12]], "shape_type": "polygon"}
                  for label, x in (("spot", 4), ("dent", 26))]
        (place / f"part_{k:02d}.json").write_text(json.dumps({"imagePath": f"part_{k:02d}.png", "shapes": shapes}))


def test_the_page_walks_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    first, second = (re.findall(rf"--run model/{exp}_all_labeled/unet/(\S+)", text)[0] for exp in ("folder/D/FixMatch", "D2"))
    named = set(re.findall(r"_init_run=([\w-]+?)_consistency", text))
    assert named == {brief(word(Path(first)))} and f"_init_run={named.pop()}_" in second, "as the program names it"
    for large, small in SMALLER:
        text = text.replace(large, small)
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    command = Commands(tmp_path, monkeypatch)
    (tmp_path / "D" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(26):
        pixels = (255 * slice_of(rng, 40, 40, 3)[0].clip(0, 1)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "D" / "images" / f"part_{k:02d}.png")
    drawn(tmp_path / "drawn", range(12))
    drawn(tmp_path / "drawn_2", range(12, 22))
    walked = []
    for line in lines:
        for place in (tmp_path / "model").glob("D2_all_labeled/unet/drawn*"):
            line = re.sub(r"model/D2_all_labeled/unet/[^/ ]+", place.relative_to(tmp_path).as_posix(), line)
        script, *words = shlex.split(line)[1:]
        name = Path(script).stem
        walked.append(name)
        if name.startswith("train_"):
            command([script, *words, "--device", "cpu"])
        elif name == "test_2D":
            import test_2D
            assert finish_with(lambda: test_2D.main(tyro.cli(test_2D.Test, args=words, use_underscores=True))) == 0  # noqa: B023
        elif name == "predict_onnx":
            if all(find_spec(one) for one in formats.NEEDED):
                monkeypatch.setattr(sys, "argv", [script, *words])
                assert predict_onnx.main() == 0 and len(list((tmp_path / "masks").glob("*.png"))) == 26
        elif name == "export" and not all(find_spec(one) for one in formats.NEEDED):
            assert Path(words[1]).is_dir(), "the page names the run that the page made"
        elif name in KINDS:
            module = import_module(name)
            options = tyro.cli(getattr(module, KINDS[name]), args=words, use_underscores=True)
            assert finish_with(lambda: module.main(options)) == 0, line  # noqa: B023
        else:
            monkeypatch.setattr(sys, "argv", [script, *words])
            assert name == "prepare" and import_module(name).main() == 0, capsys.readouterr().err
    assert " ".join(walked) == ("advise prepare prepare train_FixMatch test_2D predict advise prepare train_FixMatch test_2D export "
                                "predict_onnx")
    assert len(list((tmp_path / "D" / "masks").iterdir())) == 22
    assert (tmp_path / "D" / "classes.txt").read_text() == "background\ndent\nspot\n"
    assert len(list((tmp_path / "predicted" / "masks").iterdir())) == 26
    results = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("drawn_*.json")]
    assert any("no benchmark row" in remark for result in results for remark in result["run"]["remarks"])
