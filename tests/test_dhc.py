"""DHC: what its page promises."""
import json
from math import log
from types import SimpleNamespace

import h5py
import numpy as np
import torch
import train_DHC
from harness import Bench
from parity_tools import Stub, golden_batch, gradient

from losses.class_weights import DifficultyWeights, FrequencyWeights, by_frequency, hard_dice, weighted_cross_entropy, weighted_dice

LABELS = torch.tensor([[[0, 1, 1, 2], [2, 1, 0, 255]]])


def answers(seed=0, rows=3):
    torch.manual_seed(seed)
    return torch.randn(rows, 3, 2, 4, requires_grad=True)


def surely(labels, classes=3):
    """Logits of a network that says so."""
    return 20.0 * torch.nn.functional.one_hot(labels.clamp(max=classes - 1), classes).movedim(-1, 1).float()


def test_weights_by_counts():
    torch.testing.assert_close(by_frequency(torch.tensor([8, 4, 1])), torch.tensor([0, 3 * log(2) / log(8), 3]))
    assert torch.equal(by_frequency(torch.tensor([5, 5])), torch.ones(2))


def test_the_largest_weight_is_the_number_of_classes():
    torch.manual_seed(0)
    difficulty, frequency = DifficultyWeights(3), FrequencyWeights(torch.tensor([8, 4, 1]))
    for seed in range(5):
        logits = answers(seed)
        for weights in (difficulty.seen(logits[:1], LABELS), frequency.seen(logits[1:])):
            assert weights.isfinite().all() and (weights >= 0).all() and not weights.requires_grad
        torch.testing.assert_close(difficulty.seen(logits[:1], LABELS).max(), torch.tensor(3.0))


def test_weights_stay_finite_where_nothing_changes():
    difficulty = DifficultyWeights(3)
    for _ in range(2000):
        weights = difficulty.seen(surely(LABELS), LABELS)
    assert weights.isfinite().all()


def test_the_hardest_class_weighs_most():
    """Class 2 is never found, class 1 always."""
    difficulty = DifficultyWeights(3)
    for _ in range(5):
        weights = difficulty.seen(surely(torch.where(LABELS == 2, 0, LABELS)), LABELS)
    assert weights[2] == 3 > weights[1]


def test_dice_of_a_class_that_is_nowhere_and_of_ignored_pixels():
    found = hard_dice(torch.where(LABELS == 255, 1, LABELS), LABELS, 4)
    torch.testing.assert_close(found, torch.tensor([1, 1, 1, 0.5]))


def test_a_class_that_is_missing_takes_the_weight_unless_counted_as_a_pixel():
    said = surely(torch.tensor([[[0, 0, 0, 0], [0, 0, 0, 1]]]))
    published, kept = (FrequencyWeights(torch.tensor([4, 2, 1]), keep=0.0, least=least).seen(said) for least in (0.0, 1.0))
    assert published[1] < 0.4
    torch.testing.assert_close(kept[1:], torch.full((2,), 3.0))


def test_what_weighs_nothing_or_is_ignored_has_no_loss():
    logits, background = answers(), torch.zeros(3, 2, 4, dtype=torch.long)
    assert weighted_cross_entropy(logits, background, torch.tensor([0.0, 1, 3])) == 0
    v = torch.tensor([1.0, 2, 3])
    with torch.no_grad():
        other = answers()
        other[0, :, 1, 3] += torch.tensor([5.0, 0, -5])
    for loss in (weighted_cross_entropy, weighted_dice):
        torch.testing.assert_close(loss(logits[:1], LABELS, v), loss(other[:1], LABELS, v))


def test_dice_of_a_perfect_prediction_is_minus_the_mean_weight():
    shown = torch.where(LABELS == 255, 0, LABELS)
    torch.testing.assert_close(weighted_dice(surely(shown), shown, torch.tensor([9.0, 2, 3])), torch.tensor(-2.5))


def test_equal_networks_of_equal_weights_teach_each_other_the_same():
    logits, other = answers(), answers().detach().clone().requires_grad_()
    fixed = SimpleNamespace(seen=lambda *given: torch.tensor([1.0, 2, 3]))
    terms = train_DHC.losses(Stub(logits), Stub(other), fixed, fixed, golden_batch(LABELS, 2), 0.1, train_DHC.Method())
    assert terms["pseudo_1"] == terms["pseudo_2"] and torch.equal(*gradient(terms["total"], logits, other))
    first, second = gradient(terms["pseudo_1"], logits, other)
    assert first.flatten(1).any(1).all() and not second.any()


def test_the_weights_begin_with_the_labels_of_the_run(bench: Bench):
    """Killed after the third step, the run goes on with the weights that it had (tests/test_zoo.py); here, what they begin with."""
    assert bench.train("DHC", "--max_iterations", "1", "--frequency_keep", "1").code == 0
    folder = bench.run_folder()
    names = json.loads((folder / "config.json").read_text())["split"]["labeled"]
    counts = sum(np.bincount(h5py.File(bench.data / "data" / f"{name}.h5")["label"][()].ravel(), minlength=4) for name in names)
    kept = torch.load(folder / "last.pt", weights_only=True)["kept"]["frequency"]["weights"]
    torch.testing.assert_close(kept, by_frequency(torch.as_tensor(counts)))
