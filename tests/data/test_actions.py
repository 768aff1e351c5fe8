"""Actions are scaled from their bounds; what is clipped is counted aloud."""

import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax.data.hdf5 import read_hdf5
from psec_jax.errors import BrokenFile


@pytest.fixture
def file(tmp_path, make):
    """``file(actions)``: the path of a file with these actions."""

    def file(actions):
        data = make([len(actions)])
        with h5py.File(tmp_path / "data.hdf5", "w") as target:
            for name, values in data.arrays().items():
                target[name] = actions if name == "actions" else values
        return tmp_path / "data.hdf5"

    return file


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=2),
    st.lists(st.integers(1, 1000), min_size=2, max_size=2),
    st.lists(st.tuples(*[st.integers(0, 16)] * 2), min_size=1, max_size=9),
)
def test_bounds_can_be_given_by_dimension(file, low, widths, sixteenths):
    """Each dimension is read as it is alone with its own bounds."""
    low, high = np.array(low), np.add(low, widths)
    shares = np.array(sixteenths) / 16
    path = file(low + shares * (high - low))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bounds in ((low, high), (low.tolist(), tuple(high.tolist()))):
            actions = read_hdf5(path, bounds=bounds).actions
            np.testing.assert_allclose(actions, 2 * shares - 1, atol=2e-4)
    if low[0] == low[1]:
        one = read_hdf5(path, bounds=(low[0], high)).actions
        np.testing.assert_array_equal(one, actions)


def test_what_is_clipped_is_counted_with_bounds_that_hold_it_all(file):
    actions = np.array([[0.5, 0.5], [1.5, -1.75], [1.000005, 0], [-1, 1.25]])
    said = (
        r"data.hdf5: the actions of 2 of 4 transitions lie beyond the bounds \(-1.0, 1.0\), the "
        r"farthest is -1.75; they are clipped.*bounds=\(-1.75, 1.75\)$"
    )
    path = file(actions)
    with pytest.warns(UserWarning, match=said) as caught:
        clipped = read_hdf5(path).actions
    assert caught[0].filename == __file__ and "\n" not in str(caught[0].message)
    np.testing.assert_allclose(clipped, np.clip(actions, -1, 1), atol=2e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_hdf5(path, bounds=(-1.75, 1.75)).actions
    np.testing.assert_allclose(read, actions / 1.75, atol=2e-5)


def test_the_bounds_to_pass_are_by_dimension_where_they_were_given_so(file):
    path = file(np.array([[0.5, 8.0], [2.5, 0.0]]))
    bounds = ([-1.0, 0.0], [1.0, 10.0])
    said = r"of 1 of 2 .* the farthest is 2.5; .*bounds=\(\[-1.0, 0.0\], \[2.5, 10.0\]\)$"
    with pytest.warns(UserWarning, match=said):
        read_hdf5(path, bounds=bounds)


@pytest.mark.parametrize("beyond", [0.0, 5e-6, 9e-6])
def test_rounding_is_not_warned_of(file, beyond):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_hdf5(file(np.full((3, 2), 1 + beyond)))


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool])
def test_integers_are_refused_unless_their_scale_is_given(file, kind):
    actions = np.array([[0, 1], [1, 0]]).astype(kind)
    path = file(actions)
    with pytest.raises(BrokenFile, match=r"integers, as discrete .* its ends: bounds=\(low, hig"):
        read_hdf5(path)
    read = read_hdf5(path, bounds=(0, 1)).actions
    np.testing.assert_allclose(read, 2.0 * actions - 1, atol=2e-5)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (([-1, -1], [1, -2]), r"must be finite and rise from low to high, not \(\[-1.0, -1.0\]"),
        ((np.full(2, np.nan), 1), "must be finite and rise"),
        ((np.zeros((2, 2)), np.ones((2, 2))), "must be finite and rise"),
        (
            (-1, 0, 1),
            r"bounds must be \(low, high\), each a number or one a dimension, not \(-1, 0",
        ),
        (2, r"bounds must be \(low, high\)"),
        (("a", "b"), r"bounds must be \(low, high\)"),
        (([-1, -1], [1, 1, 1]), r"bounds must be \(low, high\)"),
        (([-1] * 3, [1] * 3), r"bounds are of 3 dimension\(s\), but actions of .* have 2"),
    ],
)
def test_bounds_that_fit_nothing_are_refused(file, bounds, said):
    with pytest.raises(ValueError, match=said) as error:
        read_hdf5(file(np.zeros((3, 2))), bounds=bounds)
    assert not isinstance(error.value, BrokenFile)
