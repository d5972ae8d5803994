"""Statistics of the report against values computed by hand, printed in papers, or by other programs."""
from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reporting import statistics

DEMSAR = np.array([  # JMLR 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf; two ties there differ beyond the printed digits
    [.763, .768, .771, .798], [.599, .591, .590, .569], [.954, .971, .968, .967], [.628, .661, .654, .657], [.882, .888, .886, .898],
    [.936, .931, .916, .931], [.661, .668, .609, .685], [.583, .583, .563, .625], [.775, .838, .866, .875], [1, 1, 1, 1],
    [.940, .962, .965, .962], [.619, .666, .614, .669], [.972, .981, .9751, .975], [.957, .978, .946, .970]])
SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
"""Student's paired differences, Biometrika 1908; R's t.test(paired = TRUE) prints p-value = 0.002833 for them."""


def test_wilcoxon_by_hand():
    # ranks 1 to 6, the sixth against: 14 of the 64 subsets have a sum of at most 6
    assert statistics.wilcoxon(np.array([1, 2, 3, 4, 5, -6.0]))[0] == pytest.approx(28 / 64)
    # midranks 1.5, 1.5, 3.5, 3.5, 5 with both of the smallest against: the sums up to 3 are {}, 1.5 twice, 3 once
    assert statistics.wilcoxon(np.array([-1, -1, 2, 2, 3.0]))[0] == pytest.approx(2 * 4 / 32)
    assert statistics.wilcoxon(np.array([1, 2, 3, 0, 0, 0.0]))[0] == pytest.approx(2 / 8)


@pytest.mark.parametrize("n", [7, 23, 50, 51, 200])
def test_wilcoxon_is_scipys_where_scipy_is_exact_or_asymptotic(n):
    values = np.random.default_rng(n).normal(0.2, 1, n)
    expected = stats.wilcoxon(values, method="exact" if n <= 50 else "asymptotic").pvalue
    assert statistics.wilcoxon(values)[0] == pytest.approx(expected, rel=1e-9)
    assert statistics.wilcoxon(values[::-1]) == statistics.wilcoxon(values)


def test_wilcoxon_with_ties_is_the_permutation_test():
    values = np.array([0.3, -0.1, 0.2, 0.2, -0.2, 0.5, 0.1, 0.0])
    enumerated = stats.wilcoxon(values, method=stats.PermutationMethod(n_resamples=np.inf))
    assert statistics.wilcoxon(values)[0] == pytest.approx(enumerated.pvalue)
    noisy = values + np.array([1, -1, 1, -1, 1, -1, 1, 0]) * 1e-14  # sums of floats in another order
    assert statistics.wilcoxon(noisy) == statistics.wilcoxon(values)
    assert statistics.wilcoxon(np.array([4e-11, 1, 2, 3])) == statistics.wilcoxon(np.array([0.0, 1, 2, 3])), "ten digits count"
    assert statistics.wilcoxon(np.array([6e-11, 1, 2, 3])) == statistics.wilcoxon(np.array([0.5, 1, 2, 3]))


def test_wilcoxon_says_what_cannot_be_tested():
    assert statistics.wilcoxon(np.zeros(8)) == (1.0, "no difference in any case")
    assert statistics.wilcoxon(np.array([0.4]))[0] is None and statistics.wilcoxon(np.array([0.4, 0.2]))[0] == 0.5
    assert "cannot reach" in statistics.wilcoxon(np.arange(1.0, 6))[1] and not statistics.wilcoxon(np.arange(1.0, 7))[1]


def test_holm():
    assert statistics.holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    p = list(np.random.default_rng(0).random(30) ** 4)
    corrected = statistics.holm(p)
    order = np.argsort(p)
    assert all(a <= b for a, b in zip(np.array(corrected)[order], np.array(corrected)[order][1:]))
    assert all(p_one <= one <= 1 for p_one, one in zip(p, corrected))


def test_false_claim():
    assert statistics.false_claim(SLEEP) == pytest.approx(0.002833 / 2, abs=3e-7)
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.8, 0.1, 40), rng.normal(0.78, 0.1, 40)  # the paper's formula, from both methods' moments and their correlation
    s_a, s_b, r = a.std(ddof=1), b.std(ddof=1), np.corrcoef(a, b)[0, 1]
    expected = stats.t.cdf(40**0.5 * (b.mean() - a.mean()) / (s_a**2 + s_b**2 - 2 * s_a * s_b * r) ** 0.5, 39)
    assert statistics.false_claim(a - b) == pytest.approx(expected)
    assert [statistics.false_claim(np.full(5, value)) for value in (0.1, 0.0, -0.1)] == [0.0, 0.5, 1.0]
    assert statistics.false_claim(np.array([0.1])) is None


def test_ranks_as_demsar_prints_them():
    ranks = statistics.mean_ranks(DEMSAR)
    assert np.round(ranks, 3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert statistics.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    printed = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]  # his table 5, k from 2 to 10
    for k, q in enumerate(printed, 2):
        assert statistics.critical_difference(k, 14) == pytest.approx(q * (k * (k + 1) / 84) ** 0.5, abs=1e-3)
    # his chi square of 9.28, which has no correction for ties, over 1 - 78 / 840
    assert statistics.friedman(DEMSAR) == pytest.approx(stats.chi2.sf(9.2786 / (1 - 78 / 840), 3), rel=1e-4)
    named = dict(zip("abcd", ranks))
    assert statistics.cliques(named, 1.25) == (("d", "b", "c", "a"),)
    assert statistics.cliques(named, 1.0) == (("d", "b", "c"), ("c", "a"))
    assert statistics.cliques(named, 0.01) == ()
    assert statistics.friedman(np.ones((5, 3))) == 1.0 and statistics.friedman(DEMSAR[:, :2]) is None


def test_spread_by_draw_and_by_seed():
    two = {(0, "a", 0): 1.0, (0, "a", 1): 3.0, (0, "b", 0): 5.0, (0, "b", 1): 7.0}
    assert statistics.spread_of(two) == pytest.approx((7**0.5, 2**0.5))  # mean squares 16 and 2, two seeds a draw
    other = {(1, draw, seed): value + 100 for (_, draw, seed), value in two.items()}
    assert statistics.spread_of(two | other) == pytest.approx((7**0.5, 2**0.5))  # what a fold adds is taken out
    assert statistics.spread_of({(0, draw, seed): float(seed) for draw in "ab" for seed in range(3)}) == (0.0, 1.0)
    assert statistics.spread_of({key: value for key, value in two.items() if key != (0, "b", 1)}) is None
    assert statistics.spread_of({(0, "a", 0): 1.0, (0, "b", 0): 2.0}) is None
    rng = np.random.default_rng(0)
    drawn = {(0, draw, seed): 2 * effect + rng.normal() for draw in range(400) for effect in [rng.normal()] for seed in range(5)}
    assert statistics.spread_of(drawn) == pytest.approx((2, 1), rel=0.1)


def test_means_of_what_is_known():
    values = np.array([[1.0, np.nan, 4.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(statistics.mean_known(values, 1), [2.5, np.nan])
    np.testing.assert_array_equal(statistics.mean_known(values, 0), [1.0, np.nan, 4.0])


def test_bootstrap():
    rng = np.random.default_rng(3)
    values = rng.normal(0.8, 0.1, (1, 50, 2))
    limits = statistics.interval(statistics.resampled(values, np.arange(50)))
    half = 1.96 * values[0].std(0) / 50**0.5
    assert limits[:2, 0] == pytest.approx(values[0].mean(0) - half, abs=0.003)
    assert limits[:2, 1] == pytest.approx(values[0].mean(0) + half, abs=0.003)
    assert limits[2].mean() == pytest.approx(values.mean(), abs=0.003)
    # a patient's second frame, alike, tells nothing new; as a patient of its own it would
    twice = np.repeat(values, 2, 1)
    assert statistics.interval(statistics.resampled(twice, np.repeat(np.arange(50), 2))) == pytest.approx(limits)
    assert np.diff(statistics.interval(statistics.resampled(twice, np.arange(100)))) == pytest.approx(np.diff(limits) / 2**0.5, rel=0.1)
    # two runs of which one lacks a case: each value counts once
    runs = np.concatenate([values, values + 0.1])
    runs[1, :25] = np.nan
    assert statistics.resampled(runs, np.zeros(50, int))[0] == pytest.approx([*np.nanmean(runs, (0, 1)), np.nanmean(runs, (0, 1)).mean()])
    statistics.weights.cache_clear()
    assert (statistics.interval(statistics.resampled(values, np.arange(50))) == limits).all()
    empty = np.full((1, 4, 1), np.nan)
    assert np.isnan(statistics.interval(statistics.resampled(empty, np.arange(4)))).all()
