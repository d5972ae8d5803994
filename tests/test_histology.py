"""Data sets of objects and of cracks: their downloads are read, split as the names tell, and what is wrong with them is said."""
from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from harness import Bench
from PIL import Image
from scipy import ndimage

from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.contours import borders
from dataloaders.errors import UserError
from dataloaders.layouts.monuseg import ORGAN_OF
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest, make_split
from metrics import instances_of, object_scores, object_sums
from preparation.check import check_folder
from preparation.monuseg import SIDE, convert_monuseg, corners, instances_in

SHAPE = (40, 48)


def discs(seed: int, count: int = 4, touching: bool = False, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 of dark discs on a light ground, and (H, W) their numbers; discs that touch in pairs if asked for."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    ids = np.zeros(shape, np.uint8)
    for k in range(count):
        row, column = divmod(k, 2)
        centre = (10 + row * 18, (12 + column * 9) if touching else (10 + column * 26))
        ids[np.hypot(y - centre[0] + rng.uniform(-1, 1), x - centre[1] + rng.uniform(-1, 1)) < (5 if touching else 6)] = k + 1
    image = np.where(ids[..., None] > 0, (110, 60, 140), (230, 200, 220)) + rng.normal(0, 12, (*shape, 3))
    return image.clip(0, 255).astype(np.uint8), ids


def save(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def write_glas(root: Path) -> Path:
    """Six training images of three patients, and three test images, of which one patient was trained on too."""
    lines = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    patients = {"train": (1, 1, 2, 2, 3, 3), "testA": (1, 4), "testB": (5,)}
    for part, numbers in patients.items():
        for k, patient in enumerate(numbers, 1):
            image, ids = discs(10 * patient + k)
            save(root / f"{part}_{k}.bmp", image)
            save(root / f"{part}_{k}_anno.bmp", ids)
            lines.append(f"{part}_{k},{patient}, {'benign' if patient % 2 else 'malignant'}, healthy")
    (root / "Grade.csv").write_text("\r".join(lines))
    return root


def write_crag(root: Path) -> Path:
    for folder, count in (("train", 5), ("valid", 2)):
        for k in range(1, count + 1):
            image, ids = discs(k + 50 * (folder == "valid"))
            name = f"{'train' if folder == 'train' else 'test'}_{k}.png"
            save(root / folder / "Images" / name, image)
            save(root / folder / "Annotation" / name, ids)
    return root


def write_dsb(root: Path, count: int = 10) -> Path:
    for k in range(count):
        image, ids = discs(k, shape=SHAPE if k % 2 else (44, 44))
        name = f"{k:04d}abc"
        save(root / "stage1_train" / name / "images" / f"{name}.png", np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]))
        for number in range(1, int(ids.max()) + 1):
            save(root / "stage1_train" / name / "masks" / f"{name}_{number}.png", (ids == number) * np.uint8(255))
    return root


def write_cracks(root: Path, count: int = 12) -> Path:
    (root / "groundTruth").mkdir(parents=True)
    for k in range(36, 36 + count):
        image, ids = discs(k)
        save(root / "image" / f"{k:03d}.jpg", image)
        write_truth(root / "groundTruth" / f"{k:03d}.mat", np.where(ids == 1, 3, np.where(ids > 1, 2, 1)).astype(np.uint8))
    return root


def write_truth(file: Path, segmentation: np.ndarray) -> None:
    scipy.io.savemat(file, {"groundTruth": {"Segmentation": segmentation, "Boundaries": segmentation > 1}})


def write_monuseg(raw: Path) -> Path:
    """Two training images and a test image as the challenge gives them: TIFF, and outlines in XML."""
    names = {"MoNuSeg 2018 Training Data": ("TCGA-A7-A13E-01Z-00-DX1", "TCGA-B0-5711-01Z-00-DX1"),
             "MoNuSegTestData": ("TCGA-2Z-A9J9-01A-01-TS1",)}
    for folder, cases in names.items():
        for k, case in enumerate(cases):
            image, _ = discs(k, shape=(300, 260))
            apart = ("Tissue Images", "Annotations") if "Training" in folder else (".", ".")
            save(raw / folder / apart[0] / f"{case}.tif", image)
            (raw / folder / apart[1]).mkdir(exist_ok=True, parents=True)
            regions = "".join(outline(y, x) for y, x in ((5, 5), (100, 40), (250, 200), (280, 240)))
            (raw / folder / apart[1] / f"{case}.xml").write_text(
                f"<Annotations><Annotation Id='1'><Regions>{regions}<Region><Vertices><Vertex X='1' Y='1'/></Vertices></Region></Regions>"
                "</Annotation></Annotations>")
    return raw


def outline(y: float, x: float) -> str:
    """A square of 10 x 10 pixel centres from (y, x) on."""
    corners_ = ((y, x), (y, x + 9), (y + 9, x + 9), (y + 9, x))
    return "<Region><Vertices>" + "".join(f"<Vertex X='{b}' Y='{a}'/>" for a, b in corners_) + "</Vertices></Region>"


WRITERS = {"GlaS": write_glas, "CRAG": write_crag, "DSB2018": write_dsb, "CrackForest": write_cracks}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histology")
    roots = {name: write(folder / name) for name, write in WRITERS.items()}
    raw = write_monuseg(folder / "download")
    convert_monuseg(raw, folder / "MoNuSeg", 1)
    return {**roots, "MoNuSeg": folder / "MoNuSeg"}


def opened(roots, name, **options):
    return open_source(DATA_SETS[name], roots[name], options)


def request(**values):
    return SplitRequest(**{"labeled_num": "1", **values})


def said(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert error.value.code == 2
    return str(error.value)


def test_borders_are_between_dilation_and_erosion_of_each_object():
    ids = discs(1, touching=True)[1]
    wanted, cross = np.zeros(ids.shape, bool), ndimage.generate_binary_structure(2, 1)
    for number in range(1, 5):
        mask = ids == number
        wanted |= ndimage.binary_dilation(mask, cross) & ~ndimage.binary_erosion(mask, cross, border_value=1)
    assert (borders(ids) == wanted).all()


@pytest.mark.parametrize("name", ["GlaS", "CRAG", "DSB2018", "MoNuSeg"])
def test_three_classes_or_foreground_are_made_of_instances(roots, name):
    contour, plain = opened(roots, name), opened(roots, name, target="foreground")
    case = contour.cases("train")[0]
    ids, label, mask = contour.instances(case, 1), contour.label(case), plain.label(case)
    assert ids.max() == 4 and ids.shape == label.shape == contour.image(case).shape[1:]
    assert ((label == 2) == borders(ids)).all() and ((label == 1) == ((ids > 0) & ~borders(ids))).all()
    assert ((ids > 0) == mask).all() and len(contour.data.classes) == 3 and len(plain.data.classes) == 2
    assert contour.cache_key != plain.cache_key
    assert plain.data.evaluation.objects.grow == 0 and contour.data.evaluation.objects.grow > 0
    reader = type(contour)
    assert reader.described(DATA_SETS[name], roots[name], {"target": "foreground"}, 2, 3).classes == plain.data.classes
    assert reader.described(DATA_SETS[name], roots[name], {}, 3, 3).classes == contour.data.classes


def test_the_inside_tells_touching_objects_apart_and_the_foreground_does_not(roots):
    ids = discs(4, touching=True)[1]
    label = (ids > 0).astype(np.uint8)
    label[borders(ids)] = 2
    apart, one = instances_of(label == 1, 5, grow=1), instances_of(ids > 0, 5)
    assert apart.max() == 4 and one.max() == 2
    assert object_scores(object_sums(apart, ids))["object_f1"] == 1 > object_scores(object_sums(one, ids))["object_f1"]


def test_glas_is_split_by_patient_where_the_protocol_says_so(roots):
    source = opened(roots, "GlaS")
    official = make_split(source, request())
    assert official.name == "official" and "--protocol clean" in official.remarks[0]
    assert {case.group for case in official.val}.isdisjoint(case.group for case in (*official.labeled, *official.unlabeled))
    assert len(official.val) == 2 and len(official.labeled) + len(official.unlabeled) == 4, "all images of a labelled patient stay"
    assert [case.name for case in splits.test_cases(source, request())] == ["testA_1", "testA_2", "testB_1"]
    assert source.cases("test")[0].group == "patient1" and source.cases("test")[0].stratum == "benign"
    clean = make_split(source, request(protocol="clean"))
    test = splits.test_cases(source, request(protocol="clean"))
    assert {case.group for case in test}.isdisjoint(case.group for case in (*clean.labeled, *clean.unlabeled, *clean.val))
    fold = make_split(source, request(fold=0, folds=3))
    assert not fold.left_out


def test_the_others_are_drawn_with_a_remark_and_every_image_in_one_part(roots):
    for name, count in (("DSB2018", 10), ("CrackForest", 12), ("CRAG", 7), ("MoNuSeg", 3)):
        source = opened(roots, name)
        split, test = make_split(source, request()), splits.test_cases(source, request())
        parts = [[case.name for case in part] for part in ((*split.labeled, *split.unlabeled), split.val, test)]
        assert all(parts) and sum(map(len, parts)) == count == len({case for part in parts for case in part})
    assert {case.stratum for case in opened(roots, "DSB2018").cases("train")} == {"40x48", "44x44"}


def test_cracks_are_class_two_and_the_mistaken_reference_is_left_out(roots):
    source = opened(roots, "CrackForest")
    cases = {case.name: case for case in source.cases("train")}
    assert cases["042"].label is None and any("042.mat: a copy of 065.mat" in remark for remark in source.remarks)
    ids = discs(41)[1]
    assert (source.label(cases["041"]) == (ids > 1)).all(), "what cracks enclose (3) is none"
    split = make_split(source, request())
    assert "042" in {case.name for case in split.unlabeled}


def test_monuseg_is_converted_to_numbers_and_patches(roots):
    source = opened(roots, "MoNuSeg")
    train, test = source.cases("train"), source.cases("test")
    assert [case.name for case in test] == ["TCGA-2Z-A9J9-01A-01-TS1"]
    assert {(case.group, case.stratum) for case in train} == {("TCGA-A7-A13E", "breast"), ("TCGA-B0-5711", "kidney")}
    ids = source.instances(train[0], 1)
    assert ids.shape == (300, 260) and ids.max() == 4 and (ids[5:15, 5:15] == 1).all() and (ids == 1).sum() == 100
    items = source.items(train)
    assert len(items) == 2 * 2 * 2 and items[0].image != train[0].image
    for item in items:
        top, left = map(int, item.name.split("_")[1:])
        assert (source.image(item) == source.image(item.case)[:, top : top + SIDE, left : left + SIDE]).all()
        whole = source.instances(item.case, 1)[top : top + SIDE, left : left + SIDE]
        assert source.label(item).shape == (SIDE, SIDE) and ((source.label(item) == 2) == borders(whole)).all()
    assert "30 images of --protocol kumar are not in train.list" in said(make_split, source, request(protocol="kumar"))


def test_the_split_of_2017_is_the_papers(roots, monkeypatch):
    source = opened(roots, "MoNuSeg")
    case = source.cases("train")[0]
    monkeypatch.setattr(source, "cases", lambda part: [
        type(case)(name, case.image, case.label, name[:12], organ) for name, organ in ORGAN_OF.items()])
    split, test = make_split(source, request(protocol="kumar")), splits.test_cases(source, request(protocol="kumar"))
    assert (len(split.labeled) + len(split.unlabeled), len(split.val), len(test)) == (12, 4, 14)
    assert {one.stratum for one in test if one.stratum not in {c.stratum for c in split.val}} == {"bladder", "colon", "stomach"}


def test_patches_cover_a_side_evenly():
    assert corners(1000) == [0, 248, 496, 744] and corners(256) == [0] and corners(100) == [0] and corners(257) == [0, 1]


def test_a_folder_is_recognised_and_sound(roots):
    for name, root in roots.items():
        assert resolve(None, root, root.parent)[0].name == name
    for name in ("CrackForest", "MoNuSeg"):
        report = check_folder(DATA_SETS[name], roots[name], 1)
        assert not report.problems, report.problems


@pytest.fixture
def own(roots, tmp_path):
    """A copy of a data set that a test may damage."""
    return lambda name: Path(shutil.copytree(roots[name], tmp_path / name))


def test_a_folder_around_the_archives_own_is_recognised_if_there_is_one_alone(own, roots, tmp_path):
    own("GlaS")
    data, root, _ = resolve(None, tmp_path, tmp_path)
    assert (data.name, root) == ("GlaS", tmp_path) and open_source(data, root).cases("train")
    assert "looks like CrackForest and CRAG and DSB2018 and GlaS and MoNuSeg" in said(resolve, None, roots["GlaS"].parent, tmp_path)


def test_what_is_wrong_with_a_download_is_said(own):
    glas = own("GlaS")
    (glas / "train_1.bmp").unlink()
    assert "train_1_anno.bmp: a reference without its image train_1.bmp" in said(open_source(DATA_SETS["GlaS"], glas).cases, "train")
    (glas / "Grade.csv").write_text("name,patient ID, grade\rtrain_2,1, benign")
    assert "no line for train_3" in said(open_source(DATA_SETS["GlaS"], glas).cases, "train")
    (glas / "Grade.csv").unlink()
    assert "Grade.csv: there is no such file" in said(open_source, DATA_SETS["GlaS"], glas)
    dsb = own("DSB2018")
    (dsb / "stage1_train/.ipynb_checkpoints").mkdir()
    open_source(DATA_SETS["DSB2018"], dsb).cases("train")
    shutil.rmtree(dsb / "stage1_train/0001abc/images")
    assert "0001abc/images: 0 pictures; expected one" in said(open_source(DATA_SETS["DSB2018"], dsb).cases, "train")
    save(dsb / "stage1_train/0002abc/masks/0002abc_9.png", np.zeros((3, 4), np.uint8))
    source = open_source(DATA_SETS["DSB2018"], dsb)
    (dsb / "stage1_train/0001abc/images").mkdir()
    save(dsb / "stage1_train/0001abc/images/0001abc.png", discs(1)[0])
    assert "0002abc_9.png: (3, 4), but 0002abc_1.png beside it is (44, 44)" in said(source.label, source.cases("train")[2])
    cracks = own("CrackForest")
    scipy.io.savemat(cracks / "groundTruth/036.mat", {"other": np.ones((2, 2))})
    (cracks / "groundTruth/037.mat").write_bytes(b"<html>")
    source = open_source(DATA_SETS["CrackForest"], cracks)
    first, second = source.cases("train")[:2]
    assert "no groundTruth.Segmentation in it; found other" in said(source.label, first)
    (cracks / "groundTruth/._036.mat").write_bytes(b"\0\5\x16\7")
    assert len(open_source(DATA_SETS["CrackForest"], cracks).cases("train")) == len(source.cases("train"))
    assert "a web page saved in place of the data" in said(source.label, second)
    crag = own("CRAG")
    (crag / "valid/Images/test_1.png").unlink()
    assert "test_1.png: a reference without its image in valid/Images" in said(open_source(DATA_SETS["CRAG"], crag).cases, "test")


def test_what_is_wrong_with_annotations_is_said(tmp_path):
    assert "there is no such folder" in said(convert_monuseg, tmp_path / "nowhere", tmp_path / "out", 1)
    raw = write_monuseg(tmp_path / "raw")
    annotation = next(raw.rglob("TCGA-A7*.xml"))
    wrong = "<A><Annotation><Regions><Region><Vertex X='1' Y='b'/></Region></Regions></Annotation></A>"
    for text, expected in (("<a", "no readable XML"), ("<a/>", "no outline of a nucleus"), (wrong, "without numbers")):
        annotation.write_text(text)
        assert re.search(f"TCGA-A7.*{expected}", said(instances_in, annotation, (9, 9)))
    for other in (*raw.rglob("*TCGA-B0*"), *raw.rglob("*TCGA-2Z*.tif"), annotation):
        other.unlink()
    assert "there is no TCGA-A7-A13E-01Z-00-DX1.xml" in said(convert_monuseg, raw, tmp_path / "out", 1)
    assert not (tmp_path / "out" / "train.list").exists(), "no list before all is sound"
    images_alone = tmp_path / "alone"
    save(images_alone / "a.tif", discs(0)[0])
    assert "1 images (.tif) and 0 annotations" in said(convert_monuseg, images_alone, tmp_path / "out", 1)


def test_a_number_below_zero_is_no_object(own):
    crag = own("CRAG")
    Image.fromarray(np.full(SHAPE, -3, np.int32)).save(crag / "train/Annotation/train_1.tif")
    (crag / "train/Annotation/train_1.png").unlink()
    source = open_source(DATA_SETS["CRAG"], crag)
    assert "holds int32 from -3 on" in said(source.label, source.cases("train")[0])


@pytest.mark.parametrize("target, classes", [("contour", {"gland", "contour"}), ("foreground", {"gland"})])
def test_a_run_is_tested_with_scores_of_objects(roots, target, classes, tmp_path, capsys):
    bench = Bench(tmp_path, roots["GlaS"], narrow=True)
    assert bench.train("Supervised", "--dataset", "GlaS", "--target", target, "--max_iterations", "2", "--val_every", "2").code == 0
    result, = bench.test("test_2D").values()
    assert classes == set(result["summary"]) - {"mean"}
    assert set(result["objects"]) == {"data_set", "testA", "testB"} and result["objects"]["data_set"]["gland"]["reference"] == 12
    rows = [case for case in result["cases"] if case["class"] == "gland"]
    assert len(rows) == 3 and all(row["aji"] is not None and row["dice"] is not None for row in rows)
    assert result["summary"]["gland"]["object_f1"] == pytest.approx(np.mean([row["object_f1"] for row in rows]))
    assert "gland, testB: object F1" in capsys.readouterr().out
