"""splits.json: the same to the byte from names and seeds, merged, and refused where the data have changed; folds and draws as promised."""
from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cross_val_dev import acdc, groups
from test_splits import Listed, make_source

from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.splits import protocols as splits
from sweeps import splits_file
from sweeps.splits_file import write_splits

RUNS = [(0, None, "2"), (0, 4, "2"), (1, None, "1"), (None, 0, "all"), (None, 0, "2")]


def words(root: Path) -> list[str]:
    return ["--dataset", "ACDC", "--root_path", str(root), "--folds", "3", "--max_iterations", "12", "--no_compile"]


def test_the_file_is_the_same_in_whatever_order_it_is_written(tiny_acdc: Path, tmp_path: Path):
    whole, parts = tmp_path / "results" / "ACDC" / "splits.json", tmp_path / "parts.json"
    write_splits(whole, words(tiny_acdc), RUNS)
    for run in reversed(RUNS):
        write_splits(parts, words(tiny_acdc), [run, run])
    assert whole.read_bytes() == parts.read_bytes() and str(tiny_acdc) not in whole.read_text()
    before = whole.read_bytes()
    write_splits(whole, words(tiny_acdc), RUNS[:1])
    assert whole.read_bytes() == before


def test_the_file_says_what_the_runs_do(tiny_acdc: Path, tmp_path: Path):
    path = tmp_path / "splits.json"
    write_splits(path, words(tiny_acdc), RUNS)
    value = json.loads(path.read_text())
    assert value["schema"] == 1 and value["data_set"] == "ACDC" and "diagnosis" in value["strata"]
    assert list(value["splits"]) == ["official", "fold0of3", "fold1of3"]
    fold = value["splits"]["fold0of3"]
    assert (fold["fold"], fold["folds"], fold["split_seed"], fold["protocol"], fold["selection"]) == (0, 3, 0, "official", "validation")
    source = splits_file.catalog.open_source(splits_file.catalog.named("ACDC"), tiny_acdc)
    for draw, choice, seed in (("first", "first", 0), ("draw4", "random", 4)):
        split = splits.make_split(source, None, 0, 3, 0, "2", choice, seed)
        entry = fold["labeled"]["2"][draw]
        assert entry["cases"] == [case.name for case in split.labeled] and entry["unlabeled"] == len(split.unlabeled)
        assert entry["unlabeled_digest"] == splits_file.digest([case.name for case in split.unlabeled])
        assert set(entry["cases"]) < set(fold["train"]["cases"])
    assert fold["val"]["cases"] == [case.name for case in split.val] and fold["val"]["digest"] == splits_file.digest(fold["val"]["cases"])
    assert fold["test"]["cases"] == [case.name for case in splits.test_cases(source, None, 0, 3, 0)]
    everyone = sorted(name for part in ("train", "val", "test") for name in fold[part]["cases"])
    assert everyone == [f"patient{n:03d}_frame01" for n in range(1, 10)]
    assert fold["train"]["strata"] == {"dilated": len(fold["train"]["groups"])}
    assert list(value["splits"]["official"]["labeled"]) == ["2", "all"]


def test_no_test_image_is_opened(tiny_acdc: Path, tmp_path: Path):
    root, path = tmp_path / "ACDC", tmp_path / "splits.json"
    shutil.copytree(tiny_acdc, root)
    for file in (root / "data").rglob("*.h5"):
        file.write_text("not an image")
    write_splits(path, words(root), RUNS)
    assert json.loads(path.read_text())["splits"]["official"]["test"]["cases"] == ["patient009_frame01"]


def test_other_data_under_the_same_name_are_refused(tiny_acdc: Path, tmp_path: Path):
    root, path = tmp_path / "ACDC", tmp_path / "splits.json"
    shutil.copytree(tiny_acdc, root)
    write_splits(path, words(root), RUNS)
    before = path.read_bytes()
    names = (root / "train.list").read_text().split()
    (root / "train.list").write_text("\n".join(names[1:]))
    (root / "train_slices.list").unlink()
    with pytest.raises(UserError) as error:
        write_splits(path, words(root), RUNS[3:])
    said = str(error.value)
    assert f"official, train: 6 cases then, 5 now; 1 only then ({names[0]})" in said and "--exp NAME" in said and error.value.code == 2
    (root / "train.list").write_text("\n".join([names[1], names[0], *names[2:]]))
    with pytest.raises(UserError, match="official, train: the same cases in another order"):
        write_splits(path, words(root), RUNS[3:])
    assert path.read_bytes() == before, "nothing is written then"
    write_splits(path, words(root), [(2, None, "1")])  # a fold follows from the names, not from the order of a list


def test_another_protocol_or_selection_under_the_same_name_is_refused(tiny_acdc: Path, tmp_path: Path):
    path = tmp_path / "splits.json"
    write_splits(path, words(tiny_acdc), RUNS)
    for key in ("protocol", "selection"):
        value = json.loads(path.read_text())
        then = value["splits"]["official"][key]
        value["splits"]["official"][key] = "another"
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match=f"official, {key}: another then, {then} now"):
            write_splits(path, words(tiny_acdc), RUNS)
        value["splits"]["official"][key] = then
        path.write_text(json.dumps(value))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1, "splits": [1]}', '{"splits": {"official": {}}}'])
def test_a_foreign_file_is_refused(tiny_acdc: Path, tmp_path: Path, content: str):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(UserError, match="splits.json"):
        write_splits(path, words(tiny_acdc), RUNS)
    assert path.read_text() == content


def test_acdc_folds_and_draws_are_stratified_by_diagnosis():
    """Every fold tests four patients of each diagnosis; a draw of five or more labels all of them."""
    for fold, seed in itertools.product(range(5), (0, 3)):
        test = splits.test_cases(acdc(), None, fold, 5, seed)
        assert set(Counter(case.stratum for case in test).values()) == {8} and len(groups(test)) == 20
        for draw, number in itertools.product(range(3), (5, 7)):
            split = splits.make_split(acdc(), None, fold, 5, seed, str(number), "random", draw)
            counts = Counter(case.stratum for case in split.labeled[::2])
            assert len(counts) == 5 and max(counts.values()) <= 2 and len(groups(split.labeled)) == number
            assert len({case.stratum for case in split.val}) == 5 and len(groups(split.val)) == 10


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=12, max_size=30), st.integers(0, 2**31), st.integers(0, 99), st.integers(0, 2))
def test_budgets_of_a_fold_are_nested_and_runs_are_paired(sizes, split_seed, draw, fold):
    """The test and validation parts hang on the fold alone; a smaller budget is part of a larger one of the same draw."""
    source: Listed = make_source(sizes)
    made = {(choice, n): splits.make_split(source, None, fold, 3, split_seed, str(n), choice, draw)
            for choice in ("first", "random") for n in (1, 2, 4)}
    assert len({split.val for split in made.values()}) == 1

    def pool(split: splits.Split) -> set[Case]:
        return {*split.labeled, *split.unlabeled, *split.left_out}

    assert all(pool(split) == pool(made["first", 1]) for split in made.values())
    for choice in ("first", "random"):
        small, middle, large = (set(made[choice, n].labeled) for n in (1, 2, 4))
        assert small < middle < large
