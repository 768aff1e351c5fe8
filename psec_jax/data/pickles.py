"""Pickled lists of trajectories, read without running anything that they ask for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from psec_jax.data.actions import Bounds
from psec_jax.data.columns import Table
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.layouts import read_table


def read_pickle(
    path: str | Path,
    keys: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
    observation_keys: Sequence[str] | None = None,
) -> TransitionDataset:
    """The transitions in a pickled list of dictionaries of arrays, or in one such dictionary.

    The options are those of ``read_hdf5``. Each dictionary of a list is a trajectory, or a piece
    of one: a piece whose last next observation is the first observation of the next goes on in it.
    Pieces without next observations are truncated trajectories each. Reading is safe, see
    ``psec_jax.skills.unpickling``.
    """
    return read_table(path, _opened, "pickle", keys, bounds, observation_keys)


@contextmanager
def _opened(path: Path) -> Iterator[Table]:
    from psec_jax.skills.unpickling import read_tree

    yield read_tree(path)
