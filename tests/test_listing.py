"""One lister of folders: hidden things, upper case, links, composed names, what is passed over; descriptions compared with it."""
from __future__ import annotations

import errno
import json
import os
import shutil
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from tiny import save_volume, write_acdc, write_balls, write_folder

from dataloaders.batches.cache import identity
from dataloaders.catalog import named, open_source, resolve
from dataloaders.description import Source
from dataloaders.errors import UserError
from dataloaders.layouts.nifti import volumes_in
from dataloaders.listing import entries, listing, matching, natural, shortened, states_of, walk, with_ending
from evaluation.export import file_name
from prediction.inputs import Reader, entries_in
from prediction.loop import reason

PNG = with_ending(".png")


def opened(root: Path) -> Source:
    return open_source(*resolve(None, root, root)[:2])


def names(root: Path, part: str = "train") -> list[str]:
    return [case.name for case in opened(root).cases(part)]  # type: ignore[arg-type]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "own", images=6, masks=4)


@pytest.mark.parametrize("place", ["@eaDir/piece 1.png", "__MACOSX", ".ipynb_checkpoints", "#recycle", "$RECYCLE.BIN/S-1-5", "lost+found",
                                   "@Recycle", "~snapshot", "RECYCLER"])
def test_folders_of_systems_and_hidden_ones_are_not_seen(own: Path, place: str) -> None:
    before = names(own)
    for side in ("images", "masks"):
        (own / side / place).mkdir(parents=True)
        shutil.copy(own / side / "piece 1.png", own / side / place / "copy.png")
        (own / side / "._piece 1.png").write_bytes(b"\0\5\x16\7")
        (own / side / "Thumbs.db").write_bytes(b"x")
    assert names(own) == before and not any("passed over" in remark for remark in opened(own).remarks)
    reader = Reader(named("folder"))
    assert len(entries_in(own / "images", reader, own / "out")[0]) == len(before)


def test_linked_folders_are_followed_once_and_loops_end(own: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for k in range(3):
        shutil.copy(own / "images/piece 0.png", store / f"x{k}.PNG")
    (own / "images/more").symlink_to(store)
    (own / "images/again").symlink_to(store)
    (own / "images/loop").symlink_to(own / "images")
    assert len(names(own)) == 9 and sum(name.startswith("again/") for name in names(own)) == 3
    assert len(entries_in(own / "images", Reader(named("folder")), own / "out")[0]) == 9


def test_a_real_folder_comes_before_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z/a.png").touch()
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert list(listing(tmp_path, PNG).files) == ["z/a"]


def test_a_link_to_itself_is_one_file_that_cannot_be_read(own: Path, tmp_path: Path) -> None:
    (own / "images/loop.png").symlink_to("loop.png")
    reader = Reader(named("folder"))
    loop = entries_in(own / "images", reader, tmp_path / "out")[0][0]
    assert loop.name == "loop.png" and reason(OSError(errno.ELOOP, "Too many levels"), loop).startswith("a link that leads in a circle")
    assert len(names(own)) == 6


def test_links_to_nothing_and_pipes_are_told_of_and_not_read(own: Path) -> None:
    (own / "images/gone.png").symlink_to(own / "nowhere")
    os.mkfifo(own / "images/pipe.png")
    source = opened(own)
    said = "\n".join(source.remarks)
    assert len(source.cases("train")) == 6 and "gone.png: a link to nothing" in said and "2 such" in said


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_composed(own: Path, form: str) -> None:
    for side, other in (("images", form), ("masks", "NFD" if form == "NFC" else "NFC")):
        for file in (own / side).iterdir():
            file.rename(file.with_name(unicodedata.normalize(other, f"Öl-{file.name}")))
    cases = opened(own).cases("train")
    assert sum(case.label is not None for case in cases) == 4
    (own / "train.txt").write_text("\n".join(unicodedata.normalize("NFD", case.name) for case in cases[:4]), encoding="utf-8")
    assert [case.name for case in opened(own).cases("train")] == [case.name for case in cases[:4]]


def test_one_name_in_both_forms_is_told_apart_in_words(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "é.png")).touch()
    with pytest.raises(UserError, match="once composed and once not"):
        listing(tmp_path, PNG)


@pytest.mark.parametrize("foreign, words", [
    ({"a.heic": 2, "b.AVIF": 1}, "2 .heic, 1 .avif. Convert them"), ({"IM1.dcm": 3}, "3 .dcm. DICOM is not read"),
    ({"README": 1}, "1 without")])
def test_what_is_passed_over_is_counted(own: Path, foreign: dict[str, int], words: str) -> None:
    for name, count in foreign.items():
        for k in range(count):
            (own / "images" / f"{k}{name}").write_bytes(b"x")
    assert any(words in remark for remark in opened(own).remarks)
    for file in (own / "images").glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match="no pictures in it. Found: "):
        opened(own)


def test_further_names_of_usual_pictures_are_read(own: Path) -> None:
    picture = Image.open(own / "images/piece 0.png")
    picture.save(own / "images/phone.jfif", "JPEG")
    picture.convert("1").save(own / "images/scan.pbm")
    assert {"phone", "scan"} <= set(names(own))


def test_volumes_in_upper_case_and_behind_links(tmp_path: Path) -> None:
    root = write_balls(tmp_path / "V")
    count = len(names(root))
    for file in list(root.rglob("*.nii.gz"))[::2]:
        file.rename(file.with_name(file.name.replace(".nii.gz", ".Nii.GZ")))
    assert len(names(root)) == count
    store = tmp_path / "store"
    for folder in ("imagesTr", "labelsTr"):
        shutil.move(root / folder, store / folder)
    (root / "imagesTr").symlink_to(store / "imagesTr")
    (root / "labelsTr").mkdir()
    for file in (store / "labelsTr").iterdir():
        (root / "labelsTr" / file.name).symlink_to(file)
    source = opened(root)
    assert len(source.cases("train")) == count and source.label(source.cases("train")[0]) is not None


def test_plain_folders_of_volumes_use_the_same_lister(tmp_path: Path) -> None:
    for k in range(3):
        for side in ("images", "masks"):
            save_volume(tmp_path / side / f"c{k}.nii.gz", np.ones((4, 4, 4), np.uint8) * (np.arange(4) % 2).astype(np.uint8))
    (tmp_path / "images/@eaDir").mkdir()
    shutil.copy(tmp_path / "images/c1.nii.gz", tmp_path / "images/@eaDir/c9.nii.gz")
    (tmp_path / "images/scan.dcm").write_bytes(b"x")
    source = opened(tmp_path)
    assert [case.name for case in source.cases("train")] == ["c0", "c1", "c2"] and any("dcm2niix" in remark for remark in source.remarks)


def test_h5_volumes_in_upper_case_beside_what_a_mac_leaves(tmp_path: Path) -> None:
    data = named("BraTS2019")
    (tmp_path / "data").mkdir()
    for name in ("BraTS19_a.H5", "BraTS19_b.h5", "._BraTS19_b.h5"):
        with h5py.File(tmp_path / "data" / name, "w") as file:
            file["image"], file["label"] = np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8)
    assert sorted(data.reader.files(tmp_path)) == ["BraTS19_a", "BraTS19_b"]  # type: ignore[attr-defined]


def test_what_a_mac_leaves_beside_published_files_is_in_no_list(tmp_path: Path) -> None:
    root = write_acdc(tmp_path)
    (root / "data/slices/._patient001_frame01_slice_1.h5").write_bytes(b"\0\5\x16\7")
    assert not named("ACDC").reader.unlisted(root, set((root / "data").rglob("patient*.h5")))


def test_h5_slices_in_upper_case_and_lists_with_endings(tmp_path: Path) -> None:
    root = write_acdc(tmp_path)
    before = opened(root)
    wanted = [item.image.name for item in before.items(before.cases("train"))]
    for file in [*(root / "data").glob("*01.h5"), *(root / "data/slices").glob("*_1.h5")]:
        file.rename(file.with_suffix(".H5"))
    for file in root.glob("*.list"):
        file.write_text("".join(f"{line}.h5\r\n" for line in file.read_text().splitlines()))
    source = opened(root)
    found = [item.image for item in source.items(source.cases("train"))]
    assert [file.with_suffix(".h5").name for file in found] == wanted and all(file.exists() for file in found)


def test_lists_in_upper_case_are_those_beside_the_data(tmp_path: Path) -> None:
    root = write_acdc(tmp_path)
    wanted = names(root)
    (root / "train.list").rename(root / "Train.LIST")
    assert names(root) == wanted


def test_folders_that_are_not_looked_into_are_told_of(tmp_path: Path) -> None:
    root = write_balls(tmp_path / "V")
    (root / "labelsTr/more").mkdir()
    assert any("1 folders in it are not looked into (more, ...)" in remark for remark in opened(root).remarks)


def test_a_channel_whose_scaling_is_not_done_is_told_of(tmp_path: Path) -> None:
    root = write_balls(tmp_path / "V")
    tell(root, channel_names={"0": " CT "})
    assert opened(root).data.scaling == ("ct",)
    tell(root, channel_names={"0": "rescale_to_0_1"}, numTraining="77")
    remarks = opened(root).remarks
    assert any("asks for a scaling that is not done here" in said for said in remarks) and any("numTraining is 77" in r for r in remarks)


@pytest.mark.parametrize("entry, words", [
    ({"image": "./imagesTr2/tr_000.nii.gz", "label": "./labelsTr/tr_000.nii.gz"}, "imagesTr2/tr_000.nii.gz as the image of tr_000"),
    ({"image": "./imagesTr/tr_000.nii.gz", "label": "./labelsOther/tr_000.nii.gz"}, "labelsOther"),
    ({"image": "./imagesTr/tr_000.nii.gz", "label": "./labelsTr/tr_001.nii.gz"}, "labelsTr/tr_001"),
])
def test_a_description_that_names_other_labels_is_refused(tmp_path: Path, entry: dict, words: str) -> None:
    root = renamed(write_balls(tmp_path / "V"))
    tell(root, training=[entry])
    with pytest.raises(UserError, match=words):
        opened(root)


def test_a_description_that_names_fewer_cases_is_told_of(tmp_path: Path) -> None:
    root = renamed(write_balls(tmp_path / "V"))
    tell(root, training=[{"image": "./imagesTr/tr_000.nii.gz", "label": "./labelsTr/tr_000.nii.gz"}])
    assert any('"training" names 1 of the' in remark for remark in opened(root).remarks)
    tell(root, training=None, dataset={"tr_000": {"images": ["imagesTr/tr_000_0000.nii.gz"], "label": "labelsTr/tr_000.nii.gz"}})
    assert any('"dataset" names 1 of the' in remark for remark in opened(root).remarks)
    tell(root, dataset=None, numTraining=77)
    assert any("numTraining is 77" in remark for remark in opened(root).remarks)
    for odd in ([[]], [3, None], {"a": 1}, "x"):
        tell(root, training=odd, numTraining=None)
        opened(root)


def renamed(root: Path) -> Path:
    """The cases of a tiny data set called tr_000, tr_001, ..."""
    stems = sorted({file.name.split(".")[0] for file in (root / "labelsTr").iterdir()})
    for k, stem in enumerate(stems):
        for file in [*(root / "imagesTr").glob(f"{stem}_*"), *(root / "labelsTr").glob(f"{stem}.*")]:
            file.rename(file.with_name(file.name.replace(stem, f"tr_{k:03d}")))
    return root


def tell(root: Path, **changes: object) -> None:
    file = root / "dataset.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("header, voxels", [("ElementDataFile = a.raw\n", "a.raw"), ("NRRD0004\r\ndata file: a b.raw\r\n\r\n", "a b.raw")])
def test_voxels_beside_a_header_may_change_alone(tmp_path: Path, header: str, voxels: str) -> None:
    file = tmp_path / ("a.nrrd" if header.startswith("NRRD") else "a.MHD")
    file.write_bytes(header.encode())
    alone = states_of(file)
    (tmp_path / voxels).write_bytes(b"1")
    before = states_of(file)
    (tmp_path / voxels).write_bytes(b"22")
    assert before[: len(alone)] == alone and len({len(alone), len(before)}) == 2 and states_of(file) != before
    assert not volumes_in(tmp_path).others and not entries_in(tmp_path, Reader(named("nnunet")), tmp_path / "out")[1]
    file.write_bytes(b"ElementDataFile = LOCAL\n\0")
    assert len(states_of(file)) == len(alone)


def test_a_changed_file_of_the_same_size_and_time_is_read_again(own: Path) -> None:
    source = opened(own)
    items = source.items(source.cases("train"))
    before = identity(source, "pixels", items, [item.image for item in items])
    file = items[0].image
    content, state = file.read_bytes(), file.stat()
    file.unlink()
    file.write_bytes(content[::-1])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = identity(source, "pixels", items, [item.image for item in items])
    assert before[0] == after[0] and before[1] != after[1]


def test_long_names_leave_room_for_what_is_written_beside_them() -> None:
    for name in ("n" * 250, "裂" * 84, "é/" * 90 + "x", os.fsdecode("裂".encode("gbk") * 125)):
        short = file_name(name)
        assert len(os.fsencode(f"{short}_pred.nii.gz")) <= 255 and short == file_name(name) != file_name(f"{name}y")
    alike = ["a/b", "a__b", "a_/b", "a/_b", "a\\b", "a//b"]
    assert len({file_name(name) for name in alike}) == len(alike), "no two cases share the file of their prediction"
    assert file_name("a/b") == "a__b" and shortened("n" * 240, 15) == "n" * 240


def test_small_things(tmp_path: Path) -> None:
    assert sorted(["a10", "a2", "a²"], key=natural) == ["a2", "a10", "a²"]
    assert entries(tmp_path / "nowhere") == [] and list(walk(tmp_path / "nowhere")) == [] and matching(tmp_path, "*/x") == []
