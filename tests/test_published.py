"""Published figures: the file's form, a sample of numbers against the sources, and that lineages stay apart."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dataloaders.catalog import DATA_SETS
from dataloaders.splits.draws import budget
from reporting import published
from reporting.printing import cells

CODE = Path(__file__).parents[1] / "code"
OURS = {path.stem.removeprefix("train_") for path in CODE.glob("train_*.py")}

SAMPLE = [
    # data set, budget, method, source, (dice, jaccard, hd95, asd), comparable with
    ("ACDC", "3", "UAMT", "CrossMatch page", (46.04, 35.97, 20.08, 7.75), ()),
    ("ACDC", "10%", "URPC", "CrossMatch page", (83.10, 72.41, 4.84, 1.53), ()),
    ("ACDC", "7", "CPS", "Luo et al. 2022", (83.3, None, 11.0, None), ("ctct",)),
    ("ACDC", "7", "CrossTeaching", "Luo et al. 2022", (86.4, None, 8.60, None), ("ctct",)),
    ("ACDC", "all", "Supervised", "Luo et al. 2022", (91.1, None, 3.60, None), ("ctct",)),
    ("ACDC", "1", "Supervised", "UniMatch page", (28.5, None, None, None), ()),
    ("ACDC", "14", "TraCoCo", "TraCoCo page", (91.24, 84.32, 1.29, 0.36), ()),
    ("ACDC", "14", "BCP", "TraCoCo page", (89.52, 81.62, 3.69, 1.03), ("official",)),
    ("ACDC", "3", "ABD", "OPMatch page", (88.96, None, 1.57, None), ("official",)),
    ("LA", "8", "ADMT", "AD-MT logs", (90.58, 82.86, 6.46, 1.58), ()),
    ("Pancreas-CT", "6", "ADMT", "AD-MT logs", (80.23, 67.51, 7.18, 1.66), ()),
    ("BraTS2019", "25", "BCP", "DualFete table", (85.14, None, 9.89, None), ()),
    ("Synapse", "20%", "DHC", "DHC page", (48.61, None, None, 10.71), ()),
    ("AMOS", "10", "CPS", "DHC page", (41.08, None, None, None), ("official",)),
    ("LA", "5%", "CoBioNet", "Co-BioNet page", (84.30, None, 21.18, None), ()),
    ("ACDC", "7", "SemSim", "SemSim paper", (89.6, None, 2.3, None), ()),
    ("LA", "8", "UAMT", "DTC and TraCoCo pages", (84.25, 73.48, 13.84, 3.36), ("official",)),
    ("LA", "16", "MeanTeacher", "Wu et al. 2021", (88.42, 79.45, 13.07, 2.73), ("official",)),
    ("LA", "16", "UAMT", "issue yulequan/UA-MT#12", (87.19, 77.64, 17.02, 5.00), ("official",)),
    ("LA", "16", "SASSNet", "DTC and TraCoCo pages", (89.54, 81.24, 8.24, 2.20), ()),
    ("LA", "80", "Supervised", "Wu et al. 2021", (91.14, 83.82, 5.75, 1.52), ("official",)),
    ("LA", "5%", "BCP", "H-SAM", (88.02, None, None, None), ()),
    ("BraTS2019", "25", "URPC", "TraCoCo page", (84.53, 74.60, 9.79, 2.55), ()),
    ("Pancreas-CT", "3", "EntMin", "Wu et al. 2021", (50.71, 35.13, 42.45, 16.14), ()),
    ("ISIC", "181", "FixMatch", "SemSim paper", (78.3, None, 15.5, None), ()),
    ("ISIC", "10%", "CDMA", "MedSMILE", (85.8, 77.7, None, None), ()),
    ("PROMISE12", "7%", "CCT", "SemSim paper", (71.4, None, None, 16.7), ()),
    ("NEU-Seg", "10%", "simEps", "simEps notebooks", (85.3862, 75.9425, None, None), ("official",)),
    ("MT", "40%", "Supervised", "simEps notebooks", (58.3008, 49.4562, None, None), ()),
    ("DAGM", "10%", "UAPS", "UAPS repository", (84.7771, 74.5692, None, None), ()),
    ("VOC2012", "92", "STPlusPlus", "UniMatch README", (None, 65.2, None, None), ("classic",)),
    ("VOC2012", "366", "UniMatch", "UniMatch logs", (None, 75.96, None, None), ("classic",)),
    ("VOC2012", "1323", "DSSN", "DSSN logs", (None, 77.73, None, None), ("blended",)),
    ("VOC2012", "2646", "UniMatch", "UniMatch logs", (None, 79.14, None, None), ("u2pl",)),
    ("VOC2012", "2645", "STPlusPlus", "CAFS README", (None, 76.6, None, None), ()),
    ("VOC2012", "662", "STI", "STI README", (None, 73.75, None, None), ()),
    ("Cityscapes", "186", "DSSN", "DSSN logs", (None, 75.33, None, None), ()),
    ("Cityscapes", "744", "PS-MT", "PS-MT README", (None, 75.15, None, None), ("official",)),
]


@pytest.mark.parametrize("data_set, asked, method, source, values, comparable_with", SAMPLE)
def test_a_sample_of_figures(data_set, asked, method, source, values, comparable_with):
    found = [figure for figure in published.find(data_set, asked, method) if figure.source == source]
    assert values in [(figure.dice, figure.jaccard, figure.hd95, figure.asd) for figure in found]
    assert {figure.comparable_with for figure in found if (figure.dice, figure.jaccard) == values[:2]} == {comparable_with}


def test_every_figure_is_whole():
    assert len(published.figures()) == 622
    for figure in published.figures():
        data = DATA_SETS[figure.data_set]
        assert figure.source in published.sources() and figure.protocol and figure.lineage.startswith(figure.data_set), figure
        assert figure.printed and figure.network and set(figure.comparable_with) <= set(data.protocols), figure
        assert figure.comparable == bool(figure.comparable_with) and figure.unit in ("voxels", "mm", "unknown", "")
        assert bool(figure.unit) == (figure.hd95 is not None or figure.asd is not None), figure
        values = (figure.dice, figure.jaccard)
        assert all(value is None or 15 < value < 100 for value in values), "per cent, not a fraction"
        assert any(value is not None for value in values) or figure.remark, figure
        # What overlaps by more (Dice) overlaps by more (Jaccard): D = 2J / (1 + J) for one class of one case, above it for means.
        if None not in values:
            assert figure.jaccard < figure.dice, figure
        for word in figure.labeled:
            assert budget(word, 10000, data.unit) > 0
        if figure.method.casefold() in {name.casefold() for name in OURS}:
            assert figure.method in OURS, "a method of ours under another spelling would never be found"


def test_lineages_stay_apart():
    """Figures of one lineage share data set, protocol and what they are comparable with, but for those marked one by one."""
    for lineage in {figure.lineage for figure in published.figures()}:
        own = [figure for figure in published.figures() if figure.lineage == lineage]
        assert len({(figure.data_set, figure.protocol) for figure in own}) == 1
        odd = [figure for figure in own if figure.comparable_with != own[0].comparable_with]
        assert all("largest component" in figure.remark or figure.selected_on == "test cases" for figure in odd)
    for word in ("selected on test", "doubtful", "not known", "unknown"):
        assert not any(figure.comparable for figure in published.figures() if word in figure.protocol), word


SELECTED = [
    ("ACDC", "7", "UniMatch", "UniMatch page", "test cases"),
    ("ACDC", "7", "TraCoCo", "TraCoCo page", "test cases"),
    ("ACDC", "7", "BCP", "TraCoCo page", "validation cases"),
    ("ACDC", "7", "CPS", "Luo et al. 2022", "last step"),
    ("ACDC", "3", "ADMT", "AD-MT logs", "validation cases"),
    ("ACDC", "7", "CrossMatch", "CrossMatch page", "perhaps test cases"),
    ("LA", "8", "CrossMatch", "CrossMatch page", "last step"),
    ("LA", "8", "URPC", "CrossMatch page", "perhaps test cases"),
    ("LA", "8", "ADMT", "AD-MT logs", "test cases"),
    ("LA", "8", "ACMT", "AC-MT page", "test cases"),
    ("LA", "4", "BCP", "H-SAM", "test cases"),
    ("LA", "4", "BCP", "DualFete table", "test cases"),
    ("LA", "16", "UAMT", "DTC and TraCoCo pages", "last step"),
    ("Pancreas-CT", "12", "BCP", "PEM page", "test cases"),
    ("Pancreas-CT", "6", "BCP", "DualFete table", "test cases"),
    ("Pancreas-CT", "12", "CoBioNet", "Co-BioNet page", "test cases"),
    ("Pancreas-CT", "12", "ADMT", "AD-MT logs", "not known"),
    ("MT", "40%", "simEps", "simEps notebooks", "test cases"),
    ("NEU-Seg", "10%", "simEps", "simEps notebooks", "validation cases"),
    ("ISIC", "55", "BCP", "SemSim paper", "not known"),
]


@pytest.mark.parametrize("data_set, asked, method, source, selected_on", SELECTED)
def test_a_sample_of_selections(data_set, asked, method, source, selected_on):
    assert selected_on in {figure.selected_on for figure in published.find(data_set, asked, method) if figure.source == source}


ON_TESTED = ("VOC2012", "Cityscapes")
"""Where our own protocols choose the step on the tested images, as all papers do there."""


def test_what_was_selected_on_test_says_so(monkeypatch: pytest.MonkeyPatch):
    """Wherever it is printed, the words or the sign stand beside it."""
    told = {"test cases": "selected on test cases", "perhaps test cases": "perhaps selected on test cases"}
    for figure in published.figures():
        assert figure.on_test == told.get(figure.selected_on, "")
        assert not (figure.on_test and figure.comparable) or figure.data_set in ON_TESTED, figure
        assert cells.published(figure).endswith(figure.on_test)
        assert figure.dice is None or (cells.ON_TEST in cells.published_dice(figure)) == bool(figure.on_test)
        # "selected on test" in the words of a protocol or a remark is what the field says too.
        if re.search("selected on test|which are the tested ones|best on the test cases", figure.protocol + figure.remark):
            assert figure.selected_on == "test cases", figure
    content = json.loads(published.FILE.read_text(encoding="utf-8"))
    content["figures"][-1] |= {"selected_on": "perhaps test cases", "comparable_with": ["official"]}
    published.figures.cache_clear()
    monkeypatch.setattr(published, "_content", lambda: content)
    with pytest.raises(ValueError, match="comparable with nothing"):
        published.figures()
    published.figures.cache_clear()


SAID = re.compile(r"selected on|chosen on the test|validation and test|tested (ones|images)")


@pytest.mark.parametrize("script", sorted(OURS))
def test_pages_say_which_published_figures_were_selected_on_test(script):
    """In the line that has the number, or in its table's head or the paragraph before it."""
    page = re.search(r"^Page: (docs/methods/\w+\.md)", (CODE / f"train_{script}.py").read_text(encoding="utf-8"), re.MULTILINE)
    text = (CODE.parent / page[1]).read_text(encoding="utf-8") if page else ""
    own = [figure for figure in published.figures() if figure.method == script]
    mine = [(figure, value) for figure in own for value in (figure.dice, figure.jaccard) if value]
    honest = {f"{value:.2f}" for figure, value in mine if not figure.on_test}
    flattered = {f"{value:.2f}" for figure, value in mine if figure.on_test} - honest
    for section in re.findall(r"^## Published figures\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        paragraphs = section.split("\n\n")
        for place, line in ((place, line) for place, paragraph in enumerate(paragraphs) for line in paragraph.splitlines()):
            if flattered & {f"{float(number):.2f}" for number in re.findall(r"\d+\.\d+", line)}:
                assert any(SAID.search(words) for words in (line, *paragraphs[max(place - 1, 0) : place])), f"{page[1]}: {line}"


def test_comparable_is_about_the_protocol_that_was_asked():
    asked = {protocol: published.find("ACDC", "7", "CPS", protocol) for protocol in ("official", "ctct", "5 folds")}
    assert [figure.source for figure in asked["ctct"]] == ["Luo et al. 2022", "SemSim paper"], "comparable ones stand first"
    assert asked["ctct"][0].comparable and not any(figure.comparable for figure in asked["official"] + asked["5 folds"])
    assert published.find("ACDC", "7", "nobody's") == published.find("Phantom", "7", "CPS") == []


def test_what_is_not_to_be_quoted_is_not_found():
    """Notebooks whose share is contradicted have no budget, so no report can print them; DyCON's figures are not there at all."""
    contradicted = [figure for figure in published.figures() if "contradicted" in figure.lineage]
    assert len(contradicted) == 13 and not any(figure.labeled for figure in contradicted)
    assert not any("DyCON" in figure.method for figure in published.figures())
    assert "DyCON" in published.sources()["PEM page"].note
