import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import TransitionDataset
from psec_jax.learners.objectives import DiscountedCost, Feasibility, Return

ROWS = 6
DISCOUNTS = st.floats(0, 0.999)
OBJECTIVES = [Return(0.9, 2.0), DiscountedCost(0.9), Feasibility(0.9)]


def numbers(bound):
    return arrays.arrays(np.float32, ROWS, elements=st.floats(-bound, bound, width=32))


TERMINATIONS = arrays.arrays(np.bool_, ROWS)


def data_of(rewards, **others):
    rows = len(rewards)
    ends = {"terminations": np.zeros(rows), "truncations": np.zeros(rows)} | others
    return TransitionDataset(np.zeros((rows, 2)), np.zeros((rows, 1)), rewards, **ends)


@given(numbers(100), numbers(100), TERMINATIONS, DISCOUNTS, st.floats(0.01, 10))
def test_a_return_is_the_scaled_reward_and_what_is_to_come(r, following, ends, discount, scale):
    batch = {"rewards": r, "terminations": ends}
    expected = scale * r.astype(np.float64) + discount * np.where(ends, 0, following)
    target = Return(discount, scale).target(batch, following)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-4)


@given(numbers(100), numbers(100), TERMINATIONS, DISCOUNTS, st.floats(0.01, 10))
def test_a_discounted_cost_is_the_scaled_cost_and_what_is_to_come(c, v, ends, discount, scale):
    batch = {"costs": c, "terminations": ends}
    expected = scale * c.astype(np.float64) + discount * np.where(ends, 0, v)
    target = DiscountedCost(discount, scale=scale).target(batch, v)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-4)


def test_energy_is_the_mean_square_of_an_action_and_needs_no_costs():
    objective = DiscountedCost(0.5, "energy", scale=2.0)
    assert set(objective.columns) == {"actions", "terminations"}
    actions = np.float32([[0.0, 0.0], [1.0, -1.0], [0.5, 0.0]])
    batch = {"actions": actions, "terminations": np.array([False, False, True])}
    np.testing.assert_allclose(objective.target(batch, np.full(3, 10.0)), [5, 7, 0.25])


@given(numbers(2), numbers(30), TERMINATIONS, DISCOUNTS, st.floats(-1, 1, width=32))
def test_feasibility_is_a_mean_of_now_and_the_worst_from_now_on(
    costs, following, ends, discount, threshold
):
    h = np.where(costs > threshold, 10.0, -2.0)
    going_on = (1 - discount) * h + discount * np.maximum(h, following)
    batch = {"costs": costs, "terminations": ends}
    target = Feasibility(discount, 10.0, -2.0, threshold).target(batch, following)
    np.testing.assert_allclose(target, np.where(ends, h, going_on), rtol=1e-5, atol=1e-5)


@given(numbers(1), numbers(30), TERMINATIONS, DISCOUNTS)
def test_nothing_to_come_makes_a_violation_good(costs, following, ends, discount):
    """Its target is never below h, and h for ever is worth h."""
    objective = Feasibility(discount)
    h = objective.relabel(costs)
    batch = {"costs": costs, "terminations": ends}
    assert np.all(objective.target(batch, following) >= h - 1e-4)
    np.testing.assert_allclose(objective.target(batch, h), h, rtol=1e-5)


def test_costs_above_the_threshold_are_unsafe_and_at_it_safe():
    costs = np.float32([0.0, 0.4, 0.5, 0.6, 3.0])
    np.testing.assert_array_equal(Feasibility().relabel(costs), [-1, 25, 25, 25, 25])
    relabeled = Feasibility(threshold=0.5, unsafe=4.0, safe=-0.5).relabel(costs)
    np.testing.assert_array_equal(relabeled, [-0.5, -0.5, -0.5, 4, 4])


@pytest.mark.parametrize(("objective", "ended"), list(zip(OBJECTIVES, (2, 1, 25), strict=True)))
def test_nothing_is_to_come_beyond_a_termination_but_a_truncation_would_have_gone_on(
    objective, ended
):
    terminations, truncations = np.eye(3, dtype=bool)[:2]
    ends = {"terminations": terminations, "truncations": truncations}
    batch = data_of(np.ones(3), costs=np.ones(3), **ends).columns(objective.columns)
    following = np.float32([30, 40, 50])
    for values in (following, 1e30 * following, -following):
        assert objective.target(batch, values)[0] == ended
    target, less = objective.target(batch, following), objective.target(batch, following - 1)
    np.testing.assert_allclose(target[1:] - less[1:], objective.discount, rtol=1e-4)


@given(
    arrays.arrays(np.float32, 20, elements=st.floats(-50, 50, width=32), unique=True),
    st.floats(0.1, 10),
    st.floats(-10, 10),
    st.floats(0.1, 2),
)
def test_scaled_rewards_deviate_as_asked_whatever_their_unit_and_origin(
    rewards, unit, origin, deviation
):
    rewards = rewards + np.arange(20)
    for data in (data_of(rewards), data_of(unit * rewards + origin)):
        objective = Return.scaled_to(data, deviation, discount=0.5)
        assert objective.discount == 0.5
        targets = objective.target(data.columns(objective.columns), np.float32(0))
        assert np.std(targets) == pytest.approx(deviation, rel=1e-3)
        assert objective.scale * data.rewards.std() == pytest.approx(deviation, rel=1e-3)


@pytest.mark.parametrize("reward", [0.0, 0.1, -3.0])
def test_rewards_that_never_vary_are_left_as_they_are(reward):
    assert Return.scaled_to(data_of(np.full(1000, reward))) == Return()


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_only_objectives_of_costs_need_costs(objective):
    data = data_of(np.arange(3.0))
    assert set(data.columns(Return().columns)) == {"rewards", "terminations"}
    with pytest.raises(ValueError, match="these data have no costs"):
        data.columns(objective.columns)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("discount", [-0.1, 1.0, 1.5, float("nan")])
def test_discounts_outside_zero_to_one_are_refused(objective, discount):
    with pytest.raises(ValueError, match=rf"discount must be in \[0, 1\), not {discount}"):
        dataclasses.replace(objective, discount=discount)


@pytest.mark.parametrize("objective", [Return, DiscountedCost])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_make_no_sense_are_refused(objective, scale):
    with pytest.raises(ValueError, match=f"scale must be above 0 and finite, not {scale}"):
        objective(scale=scale)


def test_a_signal_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"signal 'noise' is unknown; .*\['costs', 'energy'\]"):
        DiscountedCost(signal="noise")


@pytest.mark.parametrize(
    "labels",
    [{"safe": 0.0}, {"unsafe": 0.0}, {"safe": 25.0, "unsafe": -1.0}, {"safe": float("nan")}],
)
def test_labels_whose_signs_say_nothing_are_refused(labels):
    with pytest.raises(ValueError, match="feasibility needs safe < 0 < unsafe, not safe="):
        Feasibility(**labels)
