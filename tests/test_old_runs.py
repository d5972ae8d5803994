"""Runs of before the house was rebuilt (golden_runs/, of commit bab049a): tested, predicted, reported and made again as on their day."""
from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import old_runs
import predict
import pytest
import report
import test_2D
import test_3D
import torch
from harness import Again, Bench
from old_runs import KINDS, Kind

from reporting.records import read
from storage import provenance
from system.ending import finish_with

FINISHED = [kind for kind in KINDS if not kind.killed_at and not kind.made_again]
PREDICTED = [kind for kind in KINDS if kind.images]
BEGUN, SEEDS = (next(kind for kind in KINDS if kind.name == name) for name in ("begun", "seeds"))
NOT_SCORES = ("date", "commit", "seconds", "peak_memory")
"""What a test says of its own day and machine."""


@pytest.fixture(scope="module")
def data(scratch: Path) -> dict[str, Path]:
    """The data sets of the old runs, drawn again."""
    return {name: old_runs.write_data(name, scratch / "old data") for name in {kind.data for kind in KINDS}}


@pytest.fixture
def placed(tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch, narrow: None):
    """A function that puts a kind's runs where the scripts look, and their old results aside; gives the runs' folders."""
    for name in ("MODEL", "RESULTS", "CACHE"):
        monkeypatch.setenv(f"SEMISEG_{name}", str(tmp_path / name.lower()))

    def put(kind: Kind) -> list[Path]:
        return old_runs.place(kind, tmp_path, data[kind.data])

    return put


def told(file: Path) -> dict:
    """A result file without what a clock or a machine says."""
    value = json.loads(file.read_text())
    value["run"]["test"] = {key: item for key, item in value["run"]["test"].items() if key not in NOT_SCORES}
    return value


def holds(new: object, old: object) -> bool:
    """Whether all that an old file says stands in the new one, to the last digit; the new one may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and holds(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(holds(a, b) for a, b in zip(new, old))
    return new == old


@pytest.mark.parametrize("kind", FINISHED, ids=lambda kind: kind.name)
def test_an_old_run_has_its_old_scores(kind: Kind, placed, tmp_path: Path) -> None:
    (run,) = placed(kind)
    shutil.move(tmp_path / "results", tmp_path / "then")
    script = test_3D if kind.dimensions == 3 else test_2D
    assert finish_with(lambda: script.main(script.Test(run=run, device="cpu"))) == 0
    old = sorted(file.relative_to(tmp_path / "then") for file in (tmp_path / "then").rglob("*.json"))
    assert old == sorted(file.relative_to(tmp_path / "results") for file in (tmp_path / "results").rglob("*.json"))
    for file in old:
        then, now = told(tmp_path / "then" / file), told(tmp_path / "results" / file)
        assert any(0.05 < case["dice"] < 1 for case in then["cases"] if case["dice"] is not None), "scores that could differ"
        assert holds(now, then), file


@pytest.mark.parametrize("kind", PREDICTED, ids=lambda kind: kind.name)
def test_an_old_run_predicts_what_it_predicted(kind: Kind, placed, data: dict[str, Path], tmp_path: Path) -> None:
    """Its table, to the digits that do not depend on the machine."""
    (run,) = placed(kind)
    given = predict.Predict(run, data[kind.data] / kind.images, tmp_path / "out", save=("masks",), device="cpu")
    assert finish_with(lambda: predict.main(given)) == 0
    tables = [{row["file"]: row for row in csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines())}
              for file in (tmp_path / "predicted" / "confidence.csv", tmp_path / "out" / "confidence.csv")]
    then, now = tables
    assert then.keys() == now.keys() and then
    for name, row in then.items():
        for column, value in row.items():
            assert now[name][column] == value or math.isclose(float(now[name][column]), float(value), abs_tol=2e-4), (name, column)


@pytest.mark.parametrize("kind", [kind for kind in FINISHED if kind.data in ("acdc", "dagm")], ids=lambda kind: kind.name)
def test_an_old_finished_run_is_finished(kind: Kind, placed, bench: Bench, data: dict[str, Path], tmp_path: Path) -> None:
    """Its command says so, and which code made it; nothing is trained. (On one's own data a run is called by its drawn split now.)"""
    (run,) = placed(kind)
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file() and file.name != "lock"}
    end = bench.train(kind.script, *kind.words, "--seed", "1", data=data[kind.data], short=(),
                      SEMISEG_MODEL=str(tmp_path / "model"))
    code = json.loads((run / "config.json").read_text())["code"]
    assert end.code == 0 and "This run is finished" in end.out and f"made by code {code}, which has changed since" in end.out, end
    assert before == {file: file.read_bytes() for file in run.iterdir() if file.is_file() and file.name != "lock"}


def test_an_old_begun_run_is_refused_and_can_be_gone_on_with(placed, bench: Bench, data: dict[str, Path], tmp_path: Path) -> None:
    """The sentence names both ways on, and the one that keeps its steps ends as a run does."""
    (run,) = placed(BEGUN)
    words = (*BEGUN.words, "--seed", "1")
    where = {"data": data[BEGUN.data], "short": (), "SEMISEG_MODEL": str(tmp_path / "model")}
    end = bench.train(BEGUN.script, *words, **where)
    assert end.code == 2 and "a begun run with another configuration lies here" in end.err, end
    assert "code" in end.err and "--fresh" in end.err and "--accept_changes" in end.err and "Traceback" not in end.err
    end = bench.train(BEGUN.script, *words, "--accept_changes", **where)
    assert end.code == 0 and "resumed at step 6" in end.out, end
    assert finish_with(lambda: test_2D.main(test_2D.Test(run=run, device="cpu"))) == 0
    (record, *_), skipped = read([tmp_path / "results"])
    assert not skipped and any("code" in line for line in record.run["changes"])


def test_old_results_are_reported(placed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every one is a row; the three seeds are one row with a spread."""
    for kind in [*FINISHED, SEEDS]:
        placed(kind)
    files = sorted((tmp_path / "results").rglob("*.json"))
    records, skipped = read([tmp_path / "results"])
    assert len(records) == len(files) and not skipped
    assert finish_with(lambda: report.main(report.Report((tmp_path / "results",), tmp_path / "report"))) == 0
    screen = capsys.readouterr().out
    assert "Not counted" not in screen and "±" in screen
    for name in {kind.script for kind in FINISHED}:
        assert name in screen
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_an_old_result_is_made_again(placed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained and tested by its options, it lies in the old spread; on a machine of the same kind with the same libraries each digit is
    the same."""
    run = placed(SEEDS)[0]
    file = next((tmp_path / "results").rglob(f"{run.name}.json"))
    then = json.loads(file.read_text())["run"]
    again = Again(tmp_path, monkeypatch)
    assert again(file) == 0 and again.called == ["train_Supervised", "test_2D"]
    said = "".join(capsys.readouterr())
    assert "over 3 runs (seed 1 2 3)" in said and "The new score lies inside." in said and "Confirmed." in said
    assert "code:" in said, "the code has changed since"
    if provenance.machine(torch.device("cpu"))["system"] == then["machine"]["system"] and provenance.versions() == then["versions"]:
        assert "scores are equal to the last digit" in said
