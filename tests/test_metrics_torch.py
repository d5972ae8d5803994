"""Scores of a batch on the device: the same numbers as `score_case`, in memory that does not grow with the batch. On the CPU here."""
import math

import numpy as np
import pytest
import torch

from metrics import score_case, torch_scores
from metrics.torch_scores import score_batch, squared_distance_to, surface

KINDS = ["", "missed", "false", "both"]


def blobs(rng, shape, classes):
    noise = rng.standard_normal(shape)
    for _ in range(3):
        for axis in range(1, len(shape)):
            noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return np.digitize(noise / noise.std(), np.linspace(0.3, 1.6, classes - 1)).astype(np.uint8)


def assert_same(predictions, references, classes, spacing, empty):
    found = score_batch(torch.from_numpy(predictions), torch.from_numpy(references), classes, spacing, empty)
    assert set(found) == {"dice", "jaccard", "hd95", "asd", "empty"}
    assert all(values.shape == (len(predictions), classes - 1) for values in found.values())
    unit = "vox" if spacing is None else "mm"
    for n, (prediction, reference) in enumerate(zip(predictions, references)):
        for c, want in enumerate(score_case(prediction, reference, classes, spacing, empty=empty)):
            assert KINDS[int(found["empty"][n, c])] == want["empty"]
            for key, name in (("dice", "dice"), ("jaccard", "jaccard"), ("hd95", f"hd95_{unit}"), ("asd", f"asd_{unit}")):
                value = want[name]
                assert found[key][n, c].item() == pytest.approx(math.nan if value is None else value, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("empty", ["penalty", "published"])
@pytest.mark.parametrize("shape, spacing", [
    ((3, 40, 33), None), ((3, 40, 33), (0.7, 0.7)), ((3, 40, 33), (1.5, 0.3)),
    ((2, 7, 24, 21), None), ((2, 7, 24, 21), (10.0, 1.4, 1.3)), ((2, 1, 9, 1), (2.0, 1.0, 3.0)),
])  # fmt: skip
def test_a_batch_scores_as_its_cases_do(shape, spacing, empty):
    rng = np.random.default_rng(len(shape))
    predictions, references = blobs(rng, shape, 4), blobs(rng, shape, 4)
    predictions[0][predictions[0] == 1] = 0
    references[0][references[0] == 2] = 0
    predictions[1][predictions[1] == 3] = references[1][references[1] == 3] = 0
    assert_same(predictions, references, 4, spacing, empty)


def test_groups_and_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(5)
    predictions, references = (torch.from_numpy(blobs(rng, (2, 6, 18, 15), 5)) for _ in range(2))
    whole = score_batch(predictions, references, 5, (3.0, 1.0, 1.0))
    sums = []
    real = torch.Tensor.amin
    monkeypatch.setattr(torch.Tensor, "amin", lambda self, *a: sums.append(self.numel()) or real(self, *a))
    monkeypatch.setattr(torch_scores, "LARGEST_GROUP", 2 * 6 * 18 * 15)
    monkeypatch.setattr(torch_scores, "LARGEST_SUM", 1000)
    parts = score_batch(predictions, references, 5, (3.0, 1.0, 1.0))
    assert max(sums) <= 1000
    for key, values in whole.items():
        torch.testing.assert_close(parts[key], values, rtol=0, atol=0, equal_nan=True)


def test_surface_and_distance_by_hand():
    mask = torch.zeros(1, 5, 6, dtype=torch.bool)
    mask[0, 1:4, 1:4] = True
    assert surface(mask).sum() == 8 and not surface(mask)[0, 2, 2] and surface(torch.ones_like(mask)).sum() == 18
    target = torch.zeros(2, 3, 4, dtype=torch.bool)
    target[0, 0, 0] = True
    squared = squared_distance_to(target, (4.0, 1.0), torch.float64)
    assert squared[0, 2, 3] == 16 + 9 and torch.isinf(squared[1]).all()


def test_bad_input_is_refused():
    maps = torch.zeros(2, 4, 4, dtype=torch.uint8)
    for arguments, message in (
        ((maps, maps[:1], 2), "expected the same"), ((maps[0], maps[0], 2), "expected the same"),
        ((maps, maps, 2, (1.0,)), "2 axes"), ((maps, maps, 2, None, "zero"), "penalty"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            score_batch(*arguments)
