"""One's own images with lists beside them: the lists say who is trained and tested; what is drawn is called so, wherever it is named."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import test_2D
from harness import Bench
from test_layouts import said
from tiny import save_volume, write_folder

from dataloaders.catalog import open_source, resolve
from dataloaders.description import Source
from dataloaders.splits.split import SplitRequest, check_unseen, make_split
from dataloaders.splits.split import test_cases as cases_of_test
from system.ending import finish_with

LISTS = {"train.txt": ("piece 3.png", "piece 1", "piece 2", "piece 9"), "val.txt": ("piece 4", "piece 5.png"),
         "test.txt": ("piece 0", "piece 6")}


def with_lists(root: Path, lists: dict[str, tuple[str, ...]]) -> Path:
    """Twelve pictures, the first eight with a mask, and lists beside them."""
    write_folder(root)
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def opened(root: Path) -> Source:
    data, root, _ = resolve(None, root, root)
    return open_source(data, root)


def names(cases) -> list[str]:
    return [case.name for case in cases]


def test_lists_name_the_parts_in_their_order(tmp_path):
    source = opened(with_lists(tmp_path, LISTS))
    split = make_split(source, SplitRequest())
    assert split.name == "official" and names(split.labeled) == ["piece 3", "piece 1", "piece 2"], "with or without the ending"
    assert names(split.unlabeled) == ["piece 9"], "a listed image without a mask is unlabelled"
    assert names(split.val) == ["piece 4", "piece 5"] and names(cases_of_test(source, SplitRequest())) == ["piece 0", "piece 6"]
    assert names(make_split(source, SplitRequest(labeled_num="1")).labeled) == ["piece 3"], "a budget takes the first of the list"
    assert any("4 of 12 images stand in no list (for example piece 7) and are left out" in remark for remark in source.remarks)


def test_lists_in_upper_case_are_lists(tmp_path):
    upper = {name.upper() if name.startswith("v") else name.title(): lines for name, lines in LISTS.items()}
    root = with_lists(tmp_path, upper)
    (root / "Classes.TXT").write_text("steel\ncrack\n")
    (root / "Groups.csv").write_text("image,group\npiece 3,a\npiece 1,a\n")
    source = opened(root)
    assert names(source.cases("train")) == ["piece 3", "piece 1", "piece 2", "piece 9"]
    assert names(source.cases("val")) == ["piece 4", "piece 5"]
    assert source.data.classes == ("steel", "crack") and source.cases("train")[0].group == "group a"
    write_folder(tmp_path / "with folder" / "Val", images=2, masks=2)
    assert len(opened(write_folder(tmp_path / "with folder")).cases("val")) == 2


def test_what_looks_like_a_list_or_a_part_is_told_of(tmp_path):
    root = with_lists(tmp_path, {"val.csv": ("piece 4",), "testing.txt": ("piece 5",), "notes.txt": ("piece 6",)})
    write_folder(root / "validation", images=2, masks=2)
    assert [remark.removeprefix(f"{root}/").split(";")[0] for remark in opened(root).remarks] == [
        "testing.txt: not read", "val.csv: not read", "validation: holds images and is not read"]


def test_images_in_no_list_may_be_trained_on_by_a_list_of_their_own(tmp_path):
    source = opened(with_lists(tmp_path, LISTS | {"unlabeled.list": ("images/piece 7.png", "piece 8", "piece 10", "piece 11")}))
    split = make_split(source, SplitRequest())
    assert names(split.unlabeled) == ["piece 9", "piece 7", "piece 8", "piece 10", "piece 11"], "the mask of piece 7 is not used"
    assert not source.remarks and names(split.labeled) == ["piece 3", "piece 1", "piece 2"]


def test_without_a_list_of_training_all_others_are_for_training(tmp_path):
    source = opened(with_lists(tmp_path, {"val.list": ("piece 4", "piece 5"), "test.list": ("piece 0", "piece 6")}))
    split = make_split(source, SplitRequest())
    assert split.name == "official" and sorted(names(split.labeled)) == ["piece 1", "piece 2", "piece 3", "piece 7"]
    assert names(split.unlabeled) == ["piece 8", "piece 9", "piece 10", "piece 11"]
    assert not {"piece 0", "piece 6"} & {*names(split.labeled), *names(split.unlabeled)}, "no listed test image is trained on"


def test_what_is_drawn_is_called_drawn(tmp_path):
    nothing = opened(write_folder(tmp_path / "a"))
    no_test = opened(with_lists(tmp_path / "b", {"val.txt": ("piece 4",)}))
    no_val = opened(with_lists(tmp_path / "c", {"train.txt": ("piece 3", "piece 1", "piece 2"), "test.txt": ("piece 0",)}))
    assert [make_split(source, SplitRequest()).name for source in (nothing, no_test, no_val)] == ["drawn", "drawn", "drawn_val"]
    split = make_split(no_val, SplitRequest())
    assert sorted(names(split.labeled + split.val)) == ["piece 1", "piece 2", "piece 3"] and len(split.val) == 1
    assert names(cases_of_test(no_val, SplitRequest())) == ["piece 0"]
    assert any("names no validation images: an eighth" in remark and "drawn" in remark for remark in split.remarks)


def test_lists_of_subfolders_and_beside_folders_of_parts(tmp_path):
    root = with_lists(tmp_path, {"train.txt": ("left/a.png", "piece 1", "left/b")})
    for kind in ("images", "masks"):
        (root / kind / "left").mkdir()
        for k, name in enumerate("ab"):
            (root / kind / f"piece {k + 2}.png").rename(root / kind / "left" / f"{name}.png")
    write_folder(root / "test", 2, 2)
    source = opened(root)
    assert names(source.cases("train")) == ["left/a", "piece 1", "left/b"]
    assert names(cases_of_test(source, SplitRequest())) == ["test/piece 0", "test/piece 1"]


def test_training_opens_no_test_image(tmp_path):
    root = with_lists(tmp_path, LISTS)
    for name in ("piece 0", "piece 6"):
        (root / "images" / f"{name}.png").write_text("not a picture")
        (root / "masks" / f"{name}.png").write_text("not a mask")
    source = opened(root)
    assert make_split(source, SplitRequest()).labeled and source.data.num_classes == 2


@pytest.mark.parametrize("lists, words", [
    ({"train.txt": ("piece 1", "piece 20")}, "train.txt, line 2: there is no image"),
    ({"train.txt": ("piece 1", "piece 2.txt")}, "train.txt, line 2: there is no image"),
    ({"train.txt": ("piece 1", "piece 2", "piece 1.png")}, "train.txt, line 3: piece 1 stands in"),
    ({"train.txt": ("piece 1", "piece 2"), "test.txt": ("piece 3", "piece 2.png")}, "test.txt, line 2: piece 2 stands in"),
    ({"train.txt": ("piece 1",), "train.list": ("piece 2",)}, "two lists of one part"),
    ({"train.txt": ("piece 1", "../piece 2")}, "leads out"),
    ({"val.txt": ("piece 1", "piece 9")}, "images in val.txt need one"),
])
def test_lists_that_cannot_be(lists, words, tmp_path):
    root = with_lists(tmp_path, lists)
    assert words in said(opened, root)


def test_a_list_and_a_folder_of_one_part_are_refused(tmp_path):
    root = with_lists(tmp_path, LISTS)
    write_folder(root / "test", 2, 2)
    assert "a list and a folder of one part" in said(opened, root)


def test_lists_of_volumes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b.1", "c", "d", "e"):
        save_volume(tmp_path / "images" / f"{name}.nii.gz", rng.random((6, 5, 4), np.float32))
        save_volume(tmp_path / "masks" / f"{name}.nii.gz", rng.integers(0, 2, (6, 5, 4)).astype(np.uint8))
    (tmp_path / "train.txt").write_text("c\nb.1.nii.gz\n")
    (tmp_path / "val.txt").write_text("a.nii.gz\n")
    (tmp_path / "test.txt").write_text("d\n")
    source = opened(tmp_path)
    split = make_split(source, SplitRequest())
    assert (split.name, names(split.labeled), names(split.val)) == ("official", ["c", "b.1"], ["a"]) and source.data.dimensions == 3
    assert names(cases_of_test(source, SplitRequest())) == ["d"] and "1 of 5 images stand in no list" in source.remarks[0]


def test_a_run_says_what_was_drawn_in_its_folder_and_its_results(bench: Bench, tmp_path, narrow, monkeypatch, capsys):
    root = write_folder(tmp_path / "own")
    monkeypatch.setenv("SEMISEG_MODEL", str(bench.folder / "model"))
    monkeypatch.setenv("SEMISEG_RESULTS", str(bench.folder / "results"))

    def tested() -> int:
        return finish_with(lambda: test_2D.main(test_2D.Test(run=bench.run_folder(), device="cpu")))

    end = bench.train("Supervised", data=root)
    assert end.code == 0 and "drawn split: 2 of " in end.out and "official" not in end.out, end.out + end.err
    assert bench.run_folder().name.startswith("drawn_seed1337")
    assert tested() == 0
    result = json.loads(next((bench.folder / "results").rglob("*.json")).read_text())
    assert result["run"]["split"]["name"] == "drawn"
    (root / "test.txt").write_text(result["run"]["split"]["labeled"][0] + "\n")
    assert tested() == 2 and "1 of the 1 test cases were labelled in training" in "".join(capsys.readouterr())


def test_runs_of_older_versions_are_still_tested_as_they_were(tmp_path):
    """They called a drawn split official; the draw is the same."""
    source = opened(write_folder(tmp_path))
    asked = SplitRequest.of({"protocol": "official", "fold": None, "folds": 5, "split_seed": 0, "labeled_num": "2", "schedule": "poly"})
    split, cases = make_split(source, asked), cases_of_test(source, asked)
    check_unseen(cases, {"name": "official", "labeled": names(split.labeled), "val": names(split.val)})
