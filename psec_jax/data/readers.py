"""Files of transitions by their suffix; a user adds a reader by ``register_reader``."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psec_jax import storage
from psec_jax.data.dataset import TransitionDataset

Reader = Callable[..., TransitionDataset]


def _hdf5(path: Path, **options: Any) -> TransitionDataset:
    from psec_jax.data.hdf5 import read_hdf5

    return read_hdf5(path, **options)


def _npz(path: Path, **options: Any) -> TransitionDataset:
    from psec_jax.data.npz import read_npz

    return read_npz(path, **options)


def _pickle(path: Path, **options: Any) -> TransitionDataset:
    from psec_jax.data.pickles import read_pickle

    return read_pickle(path, **options)


# Suffix in small letters → what reads such a file.
READERS: dict[str, Reader] = {
    ".hdf5": _hdf5,
    ".h5": _hdf5,
    ".npz": _npz,
    ".pkl": _pickle,
    ".pickle": _pickle,
}


def register_reader(suffix: str, reader: Reader) -> None:
    """Read files that end in ``suffix`` by ``reader(path, **options) -> TransitionDataset``.

    The options are those that ``read_file`` was given. A suffix that is known is read by the new
    reader from then on.
    """
    if not re.fullmatch(r"(\.\w+)+", suffix):
        raise ValueError(f"the suffix {suffix!r} must be a dot and a word, such as '.csv'")
    if not callable(reader):
        raise ValueError(f"the reader of {suffix} must be a function of a path, not {reader!r}")
    READERS[suffix.lower()] = reader


def read_file(path: str | Path, **options: Any) -> TransitionDataset:
    """The transitions in a file, by the reader of its suffix.

    ``options`` are the reader's: ``keys``, ``bounds`` and ``observation_keys`` of HDF5, NumPy and
    pickle files, see ``psec_jax.data.hdf5.read_hdf5``. Raises ``ValueError`` for a suffix that
    nothing reads and for options that its reader does not take.
    """
    path = storage.expanded(path)
    suffix = known_suffix(path)
    if suffix is None:
        what = "is a folder" if path.is_dir() else f"has the suffix {path.suffix!r}"
        raise ValueError(
            f"{path} {what}, which no reader takes; files that are read end in "
            f"{', '.join(READERS)}; others need psec_jax.data.register_reader"
        )
    reader = READERS[suffix]
    try:
        inspect.signature(reader).bind(path, **options)
    except TypeError as error:
        raise ValueError(f"the reader of {suffix} files refuses its options: {error}") from None
    return reader(path, **options)


def known_suffix(name: str | Path) -> str | None:
    """The longest suffix of a file's name that something reads."""
    lowered = Path(name).name.lower()
    suffixes = [suffix for suffix in READERS if lowered.endswith(suffix) and lowered != suffix]
    return max(suffixes, key=len, default=None)


def is_file_name(name: str | Path) -> bool:
    """Whether this names a file and not a dataset: a ``Path``, or text that looks like one."""
    if isinstance(name, Path) or known_suffix(name):
        return True
    return bool(re.search(r"^[~./]|\.[A-Za-z]\w*$", name))
