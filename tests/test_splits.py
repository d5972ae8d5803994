"""Splits, folds, label budgets and draws: nothing leaks, nothing depends on a listing, and the published counts come out."""
from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloaders.catalog import DATA_SETS, open_source
from dataloaders.description import Case, DataSet, Source
from dataloaders.errors import UserError
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.layouts.mt import MtSource
from dataloaders.splits import split as splits
from dataloaders.splits.draws import budget, groups_of, published_split, stratified_order
from dataloaders.splits.split import SplitRequest

REPOSITORY = Path(__file__).resolve().parent.parent
LISTS = REPOSITORY / "code" / "dataloaders" / "lists" / "ACDC"


@dataclass
class Listed:
    """A source that is only a list of cases, and notes which parts were asked for."""

    data: DataSet
    everything: list[Case]
    root: Path = Path("/nowhere")
    asked: list[str] = field(default_factory=list)

    def cases(self, part):
        self.asked.append(part)
        return [case for case in self.everything if case.part == part]

    pool = Source.pool


def make_source(sizes, reader=AcdcSource, unit="patient", strata=3, parts=("train", "val", "test"), unlabeled=0):
    data = DataSet("made", reader, unit=unit, protocols=("official",))
    cases = []
    for group, size in enumerate(sizes):
        part = parts[group % len(parts)]
        cases += [Case(f"g{group:03d}_{i}", Path("x"), Path("y"), f"g{group:03d}", f"s{group % strata}", part) for i in range(size)]
    cases += [Case(f"free{i}", Path("x"), None, f"free{i}", "", "train") for i in range(unlabeled)]
    return Listed(data, cases)


def shuffled(source, seed):
    order = np.random.default_rng(seed).permutation(len(source.everything))
    return Listed(source.data, [source.everything[i] for i in order])


def groups(cases):
    return {case.group for case in cases}


SIZES = st.lists(st.integers(1, 6), min_size=10, max_size=40)
SEEDS = st.integers(0, 2**32 - 1)


def drawn(budget: str, seed: int, fold: int | None = None) -> SplitRequest:
    """A random draw of the labelled ones."""
    return SplitRequest(fold=fold, labeled_num=budget, labeled_choice="random", labeled_seed=seed)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(2, 5), SEEDS, SEEDS, st.sampled_from(["first", "random"]), st.sampled_from(["patient", "image"]),
       st.integers(1, 7))
def test_folds_never_leak_and_cover_everything(sizes, folds, split_seed, labeled_seed, choice, unit, strata):
    source = make_source(sizes, unit=unit, strata=strata, unlabeled=3)
    tested, counts = [], []
    for k in range(folds):
        split = splits.make_split(source, SplitRequest(None, k, folds, split_seed, "2", choice, labeled_seed))
        test = splits.test_cases(source, SplitRequest(fold=k, folds=folds, split_seed=split_seed))
        parts = [groups(split.labeled + split.unlabeled + split.left_out), groups(split.val), groups(test)]
        assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert not groups(split.labeled) & groups(split.unlabeled)
        names = [c.name for c in (*split.labeled, *split.unlabeled, *split.left_out, *split.val, *test)]
        assert sorted(names) == sorted(c.name for c in source.everything)
        assert len(groups(split.labeled) if unit == "patient" else split.labeled) == 2
        tested += [c.name for c in test]
        counts.append(len(parts[2]))
    assert sorted(tested) == sorted(c.name for c in source.everything if c.label is not None)
    assert max(counts) - min(counts) <= 1


@settings(max_examples=40, deadline=None)
@given(SIZES, SEEDS, SEEDS, SEEDS, st.sampled_from(["first", "random"]))
def test_splits_do_not_depend_on_the_listing(sizes, split_seed, labeled_seed, shuffle, choice):
    source = make_source(sizes, unit="image")
    request = SplitRequest(None, 1, 5, split_seed, "30%", choice, labeled_seed)
    assert splits.make_split(source, request) == splits.make_split(shuffled(source, shuffle), request)
    assert splits.test_cases(source, request) == splits.test_cases(shuffled(source, shuffle), request)


@settings(max_examples=60, deadline=None)
@given(SIZES, SEEDS, st.sampled_from(["patient", "image"]), st.data())
def test_random_draws_are_nested_and_stratified(sizes, seed, unit, data):
    source = make_source(sizes, unit=unit, parts=("train", "train", "train", "val", "train"))
    train = source.cases("train")
    available = len(groups(train)) if unit == "patient" else len(train)
    small, large = sorted(data.draw(st.lists(st.integers(1, available), min_size=2, max_size=2)))
    draws = [splits.make_split(source, drawn(str(n), seed)).labeled for n in (small, large)]
    assert {c.name for c in draws[0]} <= {c.name for c in draws[1]}
    order = stratified_order(train, seed)
    stratum = {c.group: c.stratum for c in train}
    shares = Counter(stratum[g] for g in order)
    for n in range(1, len(order) + 1):
        for name, count in Counter(stratum[g] for g in order[:n]).items():
            assert abs(count - n * shares[name] / len(order)) <= 2


def test_draws_and_folds_follow_their_seed():
    source = make_source([2] * 40)
    labeled = {tuple(c.name for c in splits.make_split(source, drawn("3", s)).labeled) for s in range(10)}
    tested = {tuple(c.name for c in splits.test_cases(source, SplitRequest(fold=0, split_seed=s))) for s in range(10)}
    assert len(labeled) >= 8 and len(tested) >= 8
    first = splits.make_split(source, SplitRequest(labeled_num="3"))
    assert first == splits.make_split(source, SplitRequest(split_seed=7, labeled_num="3", labeled_seed=9))


def test_a_budget_of_images_cuts_the_last_group_and_leaves_its_copies_out():
    source = make_source([4] * 12, unit="image", parts=("train", "train", "val"))
    split = splits.make_split(source, drawn("6", 3))
    assert len(split.labeled) == 6 and len(split.left_out) == 2 and len(split.unlabeled) == 24
    assert groups(split.left_out) < groups(split.labeled)
    assert any("left out" in remark for remark in split.remarks)


@pytest.mark.parametrize("asked, count", [
    ("7", 7), ("10%", 7), ("5%", 3), ("20%", 14), ("all", 70), ("70", 70), ("100%", 70), (" 2.5 % ", 1),
])
def test_budget(asked, count):
    assert budget(asked, 70, "patient") == count


@pytest.mark.parametrize("asked, words", [
    ("0.1", "write 10%"), (".05", "write 5%"), ("136", "70 patients available, asked 136"), ("0", "at least 1"), ("0%", "at least 1"),
    ("1%", "at least 1"), ("101%", "up to 100%"), ("seven", "not a label budget"), ("-3", "not a label budget"), ("", "not a label budget"),
    ("1e2", "not a label budget"), ("7.0", "not a label budget"), ("nan%", "not a label budget"),
])
def test_budget_refused(asked, words):
    with pytest.raises(UserError) as error:
        budget(asked, 70, "patient")
    assert words in str(error.value)


@pytest.mark.parametrize("change, words", [
    ({"protocol": "clean"}, "--protocol clean"), ({"fold": 5}, "from 0 to 4"), ({"fold": -1}, "from 0 to 4"),
    ({"fold": 0, "folds": 1}, "at least 2"), ({"fold": 0, "folds": 50}, "fewer folds"), ({"labeled_choice": "best"}, "first or random"),
])
def test_split_refused(change, words):
    arguments = {"protocol": None, "fold": None, "folds": 5, "split_seed": 0, "labeled_num": "2", "labeled_choice": "first",
                 "labeled_seed": 0} | change
    with pytest.raises(UserError) as error:
        splits.make_split(make_source([2] * 20), SplitRequest(**arguments))
    assert words in str(error.value)


@pytest.mark.parametrize("folds, fewest", [(2, 4), (3, 3), (4, 4)])
def test_the_fewest_groups_of_folds(folds, fewest):
    """Each part has one: test, validation, and training of what is left."""
    split = splits.make_split(make_source([1] * fewest), SplitRequest(fold=0, folds=folds, labeled_num="all"))
    assert len(split.labeled) == fewest - len(split.val) - (2 if folds == 2 else 1) >= 1 == len(split.val)
    with pytest.raises(UserError, match="fewer folds"):
        splits.make_split(make_source([1] * (fewest - 1)), SplitRequest(fold=0, folds=folds, labeled_num="all"))


def test_images_without_labels_of_a_held_out_group_are_left_out():
    source = make_source([1] * 8, unlabeled=1)
    source.everything += [Case(f"g{group:03d}_x", Path("x"), None, f"g{group:03d}", "", "train") for group in range(8)]
    for fold in range(4):
        request = SplitRequest(fold=fold, folds=4, labeled_num="all")
        split, test = splits.make_split(source, request), splits.test_cases(source, request)
        assert len(test) == 2 and len(split.val) == 1 and groups(split.unlabeled) == {"free0"}
        assert len(split.labeled) == len(split.left_out) == 5 and not groups(test) & groups(split.val)


def test_official_training_asks_for_no_test_part():
    source = make_source([2] * 20)
    splits.make_split(source, SplitRequest(labeled_num="2"))
    assert source.asked == ["train", "val"]


def test_a_split_without_validation_holds_a_share_out_for_schedules():
    source = make_source([4] * 20, reader=MtSource, unit="image", parts=("train",))
    held = splits.make_split(source, SplitRequest(protocol="official", labeled_num="40%", hold_out=True))
    free = splits.make_split(source, SplitRequest(protocol="official", labeled_num="40%"))
    assert held.selection == free.selection == "last" and not free.val and held.val
    assert not groups(held.val) & groups(held.labeled + held.unlabeled)
    assert len(free.labeled) + len(free.unlabeled) == 64 and len(splits.test_cases(source, SplitRequest(protocol="official"))) == 16


def test_published_split_is_that_of_scikit_learn():
    kept, held_out = published_split([str(i) for i in range(10)], 0.25, 69)
    order = np.random.RandomState(69).permutation(10)
    assert held_out == [str(i) for i in order[:3]] and kept == [str(i) for i in order[3:]]


def real(name):
    root = Path(os.environ.get("SEMISEG_DATA", "/nowhere")) / name
    if not root.is_dir():
        pytest.skip(f"SEMISEG_DATA has no {name}")
    return root


def test_acdc_counts():
    root = real("ACDC")
    source = open_source(DATA_SETS["ACDC"], root)
    if len(source.cases("train")) < 140:
        pytest.skip("only a part of ACDC is there")
    split = splits.make_split(source, SplitRequest(labeled_num="7"))
    assert list(groups_of(split.labeled)) == [f"patient{n:03d}" for n in (99, 38, 50, 100, 58, 21, 49)]
    assert (len(source.items(list(split.labeled))), len(source.items(list(split.unlabeled))), len(split.val)) == (136, 1176, 20)
    assert len(splits.test_cases(source, SplitRequest())) == 40
    for k in range(5):
        test = splits.test_cases(source, SplitRequest(fold=k))
        assert Counter(c.stratum for c in test) == dict.fromkeys(Counter(c.stratum for c in test), 8) and len(groups(test)) == 20
        assert len({c.stratum for c in splits.make_split(source, drawn("7", 1, fold=k)).labeled}) == 5


def test_neu_counts():
    source = open_source(DATA_SETS["NEU-Seg"], real("NEU_Seg"))
    if len(source.cases("train")) < 3630:
        pytest.skip("only a part of NEU-Seg is there")
    for asked, labeled, unlabeled in (("1%", 30, 3055), ("5%", 154, 2931), ("10%", 308, 2777), ("20%", 617, 2468), ("30%", 925, 2160),
                                      ("50%", 1542, 1543)):
        split = splits.make_split(source, SplitRequest(protocol="official", labeled_num=asked))
        assert (len(split.labeled), len(split.unlabeled), len(split.val)) == (labeled, unlabeled, 545)
    assert len(splits.test_cases(source, SplitRequest(protocol="official"))) == 840
    test = splits.test_cases(source, SplitRequest())
    seen = [*range(1, 11), *range(201, 211), *range(509, 512), 516, *range(523, 527), 528, 529, *range(601, 841)]
    assert [int(c.name.split("/")[1]) for c in test] == seen and len(seen) == 270
    split = splits.make_split(source, SplitRequest(labeled_num="10%"))
    assert split.name == "clean" and len(split.labeled) == 308 and len(groups(source.cases("train"))) == 1590
    parts = [groups(split.labeled), groups(split.unlabeled), groups(split.val), groups(test)]
    assert sum(len(p) for p in parts) == len(set().union(*parts))


def test_mt_counts():
    source = open_source(DATA_SETS["MT"], real("MT"))
    cases = source.cases("train")
    if len(cases) < 388:
        pytest.skip("only a part of MT is there")
    assert Counter(g.split("/")[0] for g in groups(cases)) == {"Blowhole": 22, "Break": 18, "Crack": 12, "Fray": 9, "Uneven": 18}
    for asked, labeled, unlabeled in (("10%", 31, 279), ("20%", 62, 248), ("40%", 124, 186), ("50%", 155, 155)):
        split = splits.make_split(source, SplitRequest(protocol="official", labeled_num=asked))
        assert (len(split.labeled), len(split.unlabeled), len(split.val)) == (labeled, unlabeled, 0)
    assert len(splits.test_cases(source, SplitRequest(protocol="official"))) == 78
    split, test = splits.make_split(source, SplitRequest(labeled_num="40%")), splits.test_cases(source, SplitRequest())
    assert split.selection == "validation"
    assert {c.stratum for c in split.val} == {c.stratum for c in test} == {"Blowhole", "Break", "Crack", "Fray", "Uneven"}
    parts = [groups(split.labeled), groups(split.unlabeled), groups(split.val), groups(test)]
    assert sum(len(p) for p in parts) == len(set().union(*parts)) == 79


def overlapping(groups: dict[str, str], parts: dict[str, str]) -> Listed:
    """A source of these cases: name -> group, name -> part (a name may stand in two, joined by '+')."""
    cases = [Case(name, Path(name), Path(name), group, "", part)
             for name, group in groups.items() for part in parts[name].split("+")]  # type: ignore[arg-type]
    return Listed(DataSet("made", AcdcSource, unit="patient"), cases)


def test_a_case_in_two_parts_is_refused_by_whatever_reader_has_it():
    source = overlapping({name: name for name in "abcd"},
                         {"a": "train", "b": "train+val", "c": "val", "d": "train+test"})
    with pytest.raises(UserError, match="b stands in training and in validation; a case belongs to one part, once"):
        splits.make_split(source, SplitRequest())
    assert "test" not in source.asked, "training does not look into the test part"
    with pytest.raises(UserError) as error:
        splits.test_cases(source, SplitRequest())
    assert "b stands in training and in validation" in str(error.value) and "d stands in training and in test" in str(error.value)


def test_test_cases_that_a_run_has_seen_are_refused():
    cases = make_source([2, 2]).everything
    recorded = {"labeled": ["g007_0"], "val": ["g008_0"]}
    splits.check_unseen(cases, recorded)
    for change, words in (({"labeled": ["g007_0", "g001_1"]}, "1 of the 4 test cases were labelled in training"),
                          ({"val": ["g000_0", "g000_1"]}, "2 of the 4 test cases were for validation")):
        with pytest.raises(UserError, match=words):
            splits.check_unseen(cases, recorded | change)
    splits.check_unseen(cases, {"labeled": [], "val": ["g000_0"], "selection": "test"})


def test_a_patient_in_two_parts_is_refused_where_groups_are_whole():
    source = overlapping({"a1": "a", "a2": "a", "b1": "b", "c1": "c"}, {"a1": "train", "a2": "test", "b1": "train", "c1": "val"})
    splits.make_split(source, SplitRequest())
    with pytest.raises(UserError, match="a: a1 stands in training and a2 in test; what shows one patient or piece belongs to one part"):
        splits.test_cases(source, SplitRequest())


def test_a_case_that_is_named_twice_is_refused():
    source = overlapping({"a": "a", "b": "b", "c": "c"}, {"a": "train", "b": "val", "c": "train+train"})
    with pytest.raises(UserError, match="c stands twice in training"):
        splits.make_split(source, SplitRequest())
