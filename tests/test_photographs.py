"""Data sets of photographs: how their files lie, which images a protocol labels, and the drawn one."""
from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dataloaders.augmentation.recipes import RECIPES
from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.errors import UserError
from dataloaders.layouts import cityscapes, phantom_scenes, voc
from dataloaders.phantoms.phantom_scenes import CLASSES, draw_scene
from dataloaders.splits import published_lists
from dataloaders.splits import split as splits
from dataloaders.splits.published_lists import budgets, published
from dataloaders.splits.split import SplitRequest, make_split, parts_of
from evaluation.testing import by_window
from inference import inference_of, score_of
from losses import cross_entropy, supervised_loss
from pictures.flat import COLOURS, colour_of, palette

NATURAL = [data for data in DATA_SETS.values() if data.family == "natural"]


def digest(names):
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def write_pair(root, name, kind=("JPEGImages", "SegmentationClass"), size=(6, 9), palette=True, value=3):
    (root / kind[0]).mkdir(parents=True, exist_ok=True)
    (root / kind[1]).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(root / kind[0] / f"{name}.jpg")
    ids = np.full(size, value, np.uint8)
    ids[0], ids[1] = 255, 0
    mask = Image.fromarray(ids)
    if palette:
        mask.putpalette([k for value in range(256) for k in (value, 0, 255 - value)])
    mask.save(root / kind[1] / f"{name}.png")


# The published lists


@pytest.mark.parametrize("data_set, name, n, sha", [
    ("VOC2012", "train_aug", 10582, "855dff350b7f447b"), ("VOC2012", "train", 1464, "129f1fe991729b18"),
    ("VOC2012", "val", 1449, "6f8edc37993764f6"),
    ("VOC2012", "classic/92", 92, "124b0aab2fcd1767"), ("VOC2012", "classic/183", 183, "79b959bccf7753cd"),
    ("VOC2012", "classic/366", 366, "f0e702c687e2ba71"), ("VOC2012", "classic/732", 732, "8c23014f512884b9"),
    ("VOC2012", "blended/662", 662, "baa85754594fcd33"), ("VOC2012", "blended/1323", 1323, "c9ca45b4e688d408"),
    ("VOC2012", "blended/2646", 2646, "fd0e8dca3dac524c"), ("VOC2012", "u2pl/662", 662, "feea4692738362e4"),
    ("VOC2012", "u2pl/1323", 1323, "23921931a21324cf"), ("VOC2012", "u2pl/2646", 2646, "d35f7cd4b4815e1d"),
    ("Cityscapes", "train", 2975, "356596e69da79ecb"), ("Cityscapes", "official/186", 186, "1e5363dd012cdc46"),
    ("Cityscapes", "official/372", 372, "6b3b52bab110157a"), ("Cityscapes", "official/744", 744, "6856046a4415296a"),
    ("Cityscapes", "official/1488", 1488, "2b3183629a3a9f1a"), ("Cityscapes", "official/100", 100, "c4164038958f8c8e"),
])
def test_a_published_list_has_its_names(data_set, name, n, sha):
    names = published(data_set, name)
    assert (len(set(names)), digest(names), list(names)) == (n, sha, sorted(names))


def test_what_is_known_of_the_lists_of_voc():
    whole, fine, val = (set(published("VOC2012", name)) for name in ("train_aug", "train", "val"))
    assert fine < whole and not whole & val
    classic, blended, u2pl = (budgets("VOC2012", protocol) for protocol in ("classic", "blended", "u2pl"))
    assert list(classic) == [92, 183, 366, 732, 1464] and list(blended) == list(u2pl) == [662, 1323, 2646]
    assert not set(classic[92]) <= set(classic[183]), "not nested"
    assert [len(fine & set(names)) for names in blended.values()] == [93, 193, 388]
    assert [len(fine & set(names)) for names in u2pl.values()] == [662, 1323, 1464]


def test_a_list_that_was_changed_is_noticed(tmp_path, monkeypatch):
    entry = {"of": None, "n": 2, "sha": digest(["a", "b"]), "data": published_lists.entries("VOC2012")["val"]["data"]}
    (tmp_path / "X").mkdir()
    (tmp_path / "X/lists.json").write_text(json.dumps({"val": entry}))
    monkeypatch.setattr(published_lists, "LISTS", tmp_path)
    with pytest.raises(ValueError, match="the list val of X has 1449 names"):
        published("X", "val")


# Pascal VOC


@pytest.fixture
def few(monkeypatch):
    """VOC's lists, of twelve training and three validation images."""
    lists = {"train_aug": tuple(f"t{k:02d}" for k in range(12)), "val": ("v0", "v1", "v2")}
    monkeypatch.setattr(voc, "published", lambda data_set, name: lists[name])
    monkeypatch.setattr(voc, "budgets", lambda data_set, protocol: {2: ("t01", "t05"), 4: ("t00", "t01", "t02", "t09")})
    return lists


@pytest.mark.parametrize("place", voc.PLACES)
def test_voc_is_read_where_the_archive_unpacks_it(tmp_path, few, place):
    for name in (*few["train_aug"], *few["val"]):
        write_pair(tmp_path / place, name, palette=name != "t00", value=3 if name[0] == "t" else 20)
    data, root, _ = resolve(None, tmp_path, tmp_path)
    assert data.name == "VOC2012"
    source = open_source(data, root)
    split = make_split(source, SplitRequest(labeled_num="2"))
    assert [case.name for case in split.labeled] == ["t01", "t05"] and len(split.unlabeled) == 10 and split.name == "classic"
    assert split.selection == "test" and [case.name for case in split.val] == list(few["val"]) and "protocol classic" in split.remarks[0]
    assert [case.name for case in splits.test_cases(source, SplitRequest(labeled_num="2"))] == list(few["val"])
    for case in (split.unlabeled[0], split.labeled[0]):
        assert source.image(case).shape == (3, 6, 9) and np.unique(source.label(case)).tolist() == [0, 3, 255]


def test_the_fine_mask_is_meant_where_there_are_two_and_unlabelled_images_need_none(tmp_path, few):
    for name in (*few["train_aug"], *few["val"]):
        write_pair(tmp_path, name, ("JPEGImages", "SegmentationClassAug"), value=1)
    for name in few["train_aug"][:6]:
        write_pair(tmp_path, name, value=2)
    for name in few["train_aug"][10:]:
        (tmp_path / "SegmentationClassAug" / f"{name}.png").unlink()
    source = open_source(DATA_SETS["VOC2012"], tmp_path)
    folders = {case.name: case.label and case.label.parent.name for case in source.cases("train")}
    assert [folders[name] for name in ("t05", "t06", "t11")] == ["SegmentationClass", "SegmentationClassAug", None]
    assert len(make_split(source, SplitRequest(labeled_num="4")).unlabeled) == 8


@pytest.mark.parametrize("asked, sentence", [
    ("3", "has published lists of 2, 4 labelled images; choose one of these numbers or all"), ("1/16", "published lists of 2, 4"),
    ("10%", "--labeled_choice random"), ("4", "1 of these labelled images of the protocol blended have no mask here, for example t09"),
])
def test_a_budget_without_a_published_list_is_refused(tmp_path, few, asked, sentence):
    for name in (*few["train_aug"], *few["val"]):
        write_pair(tmp_path, name)
    (tmp_path / "SegmentationClass/t09.png").unlink()
    source = open_source(DATA_SETS["VOC2012"], tmp_path)
    with pytest.raises(UserError, match=sentence):
        make_split(source, SplitRequest("blended", labeled_num=asked))
    drawn = make_split(source, SplitRequest("blended", labeled_num="3", labeled_choice="random"))
    assert len(drawn.labeled) == 3


def test_missing_images_are_told_with_the_way_to_a_smaller_part(tmp_path, few):
    write_pair(tmp_path, "t00")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    source = open_source(DATA_SETS["VOC2012"], tmp_path)
    with pytest.raises(UserError, match=r"11 of the 12 images of the published training part are missing, for example t01.jpg") as error:
        source.cases("train")
    assert "standin" not in str(error.value)
    for name in ("a", "b", "c", "d"):
        write_pair(tmp_path, name)
    (lists / "standin_train.txt").write_text("t00\na\nb\n")
    (lists / "standin_val.txt").write_text("c\nd\n")
    source = open_source(DATA_SETS["VOC2012"], tmp_path)
    with pytest.raises(UserError, match="--protocol standin"):
        source.cases("train")
    request = SplitRequest("standin", labeled_num="1")
    split = make_split(source, request)
    assert len(split.labeled) == len(split.unlabeled) == len(split.val) == 1 and split.selection == "validation"
    assert [case.name for case in splits.test_cases(source, request)] == ["c", "d"] and "never beside published figures" in split.remarks[0]
    assert parts_of(source, request, with_test=False).test is None


# CamVid and Cityscapes


def test_camvid_ignores_what_belongs_to_no_class(tmp_path):
    for part in ("train", "val", "test"):
        for kind in (part, f"{part}annot"):
            (tmp_path / "CamVid" / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 12, 3), np.uint8)).save(tmp_path / "CamVid" / part / "0001TP_006690.png")
        Image.fromarray(np.tile(np.arange(12, dtype=np.uint8), (4, 1))).save(tmp_path / "CamVid" / f"{part}annot" / "0001TP_006690.png")
    source = open_source(DATA_SETS["CamVid"], tmp_path)
    (case,) = source.cases("val")
    assert source.label(case)[0].tolist() == [*range(11), 255] and case.stratum == "0001TP"
    Image.fromarray(np.full((4, 12), 12, np.uint8)).save(case.label)
    with pytest.raises(UserError, match="label value 12"):
        source.label(case)


def write_city(root, part, name, ids, kind="labelIds"):
    city = name.split("_")[0]
    for folder, ending, array in (("leftImg8bit", "leftImg8bit", np.zeros((*ids.shape, 3), np.uint8)), ("gtFine", f"gtFine_{kind}", ids)):
        (root / folder / part / city).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / part / city / f"{name}_{ending}.png")


def test_official_ids_of_cityscapes_become_classes(tmp_path, monkeypatch):
    ids = np.arange(34, dtype=np.uint8)[None].repeat(2, 0)
    ready = np.array([[0, 18, 255]], np.uint8)
    write_city(tmp_path, "train", "aachen_000000_000019", ids)
    write_city(tmp_path, "train", "bochum_000001_000019", ready, "labelTrainIds")
    write_city(tmp_path, "val", "jena_000000_000019", ids)
    source = open_source(DATA_SETS["Cityscapes"], tmp_path)
    aachen, bochum = source.cases("train")
    found = source.label(aachen)[0]
    assert sorted(found[found != 255].tolist()) == list(range(19)) and (found == 255).sum() == 15
    assert (found[7], found[8], found[26], found[33], found[31]) == (0, 1, 13, 18, 16) and np.array_equal(source.label(bochum), ready)
    monkeypatch.setattr(cityscapes, "budgets", lambda data_set, protocol: {1: (bochum.name,)})
    split = make_split(source, SplitRequest(labeled_num="1"))
    assert [case.name for case in split.labeled] == [bochum.name] and split.labeled[0].stratum == "bochum"
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "leftImg8bit/train/bochum/strange.png")
    with pytest.raises(UserError, match="expected <city>_<sequence>_<frame>_leftImg8bit.png"):
        source.cases("train")


# PhantomScenes


def test_a_drawn_scene_is_always_the_same_and_has_what_photographs_have():
    scenes = [draw_scene(0, 0, number) for number in range(1, 25)]
    assert all(np.array_equal(a, b) for a, b in zip(scenes[0], draw_scene(0, 0, 1)))
    assert not np.array_equal(draw_scene(0, 1, 1)[0][:70, :70], scenes[0][0][:70, :70])
    assert len({mask.shape for _, mask in scenes}) > 12
    assert {int(v) for _, mask in scenes for v in np.unique(mask)} == {*range(len(CLASSES)), 255}
    for image, mask in scenes:
        assert image.shape == (*mask.shape, 3) and image.dtype == mask.dtype == np.uint8
        beside = mask[:, 1:] != mask[:, :-1]
        assert not (beside & (mask[:, 1:] != 255) & (mask[:, :-1] != 255)).any(), "between two things lies an ignored line"


def test_phantom_scenes_are_laid_out_once(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_scenes, "COUNTS", {"train": 3, "val": 1, "test": 2})
    root = tmp_path / "PhantomScenes"
    source = open_source(DATA_SETS["PhantomScenes"], root)
    split = make_split(source, SplitRequest(labeled_num="1"))
    assert [case.name for case in (*split.labeled, *split.unlabeled)] == [f"train/scene00{k}" for k in (1, 2, 3)]
    assert np.array_equal(source.label(split.labeled[0]), draw_scene(0, 0, 1)[1])
    before = (root / "dataset.json").stat().st_mtime_ns
    assert resolve(None, root, tmp_path)[0].name == "PhantomScenes" and (root / "dataset.json").stat().st_mtime_ns == before
    assert phantom_scenes.CLASSES == CLASSES


# What they have in common


@pytest.mark.parametrize("data", NATURAL, ids=lambda data: data.name)
def test_photographs_are_cropped_in_training_and_scored_whole_by_one_matrix(data):
    assert RECIPES[data.augmentation].scale == (0.5, 2.0) and data.ignored == 255 and data.channels == 3 and data.defaults["dice"] == "none"
    assert (data.evaluation.predicted, data.evaluation.scored, data.evaluation.best_by) == ("whole", "matrix", "miou")
    assert score_of({"mean": {"miou": 0.25, "dice": 0.5}}, data) == 0.25
    assert inference_of(data, (33, 33), None, "cpu").how == "whole"


def test_twenty_classes_have_twenty_colours_and_the_first_ten_keep_theirs():
    colours = [tuple(colour_of(c).tolist()) for c in range(21)]
    assert len(set(colours)) == 21 and colours[:11] == [tuple(colour) for colour in COLOURS.tolist()]
    assert len(palette()) == 3 * 256


def test_cross_entropy_alone():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    assert torch.equal(supervised_loss(logits, labels, "none"), cross_entropy(logits, labels))
    assert supervised_loss(logits, torch.full((2, 4, 5), 255), "none") == 0


def test_a_window_slides_over_photographs_alone():
    street = by_window(DATA_SETS["Cityscapes"], 801, 534)
    assert street.evaluation.predicted == "window" and street.evaluation.scored == "matrix"
    with pytest.raises(UserError, match="those of NEU-Seg are resized"):
        by_window(DATA_SETS["NEU-Seg"], 801, 534)
    with pytest.raises(UserError, match="--window 8 9: expected the side of a window in pixels, and a step from 1 to that side"):
        by_window(DATA_SETS["Cityscapes"], 8, 9)


def test_windows_over_a_photograph_are_filled_up_to_what_the_network_takes():
    class Network(torch.nn.Module):
        multiple = 16

        def forward(self, images):
            assert not any(side % 16 for side in images.shape[2:])
            return torch.cat([images, images[:, :2]], 1)

    data = by_window(DATA_SETS["PhantomScenes"], 24, 16)
    data = replace(data, classes=tuple("abcde"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 40, 60), np.uint8)
    for cut in (True, False):
        inference = inference_of(data, (24, 24), (16, 16), torch.device("cpu"), cut=cut)
        labels, scores = inference.labels(Network(), pixels), inference.probabilities(Network(), pixels)
        assert labels.shape == (1, 40, 60) and scores.shape == (5, 1, 40, 60) and (labels == scores.argmax(0)).all()
        torch.testing.assert_close(torch.from_numpy(scores.sum(0)), torch.ones(1, 40, 60))
