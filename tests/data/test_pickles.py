"""Pickled lists of trajectories and pieces, read without running anything in them."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import load_dataset
from psec_jax.errors import BrokenFile


@pytest.fixture
def write(tmp_path):
    def write(content, protocol=4, name="data.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol))
        return tmp_path / name

    return write


def pieces(data, length, lacks=("next_observations", "terminals")):
    """``data`` in pieces of ``length``, as the source data of a shifted robot are published."""
    found = []
    for start in range(0, len(data), length):
        rows = slice(start, start + length)
        found.append(
            {
                "observations": data.observations[rows],
                "actions": data.actions[rows],
                "next_observations": data.next_observations[rows],
                "rewards": data.rewards[rows, None],
                "terminals": data.terminations[rows, None],
            }
            | dict.fromkeys(lacks)
        )
    return found


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pieces_whose_successor_is_unknown_are_truncated_trajectories(
    write, make, equal, protocol
):
    data = make([60], terminations=np.zeros(60), costs=None, next_observations=None)
    read = load_dataset(write(pieces(data, 20), protocol))
    assert list(read.ends) == [20, 40, 60] and read.costs is None
    ends = np.isin(np.arange(60), (19, 39, 59))
    assert equal(
        read,
        make(
            [60],
            terminations=np.zeros(60),
            truncations=ends,
            costs=None,
            next_observations=None,
        ),
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 5), st.booleans())
def test_pieces_that_go_on_are_put_together(write, make, equal, lengths, length, marked):
    """Cut anywhere, trajectories come back: at their ends alone does nothing follow."""
    data = make(lengths, costs=None, next_observations=None)
    following = data.next_observations.copy()
    following[data.ends - 1] += 1
    marks = (
        {}
        if marked
        else {
            "terminations": np.zeros(len(data)),
            "truncations": np.isin(np.arange(len(data)), data.ends - 1),
        }
    )
    data = make(lengths, costs=None, next_observations=following, **marks)
    # Only the ends of pieces are looked at; trajectories end at some of these.
    cut = [p for part in data.trajectories() for p in pieces(part, length, lacks=())]
    if not marked:
        cut = [piece | {"terminals": None} for piece in cut]
    assert equal(load_dataset(write(cut)), data)


def test_one_dictionary_is_one_table(write, make, equal):
    data = make([3, 4])
    assert equal(load_dataset(write(data.arrays(), name="data.pickle")), data)


def test_lists_of_numbers_are_columns_too(write, make, equal):
    data = make([3, 4])
    episodes = [
        {
            name: list(values) if name == "actions" else values.tolist()
            for name, values in part.arrays().items()
        }
        for part in data.trajectories()
    ]
    assert equal(load_dataset(write(episodes)), data)


class Marks:
    def __reduce__(self):
        return os.mkdir, ("marker",)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            lambda p: [*p, {"infos": Marks()}],
            r"asks for '(posix|nt).mkdir'; nothing in it was run",
        ),
        (lambda p: [p[0], 3], "the list at '' holds dicts and other things"),
        (lambda p: [p[0], p[0]], "in two places"),
        (lambda p: [{"a/b": 1}], "'a/b' at '/0' is not a name"),
        (lambda p: p[0]["actions"], "it holds one array, expected a dict or a list of dicts"),
        (lambda p: [], "it holds one list, expected a dict or a list of dicts"),
        (lambda p: [p[0] | {"actions": None}], "no dataset 'actions' for actions"),
        (lambda p: [p[0] | {"rewards": np.zeros(3)}], "lengths of the arrays in '0' differ"),
        (
            lambda p: [p[0] | {"rewards": {"a": 1}}],
            r"numbers for rewards, not a dictionary of \['a",
        ),
    ],
)
def test_what_is_no_list_of_trajectories_is_refused(
    write, make, tmp_path, monkeypatch, changed, said
):
    monkeypatch.chdir(tmp_path)
    path = write(changed(pieces(make([40]), 20)))
    with pytest.raises(BrokenFile, match=said) as error:
        load_dataset(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert not (tmp_path / "marker").exists()
