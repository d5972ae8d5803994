"""AC-MT: where a prediction is ambiguous, and that only there students and teachers must agree."""
import pytest
import torch
import train_ACMT
from harness import Bench
from parity_cases.ambiguity import FeatureStub
from parity_tools import Stub, golden_batch, gradient

from losses import softmax_mse
from losses.ambiguity import confident_joint, far_from_prototype, label_errors, rounded
from networks import build, frozen_copy

SURE = torch.tensor([30.0, 0.0, -30.0, -30.0]).view(1, 4, 1, 1)


def terms_of(logits, target=None, threshold=0.75, **values):
    """A step with one labelled row, and two unlabelled rows of which the student says `logits` (2, 4, 4, 4)."""
    student = torch.cat([torch.zeros_like(logits[:1]), logits])
    batch = golden_batch(torch.zeros(1, *logits.shape[2:], dtype=torch.long), 2)
    teacher = Stub(torch.zeros_like(logits) if target is None else target)
    return train_ACMT.losses(Stub(student), teacher, batch, 0.1, threshold, train_ACMT.Method(**values))


def test_what_is_uniform_is_ambiguous_and_what_is_sure_is_not():
    for threshold in (0.75, 0.95, 0.9999):
        assert terms_of(torch.full((2, 4, 4, 4), 3.0), threshold=threshold)["mask"].all()
        assert not terms_of(SURE.expand(2, 4, 4, 4), threshold=threshold)["mask"].any()


def test_nothing_ambiguous_costs_nothing_and_all_ambiguous_is_mean_teacher():
    logits = SURE.expand(2, 4, 4, 4).clone().requires_grad_()
    nothing = terms_of(logits)["consistency"]
    assert nothing == 0 and not gradient(nothing, logits)[0].any()
    other, target = torch.randn(2, 2, 4, 4, 4).unbind()
    everything = terms_of(other, target, threshold=-1.0)
    torch.testing.assert_close(everything["consistency"], softmax_mse(other, target).mean())


def test_the_threshold_rises_or_falls():
    rising, falling = train_ACMT.Method(max_iterations=100), train_ACMT.Method(max_iterations=100, entropy_end=0.6)
    assert train_ACMT.admitted(100, rising) == pytest.approx(0.95) and train_ACMT.admitted(0, rising) == pytest.approx(0.75, abs=2e-3)
    assert train_ACMT.admitted(100, falling) == pytest.approx(0.6)


@pytest.mark.parametrize("kind", ["entropy", "model_uncertainty", "prototypes", "label_errors"])
def test_every_kind_finds_some_places_of_a_real_network(kind):
    """Four classes on images; no gradient reaches the teacher, or goes through the mask."""
    torch.manual_seed(0)
    student = build("unet", num_classes=4)
    teacher, batch = frozen_copy(build("unet", num_classes=4)), golden_batch(torch.zeros(2, 32, 32, dtype=torch.long), 2)
    batch.images = torch.randn(4, 1, 32, 32)
    options = train_ACMT.Method(ambiguity=kind, further_passes=2)
    terms = train_ACMT.losses(student, teacher, batch, 1.0, 0.97, options)
    assert terms["mask"].shape == (2, 1, 32, 32) and terms["mask"].dtype == torch.bool
    assert 0 < terms["mask"].float().mean() < 1 and 0 < terms["consistency"] < 1
    terms["total"].backward()
    assert all(p.grad is None for p in teacher.parameters()) and student.out.weight.grad.any()
    assert ("entropy" in terms) == (kind == "prototypes")


def test_the_nearest_prototype_decides():
    """Two kinds of feature; the student has one position wrong."""
    labels = torch.tensor([[[0, 0, 1], [0, 1, 1]]])
    features = torch.stack([labels.float(), 1 - labels.float()], 1)
    clean = torch.where(torch.stack([labels == 0, labels == 1], 1), 0.9, 0.1)
    student = labels.clone()
    student[0, 0, 1] = 1
    found = far_from_prototype(features, clean.log().expand(2, 1, 2, 2, 3), clean, student, 0.1)
    assert found.nonzero().tolist() == [[0, 0, 0, 1]]


def test_the_published_entropy_looks_through_the_maps_of_all_images():
    """The first image is clear everywhere, the second nowhere: published, the entropy of both counts by half."""
    logits = torch.cat([torch.zeros(1, 4, 4, 4), 0 * SURE.expand(1, 4, 4, 4)])
    logits[1] += torch.tensor([1.0, 0.0, 0.0, 0.0]).view(4, 1, 1)
    passes = [(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, 4))] * 2
    found = {}
    for form in ("own", "all"):
        batch = golden_batch(torch.zeros(1, 4, 4, dtype=torch.long), 2)
        student, teacher = Stub(torch.cat([logits[:1], logits])), FeatureStub(passes, torch.zeros(2, 4, 4, 4))
        terms = train_ACMT.losses(student, teacher, batch, 1.0, 0.9, train_ACMT.Method(ambiguity="prototypes", clear_entropy=form))
        clear = ~terms["mask"]
        entropy = train_ACMT.entropy(logits.softmax(1))
        expected = (clear * entropy).mean() if form == "own" else (clear.float().mean(0) * entropy.mean(0)).mean()
        found[form] = terms["entropy"]
        torch.testing.assert_close(terms["entropy"], expected)
    assert set(found) == {"own", "all"}


def test_confident_learning_finds_swapped_labels():
    """Two tenths of the labels of each class are swapped; the other annotator is right and sure."""
    true = torch.arange(300) % 3
    labels = true.clone()
    labels[::10] = (labels[::10] + 1) % 3
    sure = torch.rand(300, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.7
    probabilities = torch.stack([torch.where(true == k, sure, (1 - sure) / 2) for k in range(3)], 1)
    assert torch.equal(label_errors(labels, probabilities), labels != true)
    assert not label_errors(true, probabilities).any()
    assert not label_errors(torch.zeros_like(true), probabilities).any(), "one class only: nothing to confuse"


def test_a_label_that_is_the_likeliest_class_is_right():
    """Label 0 at 0.6 is below the mean of its class, 5/6, and class 1 above that of its own, 0.3: counted as a 1, and yet no error."""
    labels, first = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0.6, 0.95, 0.95, 0.7, 0.7])
    probabilities = torch.stack([first, 1 - first], 1)
    assert confident_joint(labels, probabilities) == [[2, 1], [0, 2]]
    assert not label_errors(labels, probabilities).any()
    probabilities[0] = torch.tensor([0.45, 0.55])
    assert label_errors(labels, probabilities).tolist() == [True, False, False, False, False]


def test_the_joint_is_scaled_to_the_labels_in_double_precision():
    """Of nine labels 1 six are confident, one of them of class 0: 9/6 * (1, 5) = (1.5, 7.5), in integers of sum 9."""
    first = torch.tensor([0.8] + [0.1] * 5 + [0.4] * 3 + [0.9])
    # Three of eight labels 0 are of class 1 and none of its own, which counts as one: 8/4 * (1, 3). Class 2 is no label.
    labels, rows = torch.tensor([0] * 8 + [1] * 2), [[0.4, 0.6, 0.0]] * 3 + [[0.1, 0.1, 0.8]] * 5 + [[0.8, 0.2, 0.0]] * 2
    assert confident_joint(labels, torch.tensor(rows)) == [[2, 6, 0], [1, 1, 0], [0, 0, 0]]
    assert confident_joint(torch.tensor([0] + [1] * 9), torch.stack([first, 1 - first], 1)) == [[1, 0], [1, 8]]


def test_rounding_keeps_the_sum():
    assert rounded([1.4, 1.4, 1.2]) == [2, 1, 1] and rounded([0.6, 0.6, 0.8]) == [0, 1, 1] and rounded([2.0, 5.0]) == [2, 5]


def test_a_network_without_features_of_half_the_sides_is_refused(bench: Bench):
    end = bench.train("ACMT", "--ambiguity", "prototypes", "--model", "enet")
    assert end.code == 2 and "take another --model" in end.err and "Traceback" not in end.err
