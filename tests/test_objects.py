"""Scores of objects, against loops over masks written from the definitions, scipy and scikit-image; and what counts where objects lack."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff
from skimage import measure, morphology

from metrics import instances_of, object_scores, object_sums
from metrics.instances import consecutive
from metrics.objects import total

NAMES = ("object_f1", "object_dice", "object_hausdorff", "aji", "pq", "sq", "rq")


def masks_of(ids: np.ndarray) -> list[np.ndarray]:
    return [ids == i for i in np.unique(ids) if i]


def hausdorff(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.argwhere(a), np.argwhere(b)
    return max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def by_definition(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """All scores from masks, one pair at a time; both maps have objects."""
    ps, rs = masks_of(prediction), masks_of(reference)

    def partner(one: np.ndarray, others: list[np.ndarray]) -> np.ndarray | None:
        shared = [int((one & other).sum()) for other in others]
        return others[int(np.argmax(shared))] if max(shared) else None

    def side(mine: list[np.ndarray], others: list[np.ndarray], value) -> float:
        return sum(one.sum() * value(one, partner(one, others), others) for one in mine) / sum(one.sum() for one in mine)

    def overlap(one, other, others):
        return 0.0 if other is None else dice(one, other)

    def distance(one, other, others):
        return min(hausdorff(one, any_) for any_ in others) if other is None else hausdorff(one, other)

    true = sum((other := partner(one, rs)) is not None and (one & other).sum() / other.sum() > 0.5 for one in ps)
    above, below, used = 0, 0, set()
    for r in rs:
        best = int(np.argmax([iou(r, p) for p in ps]))
        if iou(r, ps[best]) > 0:
            above, below = above + (r & ps[best]).sum(), below + (r | ps[best]).sum()
            used.add(best)
        else:
            below += r.sum()
    below += sum(p.sum() for k, p in enumerate(ps) if k not in used)
    pairs = [found for p in ps for r in rs if (found := iou(p, r)) > 0.5]
    rq, sq = 2 * len(pairs) / (len(ps) + len(rs)), float(np.mean(pairs)) if pairs else 0.0
    values = (2 * true / (len(ps) + len(rs)), (side(ps, rs, overlap) + side(rs, ps, overlap)) / 2,
              (side(ps, rs, distance) + side(rs, ps, distance)) / 2, above / below, sq * rq, sq, rq)
    return dict(zip(NAMES, values))


def blobs(rng: np.random.Generator, height: int, width: int, count: int, size: int) -> np.ndarray:
    """Rectangles over one another, some cut in two: touching, nested and broken objects, numbers with gaps."""
    ids = np.zeros((height, width), np.int64)
    for k in range(count):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ids[y : y + rng.integers(1, size), x : x + rng.integers(1, size)] = 3 * k + 2
    return ids


@pytest.mark.parametrize("seed", range(40))
def test_scores_are_those_of_the_definitions(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(8, 40, 2))
    reference = blobs(rng, height, width, 6, 14)
    kind = seed % 3
    prediction = np.roll(reference, (1, 2), (0, 1)) if kind == 0 else blobs(rng, height, width, 5, 12 if kind == 1 else 5)
    found = object_scores(object_sums(prediction, reference))
    assert found == pytest.approx(by_definition(prediction, reference))


def test_objects_far_from_all_others_are_measured_to_the_nearest():
    reference, prediction = np.zeros((2, 60, 90), np.uint16)
    reference[2:8, 2:8], reference[50:58, 80:88], reference[20:24, 40:44] = 7, 9, 65535
    prediction[30:33, 50:53], prediction[0:2, 85:90] = 1, 2
    assert object_scores(object_sums(prediction, reference)) == pytest.approx(by_definition(prediction, reference))


def test_pixels_in_opposite_corners_are_a_diagonal_apart():
    prediction, reference = np.zeros((10, 10), int), np.zeros((10, 10), int)
    prediction[0, 0] = reference[9, 9] = 1
    for pair in ((prediction, reference), (reference, prediction)):
        found = object_scores(object_sums(*pair))
        assert found["object_hausdorff"] == pytest.approx(9 * 2**0.5) and found["aji"] == found["object_dice"] == found["object_f1"] == 0


def test_a_ring_around_an_object_is_as_far_as_its_middle():
    """Sets of pixels, not outlines: the farthest pixel of a disc from a ring lies inside."""
    y, x = np.mgrid[-20:21, -20:21]
    disc, ring = (np.hypot(y, x) <= 15).astype(int), ((np.hypot(y, x) <= 15) & (np.hypot(y, x) > 10)).astype(int)
    found = object_scores(object_sums(disc, ring))
    assert found["object_hausdorff"] == pytest.approx(hausdorff(disc > 0, ring > 0)) and found["object_hausdorff"] > 10


def test_the_same_map_is_perfect_whatever_its_numbers():
    ids = blobs(np.random.default_rng(3), 30, 30, 5, 9)
    again = np.where(ids, 100 - ids, 0)
    perfect = {name: 0.0 if name == "object_hausdorff" else 1.0 for name in NAMES}
    assert object_scores(object_sums(ids, again)) == object_scores(object_sums(ids > 0, ids > 0)) == perfect


def test_two_touching_objects_that_are_predicted_as_one():
    reference, prediction = np.zeros((2, 10, 12), np.int64)
    reference[2:8, 1:6], reference[2:8, 6:11] = 1, 2
    prediction[2:8, 1:11] = 1
    found = object_scores(object_sums(prediction, reference))
    assert found["object_f1"] == pytest.approx(2 / 3), "it covers one of its two halves, and one is missed"
    assert found["aji"] == pytest.approx((30 + 30) / (60 + 60))
    assert found["rq"] == 0 and found["pq"] == 0 and found["sq"] == 0, "half is not more than half"
    assert found["object_dice"] == pytest.approx(2 * 30 / 90)
    assert object_scores(object_sums(reference, prediction))["object_f1"] == 0, "neither half covers more than half of the whole"


def test_where_one_side_has_no_object_and_where_none_has():
    none, some = np.zeros((30, 40), int), np.zeros((30, 40), int)
    some[3:6, 3:6], some[10:20, 10:20] = 1, 2
    for pair in ((none, some), (some, none)):
        found = object_scores(object_sums(*pair))
        assert found == {**dict.fromkeys(NAMES, 0.0), "object_hausdorff": pytest.approx(50.0)}, "the diagonal of the image"
    assert object_scores(object_sums(none, none)) == dict.fromkeys(NAMES)


def test_sums_of_images_are_those_of_one_image_that_has_them_all():
    rng = np.random.default_rng(5)
    pairs = [(blobs(rng, 30, 30, 4, 9), blobs(rng, 30, 30, 4, 9)) for _ in range(3)]
    apart = 200
    wide = [np.zeros((30, 3 * apart), np.int64) for _ in range(2)]
    for k, pair in enumerate(pairs):
        for whole, ids in zip(wide, pair):
            whole[:, k * apart : k * apart + 30] = np.where(ids, ids + 100 * k, 0)
    together = object_scores(total([object_sums(*pair) for pair in pairs]))
    assert together == pytest.approx(object_scores(object_sums(*wide)))
    assert set(total([])) == {0.0} and object_scores(total([])) == dict.fromkeys(NAMES)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) \(prediction\) and \(4, 3\)"):
        object_sums(np.zeros((3, 4), int), np.zeros((4, 3), int))
    with pytest.raises(ValueError, match="below 0"):
        object_sums(np.full((3, 3), -1), np.zeros((3, 3), int))


@pytest.mark.parametrize("least, grow", [(1, 0), (6, 0), (6, 2), (1, 4)])
def test_instances_are_those_of_scikit_image(least, grow):
    mask = np.random.default_rng(1).random((50, 60)) < 0.35
    labels = measure.label(mask, connectivity=2)
    for region in measure.regionprops(labels):
        if region.area < least:
            labels[labels == region.label] = 0
    wanted = measure.label(labels > 0, connectivity=2)
    if grow:
        wanted = morphology.dilation(wanted, morphology.disk(grow))
    assert (instances_of(mask, least, grow) == wanted).all()


def test_instances_of_nothing():
    assert not instances_of(np.zeros((4, 5), bool), 3, 2).any()


def test_numbers_become_consecutive_in_their_order():
    ids, count = consecutive(np.array([[0, 9, 9], [4, 0, 70]], np.uint16))
    assert count == 3 and ids.tolist() == [[0, 2, 2], [1, 0, 3]]
