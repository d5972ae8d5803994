"""Labels come back: a run that starts from an earlier one's weights, and says everywhere that it is no benchmark row."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import Bench, content
from tiny import write_folder

from dataloaders.errors import UserError
from engine.claim import brief
from engine.earlier import Earlier
from evaluation.testing import note_earlier
from reporting.comparison import comparable
from reporting.rows import _remarks

OWN = ("--dataset", "folder", "--labeled_num", "all", "--max_iterations", "4")


def weights(file: Path, role: str) -> dict[str, Any]:
    """Weights of convolutions in a checkpoint: batch norm moves however small the rate is."""
    state = torch.load(file, weights_only=True)
    found = state["networks"][role]["state"] if "networks" in state else state["predictors"][role]["state"]
    return {name: value for name, value in found.items() if value.dim() == 4}


def test_new_masks_are_found_and_the_weights_go_on(scratch: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "D", images=15, masks=12)
    for k in range(6, 12):
        (data / "masks" / f"piece {k}.png").rename(tmp_path / f"piece {k}.png")
    bench = Bench(tmp_path / "bench", data, narrow=True)
    assert bench.train("MeanTeacher", *OWN, model="first").code == 0
    first = bench.run_folder("first")
    for k in range(6, 12):
        shutil.move(tmp_path / f"piece {k}.png", data / "masks")
    end = bench.train("MeanTeacher", *OWN[:-1], "1", "--base_lr", "1e-12", "--init", str(first), model="second")
    assert end.code == 0, end.err
    second = bench.run_folder("second")
    config = json.loads((second / "config.json").read_text())
    assert "student: starts from student of the earlier run." in end.out
    before = json.loads((first / "config.json").read_text())["split"]["labeled"]
    assert len(config["split"]["labeled"]) > len(before), "new masks are found"
    assert "_init_run=" in second.name and "no benchmark row" in end.out
    assert any("no benchmark row" in remark for remark in config["remarks"])
    old, new = weights(first / "best.pt", "student"), weights(second / "last.pt", "student")
    assert all(torch.allclose(old[name], new[name], atol=1e-8) for name in old)
    assert content(second / "last.pt")["networks"].keys() == {"student"}
    two = bench.train("CPS", *OWN, "--init", str(first), model="two")
    assert two.code == 0 and "model1: starts from student" in two.out and "model2: starts from teacher" in two.out
    assert bench.train("Supervised", *OWN, "--model", "enet", "--init", str(first), model="other").code == 2
    (data / "classes.txt").write_text("background\ncrack\n")
    named = bench.train("MeanTeacher", *OWN, "--init", str(first), model="named")
    assert named.code == 0 and "Its classes were called " in named.out and "starts from the same outputs" in named.out
    (data / "classes.txt").unlink()
    known = Earlier(first, {"method": "M", "data_set": "D", "split": {"labeled": []}, "classes": ["background", "crack", "rust"]}, {})
    with pytest.raises(UserError, match="each would start as another"):
        known.said([], ["background", "rust", "crack"])
    (first / "status.json").write_text('{"state": "interrupted"}')
    refused = bench.train("MeanTeacher", *OWN, "--init", str(first), model="refused")
    assert refused.code == 2 and "is not finished (interrupted)" in refused.err


def test_names_of_runs_do_not_grow_without_end() -> None:
    """A third run starts from the second, whose name holds the first's."""
    long = "drawn-seed1337-max-iterations-300-batch-size-8-init-run-drawn-seed1337-max-iterations"
    assert brief("short") == "short" and len(brief(long)) == 40
    assert brief(long) != brief(f"{long}x") and brief(long).startswith("drawn-seed1337-max")


def test_a_report_tells_other_ways_of_testing() -> None:
    records = [SimpleNamespace(options={}, run={"selection": "last step", "code": "c", "predictor": "p", "test": {"seconds": 1.0, **how}})
               for how in ({"mirror": False}, {"mirror": True, "nms": True})]
    assert not any("tested" in remark for remark in _remarks("MeanTeacher", records[:1]))  # type: ignore[arg-type]
    assert "tested with --mirror --nms" in _remarks("MeanTeacher", records[1:])  # type: ignore[arg-type]
    assert "runs differ in how they were tested: --mirror --nms; with no option" in _remarks("BCP", records)  # type: ignore[arg-type]


def test_results_and_reports_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    config: dict[str, Any] = {"remarks": ["x"], "init": {"run": "r", "labeled": ["a", "b"]}}
    note_earlier([SimpleNamespace(name="a"), SimpleNamespace(name="z")], config)  # type: ignore[list-item]
    assert "1 of 2 test images were labelled images of the run that this one started from" in config["remarks"][1]
    record = SimpleNamespace(options={"init_run": "/runs/r"}, run={"selection": "last step", "code": "c", "predictor": "p", "test": {}})
    assert any("no benchmark row" in remark for remark in _remarks("MeanTeacher", [record]))  # type: ignore[list-item]
    drafts = [SimpleNamespace(key=key, baseline="", records=(SimpleNamespace(options={"init_run": of}),))
              for key, of in (("a", None), ("b", "r"))]
    scores = {key: SimpleNamespace(cases=torch.ones(2).bool().numpy()) for key in "ab"}
    assert comparable(drafts, scores) == ("a",)  # type: ignore[arg-type]
