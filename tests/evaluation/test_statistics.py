import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax.evaluation.statistics import summarize

GROUPS = st.lists(
    st.lists(st.floats(-100, 1000), min_size=2, max_size=8).map(np.array), min_size=1, max_size=4
)


def width(groups):
    summary = summarize(groups)
    return summary.high - summary.low


@given(GROUPS)
def test_the_interval_lies_around_the_mean_of_all_episodes(groups):
    summary = summarize(groups, resamples=500)
    pooled = np.concatenate(groups)
    assert summary.mean == pytest.approx(pooled.mean())
    assert summary.std == pytest.approx(pooled.std())
    slack = 1e-9 * np.abs(pooled).max()
    assert pooled.min() - slack <= summary.low <= summary.mean + slack
    assert summary.mean - slack <= summary.high <= pooled.max() + slack
    assert (summary.episodes, summary.seeds) == (len(pooled), len(groups))


@given(GROUPS, st.floats(-50, 50), st.floats(0.1, 10))
def test_the_interval_moves_and_stretches_with_the_returns(groups, shift, scale):
    summary = summarize(groups, resamples=200)
    moved = summarize([shift + scale * group for group in groups], resamples=200)
    for name in ("mean", "low", "high"):
        expected = shift + scale * getattr(summary, name)
        assert getattr(moved, name) == pytest.approx(expected, abs=1e-6)


def test_one_seed_gives_the_interval_of_a_mean():
    """1.96 σ/√n on either side, for many episodes."""
    returns = np.random.default_rng(1).normal(100, 10, 400)
    summary = summarize([returns])
    half = 1.96 * returns.std() / np.sqrt(400)
    assert summary.high - summary.mean == pytest.approx(half, rel=0.15)
    assert summary.mean - summary.low == pytest.approx(half, rel=0.15)


def test_more_episodes_make_the_interval_narrower():
    returns = np.random.default_rng(1).normal(100, 10, 1600)
    widths = [width([returns[:n]]) for n in (25, 100, 400, 1600)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] / widths[-1] == pytest.approx(8, rel=0.4)


@pytest.mark.parametrize("groups", [[[5.0]], [[5.0, 5.0]], [[5.0], [5.0, 5.0], [5.0]]])
def test_without_variation_there_is_no_width(groups):
    summary = summarize([np.array(group) for group in groups])
    assert (summary.mean, summary.std, summary.low, summary.high) == (5, 0, 5, 5)


def test_variation_between_seeds_widens_the_interval():
    """The same episodes, spread over seeds at random or sorted so that seeds differ."""
    returns = np.random.default_rng(1).normal(100, 10, 400)
    alike = np.split(returns, 4)
    different = np.split(np.sort(returns), 4)
    assert width(different) > 3 * width(alike)


def test_more_seeds_make_the_interval_narrower():
    generator = np.random.default_rng(1)
    seeds = [generator.normal(level, 1, 20) for level in generator.normal(100, 10, 32)]
    assert width(seeds) < 0.6 * width(seeds[:4])


def test_a_summary_is_the_same_each_time():
    groups = [np.arange(5.0), np.arange(9.0)]
    assert summarize(groups) == summarize(groups)
