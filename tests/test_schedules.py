"""Learning rates, ramps, and the plateau rule against torch's own."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.schedules import SCHEDULES, Plateau, cosine_rampdown, linear_rampup, poly, ramp, sigmoid_rampup
from engine.stage import ScheduledOptimizer

TOTALS = st.integers(2, 60000)


@settings(max_examples=100, deadline=None)
@given(TOTALS, st.floats(1e-6, 1.0), st.data())
def test_the_two_orders_of_poly(total, base, data):
    step = data.draw(st.integers(0, total - 1))
    formula = base * (1 - step / total) ** 0.9
    assert SCHEDULES["poly_next"](step, base, total) == pytest.approx(formula, rel=1e-12)
    # Set after step k from k: in force at k + 1.
    assert SCHEDULES["poly"](step + 1, base, total) == pytest.approx(formula, rel=1e-12)
    assert SCHEDULES["poly"](step, base, total) >= SCHEDULES["poly_next"](step, base, total)


def test_ends_of_poly():
    assert SCHEDULES["poly"](0, 0.01, 100) == SCHEDULES["poly"](1, 0.01, 100) == SCHEDULES["poly_next"](0, 0.01, 100) == 0.01
    assert SCHEDULES["poly_next"](100, 0.01, 100) == 0.0 == poly(0.01, 100, 100)
    assert poly(0.01, 15000, 30000) == pytest.approx(0.00535886731)


@pytest.mark.parametrize("step, rate", [(0, 0.01), (2499, 0.01), (2500, 0.001), (4999, 0.001), (5000, 1e-4), (5999, 1e-4)])
def test_step_rate_is_a_tenth_every_2500_steps(step, rate):
    assert SCHEDULES["step"](step, 0.01, 6000) == pytest.approx(rate, rel=1e-12)


def test_constant_rate():
    assert {SCHEDULES["constant"](step, 0.3, 10) for step in range(10)} == {0.3}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.50001, 0.50004, 0.5001, 0.6, 0.8]) | st.floats(0, 1), max_size=60),
    st.integers(0, 4), st.sampled_from([1e-2, 1e-3, 2e-3]), st.integers(0, 60),
)
def test_plateau_is_torchs_rule(scores, patience, base, interrupted):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], base)
    smallest = 1e-7
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=patience, min_lr=smallest)
    ours = Plateau(patience, smallest=smallest)
    for index, score in enumerate(scores):
        if index == interrupted:  # what a resumed run does
            state, ours = ours.state_dict(), Plateau(patience, smallest=smallest)
            ours.load_state_dict(state)
        oracle.step(score)
        ours.see(score)
        assert ours.rate(base) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1.1e-8)


def test_plateau_waits_fifty_validations_by_default():
    plateau = Plateau()
    plateau.see(0.5)
    for _ in range(50):
        plateau.see(0.5)
        assert plateau.rate(1e-3) == 1e-3
    plateau.see(0.5)
    assert plateau.rate(1e-3) == pytest.approx(1e-4)
    for _ in range(1000):
        plateau.see(0.5)
    assert plateau.rate(1e-3) == 1e-7


def test_an_optimizer_follows_its_schedule_and_its_state_holds_the_plateau():
    def fresh():
        parameters = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)]
        return ScheduledOptimizer(torch.optim.SGD(parameters, 1.0), 0.1, "plateau", [1.0, 10.0], patience=3)

    scheduled, other = fresh(), fresh()
    for _ in range(4):
        scheduled.plateau.see(0.3)
    assert scheduled.set_rate(7, 100) == pytest.approx(0.1)
    scheduled.plateau.see(0.3)
    assert scheduled.set_rate(7, 100) == pytest.approx(0.01)
    assert [group["lr"] for group in scheduled.optimizer.param_groups] == pytest.approx([0.01, 0.1])
    other.load_state_dict(scheduled.state_dict())
    assert other.set_rate(7, 100) == pytest.approx(0.01)


@given(st.floats(-100, 1e5), st.sampled_from([0, 1, 40, 200, 30000]))
def test_sigmoid_ramp_rises_from_exp_minus_5_to_1(t, length):
    value = sigmoid_rampup(t, length)
    assert math.exp(-5) <= value * (1 + 1e-12) and value <= 1
    assert sigmoid_rampup(t + 1, length) >= value
    if length == 0 or t >= length:
        assert value == 1
    elif t <= 0:
        assert value == pytest.approx(math.exp(-5))


def test_linear_and_cosine_ramps():
    assert [linear_rampup(t, 4) for t in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert linear_rampup(0, 0) == 1
    assert [cosine_rampdown(t, 2) for t in range(3)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("step, weight", [
    (0, 6.737947e-4), (3000, 1.742e-3), (15000, 2.865048e-2), (29999, 9.9988e-2), (30000, 0.1), (60000, 0.1),
])
def test_consistency_weight_of_the_published_protocol(step, weight):
    assert 0.1 * ramp(step, 200) == pytest.approx(weight, rel=3e-4)


@given(st.integers(0, 40000), st.integers(1, 400))
def test_consistency_weight_is_a_staircase(step, unit):
    start = step // unit * unit
    assert ramp(step, 200, unit) == ramp(start, 200, unit) <= ramp(start + unit, 200, unit)
