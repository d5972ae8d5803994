"""ISIC 2018: the challenge's archives are read, split in the published numbers, and what is wrong with them is said."""
import json
from pathlib import Path

import numpy as np
import pytest
import test_2D
import torch
from PIL import Image

from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.layouts.isic import SIDE, folders
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest
from preparation.check import check_folder
from system.ending import finish_with

ISIC = DATA_SETS["ISIC"]


def write_isic(root: Path, train: int = 12, val: int = 2, test: int = 3) -> Path:
    """Brown discs on pink skin, of several sizes, with what else lies in the archives."""
    rng, number = np.random.default_rng(0), 0
    for part, count in (("train", train), ("val", val), ("test", test)):
        images_in, masks_in = folders(root, part)
        for folder in (images_in, masks_in):
            folder.mkdir(parents=True)
            (folder / "LICENSE.txt").write_text("CC-0\n")
        for _ in range(count):
            number += 7
            height, width = int(rng.integers(60, 90)), int(rng.integers(80, 120))
            y, x = np.mgrid[:height, :width]
            mask = (y - height * 0.5) ** 2 + (x - width * 0.4) ** 2 < rng.uniform(100, 600)
            skin = np.where(mask[..., None], (120, 70, 50), (230, 180, 170)) + rng.normal(0, 8, (height, width, 3))
            Image.fromarray(skin.clip(0, 255).astype(np.uint8)).save(images_in / f"ISIC_{number:07d}.jpg", quality=95)
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks_in / f"ISIC_{number:07d}_segmentation.png")
        Image.new("RGB", (8, 8)).save(images_in / f"ISIC_{number:07d}_superpixels.png")
    return root


def make_split(source, protocol=None, labeled_num="2", **more):
    return splits.make_split(source, SplitRequest(protocol=protocol, labeled_num=labeled_num, **more))


def said(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert error.value.code == 2
    return str(error.value)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_isic(tmp_path_factory.mktemp("isic") / "ISIC")


@pytest.fixture
def own(tmp_path):
    """A copy that a test may damage."""
    return write_isic(tmp_path / "ISIC", train=4, val=1, test=1)


def test_images_and_masks_are_reduced_to_one_size(root):
    source = open_source(ISIC, root)
    for case in source.cases("train"):
        image, label = source.image(case), source.label(case)
        assert image.shape == (3, SIDE, SIDE) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert label.shape == (SIDE, SIDE) and set(np.unique(label)) == {0, 1}
        original = np.asarray(Image.open(case.label)) == 255
        assert label.mean() == pytest.approx(original.mean(), abs=0.01), "the lesion keeps its share"
        red = image[0].astype(float)
        assert red[label == 1].mean() < 150 < 200 < red[label == 0].mean(), "and its place"
    assert source.spacing(case) is None


def test_the_folder_is_recognised_also_inside_another(root):
    assert resolve(None, root, root.parent)[0].name == "ISIC"
    assert len(open_source(ISIC, root.parent).cases("train")) == 12


def test_the_official_split_has_the_published_numbers(tmp_path):
    images_in, masks_in = folders(tmp_path, "train")
    images_in.mkdir()
    masks_in.mkdir()
    for number in range(2594):
        (images_in / f"ISIC_{number:07d}.jpg").touch()
        (masks_in / f"ISIC_{number:07d}_segmentation.png").touch()
    source = open_source(ISIC, tmp_path)
    split = make_split(source, labeled_num="181")
    test = splits.test_cases(source, SplitRequest(protocol="official"))
    assert (len(split.labeled), len(split.unlabeled), len(test), len(split.val)) == (181, 1657, 756, 0)
    names = {case.name for case in (*split.labeled, *split.unlabeled)}
    assert len(names) == 1838 and not names & {case.name for case in test}
    assert split.selection == "last" and "lists" in " ".join(split.remarks) and not source.remarks
    numbers = [int(case.name[5:]) for case in split.labeled]
    assert numbers != sorted(numbers), "drawn, not the first by number"
    fewer = make_split(source, labeled_num="55")
    assert [c.name for c in fewer.labeled] == [c.name for c in split.labeled[:55]]
    assert len(splits.test_cases(source, SplitRequest(protocol="official", split_seed=1))) == 756 != len(
        {c.name for c in splits.test_cases(source, SplitRequest(protocol="official", split_seed=1))} & {c.name for c in test})


def test_the_challenges_own_parts(root):
    source = open_source(ISIC, root)
    split = make_split(source, "challenge")
    assert (len(split.labeled), len(split.unlabeled), len(split.val), split.selection) == (2, 10, 2, "validation")
    assert len(splits.test_cases(source, SplitRequest(protocol="challenge"))) == 3
    assert any("12 images; the published Training part has 2594" in remark for remark in source.remarks)


def test_the_challenge_needs_its_validation_folder(own):
    for folder in folders(own, "val"):
        folder.rename(folder.with_name(f"hidden_{folder.name}"))
    message = said(make_split, open_source(ISIC, own), "challenge")
    assert "ISIC2018_Task1-2_Validation_Input" in message and "--protocol official" in message
    assert make_split(open_source(ISIC, own), labeled_num="1").labeled, "the official split does without it"


def test_training_needs_no_test_image(own):
    for folder in folders(own, "test"):
        folder.rename(folder.with_name(f"hidden_{folder.name}"))
    source = open_source(ISIC, own)
    assert len(make_split(source, "challenge").val) == 1
    assert "ISIC2018_Task1-2_Test_Input" in said(splits.test_cases, source, SplitRequest("challenge"))


def test_an_image_without_a_mask_is_unlabelled_and_never_tested(own):
    images_in, masks_in = folders(own, "train")
    hidden = sorted(masks_in.glob("*.png"))[:2]
    for file in hidden:
        file.unlink()
    source = open_source(ISIC, own)
    names = {file.name[:12] for file in hidden}
    split = make_split(source, labeled_num="1")
    assert names <= {case.name for case in split.unlabeled} and not names & {c.name for c in splits.test_cases(source, SplitRequest())}


def first(folder, pattern="*"):
    return sorted(folder.glob(pattern))[0]


def damage_mask(values):
    def change(own):
        file = first(folders(own, "train")[1], "*.png")
        mask = np.asarray(Image.open(file))
        Image.fromarray(values(mask)).save(file)
        return file
    return change


def cut_image(own):
    file = first(folders(own, "train")[0], "*.jpg")
    file.write_bytes(file.read_bytes()[:-300])
    return file


def web_page(own):
    file = first(folders(own, "train")[0], "*.jpg")
    file.write_text("<!DOCTYPE html><title>Log in</title>")
    return file


def stray_mask(own):
    file = first(folders(own, "train")[0], "*.jpg")
    mask = folders(own, "train")[1] / f"{file.stem}_segmentation.png"
    file.unlink()
    return mask


def no_masks(own):
    folder = folders(own, "train")[1]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return folder


def renamed(own):
    folder = folders(own, "train")[0]
    for number, file in enumerate(sorted(folder.glob("*.jpg"))):
        file.rename(folder / f"lesion{number}.jpg")
    return folder


@pytest.mark.parametrize("change, words", [
    (damage_mask(lambda mask: mask // 255), "the values 0, 1; a mask of ISIC has 0 (skin) and 255 (lesion)"),
    (damage_mask(lambda mask: np.where(mask > 0, 254, 3).astype(np.uint8)), "the values 3, 254"),
    (damage_mask(lambda mask: mask[:-1]), "differ in shape"),
    (damage_mask(lambda mask: np.stack([mask, mask // 2, mask], -1)), "a colour picture"),
    (cut_image, "damaged or cut off"),
    (web_page, "web page saved in place"),
    (stray_mask, "a mask without its image"),
    (no_masks, "there is no such folder"),
    (renamed, "no picture called ISIC_"),
])
def test_what_is_wrong_is_said_with_the_file(own, change, words):
    where = change(own)

    def read_all():
        source = open_source(ISIC, own)
        for case in source.cases("train"):
            source.image(case)
            source.label(case)

    message = said(read_all)
    assert words in message and where.name in message


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    assert "ISIC2018_Task1-2_Training_Input" in said(open_source, ISIC, tmp_path)


def test_check_reads_every_part(own):
    damage_mask(lambda mask: mask // 255)(own)
    report = check_folder(ISIC, own, workers=1)
    assert report.sizes == {"train": 4, "val": 1, "test": 1, "slices": 0}
    assert len(report.problems) == 1 and "the values 0, 1" in report.problems[0]


def test_a_method_trains_and_is_tested_on_it(bench, root, monkeypatch, narrow):
    """From the folder to the scores, with three channels."""
    done = bench.train("SemSim", "--dataset", "ISIC", "--max_iterations", "2", data=root)
    assert done.code == 0, done.out + done.err
    assert "ISIC: images are reduced to 224x224" in done.out and "2 of 8 training images labelled, 0 cases for validation" in done.out
    network = torch.load(bench.run_folder() / "best.pt", weights_only=True)["predictors"]["network"]
    assert network["network"]["arguments"]["in_channels"] == 3 and network["score"] is None, "no validation part: the last step"
    monkeypatch.setenv("SEMISEG_RESULTS", str(bench.folder / "results"))
    assert finish_with(lambda: test_2D.main(test_2D.Test(run=bench.run_folder(), device="cpu"))) == 0
    result = json.loads(next((bench.folder / "results").rglob("*.json")).read_text())
    assert {row["class"] for row in result["cases"]} == {"lesion"} and len(result["cases"]) == 4
