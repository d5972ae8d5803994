"""The report's page and figures: what is drawn, that names cannot act, and that a browser shows and sorts it."""
from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser as chromium
import numpy as np
import pytest
from made_results import make_results
from matplotlib.path import Path as Outline
from PIL import Image

from evaluation.export import write_prediction
from reporting.build import build
from reporting.printing import page, pictures
from reporting.printing.drawing import apart, draw, looks, svg
from reporting.printing.figures import table_drawings, write_figures
from reporting.printing.rank_diagram import critical_difference
from reporting.records import Record, Skipped, read
from reporting.run_files import curves
from reporting.summary import Report, Row, Table

EVIL = """<script>window.hacked=1</script><img src=x onerror="window.hacked=2">"'&{{ 7*7 }} $x_1$ --></svg>"""
HERE = Path(__file__).resolve().parent


def report_of(folder: Path) -> Report:
    return dataclasses.replace(build(*read([folder]), "Made up"), made="one day, one commit")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, two budgets, two folds, two seeds."""
    folder = tmp_path_factory.mktemp("page") / "results" / "Made"
    make_results(folder, folds=2)
    return folder


@pytest.fixture(scope="module")
def report(results: Path) -> Report:
    return report_of(results)


class Elements(HTMLParser):
    """Tags with their attributes, as a browser's parser sees them."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def named(report: Report, name: str) -> Report:
    """The report with a name in every place that comes from a file."""
    def record(one: Record) -> Record:
        options = {**one.options, name: name, "model": name}
        run = {**one.run, "options": options, "command": f"code/train_X.py --exp {name}", "predictor": name, "selection": name}
        cases = [{**case, "name": name + case["name"]} for case in one.cases]
        return dataclasses.replace(one, run=run, cases=cases, path=one.path.with_name(f"{name.replace('/', '')}.json"))

    def row(place: int, one: Row) -> Row:
        return dataclasses.replace(one, label=f"{place}{name}", remarks=(name,), records=tuple(map(record, one.records)))

    def table(one: Table) -> Table:
        return dataclasses.replace(one, data_set=name, protocol=name, labeled_num=name, remarks=(name,), missing=(name,),
                                   pairs=tuple(dataclasses.replace(pair, said=name) for pair in one.pairs),
                                   rows=tuple(row(place, one) for place, one in enumerate(one.rows)))

    return dataclasses.replace(report, title=name, made=name, remarks=(f"synthetic {name}", name), skipped=(Skipped(Path(name), name),),
                               tables=tuple(map(table, report.tables)))


def test_names_are_text_and_never_elements(report: Report) -> None:
    one = dataclasses.replace(report, tables=report.tables[:1])
    plain, evil = (Elements(page.render(given)) for given in (one, named(one, EVIL)))
    tags = Counter(tag for tag, _ in evil.found)
    files_left_out = 1
    assert tags["script"] == 1 and tags["img"] == 0 and tags["table"] == Counter(tag for tag, _ in plain.found)["table"] + files_left_out
    assert not [name for _, attributes in evil.found for name in attributes if name.startswith("on")]
    assert any(EVIL in text for text in evil.words) and "49" not in {text.strip() for text in evil.words}


def test_nothing_comes_from_elsewhere_and_ids_are_unique(report: Report) -> None:
    text = page.render(report)
    elements = Elements(text).found
    links = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href", "xlink:href", "srcset")]
    assert links and all(str(link).startswith(("#", "data:image/")) for link in links)
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert max(ids.values()) == 1 and {str(link)[1:] for link in links if str(link).startswith("#")} <= set(ids)
    policy = next(attributes["content"] for tag, attributes in elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy) and "url(http" not in text and "@import" not in text


def test_the_same_results_give_the_same_bytes(results: Path, report: Report, tmp_path: Path) -> None:
    script = ("import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path; from test_page import report_of\n"
              "from reporting.printing import page; page.write_page(report_of(Path(sys.argv[3])), Path(sys.argv[4]))")
    words = [sys.executable, "-c", script, str(HERE), str(HERE.parent / "code"), str(results), str(tmp_path / "other")]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    assert (tmp_path / "other" / "report.html").read_text() == page.render(report)
    one = dataclasses.replace(report, tables=report.tables[:1])
    figures, again = (write_figures(one, tmp_path / name) for name in ("first", "second"))
    assert [path.stem.rsplit("-", 1)[1] for path in figures] == ["ranks", "runs", "classes"]
    assert [path.read_bytes() for path in figures] == [path.read_bytes() for path in again]
    assert all(b"/CreationDate" not in path.read_bytes() for path in figures)


# Figures


def test_ranks_as_demsar_draws_them(report: Report) -> None:
    table = report.tables[0]
    assert table.ranks is not None
    ranks = dataclasses.replace(table.ranks, mean_rank=dict(zip(table.ranks.mean_rank, (1.2, 2.0, 2.8))), critical_difference=0.9,
                                cliques=tuple(zip(list(table.ranks.mean_rank), list(table.ranks.mean_rank)[1:])))
    drawing = draw(critical_difference, dataclasses.replace(table, ranks=ranks), looks(report))
    assert drawing is not None
    axis = drawing.figure.axes[0]
    assert axis.get_xlim() == (3, 1), "the best rank is at the right"
    bars = [line for line in axis.get_lines() if line.get_linewidth() > 3]
    spans = sorted((*map(float, sorted(line.get_xdata())), float(line.get_ydata()[0])) for line in bars)
    assert [np.round(span[:2], 1).tolist() for span in spans] == [[1.2, 2.0], [2.0, 2.8]]
    assert spans[0][2] != spans[1][2], "bars that touch lie on two levels"
    ruler = next(line for line in axis.get_lines() if line.get_linewidth() == 1.4)
    assert np.ptp(ruler.get_xdata()) == pytest.approx(0.9)
    assert draw(critical_difference, dataclasses.replace(table, ranks=None), looks(report)) is None


def test_labels_keep_their_distance_and_order() -> None:
    wanted = [5.0, 5.1, 1.0, 5.05, 9.0]
    places = apart(wanted, 1.0)
    assert np.argsort(places).tolist() == np.argsort(wanted).tolist()
    assert min(np.diff(sorted(places))) >= 1 - 1e-9 and places[2] == 1.0 and places[4] == 9.0
    assert np.mean([places[i] for i in (0, 1, 3)]) == pytest.approx(5.05)


def test_figures_take_the_colours_of_the_page(report: Report) -> None:
    drawings = table_drawings(report.tables[0], looks(report))
    style = (HERE.parent / "code" / "reporting" / "printing" / "page.css").read_text()
    for drawing in drawings.values():
        text = svg(drawing)
        used = {part.split(")")[0] for part in text.split("var(")[1:]}
        assert "--ink" in used and len(used) > 3 and all(f"{name}:" in style for name in used)
        assert "#1f2430" not in text and text.count("<title>") == len(drawing.tips)
    tips = drawings["runs"].tips
    assert len(tips) == 4 * 4 and any(tip.startswith("simEps, fold 1, seed 0: ") for tip in tips)


def test_curves_of_a_run(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISEG_MODEL", str(tmp_path))
    record = report.tables[0].rows[0].records[0]
    assert curves(record) is None
    folder = tmp_path / "Made" / record.path.relative_to(record.path.parents[2]).with_suffix("")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    one, other = "validation/a", "validation/b"
    lines: list[dict[str, Any]] = [
        {"step": 9, "kind": "train", "total": 9.0, "stage": "first"}, {"step": 1, "kind": "train", "total": 2.0},
        {"step": 2, "kind": "train", "total": None}, {"step": 2, "kind": one, "dice/mean": 0.2},
        {"step": 2, "kind": other, "dice/mean": 0.4}, {"step": 4, "kind": f"validation/{record.run['predictor']}", "dice/mean": 0.9},
        {"step": 4, "kind": one, "dice/mean": 0.5}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 5, "ki')
    found = curves(record)
    assert found is not None and found.loss == {1: 2.0}
    assert found.dice == {2: pytest.approx(0.3), 4: 0.5}, "an ensemble scored once is shown by its networks"
    once = [{"step": 2, "kind": f"validation/{record.run['predictor']}", "dice/mean": 0.9}, {"step": 2, "kind": one, "dice/mean": 0.2}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, once)))
    found = curves(record)
    assert found is not None and found.dice == {2: 0.9}, "the teacher does not stand in for a student that was validated once"


# Pictures


def test_outlines_are_exact() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((13, 17)) < 0.55
    assert pictures.outlines(np.zeros((3, 3), bool)) == [] and pictures.path_data(np.ones((1, 1), bool)).startswith("M")
    polygons = [Outline(np.concatenate([polygon, polygon[:1]]), closed=True) for polygon in pictures.outlines(mask)]
    middles = np.stack(np.meshgrid(2 * np.arange(17) + 1, 2 * np.arange(13) + 1), -1).reshape(-1, 2)
    inside = np.sum([polygon.contains_points(middles) for polygon in polygons], 0) % 2
    assert (inside.reshape(mask.shape) == mask).all()
    specks = rng.random((200, 200)) < 0.5
    assert len(pictures.path_data(specks)) <= pictures.LONGEST_PATH


def test_cases_are_chosen_and_cut_from_predictions(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISEG_MODEL", str(tmp_path))
    table = report_of(results).tables[0]
    assert pictures.examples(table) == {}
    rows = [row for row in table.rows if row.baseline != "all"]
    reference = np.zeros((3, 60, 80), np.uint8)
    reference[1, 10:20, 30:45] = 1
    data = SimpleNamespace(dimensions=2, intensities="stored")
    for place, row in enumerate(rows):
        for record in row.records:
            run = tmp_path / "Made" / record.path.relative_to(record.path.parents[2]).with_suffix("")
            (run / "predictions").mkdir(parents=True)
            (run / "config.json").write_text("{}")
            for case in {case["name"] for case in record.cases}:
                predicted = np.roll(reference, 2 * place, 2)
                predicted[2, :3 + place, :3] = 2
                loaded = SimpleNamespace(case=SimpleNamespace(name=case), pixels=np.ones((1, *reference.shape), np.float32), affine=None,
                                         header=None, reference=reference, spacing=(5.0, 1.0, 2.0))
                write_prediction(run / "predictions", loaded, predicted, data)  # type: ignore[arg-type]
    broken = next(tmp_path.rglob("*_pred.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:30])
    found = pictures.examples(table)
    first = next(row for row in rows if not row.baseline)
    scores = {case: pictures.case_dice(record, case) for case, (record, _) in pictures.files_of(first).items()}
    chosen = {one.why: one for one in found["cases"]}
    assert chosen[f"best case of {first.label}"].case == max(scores, key=lambda case: (scores[case], case))
    assert chosen[f"worst case of {first.label}"].case == min(scores, key=lambda case: (scores[case], case))
    assert len(found["cases"]) == 4 and "methods differ most" in chosen and found["worst"]
    best = chosen[f"best case of {first.label}"]
    assert best.where == "slice 2 of 3" and best.aspect == 2.0 and best.image.shape[:2] == best.reference.shape
    assert best.reference.sum() == 150 and best.image.shape[1] < 80, "cut to the structures"
    assert set(best.tiles) == {row.key for row in rows} and best.tiles[first.key].dice == scores[best.case]
    assert chosen["methods differ most"].where != "", "the slice with the most errors"
    text = page.render(dataclasses.replace(report_of(results), tables=(table,)))
    assert text.count("data:image/jpeg") == len(found["cases"]) + len(found["worst"])
    assert draw(pictures.figure, table, "cases", found["cases"]) is not None


# A browser


@pytest.fixture(scope="module")
def window() -> Iterator[chromium.Browser]:
    if chromium.missing():
        pytest.skip(f"no browser here: {chromium.missing()} not found (Debian: apt-get install chromium chromium-driver)")
    with chromium.browser(1280, 900) as opened:
        yield opened


@pytest.fixture(scope="module")
def opened(window: chromium.Browser, report: Report, tmp_path_factory: pytest.TempPathFactory) -> chromium.Browser:
    """The page with bad names, in which one row has no Dice and two have the same."""
    table = report.tables[0]
    stats = [dict(row.stats) for row in table.rows]
    stats[0]["mean", "dice"] = dataclasses.replace(stats[0]["mean", "dice"], mean=None)
    stats[3]["mean", "dice"] = stats[2]["mean", "dice"]
    rows = tuple(dataclasses.replace(row, stats=one) for row, one in zip(table.rows, stats))
    evil = named(dataclasses.replace(report, tables=(dataclasses.replace(table, rows=rows),)), EVIL)
    window.log()
    window.fetched()
    window.open(page.write_page(evil, tmp_path_factory.mktemp("evil")))
    return window


def test_a_click_sorts(opened: chromium.Browser) -> None:
    def order() -> list[str]:
        return [text[0] for text in opened.texts("table.scores:first-of-type tbody th") if text][:4]

    heading = "table.scores thead th:nth-child(3)"
    assert order() == ["0", "1", "2", "3"] and opened.run("return document.querySelector(arguments[0]).ariaSort", heading) == "none"
    opened.click(f"{heading} button")
    assert order() == ["1", "2", "3", "0"], "best first; equal rows keep their order; what is missing comes last"
    assert opened.run("return document.querySelector(arguments[0]).ariaSort", heading) == "descending"
    opened.type(f"{heading} button", "\ue007")  # Enter
    assert order() == ["2", "3", "1", "0"], "what is missing comes last in both directions"
    opened.click("fieldset.choice label:nth-of-type(2)")
    shown = opened.run("return Array.from(document.querySelectorAll('table.scores')[0].querySelectorAll('tbody tr'), "
                       "row => Number(row.cells[2].querySelector('.of:not([hidden])').dataset.sort))")
    assert shown == sorted(shown) and shown[0] > 0, "another class is sorted by the same column"


def test_names_do_not_run_and_nothing_is_fetched(opened: chromium.Browser) -> None:
    assert opened.run("return window.hacked === undefined && document.title.includes('<script>')")
    assert [entry for entry in opened.log() if entry["level"] in ("SEVERE", "WARNING")] == []
    assert all(address.startswith(("file://", "data:")) for address in opened.fetched())


def test_it_is_seen_wide_narrow_and_dark(report: Report, opened: chromium.Browser, tmp_path: Path) -> None:
    opened.open(page.write_page(report, tmp_path / "plain"))
    looked = {}
    for name, width, dark in (("light", 1280, False), ("dark", 1280, True), ("narrow", 390, False)):
        opened.look(width, 900, dark)
        picture = tmp_path / f"{name}.png"
        picture.write_bytes(opened.screenshot())
        looked[name] = np.asarray(Image.open(picture).convert("L"))
        assert looked[name].shape == (900, width) and len(np.unique(looked[name])) > 50
        assert opened.run("return document.documentElement.scrollWidth") <= width, "the page itself never scrolls sideways"
    assert np.median(looked["light"]) > 230 and np.median(looked["dark"]) < 40
    assert opened.printed()[:5] == b"%PDF-"
