"""From result files to tables: which runs are a row, what is compared with what, and what every file of a report says."""
from __future__ import annotations

import csv
import io
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report
from made_results import make_results
from scipy import stats

from dataloaders.errors import UserError
from evaluation.results import as_typed
from reporting.build import build
from reporting.printing import cells, table_files
from reporting.printing.latex import escape, latex
from reporting.printing.markdown import markdown
from reporting.printing.page import render
from reporting.printing.screen import screen
from reporting.records import Record, Skipped, read, read_one
from reporting.summary import Report, Row, Table, pair_of
from storage.folders import REPOSITORY
from storage.provenance import words_of


def report_of(*places: Path) -> Report:
    return build(*read(places))


def table_of(*places: Path) -> Table:
    tables = report_of(*places).tables
    assert len(tables) == 1, [table.key for table in tables]
    return tables[0]


def row_of(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds, two seeds, two budgets of Phantom."""
    folder = tmp_path_factory.mktemp("results") / "Phantom"
    make_results(folder, budgets=("3", "7"), folds=2, seeds=(0, 1))
    return folder


def test_tables_and_rows(sweep: Path):
    few, many = report_of(sweep).tables
    assert [few.labeled_num, many.labeled_num] == ["3", "7"] and few.protocol == "2 folds" and (few.cases, few.groups) == (40, 20)
    assert [(row.label, row.baseline, len(row.records)) for row in few.rows[:2]] == [
        ("Supervised", "same", 4), ("Supervised, all labels", "all", 4)]
    assert [row.label for row in few.rows[2:]] == ["simEps", "MeanTeacher"]  # by mean Dice
    assert few.rows[2].others.keys() == {"branch1", "branch2", "branch3"} and few.rows[2].other_stats["branch1"].n == 4
    assert few.best["mean", "dice"] == ("simeps", "meanteacher") and not few.missing
    values = [record.summary["mean"]["dice"] for record in few.rows[2].records]
    stat = few.rows[2].stats["mean", "dice"]
    assert stat.mean == pytest.approx(np.mean(values)) and stat.sd == pytest.approx(np.std(values, ddof=1)) and stat.n == 4
    assert stat.low is not None and stat.high is not None and stat.low < stat.mean < stat.high
    assert "hd95_mm" in few.metrics and len({row.key for row in few.rows}) == 4


def test_pairs_are_those_of_an_independent_calculation(sweep: Path):
    table = report_of(sweep).tables[0]

    def patients(method: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for path in sweep.glob(f"{method}_3_labeled/*/*_seed?.json"):
            for case in json.loads(path.read_text())["cases"]:
                found.setdefault(case["group"], []).append(case["dice"])
        return found

    ours, theirs = patients("MeanTeacher"), patients("Supervised")
    differences = [np.mean(ours[name]) - np.mean(theirs[name]) for name in sorted(ours)]
    pair = pair_of(table, "meanteacher", "supervised")
    assert pair and (pair.first, pair.groups, pair.cases) == ("meanteacher", 20, 40)
    dice = [{path.name: json.loads(path.read_text())["summary"]["mean"]["dice"]
             for path in sweep.glob(f"{method}_3_labeled/*/*_seed?.json")} for method in ("MeanTeacher", "Supervised")]
    assert (pair.runs, pair.better) == (4, sum(dice[0][name] > dice[1][name] for name in dice[1]))
    assert pair.p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert pair.false_claim == pytest.approx(stats.ttest_1samp(differences, 0, alternative="greater").pvalue)
    assert pair.difference == pytest.approx(np.mean(differences)) and pair.low < pair.difference < pair.high
    row = row_of(table, "MeanTeacher")
    assert row.difference and row.difference.mean == pytest.approx(pair.difference) and row.against == "supervised"
    assert len(table.pairs) == 3 and all(p.p_holm is not None and p.p is not None and p.p_holm >= p.p for p in table.pairs)
    assert table.ranks and table.ranks.groups == 20 and sum(table.ranks.mean_rank.values()) == pytest.approx(6)


def test_order_of_cases_and_of_files_changes_nothing(sweep: Path, tmp_path: Path):
    for path in sweep.rglob("*.json"):
        value = json.loads(path.read_text())
        if "MeanTeacher" in str(path):
            random.Random(0).shuffle(value["cases"])
        copy = tmp_path / "Phantom" / path.relative_to(sweep)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(json.dumps(value))
    records, skipped = read([tmp_path])
    first, second = report_of(sweep), build(records[::-1], skipped)
    for one, other in zip(first.tables, second.tables):
        assert one.pairs == other.pairs and one.ranks == other.ranks and one.best == other.best
        assert [row.stats for row in one.rows] == [row.stats for row in other.rows]
    for name in ("a", "b"):
        table_files.write_tables(report_of(sweep), tmp_path / name)
    assert all((tmp_path / "a" / path.name).read_bytes() == path.read_bytes() for path in (tmp_path / "b").iterdir())


def test_one_run_has_no_best_and_says_so(tmp_path: Path):
    make_results(tmp_path, folds=None, seeds=(0,), budgets=("7",))
    table = table_of(tmp_path)
    assert table.best == {} and table.level == () and all("one run" in row.remarks[0] for row in table.rows)
    assert row_of(table, "simEps").stats["mean", "dice"].sd is None
    text = latex(report_of(tmp_path)) + markdown(report_of(tmp_path)).split("## ")[1]
    assert "textbf" not in text and "**" not in text and "<u>" not in text


def test_the_same_predictions_are_no_difference(tmp_path: Path):
    for path in make_results(tmp_path, methods=("UAMT",), folds=None, budgets=("7",), upper=False):
        twin = Path(str(path).replace("UAMT", "CPS"))
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_text(path.read_text().replace("UAMT", "CPS"))
    table = table_of(tmp_path)
    (pair,) = table.pairs
    assert (pair.p, pair.p_holm, pair.difference, pair.significant, pair.false_claim) == (1.0, 1.0, 0.0, False, 0.5)
    assert pair.said == "no difference in any case" and table.level == () and table.best == {}
    assert table.ranks and set(table.ranks.mean_rank.values()) == {1.5} and len(table.ranks.cliques) == 1


def test_what_one_row_lacks_is_named(tmp_path: Path):
    make_results(tmp_path / "P", methods=("Supervised", "MeanTeacher"), folds=2, seeds=(0, 1), budgets=("7",))
    (tmp_path / "P/MeanTeacher_7_labeled/unet/fold1of2_seed1.json").unlink()
    (tmp_path / "P/MeanTeacher_7_labeled/unet/fold1of2_seed1_teacher.json").unlink()
    change(tmp_path / "P/Supervised_7_labeled/unet/fold0of2_seed0.json",
           lambda value: value.update(cases=[case for case in value["cases"] if case["name"] != "patient002_frame01"]))
    table = table_of(tmp_path)
    pair = pair_of(table, "meanteacher", "supervised")
    assert pair and pair.said == ("on the 3 runs that both have (of 3 and 4); without patient002_frame01, which only one of them has")
    (sentence,) = table.missing
    assert sentence == ("MeanTeacher has 3 of the 4 runs that the table has; without fold 1, seed 1. Made by: python "
                        "code/train_MeanTeacher.py --dataset Phantom --labeled_num 7 --fold 1 --folds 2 --seed 1 --exp P/MeanTeacher")
    assert row_of(table, "MeanTeacher").fold_sd is None and any("unbalanced" in one for one in row_of(table, "MeanTeacher").remarks)


def test_other_seeds_are_averaged_and_other_cases_not_ranked(tmp_path: Path):
    make_results(tmp_path / "a", methods=("Supervised", "CPS"), folds=2, seeds=(0, 1), budgets=("7",), upper=False)
    make_results(tmp_path / "b", methods=("UAMT",), folds=2, seeds=(5, 6), budgets=("7",), upper=False)
    for path in make_results(tmp_path / "c", methods=("EntMin",), folds=2, seeds=(0, 1), budgets=("7",), upper=False):
        if "fold1" in path.name:
            path.unlink()
    table = table_of(tmp_path)
    pair = pair_of(table, "uamt", "cps")
    assert pair and pair.said == "seeds differ: averaged over them" and pair.groups == 20
    assert table.ranks and set(table.ranks.mean_rank) == {"supervised", "cps", "uamt"} and "entmin" not in table.level
    assert "EntMin $\\dagger$ &" in latex(report_of(tmp_path)) and any("†" in line for line in screen(report_of(tmp_path)).splitlines()[:8])
    assert not any("entmin" in keys for keys in table.best.values())
    assert any("EntMin was tested on other cases than most rows (20; they: 40)" in remark for remark in table.remarks)


def test_missing_baselines_come_with_their_command(tmp_path: Path):
    make_results(tmp_path / "Phantom", methods=("MeanTeacher",), folds=3, seeds=(0, 4), budgets=("7",), upper=False, max_iterations=50)
    table = table_of(tmp_path)
    assert row_of(table, "MeanTeacher").difference is None
    same, upper = table.missing
    command = "python code/cross_validate.py --methods Supervised --labeled_num {} --folds 3 --seeds 0 4 --dataset Phantom --exp Phantom " \
        "--max_iterations 50"
    assert same.endswith(command.format(7)) and upper.endswith(command.format("all"))


def test_rows_part_where_options_differ_and_a_run_counts_once(tmp_path: Path):
    make_results(tmp_path / "old", methods=("MeanTeacher",), folds=None, budgets=("7",), upper=False)
    for path in (tmp_path / "old").rglob("*.json"):
        os.utime(path, (0, 0))
    make_results(tmp_path / "new", methods=("Supervised", "MeanTeacher", "SemSim"), folds=None, budgets=("7",), upper=False)
    make_results(tmp_path / "more", methods=("MeanTeacher",), folds=None, budgets=("7",), upper=False, ema_decay=0.9)
    make_results(tmp_path / "net", methods=("SemSim",), folds=None, budgets=("7",), upper=False, model="enet")
    table = table_of(tmp_path)
    assert {row.label for row in table.rows} == {"Supervised", "MeanTeacher (ema_decay 0.99)", "MeanTeacher (ema_decay 0.9)",
                                                 "SemSim (unet)", "SemSim (enet)"}
    row = row_of(table, "MeanTeacher (ema_decay 0.99)")
    assert [record.path.parts[-4] for record in row.records] == ["new", "new"] and len(row.others["teacher"]) == 2
    assert sum("is there twice" in remark and "old" in remark for remark in row.remarks) == 2
    assert any("reconstruction" in remark for remark in row_of(table, "SemSim (unet)").remarks)


def test_published_figures_of_one_lineage_stand_beside_ours(tmp_path: Path):
    make_results(tmp_path, methods=("Supervised", "MeanTeacher", "UAMT"), folds=None, budgets=("7",), data_set="ACDC", patch_size=[64, 64])
    made = report_of(tmp_path)
    (table,) = made.tables
    lineage, printed = cells.beside(table)
    assert len(printed) >= 3 and {figure.lineage for figure in printed.values()} == {lineage}
    assert not any(figure.comparable for figure in printed.values())
    assert len({figure.lineage for row in table.rows for figure in row.published}) > 1
    text = markdown(made)
    assert f"Published Dice: {lineage}" in text and "not comparable" in text and "images of 64x64 (published: 256x256)" in text


def test_what_was_selected_on_test_cases_is_marked_in_every_form_that_prints_it(tmp_path: Path):
    """CrossMatch's authors admit a mix-up of test and validation on ACDC; Luo et al. test the last step."""
    make_results(tmp_path, methods=("UAMT", "URPC", "CrossMatch"), folds=None, budgets=("7",), upper=False, data_set="ACDC")
    made = report_of(tmp_path)
    text = markdown(made)
    assert "| 89.08 ‡ |" in text and "‡: perhaps selected on test cases" in text and "| perhaps test cases | no |" in text
    assert "89.08 ‡" in render(made) and "perhaps selected on test cases" in render(made)
    whole = [line["published"] for line in table_files.rows(made) if line.get("published")]
    assert any("Dice 89.08, Jaccard 81.44, HD95 1.52, ASD 0.52 (voxels), perhaps selected on test cases" in one for one in whole)
    make_results(tmp_path / "honest", methods=("CPS", "CrossTeaching"), folds=None, budgets=("7",), upper=False, data_set="ACDC")
    assert "83.3 ‡" not in markdown(report_of(tmp_path / "honest"))


def test_draws_and_seeds(tmp_path: Path):
    make_results(tmp_path, methods=("Supervised", "simEps"), folds=None, draws=(0, 1, 2), seeds=(0, 1), budgets=("7",))
    table = table_of(tmp_path)
    row, upper = row_of(table, "simEps"), row_of(table, "Supervised, all labels")
    assert row.draw_sd is not None and row.seed_sd is not None and row.fold_sd is None and row.stats["mean", "dice"].n == 6
    assert upper.draw_sd is None and upper.difference and upper.difference.n == 2  # run by run of the same seed, over the draws


def test_a_false_alarm_counts_in_pairs(tmp_path: Path):
    make_results(tmp_path, methods=("UAMT", "CPS"), folds=None, seeds=(0, 1), budgets=("10%",), data_set="NEU-Seg", upper=False)
    for path in tmp_path.rglob("*.json"):
        def edit(value: dict[str, Any], alarm: bool = "UAMT" in path.parts[-3] and "seed0" in path.name) -> None:
            for case in value["cases"]:
                empty = case["class"] != "patches"
                case |= dict.fromkeys(("dice", "jaccard", "hd95_vox", "asd_vox")) if empty else {"dice": 0.8}
                if alarm and case["class"] == "inclusion":
                    case |= {"dice": 0.0, "hd95_vox": 200.0}
        change(path, edit)
    (pair,) = table_of(tmp_path).pairs
    # in one of two runs one of two classes that count: 1 against 0, so half of a half
    assert pair.first == "cps" and pair.difference == pytest.approx(0.25)


def test_files_that_do_not_count(tmp_path: Path, sweep: Path):
    for path in (sweep / "Supervised_3_labeled").rglob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "half.json").write_text(path.read_text()[:500])
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "later.json").write_text('{"schema": 99, "run": {}}')
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "x.json").write_text("{}")
    made = report_of(tmp_path)
    assert sorted(one.path.name for one in made.skipped) == ["half.json", "later.json", "other.json"]
    assert "later.json: schema 99" in markdown(made) and len(made.tables[0].rows[0].records) == 4


def test_hidden_copies_of_results_do_not_count(tmp_path: Path, sweep: Path):
    (path, *_) = (sweep / "Supervised_3_labeled").rglob("*.json")
    for name in (path.name, f"._{path.name}", f".ipynb_checkpoints/{path.stem}-checkpoint.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(path.read_text())
    records, skipped = read([tmp_path])
    assert [one.path.name for one in records] == [path.name] and not skipped


def test_own_folders_are_tables_of_their_own(tmp_path: Path, sweep: Path):
    paths = sorted((sweep / "Supervised_3_labeled").rglob("*.json"))[:3]
    for path, folder in zip(paths, ("plates", "rails", None)):
        value = json.loads(path.read_text())
        value["run"] |= {"data_set": "folder"} | ({"folder": folder} if folder else {})
        (tmp_path / path.name).write_text(json.dumps(value))
    assert [table.data_set for table in report_of(tmp_path).tables] == ["folder", "folder/plates", "folder/rails"]


def test_words_with_blanks_stand_in_commands_as_they_were_typed():
    assert words_of("code/train_UAMT.py --root_path 'my data'") == ["code/train_UAMT.py", "--root_path", "my data"]
    assert words_of("train.py --root_path it's") == ["train.py", "--root_path", "it's"] and as_typed("") == ""
    assert as_typed(f"{REPOSITORY}/code/train.py --root_path 'my data'") == "code/train.py --root_path 'my data'"


def test_a_file_with_any_wrong_field_is_skipped_or_harmless(tmp_path: Path):
    first, *rest = make_results(tmp_path, methods=("Supervised", "UAMT"), folds=5, seeds=(0,), budgets=("7",), upper=False)
    whole, others, accepted = first.read_text(), read(rest)[0], []
    places: list[tuple[Any, ...]] = [("run", name) for name in ("method", "options", "split", "training", "test", "remarks", "selection")]
    places += [("run", "options", "fold"), ("run", "split", "labeled"), ("run", "training", "seconds"), ("summary",), ("summary", "mean"),
               ("summary", "myocardium", "dice"), ("cases",), ("cases", 0), ("cases", 0, "hd95_mm")]
    for place in places:
        for wrong in (None, 5, "x", [], {"a": 1}):
            value = json.loads(whole)
            inner = value
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            first.write_text(json.dumps(value))
            found = read_one(first)
            if isinstance(found, Record):
                accepted.append((place[-1], wrong))
                assert markdown(build([found, *others], []))
    assert {name for name, _ in accepted} == {"method", "training", "test", "remarks", "selection", "fold", "labeled", "seconds", "dice",
                                              "hd95_mm"} and len(accepted) < 20
    half = json.loads(whole)
    first.write_text(json.dumps({**half, "cases": half["cases"][:-1]}))
    found = read_one(first)
    assert isinstance(found, Skipped) and "not whole" in found.reason


HOSTILE = '=1+1 | <b>&x</b> \\input{y} "_%$#~^'


def test_names_are_escaped_everywhere(tmp_path: Path):
    for path in make_results(tmp_path, methods=("UAMT", "CPS"), folds=None, budgets=("7",), upper=False):
        change(path, lambda value: value["run"].update(method=HOSTILE if value["run"]["method"] == "CPS" else "UAMT"))
    made = report_of(tmp_path)
    assert escape(HOSTILE) == (r"=1+1 \textbar{} \textless{}b\textgreater{}\&x\textless{}/b\textgreater{} \textbackslash{}input\{y\} "
                               r"''\_\%\$\#\textasciitilde{}\textasciicircum{}")
    tex = re.sub(r"\\[{}\\&]", "", latex(made))
    assert tex.count("{") == tex.count("}") and "\\input{" not in latex(made) and tex.count("begin{") == tex.count("end{")
    for head, columns in (("Runs", 6), ("right ventricle", 4)):
        lines = tex[tex.index(head):].split(r"\bottomrule")[0].splitlines()
        assert [line.count("&") for line in lines if "pm" in line] == [columns, columns]
    text = markdown(made)
    assert "<b>" not in text and "| =1+1 \\| \\<b\\>&x\\</b\\> \\\\input{y} " in text
    rows = csv.DictReader(io.StringIO(table_files.table_of(table_files.rows(made))))
    assert {row["row"] for row in rows} == {"UAMT", "'" + HOSTILE}
    for row in csv.DictReader(io.StringIO(table_files.table_of(table_files.pairs(made)))):
        assert float(row["low"]) < float(row["dice_difference_percent"]) < float(row["high"])


def test_csv_holds_every_row_class_and_run(sweep: Path):
    made = report_of(sweep)
    rows = list(csv.DictReader(io.StringIO(table_files.table_of(table_files.rows(made)))))
    runs = list(csv.DictReader(io.StringIO(table_files.table_of(table_files.runs(made)))))
    assert len(rows) == 2 * 4 * 4 and len(runs) == len(list(sweep.rglob("*.json"))) * 4
    row = next(row for row in rows if row["row"] == "MeanTeacher" and row["class"] == "mean" and row["labeled_num"] == "7")
    stat = row_of(made.tables[1], "MeanTeacher").stats["mean", "dice"]
    assert stat.mean and float(row["dice_percent_mean"]) == pytest.approx(100 * stat.mean, rel=1e-7)
    assert row["command"].startswith("python code/train_MeanTeacher.py --dataset Phantom") and float(row["difference_percent_low"]) < 6
    assert table_files.table_of([{"a": "-1", "b": -1.5, "c": "@x", "d": None, "e": float("nan")}]).splitlines()[1] == "'-1,-1.5,'@x,,"


def test_where_one_matrix_scores_the_set_its_miou_is_called_so(tmp_path: Path):
    for path in make_results(tmp_path / "Phantom", methods=("Supervised",), budgets=("7",), folds=2):
        change(path, lambda value: value["summary"]["mean"].update(miou=0.5, miou_absent_zero=0.5))
    report = report_of(tmp_path)
    stat = report.tables[0].rows[0].stats["mean", "jaccard"]
    assert stat.mean is not None and stat.low is None, "cases spread around another figure than the matrix's"
    texts = [screen(report), markdown(report), latex(report), render(report)]
    assert all("mIoU" in text and "one confusion matrix" in text for text in texts[:2]) and all("mIoU" in text for text in texts[2:])
    assert "Jaccard" not in texts[0] and "IoU (%) by class" in texts[1]


def test_the_screen_and_the_paper_table(sweep: Path):
    made = report_of(sweep)
    lines = screen(made).splitlines()
    assert max(map(len, lines)) <= 140 and any(line.startswith("simEps") and "*" in line for line in lines)
    tex = latex(made)
    best = row_of(made.tables[0], "simEps").stats["mean", "dice"]
    assert best.mean and best.sd and rf"\textbf{{{100 * best.mean:.2f}}} $\pm$ {100 * best.sd:.2f}" in tex and r"\underline{" in tex
    assert r"\toprule" in tex and "Synthetic" not in tex and "Phantom is synthetic" in markdown(made)


def test_the_command(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "write_figures", lambda made, folder: [])
    monkeypatch.setattr(report, "write_page", lambda made, folder: folder / "report.html")
    monkeypatch.setenv("SEMISEG_RESULTS", str(sweep.parent))
    report.main(report.Report((Path("Phantom"),), tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.csv", "pairs.csv", "runs.csv", "report.tex"}
    said = capsys.readouterr().out
    assert "Phantom, 7 labelled, 2 folds; 40 test cases" in said and "Written to" in said
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.json").write_text("{")
    for place, words in (("nowhere", "there is no such folder"), (str(tmp_path / "empty"), "no readable JSON")):
        with pytest.raises(UserError, match=words) as error:
            report.main(report.Report((Path(place),)))
        assert error.value.code == 2


def test_what_reproduce_made_is_no_row(tmp_path: Path):
    made = make_results(tmp_path / "P", methods=("Supervised",), folds=None, budgets=("7",))
    twin = tmp_path / "reproduce" / "P" / made[0].relative_to(tmp_path / "P")
    twin.parent.mkdir(parents=True)
    twin.write_text(made[0].read_text())
    records, skipped = read([tmp_path])
    assert {record.path for record in records} == set(made) and not skipped
    assert [record.path for record in read([tmp_path / "reproduce"])[0]] == [twin], "asked for by its own name it is read"


def test_scores_of_objects_stand_beside_those_of_pixels(tmp_path: Path):
    paths = make_results(tmp_path / "Phantom", methods=("MeanTeacher", "simEps"), budgets=("7",), folds=None, seeds=(0, 1), upper=False)
    names = ("object_f1", "object_dice", "object_hausdorff", "aji", "pq")

    def add(value: dict[str, Any]) -> None:
        for case in value["cases"]:
            case |= dict.fromkeys(names, case["dice"] if case["class"] == "right ventricle" else None)
        for of, summary in value["summary"].items():
            summary |= dict.fromkeys(names, value["summary"]["right ventricle"]["dice"] if of in ("right ventricle", "mean") else None)

    for path in paths:
        change(path, add)
    table = table_of(tmp_path / "Phantom")
    row = row_of(table, "MeanTeacher")
    assert set(names) < set(table.metrics)
    assert row.stats["right ventricle", "aji"] == row.stats["right ventricle", "dice"] and row.stats["myocardium", "aji"].mean is None
    assert row.stats["mean", "pq"].mean == row.stats["right ventricle", "dice"].mean
    page = markdown(report_of(tmp_path / "Phantom"))
    assert "object F1 (%)" in page and "object Hausdorff (pixels)" in page and "PQ (%)" in page
    first = table.best["mean", "aji"][0]
    assert first == max(table.rows, key=lambda one: one.stats["mean", "aji"].mean or 0).key
    assert table.best["mean", "object_hausdorff"][0] != first, "less is better"
