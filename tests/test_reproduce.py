"""reproduce.py: the recorded options to the letter, what has changed said, the verdict, and one real run made again to the digit."""
from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import reproduce
import test_2D
import train_MeanTeacher
from harness import Again, Bench

from command_line.declarations import harmless, option_names
from command_line.options import Options
from dataloaders.errors import UserError
from engine import parse
from engine.claim import run_name
from reporting import reproduction
from reporting.records import Record
from reporting.reproduction import Spread
from storage.folders import result_path
from system.ending import finish_with


@pytest.mark.parametrize("script, words", [
    ("MeanTeacher", ["--dataset", "ACDC", "--protocol", "cross_val_dev", "--fold", "1", "--labeled_num", "1/4", "--base_lr", "0.1"]),
    ("RDrop", ["--dataset", "LA", "--variant", "published_code", "--compile", "--stride", "9", "9", "4"]),
    ("SemSim", ["--dataset", "ISIC", "--labeled_num", "3%", "--labeled_choice", "random", "--labeled_seed", "4"]),
    ("Supervised", ["--dataset", "DAGM", "--dagm_classes", "1", "4", "--include_free", "--patience", "3"]),
])
def test_recorded_options_give_the_same_run(script, words):
    """What a result file holds of the options, as words, means the same options and the same folder."""
    module = importlib.import_module(f"train_{script}")
    kind = next(k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Options) and k.__module__ == module.__name__)
    first = parse(kind, module.PRESETS, [*words, "--root_path", "/"])
    recorded = {name: getattr(first, name) for name in option_names(kind) if name not in harmless(kind)}
    again = reproduction.training_words(json.loads(json.dumps(recorded, default=str)))
    second = parse(kind, module.PRESETS, ["--dataset", words[1], "--root_path", "/", *again])
    assert all(getattr(second, name) == value for name, value in recorded.items())
    assert run_name(second, "official") == run_name(first, "official")


@pytest.mark.parametrize("variant, method, confidence", [
    ("default", "FixMatch", 0.95), ("published_standard", "FixMatchStandardAugs", 0.8), ("published_cta", "FixMatchCTA", 0.0),
])
def test_a_file_of_a_script_that_was_split_is_made_by_the_script_of_its_form(variant, method, confidence):
    """Of the default by the options of a file of that time; of the others by what that script's presets were."""
    file = next((reproduce.CODE.parent / "results" / "phantom_folds" / "FixMatch_7_labeled").rglob("fold0*0.json"))
    recorded = {**json.loads(file.read_text())["run"]["options"], "variant": variant, "confidence": confidence}
    recorded |= {name: value for name, value in reproduction.FORMS["FixMatch"][variant].fixed.items() if name in recorded}
    found, options = reproduction.as_today("FixMatch", recorded)
    module = importlib.import_module(f"train_{found}")
    kind = module.Method
    again = parse(kind, module.PRESETS, ["--dataset", "Phantom", *reproduction.training_words(options)])
    assert found == method and again.confidence == confidence and again.max_iterations == 200 and again.resolved.method == method
    with pytest.raises(UserError, match=rf"code/train_{method}.py now, which has no --half {not recorded['half']}"):
        reproduction.as_today("FixMatch", recorded | {"half": not recorded["half"]})
    assert reproduction.as_today("MeanTeacher", recorded) == ("MeanTeacher", recorded)


def made(seed=0, dice=0.8, fold=None, predictor="student", quoted=True, path=Path("x.json"), **options) -> Record:
    """A record of four scores around `dice`."""
    settings = {"seed": seed, "fold": fold, "labeled_seed": 0, "labeled_choice": "first", "labeled_num": "7", **options}
    cases = [{"name": f"case{k}", "class": "heart", "dice": dice + step, "jaccard": 0.5, "hd95_vox": 2.0, "asd_vox": None, "empty": ""}
             for k, step in enumerate((-0.1, 0.1))]
    run = {"method": "MeanTeacher", "data_set": "ACDC", "options": settings, "predictor": predictor}
    return Record(path, run, {"mean": {"dice": dice}, "heart": {"dice": dice}}, cases, quoted)


def test_the_verdict():
    spread = Spread((0.80, 0.82, 0.84), "seed 0 1 2")
    assert spread.limits == pytest.approx((0.78, 0.86)) and Spread((0.8, 0.9), "").limits is None
    assert spread.holds(0.781) and not spread.holds(0.779) and Spread((0.8,), "").holds(0.8) is None
    assert Spread((0.7, 0.7, 0.7), "").holds(0.7) and not Spread((0.7, 0.7, 0.7), "").holds(0.7001)

    confirmed, lines = reproduction.compared(made(), made(), spread)
    assert confirmed and "All 8 scores are equal" in lines[1] and lines[2].endswith("The new score lies inside.")
    confirmed, lines = reproduction.compared(made(), made(dice=0.75), spread)
    assert not confirmed and "2 of 8 scores are not equal" in lines[1] and "OUTSIDE" in lines[2]
    confirmed, lines = reproduction.compared(made(), made(seed=9, dice=0.85), spread)
    assert confirmed and len(lines) == 2, "another seed is not compared digit by digit"
    one = Spread((0.8,), "")
    assert reproduction.compared(made(), made(), one)[0] and not reproduction.compared(made(), made(dice=0.80001), one)[0]
    assert "no recorded spread (only 1 run of this row" in reproduction.compared(made(), made(), one)[1][-1]
    other = made()
    confirmed, lines = reproduction.compared(made(), dataclasses.replace(other, cases=other.cases[:1]), spread)
    assert not confirmed and "cases are not the same" in lines[-1]
    assert "Quoted was student" in reproduction.compared(made(), made(predictor="teacher"), spread)[1][1]


def test_the_spread_is_that_of_the_row(monkeypatch):
    row = [made(0), made(1), made(2, labeled_seed=3), made(0, fold=1), made(0, base_lr=0.1), made(0, labeled_choice="random"),
           made(4, predictor="teacher", quoted=False), made(5, predictor="teacher")]
    monkeypatch.setattr(reproduction, "read", lambda places: (row, []))
    spread = reproduction.spread_of(made(0))
    assert len(spread.values) == 4 and spread.said == "seed 0 1 2 5, labeled_seed 0 3"
    assert len(reproduction.spread_of(made(7, predictor="teacher", quoted=False)).values) == 1
    assert len(reproduction.spread_of(made(0, fold=0)).values) == 1


@pytest.mark.parametrize("chosen_by", ["validation_dice", "validation_miou"])
def test_the_last_step_is_tested_again_whatever_would_have_chosen_the_best(chosen_by):
    """Of a run without validation both checkpoints are the last step, and best.pt is what was tested."""
    run = {"test": {"empty": "penalty", "metrics": "numba"}, "selection": "last step"}
    assert reproduction.testing_words({**run, "selected": {"network": {"step": 3, chosen_by: 0.4}}})[-2:] == ["--checkpoint", "last"]
    assert "--checkpoint" not in reproduction.testing_words({**run, "selected": {"network": {"step": 3, chosen_by: None}}})


def test_a_test_by_windows_or_grown_objects_is_made_again_as_it_was():
    run = {"selection": "best on validation cases", "test": {"empty": "penalty", "metrics": "numba", "mirror": True, "window": [801, 534],
                                              "border": "shifted", "grow": 0}}
    assert reproduction.testing_words(run)[4:] == ["--mirror", "--grow", "0", "--window", "801", "534", "--border", "shifted"]


def test_what_has_changed():
    then = {"code": "a", "commit": "x", "versions": {"torch": "2.13"}, "machine": {"host": "one", "threads": 1}}
    now = {"code": "b", "commit": "x", "versions": {"torch": "2.13", "scipy": "1.17"}, "machine": {"host": "two", "threads": 1}}
    assert reproduction.changed(then, now) == ["code: a then, b now", "scipy: None then, 1.17 now", "host: one then, two now"]
    assert reproduction.changed(then, then) == []


@pytest.mark.parametrize("content, words", [
    (None, "cannot be read"), ('{"schema": 1, "run": {', "no readable JSON"), ("[1]", "a list lies in it"),
    ('{"schema": 7, "run": {}, "cases": []}', "schema 7"), ('{"schema": 1, "run": {}}', "not a result of this program"),
])
def test_a_foreign_or_half_written_file(tmp_path, capsys, content, words):
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    assert finish_with(lambda: reproduce.main(reproduce.Reproduce(file))) == 2
    said = "".join(capsys.readouterr())
    assert words in said and str(file) in said and "Traceback" not in said


def test_a_run_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The teacher's file is asked for: a further predictor. Then the spread, other seeds, a score outside, and other data."""
    data = bench.folder / "ACDC"
    shutil.copytree(bench.data, data)
    again = Again(bench.folder, monkeypatch)
    assert bench.train("MeanTeacher", "--seed", "1", "--base_lr", "0.1", data=data).code == 0
    folder = bench.run_folder()
    test_2D.main(test_2D.Test(run=folder, device="cpu"))
    own, teacher = result_path(folder), result_path(folder, "teacher")
    before = {path: path.read_bytes() for path in (own, teacher, folder / "best.pt")}
    assert again(teacher) == 0 and again.called == ["train_MeanTeacher", "test_2D"]
    said = "".join(capsys.readouterr())
    assert "scores are equal to the last digit" in said and "OUTSIDE" not in said
    assert "no recorded spread (only 1 run" in said and "Confirmed." in said
    new = bench.folder / "model" / "reproduce" / folder.relative_to(bench.folder / "model")
    assert (new / "best.pt").exists() and result_path(new, "teacher").exists()
    assert all(path.read_bytes() == content for path, content in before.items()), "nothing old is touched"

    # Given again it neither trains nor tests; a spread of made-up runs beside it, far from the score, is left.
    value = json.loads(own.read_text())
    del value["sha256"]
    for seed, dice in ((5, 0.98), (6, 0.981), (7, 0.982)):
        value["run"]["options"]["seed"], value["summary"]["mean"]["dice"] = seed, dice
        own.with_name(f"made_up_seed{seed}.json").write_text(json.dumps(value))
    own.unlink()
    assert again(own.with_name("made_up_seed5.json"), 1) == 1
    said = "".join(capsys.readouterr())
    assert again.called[2:] == ["train_MeanTeacher"], "finished and tested, so the script only says so"
    assert "0.9810 ± 0.0010 over 3 runs (seed 5 6 7)" in said and "OUTSIDE" in said and "Not confirmed" in said

    (data / "train.list").write_text("\n".join((data / "train.list").read_text().split()[::-1]))
    (data / "train_slices.list").unlink()
    assert again(teacher) == 2 and len(again.called) == 3
    assert "2 labelled cases then, 2 now" in "".join(capsys.readouterr())


def test_options_that_the_script_of_today_does_not_have(tmp_path, tiny_acdc, monkeypatch):
    value = made(seed=1, device="cpu", schedule="poly", protocol="official", folds=5, split_seed=0, an_old_option=3)
    script = Path(train_MeanTeacher.__file__)
    assert sys.executable and script.is_file()
    with pytest.raises(UserError, match="There is no option --an_old_option"):
        reproduce.planned(value, script, value.options, tiny_acdc, "cpu", (1,))
