import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax.data.references import find_reference, references
from psec_jax.evaluation.scores import d4rl_score, dsrl_cost, dsrl_reward

RETURNS = st.floats(-1e4, 1e4)


@pytest.mark.parametrize(
    ("dataset", "value", "score"),
    [
        # D4RL's table: walker2d 1.629008 to 4592.3, hopper -20.272305 to 3234.3,
        # halfcheetah -280.178953 to 12135, ant -325.6 to 3879.7.
        ("walker2d-medium-v2", 3000.0, 100 * (3000.0 - 1.629008) / (4592.3 - 1.629008)),
        ("d4rl/hopper-expert-v2", 1000.0, 100 * (1000.0 + 20.272305) / (3234.3 + 20.272305)),
        ("halfcheetah-random-v2", 0.0, 100 * 280.178953 / (12135.0 + 280.178953)),
        ("ant-medium-replay-v2", 3879.7, 100.0),
    ],
)
def test_d4rl_scores_are_those_of_its_table(dataset, value, score):
    assert d4rl_score(dataset, value) == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(
    ("task", "value", "reward"),
    [
        # DSRL's table: AntRun 0.00176739 to 955.48187, AntCircle 0.01770310 to 460.70920.
        ("dsrl/AntRun", 500.0, (500.0 - 0.00176739) / (955.48187 - 0.00176739)),
        ("OfflineAntRun-v0", 955.48187, 1.0),
        ("AntCircle", 230.0, (230.0 - 0.01770310) / (460.70920 - 0.01770310)),
    ],
)
def test_dsrl_rewards_are_those_of_its_table(task, value, reward):
    assert dsrl_reward(task, value) == pytest.approx(reward, rel=1e-6)


def test_the_reference_returns_are_nought_and_one():
    for name, known in references().items():
        if known.low_return is None or known.high_return is None:
            continue
        ends = [known.low_return, known.high_return]
        score = d4rl_score(name, ends) / 100 if known.family == "d4rl" else dsrl_reward(name, ends)
        np.testing.assert_allclose(score, [0, 1], atol=1e-12)


@given(st.lists(RETURNS, min_size=1), RETURNS)
def test_scores_are_linear_and_element_by_element(returns, other):
    for score, name in ((d4rl_score, "walker2d-medium-v2"), (dsrl_reward, "CarRun")):
        each = [float(score(name, value)) for value in returns]
        np.testing.assert_array_equal(score(name, np.array(returns)), each)
        middle = score(name, (np.array(returns) + other) / 2)
        np.testing.assert_allclose(middle, (np.array(each) + score(name, other)) / 2, atol=1e-9)


@pytest.mark.parametrize(
    ("cost", "limit", "normalized"),
    [(20, 10, 2.0), (5, 10, 0.5), (0, 10, 0.0), (10, 10, 1.0), (0, 0, 1.0), (3, 0, 4.0)],
)
def test_costs_are_shares_of_the_limit(cost, limit, normalized):
    """At the limit 0, DSRL's ε of 1 keeps no cost at 1."""
    assert dsrl_cost(cost, limit) == normalized
    np.testing.assert_array_equal(dsrl_cost([cost, cost], limit), [normalized] * 2)


@given(st.floats(0, 100), st.sampled_from([0, 0.5, 10, 40]))
def test_the_normalized_cost_is_at_most_one_exactly_within_the_limit(cost, limit):
    assert (dsrl_cost(cost, limit) <= 1) == (cost + (limit == 0) <= max(limit, limit == 0))


@pytest.mark.parametrize("limit", [-1, -1e-9, float("nan")])
def test_a_limit_below_nought_is_refused(limit):
    with pytest.raises(ValueError, match=r"the cost limit must be at least 0, not"):
        dsrl_cost(1.0, limit)


@pytest.mark.parametrize(
    ("score", "name", "message"),
    [
        (d4rl_score, "CarRun", "dsrl/CarRun is not one of d4rl's datasets"),
        (dsrl_reward, "walker2d-medium-v2", "d4rl/walker2d-medium-v2 is not one of dsrl's"),
        (d4rl_score, "walker2d-medum-v2", "did you mean .*d4rl/walker2d-medium-v2"),
        (dsrl_reward, "CarRum", "did you mean .*dsrl/CarRun"),
    ],
)
def test_a_task_without_such_a_score_is_refused(score, name, message):
    with pytest.raises(ValueError, match=message):
        score(name, 1.0)


def test_a_dataset_without_reference_returns_has_no_score():
    name = "ant-random-expert-v0"
    if f"d4rl/{name}" not in references():
        pytest.skip("the d4rl package is not installed")
    assert find_reference(name).low_return is None
    with pytest.raises(ValueError, match=rf"d4rl/{name} has no reference returns, so no score"):
        d4rl_score(name, 1.0)
