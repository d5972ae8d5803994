"""The table of all methods: made from runs of the scripts, made again without training, hand-written text kept."""
from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import compare
import pytest
from harness import Commands
from test_every_method import rows

from dataloaders.errors import UserError
from storage.sealed import is_altered


def test_a_page_is_made_and_made_again(tmp_path: Path, tiny_acdc: Path, monkeypatch: pytest.MonkeyPatch,
                                        capfd: pytest.CaptureFixture) -> None:
    command = Commands(tmp_path, monkeypatch)
    follow = []

    def run_all(jobs, *_, then=None, **__):
        print(*[command(words[1:]) for _, words in jobs])
        follow.extend((title, then(title)) for title, _ in jobs if then)
        return []

    monkeypatch.setattr(compare, "run_all", run_all)
    words = ("--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2", "--max_iterations", "4", "--val_every", "2",
             "--device", "cpu")
    table = compare.Table("A title", "What is said.", "ACDC", "2", words, {"consistency_rampup": "3"}, seeds=(1,))
    monkeypatch.setitem(compare.TABLES, "phantom", table)
    monkeypatch.setattr(compare, "REPOSITORY", tmp_path)
    monkeypatch.setattr(compare, "BASELINES", (compare.SUPERVISED,))
    (tmp_path / "results").mkdir(exist_ok=True)
    page = tmp_path / "results" / "phantom.md"
    page.write_text(f"old\n{compare.MARKER}\nWritten by hand.\n")
    asked = compare.Compare(methods=("Supervised", "CPS"), seeds=(1,), root_path=tiny_acdc)
    compare.main(asked)
    tested = {title: words[1:] for title, words in follow}
    assert Path(tested["CPS, seed 1"][0]).name == "test_2D.py" and "/CPS_2_labeled/" in tested["CPS, seed 1"][2], "as soon as it is trained"
    assert tested["supervised, seed 101"] == [], "one of those that are averaged"
    text = page.read_text()
    assert "Written by hand." in text and "old" not in text
    for row in ("| supervised | 0.", "| mean of three supervised networks | 0.", "| CPS | 0.", "| CPS | model2 | ",
                "| URPC | not run |"):
        assert row in text, text
    assert "consistency_rampup 3.0" in text and "--consistency_rampup" not in text
    capfd.readouterr()
    before = {path: path.stat().st_mtime for path in (tmp_path / "results").rglob("*.json")}
    compare.main(asked)
    assert page.read_text() == text and not starts(capfd.readouterr().out), "nothing is trained again"
    assert {path: path.stat().st_mtime for path in before} == before, "nothing is tested again"
    shutil.rmtree(compare.model_folder())
    compare.main(asked)
    assert page.read_text() == text and not starts(capfd.readouterr().out), "results are enough for the page"
    other = dataclasses.replace(table, words=tuple(word.replace("32", "48") for word in words))
    assert not compare.scores(compare.SUPERVISED, 1, other, "phantom"), "another schedule is another row"
    damaged = next(path for path in before if "Supervised" in str(path))
    damaged.write_text(damaged.read_text().replace('"dice": 0.', '"dice": 0.9', 1))
    with pytest.raises(UserError, match="its values are not those of its digest"):
        compare.main(asked)


def test_rows_of_a_table_that_are_no_script_stand_last() -> None:
    assert compare.rows_of(compare.Compare("neu_seg_small"))[-1].key == "simEps_sim_rise_run"


def starts(said: str) -> list[str]:
    """The folders of the runs that were begun."""
    return [line for line in said.splitlines() if "Folder:" in line]


def test_the_best_on_validation_cases_have_further_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr(compare, "train", lambda rows, *_: trained.append([(row.key, seed) for row, seed in rows]) or [])
    monkeypatch.setattr(compare, "write", lambda *_: None)
    monkeypatch.setattr(compare.catalog, "open_source", lambda *_: None)
    monkeypatch.setattr(compare.catalog, "resolve", lambda *_: ())
    good = {"CPS": 0.9, "ICT": 0.8, "URPC": 0.7, "DAN": 0.6, "DCT": 0.5}
    result = {"run": {"selected": {"a": {"validation_dice": None}}}}
    monkeypatch.setattr(compare, "scores", lambda row, *_: {"a": result, "b": {"run": {"selected": {"b": {
        "validation_dice": good.get(row.key, 0.1)}}}}})
    compare.main(compare.Compare())
    first, further = trained
    assert {seed for _, seed in first} == {1} and len(first) > 40
    assert {key for key, _ in further} == {*good, "Supervised", "Supervised_augment_strong"} and {seed for _, seed in further} == {2, 3}


def test_the_settings_of_a_row_tell_where_its_schedule_is_another() -> None:
    usual = {"max_iterations": 350, "batch_size": 8, "labeled_bs": 4}
    table = compare.TABLES["phantom"]
    assert compare.set_as("A", {**usual, "base_lr": 0.01, "own": 2}, usual, table) == "| A | 0.01 | own 2 |"
    other = {**usual, "max_iterations": 1400, "base_lr": 0.01, "own": None}
    assert compare.set_as("B", other, usual, table) == "| B | 0.01 | max_iterations 1400 |"


def test_a_method_that_is_not_there() -> None:
    with pytest.raises(UserError, match="train_Nothing.py; there are .*CCT, .*CPS"):
        compare.rows_of(compare.Compare(methods=("Nothing",)))


def test_a_reconstruction_is_called_one_and_stands_beside_its_relative() -> None:
    titles = [row.title for row in compare.rows_of(compare.Compare(methods=("SemSim", "HCE", "CPS", "DCNet")))]
    assert titles == ["CPS", "SemSim (a reconstruction)", "DCNet (a reconstruction)", "CPS on two heads", "HCE (a reconstruction)"]
    both = compare.rows_of(compare.Compare(methods=("DCNet",)))
    assert [row.key for row in both] == ["DCNet", "DCNet_second_plain"], "runs of the two do not meet"


def test_scripts_without_volumes_or_without_images_have_no_row_there() -> None:
    """As the rows of the README say."""
    in_3d = {row.script for row in compare.rows_of(compare.Compare("phantom3d"))}
    in_2d = {row.script for row in compare.rows_of(compare.Compare("phantom"))}
    uses = {method: use for method, (_, use) in rows().items()}
    assert in_3d == {method for method, use in uses.items() if use != "images"}
    assert in_2d == {method for method, use in uses.items() if use != "volumes"}


def test_scores_beside_those_of_another_program() -> None:
    table = compare.TABLES["originals"]

    def of(*dice: float) -> dict:
        names = ("ensemble", "model1", "model2")[-len(dice):] if len(dice) > 1 else ("network",)
        return {name: {"summary": {"mean": {"dice": value, "hd95_vox": 1.0}}} for name, value in zip(names, dice)}

    assert compare.put_beside("one", {1: [0.6], 2: [0.62]}, {1: of(0.61), 2: of(0.63)}, table) == (
        "| one | 0.600, 0.620 | 0.610, 0.630 | +0.010 | 0.028 | within |")
    assert compare.put_beside("two", {1: [0.5, 0.7], 2: [0.6, 0.62]}, {1: of(0.9, 0.5, 0.5)}, table) == (
        "| two | 0.600, 0.610 | 0.500 | -0.105 | 0.017 | outside |")
    assert compare.put_beside("one", {1: [0.6]}, {1: of(0.61)}, table).endswith("| +0.010 | | one run each |")


def words_of(row: str, table: str) -> list[str]:
    asked = compare.Compare(table, methods=(row,))  # type: ignore[arg-type]
    return compare.command(compare.rows_of(asked)[0], compare.TABLES[table], 1, asked, table)[2:]


def test_the_table_of_simeps_has_its_methods_on_the_published_schedules() -> None:
    rows = [row.title for row in compare.rows_of(compare.Compare("neu_seg"))]
    assert rows == ["supervised", "MeanTeacher", "CPS", "CCT", "DAN", "DCT", "ICT", "ReCo", "UCC", "UAPS", "simEps"]
    words = words_of("ReCo", "neu_seg")
    assert "--max_iterations" not in words and words[words.index("--protocol") + 1] == "official"
    assert not set(compare.TABLES["neu_seg"].words) - {"--protocol", "official"}


def test_the_short_schedule_is_scaled_for_scripts_that_have_the_option() -> None:
    assert rows_of_words(words_of("MeanTeacher", "neu_seg_small")) == {"max_iterations": "944", "consistency_rampup": "6",
                                                                       "consistency_start": "27"}
    assert rows_of_words(words_of("Supervised", "neu_seg_small")) == {"max_iterations": "944"}


def rows_of_words(words: list[str]) -> dict[str, str]:
    scaled = ("max_iterations", "consistency_rampup", "consistency_start")
    return {name: words[words.index(f"--{name}") + 1] for name in scaled if f"--{name}" in words}


def test_a_line_has_the_scores_of_its_table() -> None:
    defects = compare.TABLES["neu_seg"]
    results = [{"images": {"training_size": {"per_image": {"miou": iou, "mdice": 0.8}}}} for iou in (0.5, 0.6)]
    line = compare.line("a method", {seed: compare.mean_of(one, defects) for seed, one in enumerate(results)}, "ensemble", defects)
    assert line == "| a method | 0.550 ± 0.071 | 0.500, 0.600 | 0.800 ± 0.000 | ensemble |"
    assert compare.line("a method", {}, "", defects) == "| a method | not run | | | |"


def test_a_table_may_have_rows_of_its_own_on_several_data_sets() -> None:
    asked = compare.Compare("pretrained", root_path=Path("D"))
    rows = compare.rows_of(asked)
    assert len({row.key for row in rows}) == len(rows) == 18 and {row.data_set for row in rows} == {"VOC2012", "NEU-Seg", "GlaS"}
    words = compare.command(rows[1], compare.TABLES["pretrained"], 1, asked, "pretrained")
    given = {word: words[place + 1] for place, word in enumerate(words) if word.startswith("--")}
    assert rows[1].title == "VOC2012: supervised, pretrained" and given["--exp"].startswith("pretrained/VOC2012_Supervised_")
    assert (given["--dataset"], given["--root_path"], given["--pretrained"]) == ("VOC2012", str(Path("D/VOC2012")), "imagenet")
    scenes = [row.title for row in compare.rows_of(compare.Compare("phantom_scenes", methods=("Supervised", "STPlusPlus")))]
    assert scenes == ["supervised", "supervised with all labels", "ST", "ST++"]


def test_what_a_script_refuses_is_given_otherwise() -> None:
    table, asked = compare.TABLES["phantom3d"], compare.Compare("phantom3d")
    rows = {row.script: row for row in compare.rows_of(asked) if not row.title.startswith("supervised")}
    for script, precision in (("MLBSeg", "32"), ("MeanTeacher", "bf16-mixed")):
        words = compare.command(rows[script], table, 1, asked, "phantom3d")
        assert compare.asked_for(words[words.index("--max_iterations"):], {"max_iterations": 200, "val_every": 100, "precision": precision,
                                 "pre_iterations": 100, "seed": 1, "exp": f"phantom3d/{rows[script].key}"})
    assert rows["MLBSeg"].title == "MLBSeg --precision 32" and rows["MeanTeacher"].title == "MeanTeacher"


def test_results_of_the_repository_name_no_place_of_a_machine() -> None:
    """They were made somewhere, and are read, sealed as they are, elsewhere."""
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=compare.REPOSITORY, capture_output=True, text=True)
    files = [compare.REPOSITORY / name for name in listed.stdout.split("\0") if name.endswith((".json", ".csv", ".html", ".md"))]
    if not files:
        pytest.skip("no checkout of git")
    there = [file for file in files if file.exists()]
    assert not [file for file in there if re.search(r"[\" (=](?:/(?:work|tmp|home|root|Users)/|[A-Z]:\\)", file.read_text())]
    read = [json.loads(file.read_text()) for file in there if file.suffix == ".json"]
    assert not any(is_altered(value) for value in read if isinstance(value, dict))
