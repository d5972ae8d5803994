"""--protocol cross_val_dev: the peer's folds, faults included, and every fault said."""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import test_2D
import train_EntMin
import train_MeanTeacher
import train_Supervised
from harness import Bench
from test_splits import Listed, groups

from dataloaders.catalog import DATA_SETS
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest
from engine import parse
from engine.schedules import ramp
from storage.folders import result_path

PROTOCOL = "cross_val_dev"


def acdc() -> Listed:
    """The names of ACDC's 100 patients, dealt out over parts in no order."""
    source = AcdcSource(DATA_SETS["ACDC"], Path("/nowhere"))
    cases = []
    for number in range(100, 0, -1):
        group = f"patient{number:03d}"
        part = ("train", "val", "test")[number * 7 % 3]
        cases += [Case(f"{group}_frame{frame:02d}", Path("x"), Path("x"), group, source.stratum_of(group), part) for frame in (12, 1)]
    return Listed(DATA_SETS["ACDC"], cases)


def made(fold=0, folds=5, budget="1/8", choice="first", split_seed=0):
    return splits.make_split(acdc(), SplitRequest(PROTOCOL, fold, folds, split_seed, budget, choice))


def test_a_fold_is_twenty_patients_of_one_diagnosis():
    tested = []
    for fold, diagnosis in enumerate(("dilated", "hypertrophic", "infarct", "normal", "right ventricle")):
        test, split = splits.test_cases(acdc(), SplitRequest(protocol=PROTOCOL, fold=fold)), made(fold)
        assert Counter(case.stratum for case in test) == {diagnosis: 40} and len(groups(test)) == 20
        assert [case.name for case in test] == sorted(case.name for case in test) == [case.name for case in split.val]
        assert not groups(test) & groups(split.labeled + split.unlabeled) and len(split.labeled + split.unlabeled) == 160
        assert split.selection == "test" and "Selected on test" in split.remarks[0]
        assert "One diagnosis a fold" in split.remarks[1] and f"(this one: {diagnosis})" in split.remarks[1]
        assert split.name == f"fold{fold}of5_cross_val_dev"
        tested += test
    assert len({case.name for case in tested}) == 200


def test_as_many_folds_as_patients():
    test, split = splits.test_cases(acdc(), SplitRequest(protocol=PROTOCOL, fold=99, folds=100)), made(99, 100)
    assert [case.name for case in test] == ["patient100_frame01", "patient100_frame12"] and len(split.labeled + split.unlabeled) == 198


@pytest.mark.parametrize("budget, count, halves", [("1/1", 160, 0), ("1/2", 80, 80), ("1/4", 40, 40), ("1/8", 20, 20), ("1/16", 10, 10),
                                                   ("all", 160, 0)])
def test_every_nth_volume_is_labelled(budget, count, halves):
    split = made(1, budget=budget)
    assert len(split.labeled) == count and len(split.unlabeled) == 160 - count and not split.left_out
    assert len(groups(split.labeled) & groups(split.unlabeled)) == halves
    assert f"{count} of 160 volumes" in split.remarks[2] and (f"{halves} patients have another volume" in split.remarks[2]) == bool(halves)
    if budget == "1/8":
        # The first frame of every fourth patient, of those that are not tested.
        assert [case.name for case in split.labeled[:7]] == [f"patient{n:03d}_frame01" for n in (1, 5, 9, 13, 17, 41, 45)]


@pytest.mark.parametrize("change, words", [
    (dict(fold=None), ["needs --fold", "32 have their other frame", "--protocol official"]), (dict(budget="7"), ["write 1/8"]),
    (dict(budget="1/0"), ["write 1/8"]), (dict(choice="random"), ["Leave it out"]), (dict(split_seed=3), ["--split_seed 3"]),
    (dict(folds=3), ["patient034", "two parts", "--folds 5"]), (dict(fold=5), ["from 0 to 4"]), (dict(folds=150, fold=0), ["fewer folds"]),
])
def test_what_the_scheme_does_not_have_is_refused(change, words):
    with pytest.raises(UserError) as error:
        made(**change)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("protocol, fold", [(None, None), (None, 0), ("ctct", None)])
def test_every_nth_volume_is_refused_elsewhere(protocol, fold):
    with pytest.raises(UserError, match="--labeled_num 1/8: every N-th volume is a budget of --protocol cross_val_dev alone"):
        splits.make_split(acdc(), SplitRequest(protocol=protocol, fold=fold, labeled_num="1/8"))


def options_of(script, kind, *words):
    return parse(kind, script.PRESETS, ["--dataset", "ACDC", "--root_path", "/", *words])


def test_the_protocol_brings_its_own_defaults():
    words = ("--protocol", PROTOCOL, "--fold", "0")
    own = dict(batch_size=16, labeled_bs=8, base_lr=0.03, max_iterations=30000, labeled_num="1/8", passes="apart", ramp="whole")
    teacher = options_of(train_MeanTeacher, train_MeanTeacher.Method, *words)
    usual = options_of(train_MeanTeacher, train_MeanTeacher.Method)
    for options in (teacher, options_of(train_Supervised, train_Supervised.Method, *words)):
        assert {name: getattr(options, name) for name in own} == own and options.protocol == PROTOCOL
    assert (teacher.consistency_start, usual.consistency_start) == (0, 1000)
    assert all(getattr(usual, name) != value for name, value in own.items() if name != "max_iterations")
    assert options_of(train_EntMin, train_EntMin.Method, *words, "--base_lr", "0.1").base_lr == 0.1


def test_the_ramp_ends_with_the_training():
    for length in (7, 100, 30000, 60000):
        weights = [ramp(step, 200.0, whole=length) for step in range(length)]
        assert weights == sorted(weights) and abs(weights[-1] - 1) < (0.11 if length == 7 else 0.001)
    same = [ramp(step, 200.0) for step in range(0, 30000, 37)]
    assert same == [ramp(step, 200.0, whole=30000) for step in range(0, 30000, 37)]


def test_a_run_says_what_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch, narrow: None):
    end = bench.train("MeanTeacher", "--protocol", PROTOCOL, "--fold", "1", "--folds", "3", "--labeled_num", "1/4", "--max_iterations", "4")
    assert end.code == 0, end
    folder = bench.run_folder()
    assert folder.parent.parent.name == "run_1_of_4_labeled" and folder.name.startswith("fold1of3_cross_val_dev_seed1337")
    assert "batch_size=4" in folder.name, "what is not the protocol's is in the name"
    assert not any(own in folder.name for own in ("passes", "ramp", "base_lr", "consistency_start")), folder
    split = json.loads((folder / "config.json").read_text())["split"]
    assert split["selection"] == "test" and split["labeled"] == ["patient001_frame01", "patient008_frame01"] and len(split["val"]) == 3
    assert all(words in end.out for words in ("Selected on test", "One diagnosis a fold", "2 of 6 training volumes labelled"))

    monkeypatch.setenv("SEMISEG_MODEL", str(bench.folder / "model"))
    monkeypatch.setenv("SEMISEG_RESULTS", str(bench.folder / "results"))
    found = {}
    for checkpoint in ("best", "last"):
        test_2D.main(test_2D.Test(run=folder, checkpoint=checkpoint, device="cpu"))  # type: ignore[arg-type]
        found[checkpoint] = json.loads(result_path(folder).read_text())
    run = found["best"]["run"]
    assert run["selection"].startswith("selected on test") and found["last"]["run"]["selection"] == "last step"
    assert any("One diagnosis a fold" in remark for remark in run["remarks"])
    assert sorted({case["name"] for case in found["best"]["cases"]}) == split["val"]
