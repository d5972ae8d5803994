"""splits.json: the same to the byte from names and seeds, merged, and refused where the data have changed; folds and draws as promised."""
from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cross_val_dev import acdc, groups
from test_splits import Listed, make_source
from tiny import slice_of

from dataloaders.catalog import named, open_source
from dataloaders.description import Case, Source
from dataloaders.errors import UserError
from dataloaders.layouts.mt import DEFECTS
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest
from storage.sealed import parsed
from sweeps import splits_file
from sweeps.grid import Combination
from sweeps.planning import Plan, plan
from sweeps.splits_file import write_splits

RUNS = [SplitRequest(fold=0, folds=3, labeled_num="2"), SplitRequest(None, 0, 3, 0, "2", "random", 4),
        SplitRequest(fold=1, folds=3, labeled_num="1"), SplitRequest(labeled_choice="random"),
        SplitRequest(labeled_num="2", labeled_choice="random")]


def opened(root: Path) -> Source:
    return open_source(named("ACDC"), root)


def test_the_file_is_the_same_in_whatever_order_it_is_written(tiny_acdc: Path, tmp_path: Path):
    whole, parts = tmp_path / "results" / "ACDC" / "splits.json", tmp_path / "parts.json"
    write_splits(whole, opened(tiny_acdc), RUNS)
    for run in reversed(RUNS):
        write_splits(parts, opened(tiny_acdc), [run, run])
    assert whole.read_bytes() == parts.read_bytes() and str(tiny_acdc) not in whole.read_text()
    before = whole.read_bytes()
    write_splits(whole, opened(tiny_acdc), RUNS[:1])
    assert whole.read_bytes() == before


def test_the_file_says_what_the_runs_do(tiny_acdc: Path, tmp_path: Path):
    path = tmp_path / "splits.json"
    write_splits(path, opened(tiny_acdc), RUNS)
    value = json.loads(path.read_text())
    assert value["schema"] == 1 and value["data_set"] == "ACDC" and "diagnosis" in value["strata"]
    assert list(value["splits"]) == ["official", "fold0of3", "fold1of3"]
    fold = value["splits"]["fold0of3"]
    assert (fold["fold"], fold["folds"], fold["split_seed"], fold["protocol"], fold["selection"]) == (0, 3, 0, "official", "validation")
    source = opened(tiny_acdc)
    for draw, choice, seed in (("first", "first", 0), ("draw4", "random", 4)):
        split = splits.make_split(source, SplitRequest(fold=0, folds=3, labeled_num="2", labeled_choice=choice, labeled_seed=seed))
        entry = fold["labeled"]["2"][draw]
        assert entry["cases"] == [case.name for case in split.labeled] and entry["unlabeled"] == len(split.unlabeled)
        assert entry["unlabeled_digest"] == splits_file.digest([case.name for case in split.unlabeled])
        assert set(entry["cases"]) < set(fold["train"]["cases"])
    assert fold["val"]["cases"] == [case.name for case in split.val] and fold["val"]["digest"] == splits_file.digest(fold["val"]["cases"])
    assert fold["test"]["cases"] == [case.name for case in splits.test_cases(source, SplitRequest(fold=0, folds=3))]
    everyone = sorted(name for part in ("train", "val", "test") for name in fold[part]["cases"])
    assert everyone == [f"patient{n:03d}_frame01" for n in range(1, 10)]
    assert fold["train"]["strata"] == {"dilated": len(fold["train"]["groups"])}
    assert list(value["splits"]["official"]["labeled"]) == ["2", "all"]


def test_no_test_image_is_opened(tiny_acdc: Path, tmp_path: Path):
    root, path = tmp_path / "ACDC", tmp_path / "splits.json"
    shutil.copytree(tiny_acdc, root)
    for file in (root / "data").rglob("*.h5"):
        file.write_text("not an image")
    write_splits(path, opened(root), RUNS)
    assert json.loads(path.read_text())["splits"]["official"]["test"]["cases"] == ["patient009_frame01"]


def test_other_data_under_the_same_name_are_refused(tiny_acdc: Path, tmp_path: Path):
    root, path = tmp_path / "ACDC", tmp_path / "splits.json"
    shutil.copytree(tiny_acdc, root)
    write_splits(path, opened(root), RUNS)
    before = path.read_bytes()
    names = (root / "train.list").read_text().split()
    (root / "train.list").write_text("\n".join(names[1:]))
    (root / "train_slices.list").unlink()
    with pytest.raises(UserError) as error:
        write_splits(path, opened(root), RUNS[3:])
    said = str(error.value)
    assert f"official, train: 6 cases then, 5 now; 1 only then ({names[0]})" in said and "--exp NAME" in said and error.value.code == 2
    (root / "train.list").write_text("\n".join([names[1], names[0], *names[2:]]))
    with pytest.raises(UserError, match="official, train: the same cases in another order"):
        write_splits(path, opened(root), RUNS[3:])
    assert path.read_bytes() == before, "nothing is written then"
    # A fold follows from the names, not from the order of a list.
    write_splits(path, opened(root), [SplitRequest(fold=2, folds=3, labeled_num="1")])


def test_another_protocol_or_selection_under_the_same_name_is_refused(tiny_acdc: Path, tmp_path: Path):
    path = tmp_path / "splits.json"
    write_splits(path, opened(tiny_acdc), RUNS)
    for key in ("protocol", "selection"):
        value = parsed(path.read_bytes())
        then = value["splits"]["official"][key]
        value["splits"]["official"][key] = "another"
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match=f"official, {key}: another then, {then} now"):
            write_splits(path, opened(tiny_acdc), RUNS)
        value["splits"]["official"][key] = then
        path.write_text(json.dumps(value))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1, "splits": [1]}', '{"splits": {"official": {}}}'])
def test_a_foreign_file_is_refused(tiny_acdc: Path, tmp_path: Path, content: str):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(UserError, match="splits.json"):
        write_splits(path, opened(tiny_acdc), RUNS)
    assert path.read_text() == content


def write_mt(root: Path) -> Path:
    """MT with a picture of each of four tiles of every defect."""
    rng = np.random.default_rng(0)
    for name in DEFECTS:
        folder = root / f"MT_{name}" / "Imgs"
        folder.mkdir(parents=True)
        for tile in range(4):
            image, label = slice_of(rng, 32, 32, 2)
            stem = f"exp1_num_{DEFECTS.index(name)}{1000 * tile}"
            Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(folder / f"{stem}.jpg")
            Image.fromarray(label * np.uint8(255)).save(folder / f"{stem}.png")
    return root


def test_a_sweep_writes_the_splits_that_its_methods_train_on(tmp_path: Path):
    """FixMatchCTA has no schedule that follows a score, so on MT's official split it holds nothing out; simEps does."""
    root, path = write_mt(tmp_path / "MT"), tmp_path / "splits.json"
    common = ["--dataset", "MT", "--root_path", str(root), "--protocol", "official", "--labeled_num", "40%"]

    def planned(method: str) -> Plan:
        return plan([Combination(method, "40%", None, None, 1337)], common, [], None, "sweep", 1)

    cta, simeps = planned("FixMatchCTA"), planned("simEps")
    assert [request.hold_out for request in (*cta.splits, *simeps.splits)] == [False, True]
    assert cta.reader == {"mask_threshold": 0, "include_free": False}
    write_splits(path, open_source(named("MT"), root), cta.splits | simeps.splits)
    written = json.loads(path.read_text())["splits"]
    assert list(written) == ["official", "official_held_out"]
    assert not written["official"]["val"]["cases"] and written["official_held_out"]["val"]["cases"]
    trained = splits.make_split(open_source(named("MT"), root), *cta.splits)
    assert written["official"]["labeled"]["40%"]["first"]["cases"] == [case.name for case in trained.labeled]


def test_acdc_folds_and_draws_are_stratified_by_diagnosis():
    """Every fold tests four patients of each diagnosis; a draw of five or more labels all of them."""
    for fold, seed in itertools.product(range(5), (0, 3)):
        test = splits.test_cases(acdc(), SplitRequest(fold=fold, split_seed=seed))
        assert set(Counter(case.stratum for case in test).values()) == {8} and len(groups(test)) == 20
        for draw, number in itertools.product(range(3), (5, 7)):
            split = splits.make_split(acdc(), SplitRequest(None, fold, 5, seed, str(number), "random", draw))
            counts = Counter(case.stratum for case in split.labeled[::2])
            assert len(counts) == 5 and max(counts.values()) <= 2 and len(groups(split.labeled)) == number
            assert len({case.stratum for case in split.val}) == 5 and len(groups(split.val)) == 10


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=12, max_size=30), st.integers(0, 2**31), st.integers(0, 99), st.integers(0, 2))
def test_budgets_of_a_fold_are_nested_and_runs_are_paired(sizes, split_seed, draw, fold):
    """The test and validation parts hang on the fold alone; a smaller budget is part of a larger one of the same draw."""
    source: Listed = make_source(sizes)
    made = {(choice, n): splits.make_split(source, SplitRequest(None, fold, 3, split_seed, str(n), choice, draw))
            for choice in ("first", "random") for n in (1, 2, 4)}
    assert len({split.val for split in made.values()}) == 1

    def pool(split: splits.Split) -> set[Case]:
        return {*split.labeled, *split.unlabeled, *split.left_out}

    assert all(pool(split) == pool(made["first", 1]) for split in made.values())
    for choice in ("first", "random"):
        small, middle, large = (set(made[choice, n].labeled) for n in (1, 2, 4))
        assert small < middle < large
