"""Choosing the safe and rewarding trajectories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import TransitionDataset
from psec_jax.data import safe_and_rewarding


def dataset(returns, costs) -> TransitionDataset:
    """Trajectories of one transition each."""
    n = len(returns)
    return TransitionDataset(
        observations=np.arange(n)[:, None],
        actions=np.zeros((n, 1)),
        rewards=np.array(returns, float),
        terminations=np.zeros(n, bool),
        truncations=np.ones(n, bool),
        costs=None if costs is None else np.array(costs, float),
    )


pairs = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 30)), min_size=1, max_size=20)


@given(pairs, st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_what_is_chosen_is_safe_and_nothing_safe_left_out_is_better(found, quantile):
    returns, costs = np.array(found).T
    limit = float(max(costs.min(), 1))
    selection = safe_and_rewarding(dataset(returns, costs), limit, quantile)
    chosen = selection.data.observations[:, 0].astype(int)
    safe = np.flatnonzero(costs <= limit)
    assert set(chosen) <= set(safe)
    left = np.setdiff1d(safe, chosen)
    assert all(returns[i] < selection.return_at_least for i in left)
    assert (returns[chosen] >= selection.return_at_least).all()
    assert len(chosen) >= (1 - quantile) * len(safe) - 1e-9
    counts = (selection.trajectories, selection.safe, selection.chosen)
    assert counts == (len(found), len(safe), len(chosen))


def test_quantile_zero_is_everything_safe():
    selection = safe_and_rewarding(dataset([1, 2, 3, 4], [0, 5, 10, 11]), 10, 0.0)
    np.testing.assert_array_equal(selection.data.observations[:, 0], [0, 1, 2])
    assert str(selection) == (
        "4 trajectories, 3 of them safe, 3 of these chosen with a return of at least 1.0"
    )


@pytest.mark.parametrize(
    ("costs", "limit", "quantile", "message"),
    [
        ([12, 30], 10, 0.5, "none of 2 trajectories costs at most 10: the least costs 12; raise"),
        ([1, 2], 0, 0.5, "the cost limit must be above 0, not 0"),
        ([1, 2], -1, 0.5, "the cost limit must be above 0, not -1"),
        ([1, 2], 10, 1.0, r"return_quantile must be in \[0, 1\), not 1.0"),
        (None, 10, 0.5, "these data have no costs"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(costs, limit, quantile, message):
    with pytest.raises(ValueError, match=message):
        safe_and_rewarding(dataset([1, 2], costs), limit, quantile)
