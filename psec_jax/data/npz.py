"""NumPy archives of transitions."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from psec_jax.data.actions import Bounds
from psec_jax.data.columns import Table
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.layouts import read_table
from psec_jax.errors import BrokenFile


def read_npz(
    path: str | Path,
    keys: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
    observation_keys: Sequence[str] | None = None,
) -> TransitionDataset:
    """The transitions in a NumPy archive, with the options of ``read_hdf5``.

    An array called ``obs/x`` is one of a dictionary ``obs``. Objects are not unpickled.
    """
    return read_table(path, _opened, "NumPy", keys, bounds, observation_keys)


@contextmanager
def _opened(path: Path) -> Iterator[Table]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive")
    with np.load(path, allow_pickle=False) as file:
        table: dict = {}
        for key in file.files:
            *folders, name = key.strip("/").split("/")
            folder = table
            for part in folders:
                folder = folder.setdefault(part, {})
                if not isinstance(folder, dict):
                    raise ValueError(f"{key!r} lies under what is an array itself")
            if name in folder:
                raise ValueError(f"{key!r} is both an array and a folder, or there twice")
            # Read when asked for: an archive may hold more than transitions.
            folder[name] = partial(_array, file, key, path)
        yield table


def _array(file: Mapping[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    try:
        return file[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            what = f"{path}: {key!r} holds Python objects, which are not unpickled"
            raise BrokenFile(f"{what}; save it as an array of numbers") from None
        raise
