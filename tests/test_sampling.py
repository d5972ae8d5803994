"""Which cases stand in a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloaders.batches.sampling import AUGMENTATION, UNLABELED, LabeledOnly, TwoStream, UnlabeledOnly, generator
from dataloaders.errors import UserError


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**40), st.integers(0, 50))
def test_properties_of_an_epoch(n_labeled, n_unlabeled, labeled_bs, unlabeled_bs, seed, epoch):
    sampler = TwoStream(n_labeled, n_unlabeled, labeled_bs, unlabeled_bs, seed)
    assert sampler.length == max(n_labeled // labeled_bs, 1)
    steps = range(epoch * sampler.length, (epoch + 1) * sampler.length)
    labeled, unlabeled = (np.concatenate(rows) for rows in zip(*(sampler.at(t) for t in steps)))
    assert len(labeled) == sampler.length * labeled_bs and len(unlabeled) == sampler.length * unlabeled_bs
    uses = np.bincount(labeled, minlength=n_labeled)
    assert len(uses) == n_labeled and np.ptp(uses) <= 1
    if n_labeled >= labeled_bs:
        assert uses.max() == 1
    assert np.ptp(np.bincount(unlabeled, minlength=n_unlabeled)) <= 1


def test_batch_depends_on_seed_and_step_only():
    one, other = TwoStream(20, 50, 4, 6, 7), TwoStream(20, 50, 4, 6, 7)
    forward = [one.at(t) for t in range(23)]
    for t in reversed(range(23)):
        for a, b in zip(forward[t], other.at(t)):
            np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for t in range(5) for a, b in zip(forward[t], TwoStream(20, 50, 4, 6, 8).at(t)))
    assert (np.concatenate([forward[t][0] for t in range(5)]) != np.concatenate([forward[t][0] for t in range(5, 10)])).any()


def test_labeled_only_keeps_the_last_batch():
    sampler = LabeledOnly(10, 4, seed=3)
    assert sampler.length == 3
    rows = [sampler.at(t)[0] for t in range(6)]
    assert [len(r) for r in rows] == [4, 4, 2, 4, 4, 2]
    assert sorted(np.concatenate(rows[:3])) == list(range(10)) == sorted(np.concatenate(rows[3:]))
    assert len(sampler.at(0)[1]) == 0
    assert len(LabeledOnly(3, 8, seed=0).at(5)[0]) == 3 and LabeledOnly(1, 1, seed=0).at(7)[0].tolist() == [0]
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(UserError, match="no labelled cases"):
            LabeledOnly(*wrong, seed=0)


def test_unlabeled_only_chains_permutations():
    sampler = UnlabeledOnly(5, 2, seed=3)
    assert (sampler.length, UnlabeledOnly(6, 2, seed=3).length, sampler.fewest) == (3, 3, 2)
    found = np.concatenate([sampler.at(t)[1] for t in range(5)])
    np.testing.assert_array_equal(found, np.concatenate([generator(3, UNLABELED, epoch).permutation(5) for epoch in (0, 1)]))
    assert not len(sampler.at(0)[0])


def test_order_is_uniform():
    first = [TwoStream(5, 5, 1, 1, seed).at(0)[0][0] for seed in range(1000)]
    assert np.bincount(first, minlength=5).min() > 150


def test_nothing_unlabelled_is_said():
    with pytest.raises(UserError, match="train_Supervised"):
        TwoStream(4, 0, 2, 2, 0)
    with pytest.raises(UserError, match="labeled_bs"):
        TwoStream(4, 4, 2, 0, 0)


def test_streams_differ_by_step_purpose_and_place():
    draws = {tuple(generator(s, p, t, i).random(2)) for s in (0, 1) for p in (1, 2) for t in (0, 1) for i in (0, 1)}
    assert len(draws) == 16
    philox = np.random.Philox(key=5 + (((AUGMENTATION << 56) + 9) << 64), counter=3 << 192)
    assert generator(5, AUGMENTATION, 9, 3).random() == np.random.Generator(philox).random(), "the streams of earlier versions"
    assert generator(-1, 1, 0).random() == generator(2**64 - 1, 1, 0).random() != generator(0, 1, 0).random(), "seeds count modulo 2^64"
    np.testing.assert_array_equal(generator(5, AUGMENTATION, 9).random((24, 4))[:8], generator(5, AUGMENTATION, 9).random((8, 4)))
