"""SCP-Net: what its page promises. The golden files are in parity_cases/prototypes.py."""
import pytest
import torch
import train_SCPNet
from harness import Bench
from parity_tools import TappedStub, golden_batch, gradient

from losses.prototypes import agreement_of_votes, by_own_and_by_others, cosines_to, mean_features
from networks import build, logits_and_features


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_prototypes_are_means_by_weight_and_zero_without():
    features = torch.tensor([[[[1.0, 3.0, 5.0]], [[0.0, 2.0, 4.0]]]])
    weights = torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]]])
    torch.testing.assert_close(mean_features(features, weights)[0], torch.tensor([[2.0, 1.0], [5.0, 4.0], [0.0, 0.0]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sides", [(3, 4), (3, 4, 2)])
def test_orthogonal_classes_are_found_again(sides):
    """Each class has a feature of its own, so the own prototypes say what the prediction says."""
    labels = torch.randint(0, 3, (2, *sides), generator=torch.Generator().manual_seed(0))
    sure = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    cosines = cosines_to(sure, mean_features(sure, sure))
    by_own, by_others = by_own_and_by_others(cosines)
    assert torch.equal(by_own.argmax(1), labels) and torch.equal(by_others.argmax(1), labels)
    torch.testing.assert_close(agreement_of_votes(cosines), torch.ones(2, 1, *sides), rtol=0, atol=1e-5)


def test_equal_images_say_of_each_other_what_they_say_of_themselves():
    features, p = drawn(1, 5, 3, 4).expand(3, -1, -1, -1), drawn(1, 4, 3, 4, seed=1).softmax(1).expand(3, -1, -1, -1)
    by_own, by_others = by_own_and_by_others(cosines_to(features, mean_features(features, p)))
    torch.testing.assert_close(by_own, by_others)


def test_the_order_of_the_other_images_changes_nothing():
    features, p, order = drawn(4, 5, 3, 4), drawn(4, 3, 3, 4, seed=1).softmax(1), [0, 3, 1, 2]
    _, one = by_own_and_by_others(cosines_to(features, mean_features(features, p)))
    _, other = by_own_and_by_others(cosines_to(features[order], mean_features(features[order], p[order])))
    torch.testing.assert_close(one[0], other[0])


def test_votes_that_are_shared_evenly_agree_least():
    cosines = torch.eye(2).view(1, 2, 2, 1, 1)  # one image is for each class
    assert agreement_of_votes(cosines).abs() < 1e-5


def test_only_the_prediction_learns_and_the_variant_counts_the_rest():
    labels, parts = torch.zeros(2, 3, 4, dtype=torch.long), []
    logits, features = drawn(4, 3, 3, 4).requires_grad_(), drawn(4, 5, 3, 4, seed=1).requires_grad_()
    for counted in ("agreement", "disagreement"):
        network = TappedStub((None, features[:2], logits[:2]), (None, features[2:], logits[2:]))
        options = train_SCPNet.Method(passes="apart", counted=counted)
        parts.append(train_SCPNet.losses(network, golden_batch(labels, 2), 1.0, options))
    slopes = gradient(parts[0]["by_own_prototypes"] + parts[0]["by_other_prototypes"], logits, features)
    assert slopes[0].flatten(1).any(1).all() and not slopes[1].any()
    by_own, by_others = by_own_and_by_others(cosines_to(features, mean_features(features, logits.softmax(1))))
    whole = (by_own.amax(1, keepdim=True) * (by_others - logits.softmax(1)) ** 2).mean()
    torch.testing.assert_close(parts[0]["by_other_prototypes"] + parts[1]["by_other_prototypes"], whole)


@pytest.mark.parametrize("name, sides", [
    ("unet", (32, 16)), ("enet", (32, 32)), ("unet_3D", (16, 16, 32)), ("attention_unet", (16, 16, 32))])
def test_features_have_the_sides_of_the_logits(name, sides):
    network = build(name, in_channels=1, num_classes=2).eval()
    with torch.no_grad():
        logits, features = logits_and_features(network, torch.zeros(2, 1, *sides))
        assert torch.equal(logits, network(torch.zeros(2, 1, *sides)))
    assert logits.shape == (2, 2, *sides) and features.shape[2:] == sides


def test_a_batch_of_one_image_is_refused(bench: Bench):
    end = bench.train("SCPNet", "--batch_size", "1", "--labeled_bs", "1")
    assert end.code == 2 and "Traceback" not in end.err
