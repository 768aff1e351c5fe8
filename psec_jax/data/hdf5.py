"""HDF5 files of transitions, in the layouts of D4RL, DSRL, Gymnasium, robomimic or another."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py

from psec_jax import storage
from psec_jax.data.actions import Bounds
from psec_jax.data.columns import NAMES
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.layouts import read_table


def read_hdf5(
    path: str | Path,
    keys: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
    observation_keys: Sequence[str] | None = None,
) -> TransitionDataset:
    """The transitions in an HDF5 file.

    ``keys`` maps our names (``observations``, ``actions``, ``rewards``, ``terminations``,
    ``truncations``, ``costs``, ``next_observations``) to keys of the file, such as
    ``{"observations": "data/obs"}``; those it leaves out are looked up by their usual names. Only
    observations, actions and terminations must be there. ``bounds`` are those of the action space,
    numbers or one a dimension: actions are scaled from them to [−1, 1]. ``observation_keys``
    chooses among a dictionary of observations. See ``psec_jax.data.layouts.read_table``.
    """
    return read_table(
        path, lambda path: h5py.File(path, "r"), "HDF5", keys, bounds, observation_keys
    )


def write_hdf5(path: str | Path, data: TransitionDataset) -> Path:
    """Write ``data`` in D4RL's layout, with ``costs`` where there are any, as DSRL does."""
    path = storage.expanded(path)
    with storage.new_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in data.arrays().items():
            file.create_dataset(NAMES[name][0], data=values, track_times=False)
    return path
