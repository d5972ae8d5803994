"""What belongs together in one's own data: subfolders, groups.csv, and what is said where nothing is known."""
from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny import write_balls, write_folder

from dataloaders.catalog import open_source, resolve
from dataloaders.description import Source
from dataloaders.errors import UserError
from dataloaders.layouts.own import subfolders
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest, make_split


def patients(root: Path, count: int = 6, each: int = 4, masks: int = 3, inner: str = "") -> Path:
    """A folder a patient, the last image of each without a mask."""
    plain = write_folder(root.with_name("plain"), images=2, masks=2)
    for p in range(count):
        for k in range(each):
            for side in ("images", "masks"):
                place = root / side / inner / f"p{p}"
                place.mkdir(parents=True, exist_ok=True)
                if side == "images" or k < masks:
                    Image.open(plain / side / "piece 0.png").save(place / f"{k}.png")
    return root


def opened(root: Path) -> Source:
    return open_source(*resolve(None, root, root)[:2])


def sides(source: Source) -> dict[str, set[str]]:
    """The groups of each side of the split."""
    split, test = make_split(source, SplitRequest()), splits.test_cases(source, SplitRequest())
    return {"labeled": {case.group for case in split.labeled}, "unlabeled": {case.group for case in split.unlabeled},
            "val": {case.group for case in split.val}, "test": {case.group for case in test}}


def apart(groups: dict[str, set[str]]) -> bool:
    return not groups["test"] & (groups["labeled"] | groups["unlabeled"] | groups["val"]) and not groups["val"] & (
        groups["labeled"] | groups["unlabeled"])


@pytest.mark.parametrize("inner", ["", "all/2024"])
def test_subfolders_of_patients_stand_on_one_side(tmp_path: Path, inner: str) -> None:
    source = opened(patients(tmp_path / "own", inner=inner))
    groups = sides(source)
    assert apart(groups) and len(set().union(*groups.values())) == 6
    assert any("6 subfolders, which are taken for groups" in remark for remark in source.remarks)
    assert any("unlabelled images of a patient or piece" in remark for remark in make_split(source, SplitRequest()).remarks)


def test_two_subfolders_are_no_groups_and_it_is_said(tmp_path: Path) -> None:
    source = opened(patients(tmp_path / "own", count=2))
    assert all(case.group == case.name for case in source.cases("train"))
    assert any("2 subfolders, which are not taken for groups" in remark for remark in source.remarks)
    assert any("every image counts by itself" in remark for remark in make_split(source, SplitRequest()).remarks)


def test_a_table_of_groups_decides(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", images=12, masks=9)
    lines = [f"piece {k}.png,piece of steel {k % 4}" for k in range(12)]
    (root / "groups.csv").write_text("image,group\n" + "\n".join(lines) + "\n")
    source = opened(root)
    assert apart(sides(source)) and {case.group for case in source.cases("train")} == {f"group piece of steel {k}" for k in range(4)}
    assert not any("counts by itself" in remark for remark in make_split(source, SplitRequest()).remarks)
    (root / "groups.csv").write_text("\ufeffImage;Group\r\nimages/piece 1;a\r\npiece 2;a\r\n", encoding="utf-16-le")
    assert any("2 images in 1 groups; 10 images are in none" in remark for remark in opened(root).remarks)
    patients(tmp_path / "own2")
    (tmp_path / "own2/groups.csv").write_text("image,group\n")
    assert all(case.group == case.name for case in opened(tmp_path / "own2").cases("train"))


@pytest.mark.parametrize("content, words", [
    ("piece 1,a\n", "expected image,group"), ("image,group\nnowhere,a\n", "line 2: there is no image nowhere"),
    ("image,group\npiece 1,a\npiece 1.png,b\n", "line 3: piece 1 is in group a already"),
    ("image,group\npiece 1\n", "expected an image and its"), ("", "expected image,group"),
    ("image,group\npiece 1," + "x" * 200000 + "\n", "no table .* is a quotation mark not closed"),
    (b"image,group\n\xff\xfe,a\n", "not a text in UTF-8")])
def test_a_wrong_table_of_groups_gets_a_sentence(tmp_path: Path, content: str | bytes, words: str) -> None:
    root = write_folder(tmp_path / "own")
    (root / "groups.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        opened(root)


def test_lists_that_part_a_group_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    (root / "groups.csv").write_text("image,group\npiece 1,a\npiece 2,a\n")
    for part, name in (("train", "piece 1\npiece 3"), ("val", "piece 4"), ("test", "piece 2")):
        (root / f"{part}.txt").write_text(name)
    with pytest.raises(UserError, match="piece 2 belongs to group a, as piece 1 does"):
        opened(root)
    (root / "train.txt").unlink()
    with pytest.raises(UserError, match="piece 2 belongs to group a, as piece 1 does, which stands in no list and so is trained on"):
        opened(root)


def test_folders_of_parts_that_share_subfolders_are_told_of(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", images=6, masks=6)
    write_folder(root / "val", images=2, masks=2)
    for place, own, count in ((root, 3, 6), (root / "val", 3, 2)):
        for side in ("images", "masks"):
            for k in range(count):
                (place / side / f"patient {k % own}").mkdir(exist_ok=True)
                (place / side / f"piece {k}.png").rename(place / side / f"patient {k % own}" / f"piece {k}.png")
    assert any("2 of its subfolders are called as some of" in said and "(patient 0, ...)" in said for said in opened(root).remarks)


def test_volumes_have_a_table_of_groups_too(tmp_path: Path) -> None:
    root = write_balls(tmp_path / "V")
    assert any("every image counts by itself" in remark for remark in make_split(opened(root), SplitRequest()).remarks)
    (root / "groups.csv").write_text("image,group\nTr0,a\nTr1,a\nTr2,a\n")
    assert [case.group for case in opened(root).cases("train")][:4] == ["group a"] * 3 + ["Tr3"]
    (root / "groups.csv").write_text("image,group\nTr0_0000.nii.gz,a\nimagesTr/Tr1_0000.nii.gz,a\n")
    assert [case.group for case in opened(root).cases("train")][:3] == ["group a"] * 2 + ["Tr2"]


def test_names_of_groups_are_compared_as_they_are_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", images=4, masks=4)
    lines = [f"piece {k},{name}\n" for k, name in enumerate(("M\u00fcller", "Mu\u0308ller", "M\u00dcLLER"))]
    (root / "groups.csv").write_text("image,group\n" + "".join(lines), encoding="utf-8")
    source = opened(root)
    assert len({case.group for case in source.cases("train")[:2]}) == 1
    assert any("count as two groups; if they are one patient" in remark for remark in source.remarks)


def test_what_all_names_have_in_common_is_no_group() -> None:
    assert subfolders(["a/b/p1/x", "a/b/p2/y/z"]) == {"a/b/p1/x": "a/b/p1", "a/b/p2/y/z": "a/b/p2"}
    assert subfolders(["x", "y"]) == {} and subfolders(["a/x", "y"]) == {"a/x": "a"} and subfolders([]) == {}
