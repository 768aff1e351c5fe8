from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import TransitionDataset, concatenate

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def make(lengths, seed=0, **changes):
    """Trajectories of these lengths; they end by termination and truncation in turn."""
    n, generator = sum(lengths), np.random.default_rng(seed)
    ends = np.cumsum(lengths) - 1
    columns = {
        "observations": generator.normal(size=(n, 3)),
        "actions": generator.uniform(-1, 1, size=(n, 2)),
        "rewards": generator.normal(size=n),
        "terminations": np.isin(np.arange(n), ends[::2]),
        "truncations": np.isin(np.arange(n), ends[1::2]),
    }
    return TransitionDataset(**{**columns, **changes})


def same(one, other):
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


@given(LENGTHS)
def test_ends_and_returns_are_those_of_the_trajectories(lengths):
    data = make(lengths)
    np.testing.assert_array_equal(np.diff(data.ends, prepend=0), lengths)
    parts = np.split(data.rewards.astype(float), data.ends[:-1])
    np.testing.assert_allclose(data.returns, [part.sum() for part in parts], atol=1e-12)


@given(LENGTHS)
def test_the_last_trajectory_ends_with_the_data_even_unmarked(lengths):
    n = sum(lengths)
    last = np.arange(n) == n - 1
    marked = make(lengths)
    unmarked = make(
        lengths,
        terminations=marked.terminations & ~last,
        truncations=marked.truncations & ~last,
    )
    np.testing.assert_array_equal(unmarked.ends, marked.ends)
    np.testing.assert_array_equal(unmarked.returns, marked.returns)


@given(st.lists(LENGTHS, min_size=1, max_size=3))
def test_joining_and_taking_apart_are_inverse(parts):
    datasets = [make(lengths, seed) for seed, lengths in enumerate(parts)]
    joined = concatenate(datasets)
    np.testing.assert_array_equal(joined.returns, np.hstack([d.returns for d in datasets]))
    assert same(joined.take(len(parts[0])), datasets[0])
    assert same(joined.take(len(joined.ends)), joined)


def test_data_cannot_be_changed_from_outside():
    observations = np.zeros((4, 3), np.float32)
    data = make([4], observations=observations)
    observations[0] = 1
    assert not data.observations.any()
    with pytest.raises(ValueError, match="read-only"):
        data.observations[0] = 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_values_that_are_no_numbers_are_refused_with_their_row(name, value):
    values = np.array(getattr(make([3, 4]), name))
    values[[4, 6]] = value
    with pytest.raises(ValueError, match=f"{name} hold 2 row.* first at transition 4; drop"):
        make([3, 4], **{name: values})


@pytest.mark.parametrize("name", [f.name for f in fields(TransitionDataset)])
def test_uneven_lengths_are_refused_with_all_of_them(name):
    short = getattr(make([3, 4]), name)[:-1]
    with pytest.raises(ValueError, match=f"lengths of a dataset's arrays differ.*'{name}': 6"):
        make([3, 4], **{name: short})


def test_empty_data_are_refused():
    empty = np.zeros((0, 3)), np.zeros((0, 2)), *np.zeros((3, 0))
    with pytest.raises(ValueError, match="the dataset is empty: it needs at least one transition"):
        TransitionDataset(*empty)


@pytest.mark.parametrize(
    ("name", "shape"), [("observations", (7,)), ("actions", (7, 2, 1)), ("rewards", (7, 1))]
)
def test_arrays_of_other_dimensions_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"{name} must have \d dimension.*not shape \(7,"):
        make([7], **{name: np.zeros(shape)})


def test_actions_out_of_bounds_are_refused():
    actions = np.zeros((7, 2))
    actions[5] = 1.5
    with pytest.raises(ValueError, match=r"actions must lie in \[-1, 1\], .* 1.5"):
        make([7], actions=actions)


@pytest.mark.parametrize("trajectories", [0, -1, 3])
def test_only_as_many_trajectories_as_there_are_can_be_taken(trajectories):
    with pytest.raises(ValueError, match=f"cannot take {trajectories} .* dataset of 2"):
        make([3, 4]).take(trajectories)


def test_data_that_do_not_fit_together_cannot_be_joined():
    wide = make([4], observations=np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"sizes differ between datasets: \[\(3, 2\), \(5, 2\)"):
        concatenate([make([3]), wide])
    open_ended = make([4], terminations=np.zeros(4))
    with pytest.raises(ValueError, match="does not end its last trajectory cannot be joined"):
        concatenate([open_ended, make([3])])
    with pytest.raises(ValueError, match="at least one"):
        concatenate([])
