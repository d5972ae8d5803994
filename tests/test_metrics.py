"""Metrics: golden files, medpy as oracle on random shapes, masks small enough to check by hand, and what empty masks count."""
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metrics import (
    binary_metrics,
    confusion_matrix,
    dataset_overlap,
    dice,
    image_detection,
    image_flags,
    jaccard,
    published_convention,
    score_case,
    simeps_metrics,
    summarize,
)
from metrics.overlap import abs_ravd, intersection_union_target, stpp_miou, unimatch_miou
from metrics.surface import sweep

GOLDEN = Path(__file__).parent / "golden"
DISTANCES = ("hd95", "hd", "asd", "assd")


@pytest.mark.parametrize("dimensions", ["2d", "3d"])
def test_binary_metrics_agree_with_golden_file(dimensions):
    golden = np.load(GOLDEN / f"metrics_binary_{dimensions}.npz")
    for i, case in enumerate(golden["in_case"]):
        prediction, reference = golden["in_prediction"][i], golden["in_reference"][i]
        assert jaccard(prediction, reference) == pytest.approx(golden["out_jaccard"][i], rel=1e-12), case
        assert abs_ravd(prediction, reference) == pytest.approx(golden["out_abs_ravd"][i], rel=1e-12, nan_ok=True), case
        if case != "both_empty":  # medpy's Dice of two empty masks depends on the versions
            assert dice(prediction, reference) == pytest.approx(golden["out_dice"][i], rel=1e-12), case
        for j, spacing in enumerate(golden["in_spacing"]):
            if golden["out_raises"][i]:
                with pytest.raises(ValueError, match="no surface"):
                    binary_metrics(prediction, reference, spacing)
                continue
            found = binary_metrics(prediction, reference, spacing)
            for key in DISTANCES:
                assert getattr(found, key) == pytest.approx(golden[f"out_{key}"][i, j], rel=1e-9, abs=1e-9), (case, spacing, key)


@pytest.mark.parametrize("name", ["val_2d", "val_3d", "test_2d", "test_3d", "test_urpc", "test_la"])
def test_published_conventions_agree_with_golden_file(name):
    golden = np.load(GOLDEN / "metrics_conventions.npz")
    for i, case in enumerate(golden["in_case"]):
        prediction, reference = golden["in_prediction"][i], golden["in_reference"][i]
        if golden[f"out_raises_{name}"][i]:
            with pytest.raises(ValueError, match="no surface"):
                published_convention(name, prediction, reference)
        else:
            found = published_convention(name, prediction, reference)
            np.testing.assert_allclose(found, golden[f"out_nan_{name}"][i], rtol=1e-9, err_msg=str(case))


def test_dataset_overlap_agrees_with_golden_file():
    golden = np.load(GOLDEN / "miou.npz")
    classes, ignored = int(golden["par_classes"]), int(golden["par_ignore"])
    matrices = [confusion_matrix(p, r, classes, ignored) for p, r in zip(golden["in_prediction"], golden["in_reference"])]
    sums = [intersection_union_target(matrix) for matrix in matrices]
    np.testing.assert_array_equal(sums, golden["out_intersection_union_target_per_image"])
    percent, mean = unimatch_miou(*np.sum(sums, 0)[:2])
    np.testing.assert_allclose(percent, golden["out_iou_class_percent"], rtol=1e-12)
    assert mean == pytest.approx(float(golden["out_miou_percent"]), rel=1e-12)
    total = np.sum(matrices, 0)
    np.testing.assert_array_equal(total, golden["out_stpp_hist"])
    iou, mean = stpp_miou(total)
    np.testing.assert_allclose(iou, golden["out_nan_stpp_iou"], rtol=1e-12)
    assert mean == pytest.approx(float(golden["out_stpp_miou"]), rel=1e-12)


def test_simeps_metrics_agree_with_golden_file():
    golden = np.load(GOLDEN / "simeps_metrics.npz")
    for name in ("neu", "mtiles", "dagm"):
        found = simeps_metrics(golden[f"in_pred_{name}"], golden[f"in_labels_{name}"], int(golden[f"par_classes_{name}"]))
        want = [float(golden[f"out_{key}_{name}"]) for key in ("miou", "mdice", "accuracy")]
        np.testing.assert_allclose(found, want, rtol=1e-9)
    iou, _, accuracy = simeps_metrics(golden["in_pred_empty"], golden["in_labels_empty"], int(golden["par_classes_neu"]))
    assert math.isnan(iou) and accuracy == pytest.approx(float(golden["out_accuracy_empty"]))


def masks(shape):
    return arrays(np.bool_, shape, elements=st.booleans()).filter(np.any)


def blobs(rng, shape, smooth, offset):
    """Noise averaged over neighbours `smooth` times, cut at `offset` standard deviations; never empty."""
    noise = rng.standard_normal(shape)
    for _ in range(smooth):
        for axis in range(len(shape)):
            noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    mask = noise > offset * noise.std()
    mask.flat[rng.integers(mask.size)] = True
    return mask


def medpy_distances(prediction, reference, spacing):
    binary = pytest.importorskip("medpy.metric.binary")
    return [getattr(binary, key)(prediction, reference, voxelspacing=spacing) for key in DISTANCES]


@settings(max_examples=120, deadline=None)
@given(st.data(), st.integers(2, 3))
def test_dense_noise_equals_medpy(data, ndim):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=ndim, max_size=ndim)))
    prediction, reference = data.draw(masks(shape)), data.draw(masks(shape))
    spacing = data.draw(st.none() | st.lists(st.floats(0.1, 10.0), min_size=ndim, max_size=ndim))
    found = binary_metrics(prediction, reference, spacing)
    np.testing.assert_allclose([getattr(found, key) for key in DISTANCES], medpy_distances(prediction, reference, spacing), 1e-9, 1e-9)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
def test_shapes_near_and_far_equal_medpy(seed, ndim):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 40 if ndim == 2 else 24, ndim))
    prediction, reference = (blobs(rng, shape, int(rng.integers(6)), float(rng.uniform(-1, 3))) for _ in range(2))
    spacing = rng.uniform(0.2, 6.0, ndim) if rng.random() < 0.7 else None
    found = binary_metrics(prediction, reference, spacing)
    np.testing.assert_allclose([getattr(found, key) for key in DISTANCES], medpy_distances(prediction, reference, spacing), 1e-9, 1e-9)


@pytest.mark.parametrize("spacing", [None, (10.0, 1.5, 1.25)])
def test_both_backends_give_the_same_scores_of_all_classes(spacing):
    pytest.importorskip("medpy")
    rng = np.random.default_rng(3)
    prediction, reference = (np.digitize(rng.random((7, 24, 20)), [0.4, 0.6, 0.9]).astype(np.uint8) for _ in range(2))
    ours, theirs = (score_case(prediction, reference, 5, spacing, backend=backend) for backend in ("numba", "medpy"))
    for a, b in zip(ours, theirs):
        assert a.pop("empty") == b.pop("empty")
        assert a == (b if b["dice"] is None else pytest.approx(b, rel=1e-9))
    assert set(ours[0]) == {"dice", "jaccard", "hd95_vox", "asd_vox"} | ({"hd95_mm", "asd_mm"} if spacing else set())
    fast = score_case(prediction, reference, 5, spacing, only_fast=True)
    assert [score.pop("empty") for score in fast] == ["", "", "", "both"]
    assert fast == [{key: score[key] for key in ("dice", "hd95_vox")} for score in ours]


def squares(shift, size=10):
    a, b = np.zeros((2, size, size), np.uint8)
    a[2:6, 2:6] = 1
    b[2:6, 2 + shift : 6 + shift] = 1
    return a, b


def test_two_squares_shifted_by_one():
    a, b = squares(1)
    (score,) = score_case(a, b, 2)
    assert score == {"dice": 0.75, "jaccard": pytest.approx(0.6), "hd95_vox": 1.0, "asd_vox": 0.5, "empty": ""}
    assert score_case(a, b, 2, (3.0, 2.0))[0]["hd95_mm"] == 2.0
    assert score_case(a.T, b.T, 2, (3.0, 2.0))[0]["hd95_mm"] == 3.0


def test_normalised_surface_distance_counts_surface_voxels_within_tolerance():
    a, b = squares(1)
    assert binary_metrics(a, b, tolerance=0.5).nsd == 0.5
    assert binary_metrics(a, b, tolerance=1.0).nsd == 1.0
    assert math.isnan(binary_metrics(a, b).nsd)


@pytest.mark.parametrize("shape, spacing", [((30, 26), (1.0, 1.0)), ((9, 26, 21), (4.0, 1.5, 1.25))])
def test_normalised_surface_distance_of_every_class_by_its_definition(shape, spacing):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(7)
    levels = [np.digitize(blobs(rng, shape, 0, 0.3) + ndimage.gaussian_filter(rng.standard_normal(shape), 2.0), [0.2, 0.9]) for _ in "ab"]
    prediction, reference = (level.astype(np.uint8) for level in levels)
    found = sweep(prediction, reference)
    for label in (1, 2):
        masks = [labels == label for labels in (prediction, reference)]
        surfaces = [mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(len(shape), 1)) for mask in masks]
        to = [ndimage.distance_transform_edt(~surface, spacing) for surface in surfaces]
        pooled = np.concatenate([to[1][surfaces[0]], to[0][surfaces[1]]])
        for tolerance in (0.0, 1.0, 1.5, 4.2):
            assert found.metrics(label, spacing, tolerance).nsd == np.mean(pooled <= tolerance)


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 3.0])
def test_normalised_surface_distance_beside_the_one_by_area(tolerance):
    """DeepMind's package weighs surface elements between voxels by area, ours counts surface voxels: near, but not equal."""
    deepmind = pytest.importorskip("surface_distance")

    def theirs(a, b):
        return deepmind.compute_surface_dice_at_tolerance(deepmind.compute_surface_distances(a, b, (1.0, 1.0, 1.0)), tolerance)

    z, y, x = np.indices((40, 44, 44)) - np.array([20, 22, 22])[:, None, None, None]
    ball, moved = z * z + y * y + x * x < 15**2, z * z + y * y + (x - 3) ** 2 < 14**2
    assert 0 < theirs(ball, moved) - binary_metrics(ball, moved, tolerance=tolerance).nsd < 0.12
    box, inner = np.zeros((2, 30, 30, 30), bool)
    box[5:25, 5:25, 5:25] = inner[7:23, 7:23, 7:23] = True
    assert binary_metrics(box, inner, tolerance=tolerance).nsd == pytest.approx(theirs(box, inner), abs=0.03)


@pytest.mark.parametrize("shape", [(2, 3, 300, 300), (2, 300, 300), (2, 200, 220, 90), (2, 300, 2, 3)])
def test_boxes_too_large_for_16_bits_and_just_small_enough(shape):
    rng = np.random.default_rng(shape[1])
    masks = rng.random(shape) < 4 / math.prod(shape[1:])
    masks[0].flat[0] = masks[1].flat[-1] = True  # opposite corners: the box is the whole array
    prediction, reference = masks
    found = binary_metrics(prediction, reference)
    points = [np.argwhere(mask).astype(float) for mask in (prediction, reference)]
    ways = np.sqrt(((points[0][:, None] - points[1][None]) ** 2).sum(-1))
    pooled = np.concatenate([ways.min(1), ways.min(0)])
    want = [np.percentile(pooled, 95), pooled.max(), ways.min(1).mean(), pooled.mean()]
    assert [found.hd95, found.hd, found.asd, found.assd] == pytest.approx(want, rel=1e-12)


def test_distance_is_directed():
    a = np.zeros((9, 9), bool)
    a[4, 4] = True
    b = a.copy()
    b[4, 8] = True
    assert (binary_metrics(a, b).asd, binary_metrics(b, a).asd) == (0.0, 2.0)


def test_single_voxels_in_opposite_corners():
    a, b = np.zeros((2, 5, 7, 9), bool)
    a[0, 0, 0] = b[-1, -1, -1] = True
    found = binary_metrics(a, b, (3.0, 1.0, 0.5))
    assert found.hd95 == found.hd == found.asd == found.assd == pytest.approx(math.sqrt(12**2 + 6**2 + 4**2))


def test_the_border_of_the_image_is_surface():
    full = np.ones((5, 6), bool)
    centre = np.zeros((5, 6), bool)
    centre[2, 3] = True
    assert len(sweep(full, centre).squared_distances(1)[0]) == 18
    assert binary_metrics(full, full).hd == 0.0
    assert binary_metrics(centre, full).asd == 2.0


def test_a_plane_alone_is_all_surface_as_volume_and_not_as_image():
    full = np.ones((1, 6, 6), bool)
    assert len(sweep(full, full).squared_distances(1)[0]) == 36
    assert len(sweep(full[0], full[0]).squared_distances(1)[0]) == 20


def test_empty_classes_are_flagged_and_penalised():
    reference = np.zeros((4, 6, 8), np.uint8)
    prediction = reference.copy()
    reference[1:3, 2:4, 2:4] = 1
    prediction[1:3, 2:4, 2:4] = 2
    missed, false, both = score_case(prediction, reference, 4, (2.0, 1.0, 1.0))
    diagonal, diagonal_mm = math.sqrt(16 + 36 + 64), math.sqrt(64 + 36 + 64)
    worst = {"dice": 0.0, "jaccard": 0.0, "hd95_vox": diagonal, "asd_vox": diagonal, "hd95_mm": diagonal_mm, "asd_mm": diagonal_mm}
    assert missed == pytest.approx({**worst, "empty": "missed"})
    assert false == pytest.approx({**worst, "empty": "false"})
    assert both == {**dict.fromkeys(worst), "empty": "both"}
    for score in score_case(prediction, reference, 4, empty="published"):
        assert [score[key] for key in ("dice", "jaccard", "hd95_vox", "asd_vox")] == [0.0] * 4


def test_summary_averages_cases_then_classes_and_counts_the_missed():
    a, b = squares(1)
    good = np.stack([a, a]), np.stack([b, b])
    cases = [score_case(*good, 3), score_case(np.zeros_like(good[1]), 2 * good[1], 3), score_case(*good, 3)]
    summary = summarize(cases, ["disc", "ring"])
    diagonal = math.sqrt(4 + 100 + 100)
    assert summary["disc"]["dice"] == 0.75 and summary["disc"]["n"] == 2 and summary["disc"]["both_empty"] == 1
    assert (summary["ring"]["dice"], summary["ring"]["missed"], summary["ring"]["both_empty"]) == (0.0, 1, 2)
    assert summary["ring"]["hd95_vox"] == pytest.approx(diagonal) and summary["ring"]["hd95_vox_found"] is None
    assert summary["mean"]["dice"] == 0.375 and summary["mean"]["missed"] == 1
    assert summary["mean"]["hd95_vox"] == pytest.approx((1 + diagonal) / 2) and summary["mean"]["hd95_vox_found"] == 1.0


def test_a_prediction_of_background_alone_scores_finitely_worst():
    reference = np.zeros((5, 20, 20), np.uint8)
    reference[:, 5:10, 5:10], reference[:, 10:15, 5:10], reference[:, 5:10, 10:15] = 1, 2, 3
    mean = summarize([score_case(np.zeros_like(reference), reference, 4)] * 2, ["RV", "Myo", "LV"])["mean"]
    assert (mean["dice"], mean["missed"], mean["n"]) == (0.0, 6, 6)
    assert mean["hd95_vox"] == pytest.approx(math.sqrt(25 + 400 + 400)) and mean["hd95_vox_found"] is None
    assert summarize([], ["RV"])["mean"]["dice"] is None


def test_ignored_positions_count_nowhere():
    a, b = squares(1)
    b[:, 2], b[:, 6] = 255, 255
    assert score_case(a, b, 2, ignored=255)[0]["dice"] == 1.0
    assert confusion_matrix(a, b, 2).sum() == 80
    np.testing.assert_array_equal(image_flags(np.where(b == 255, 1, 0), np.where(b == 255, 255, 0), 2, ignored=255), False)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.int16, np.float32])
def test_types_memory_orders_and_read_only_maps(dtype):
    rng = np.random.default_rng(0)
    a, b = (blobs(rng, (6, 15, 11), 2, 0.5).astype(dtype) for _ in range(2))
    want = binary_metrics(a, b)
    a.flags.writeable = False
    assert score_case(a, np.asfortranarray(b), 2)[0]["hd95_vox"] == want.hd95
    assert score_case(a[::-1], b[::-1], 2)[0]["asd_vox"] == pytest.approx(want.asd, rel=1e-12)
    for map_ in (b, b.astype(np.uint8)):
        assert sweep(a, map_).metrics(1, tolerance=1.0) == binary_metrics(a, b, tolerance=1.0) and map_.flags.writeable, "left as they were"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prediction": np.full((4, 4), 7, np.uint8)}, "prediction holds label 7"),
        ({"reference": np.full((4, 4), 255, np.uint8)}, "reference holds label 255"),
        ({"prediction": np.full((4, 4), -1)}, "whole labels"),
        ({"prediction": np.full((4, 4), 0.5)}, "whole labels"),
        ({"prediction": np.full((4, 4), np.nan)}, "whole labels"),
        ({"prediction": np.zeros((4, 5), np.uint8)}, "expected the same"),
        ({"prediction": np.zeros((4, 5), np.uint8), "ignored": 0}, "expected the same"),
        ({"spacing": (1.0, 0.0)}, "positive"),
        ({"spacing": (1.0,)}, "2 axes"),
        ({"empty": "zero"}, "penalty"),
        ({"backend": "monai"}, "medpy"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"prediction": np.zeros((4, 4), np.uint8), "reference": np.zeros((4, 4), np.uint8), "num_classes": 4} | change
    with pytest.raises(ValueError, match=message):
        score_case(**arguments)


def test_dataset_overlap_leaves_absent_classes_out():
    matrix = confusion_matrix(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 255]), 3)
    found = dataset_overlap(matrix, ["background", "crack", "blowhole"])
    assert found["crack"] == {"dice": pytest.approx(2 / 3), "iou": 0.5} and found["blowhole"]["dice"] is None
    assert found["mean"]["iou"] == 0.5 and found["mean_with_background"]["iou"] == 0.5
    with pytest.raises(ValueError, match="expected 0..2"):
        confusion_matrix(np.array([3]), np.array([0]), 3)


def test_every_class_of_a_matrix_by_hand():
    """Class 2 is nowhere and predicted once: 0, not nothing."""
    matrix = np.array([[4, 1, 0], [0, 2, 1], [0, 0, 0]])
    found = dataset_overlap(matrix, ["background", "crack", "blowhole"])
    each = {"background": (8 / 9, 4 / 5), "crack": (2 / 3, 1 / 2), "blowhole": (0, 0), "mean": (1 / 3, 1 / 4),
            "mean_with_background": ((8 / 9 + 2 / 3) / 3, (4 / 5 + 1 / 2) / 3)}
    for name, (both, union) in each.items():
        assert found[name] == {"dice": pytest.approx(both), "iou": pytest.approx(union)}, name
    np.testing.assert_array_equal(intersection_union_target(matrix), [[4, 2, 0], [5, 4, 1], [5, 3, 0]])


def test_detection_counts_images():
    crack, free, wrong = np.array([[0, 1]]), np.array([[0, 0]]), np.array([[2, 0]])
    pairs = [(crack, crack), (free, crack), (wrong, crack), (wrong, free), (free, free)]
    found = image_detection([image_flags(p, r, 3) for p, r in pairs], ["crack", "blowhole"])
    assert found["any"] == {"recall": pytest.approx(2 / 3), "false_alarms": 0.5, "n_defect": 3, "n_free": 2}
    assert found["crack"]["recall"] == pytest.approx(1 / 3) and found["crack"]["false_alarms"] == 0.0
    assert found["blowhole"]["recall"] is None and found["blowhole"]["false_alarms"] == 0.4


def test_threads_agree_and_leave_the_interpreter_free():
    rng = np.random.default_rng(1)
    cases = [tuple(blobs(rng, (20, 40, 40), 3, 0.5).astype(np.uint8) for _ in range(2)) for _ in range(8)]
    alone = [score_case(*case, 2) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda case: score_case(*case, 2), cases)) == alone
    far = np.zeros((2, 60, 200, 200), bool)
    far[0, ::2, ::2, :60], far[1, ::2, ::2, 140:] = True, True
    worker = threading.Thread(target=binary_metrics, args=tuple(far))
    worker.start()
    ticks = 0
    while worker.is_alive():
        worker.join(0.002)
        ticks += 1
    assert ticks > 5  # a kernel that held the lock would have stopped this loop until its end
