"""prepare.py voc: SBD's MATLAB files to masks that the reader of VOC finds."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dataloaders.catalog import DATA_SETS, open_source
from dataloaders.errors import UserError
from dataloaders.layouts import voc as layout
from preparation import voc

NAMES = ("2008_000002", "2008_000003", "2008_000007")


def write_mat(file: Path, mask: np.ndarray) -> None:
    """As SBD has it: a struct whose field Segmentation is the map, beside others."""
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"GTcls": {"Boundaries": np.zeros(20), "Segmentation": mask, "CategoriesPresent": np.unique(mask[mask > 0])}})


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two masks of the list, and one of an image that is on VOC's validation side."""
    for module in (voc, layout):
        monkeypatch.setattr(module, "published", lambda data_set, name: NAMES)
    monkeypatch.setattr(voc, "run_all", lambda jobs, out, work, workers, problems: [work(job, out) for job in jobs])
    cls = tmp_path / "raw/benchmark_RELEASE/dataset/cls"
    for k, name in enumerate((*NAMES[:2], "2007_000033")):
        mask = np.full((6, 9), 0, np.uint8)
        mask[1:4, 2:7], mask[4] = 20 - k, 255
        write_mat(cls / f"{name}.mat", mask)
        write_mat(cls.parent / "inst" / f"{name}.mat", np.ones((6, 9), np.uint8))
    return tmp_path / "raw"


def test_masks_lie_where_the_reader_looks(download: Path, tmp_path: Path) -> None:
    root = tmp_path / "VOC2012/VOCdevkit/VOC2012"
    for folder, name in (("JPEGImages", "{}.jpg"), ("SegmentationClass", "{}.png")):
        (root / folder).mkdir(parents=True)
        for image in NAMES if folder == "JPEGImages" else NAMES[1:2]:
            Image.fromarray(np.full((6, 9), 3, np.uint8)).save(root / folder / name.format(image))
    hidden = next(download.rglob("cls")).parent / ".Trash/cls"
    write_mat(hidden / f"{NAMES[2]}.mat", np.ones((6, 9), np.uint8))  # thrown away
    (remark,) = voc.convert_voc(download, tmp_path / "VOC2012", 1)
    assert "1 of the 3 training images have no mask (2008_000007)" in remark
    assert sorted(file.name for file in (root / "SegmentationClassAug").iterdir()) == [f"{name}.png" for name in NAMES[:2]]
    picture = Image.open(root / "SegmentationClassAug/2008_000002.png")
    assert picture.mode == "P" and np.unique(np.asarray(picture)).tolist() == [0, 20, 255] and (np.asarray(picture)[4] == 255).all()
    cases = {case.name: case for case in open_source(DATA_SETS["VOC2012"], tmp_path / "VOC2012").cases("train")}
    assert [cases[name].label and cases[name].label.parent.name for name in NAMES] == ["SegmentationClassAug", "SegmentationClass", None]


def test_the_same_command_goes_on_and_never_writes_into_the_download(download: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", sorted(download.rglob("*"))
    assert "unpack VOCtrainval_11-May-2012.tar there" in voc.convert_voc(download, out, 1)[0]
    first, second = (out / "SegmentationClassAug" / f"{name}.png" for name in NAMES[:2])
    second.unlink()
    written = first.stat().st_mtime_ns
    voc.convert_voc(download, out, 1)
    assert second.exists() and first.stat().st_mtime_ns == written and sorted(download.rglob("*")) == before


@pytest.mark.parametrize("wrong, sentence", [("nothing", "no folder cls"), ("text", "no GTcls.Segmentation can be read"),
                                             ("classes", "class ids 0 to 20 and 255")])
def test_what_is_no_mask_gets_a_sentence(wrong: str, sentence: str, download: Path, tmp_path: Path) -> None:
    raw, file = download, next(download.rglob("cls/2008_000002.mat"))
    if wrong == "nothing":
        raw = tmp_path / "empty"
        raw.mkdir()
    elif wrong == "text":
        file.write_text("moved")
    else:
        write_mat(file, np.full((4, 4), 21, np.uint8))
    with pytest.raises(UserError, match=sentence):
        voc.convert_voc(raw, tmp_path / "out", 1)
