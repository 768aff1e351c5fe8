"""HDF5 files of transitions: D4RL's layout, DSRL's, or any other with its keys named."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from psec_jax import storage
from psec_jax.data.dataset import TransitionDataset
from psec_jax.errors import BrokenFile

# Our name for a quantity → the key under which D4RL and DSRL keep it.
KEYS = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminations": "terminals",
    "truncations": "timeouts",
    "costs": "costs",
    "next_observations": "next_observations",
}
REQUIRED = ("observations", "actions", "rewards", "terminations")


def read_hdf5(
    path: str | Path,
    keys: Mapping[str, str] | None = None,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> TransitionDataset:
    """The transitions in an HDF5 file.

    ``keys`` maps our names (``observations``, ``actions``, ``rewards``, ``terminations``,
    ``truncations``, ``costs``, ``next_observations``) to keys of the file, such as
    ``{"observations": "data/obs"}``; those it leaves out are sought where D4RL keeps them, and
    only the first four must be there. Without truncations, a trajectory also ends where the next
    observation is not the one that follows. ``bounds`` are those of the action space: actions are
    scaled from them to [−1, 1], and what lies beyond is clipped.

    Raises ``BrokenFile`` naming the file, what is wrong with it and the mend.
    """
    path = Path(path)
    if not path.is_file():
        raise BrokenFile(f"{path} is missing or not a plain file")
    if unknown := sorted(set(keys or {}) - set(KEYS)):
        raise ValueError(f"keys {unknown} are unknown; expected some of {list(KEYS)}")
    low, high = bounds
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"bounds must be finite and rise from low to high, not {bounds!r}")
    try:
        with h5py.File(path, "r") as file:
            columns = _columns(file, {**KEYS, **(keys or {})}, keys or {}, path)
    except BrokenFile:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, MemoryError) as error:
        # Which of them h5py raises depends on where the file is damaged.
        raise BrokenFile(f"{path} is not a readable HDF5 file: {error}") from None
    try:
        columns["actions"] = scaled(columns["actions"], low, high)
        if "truncations" not in columns:
            columns["truncations"] = _breaks(columns)
        return TransitionDataset(**columns)
    except (ValueError, TypeError) as error:
        raise BrokenFile(f"{path}: {error}") from None


def write_hdf5(path: str | Path, data: TransitionDataset) -> Path:
    """Write ``data`` in D4RL's layout, with ``costs`` where there are any, as DSRL does."""
    path = Path(path)
    with storage.new_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in data.arrays().items():
            file.create_dataset(KEYS[name], data=values, track_times=False)
    return path


def scaled(actions: np.ndarray, low, high) -> np.ndarray:
    """``actions`` from [low, high] to [−1, 1], with what lies beyond clipped."""
    actions = np.asarray(actions, np.float32)
    if np.any(np.not_equal(low, -1.0)) or np.any(np.not_equal(high, 1.0)):
        low, high = np.float32(low), np.float32(high)
        actions = 2 * (actions - low) / (high - low) - 1
    return np.clip(actions, -1, 1)


def _columns(file: h5py.File, keys: Mapping, asked: Mapping, path: Path) -> dict[str, np.ndarray]:
    columns = {}
    for name, key in keys.items():
        if key in file:
            columns[name] = _values(file[key], name, path)
        elif name in REQUIRED or name in asked:
            raise BrokenFile(
                f"{path} has no dataset {key!r} for {name}; it holds {_names(file)}. Say where "
                f"they are: keys={{{name!r}: '…'}}"
            )
    return columns


def _values(entry: h5py.Dataset | h5py.Group, name: str, path: Path) -> np.ndarray:
    """What a key holds, without the last axis where it is one number a transition."""
    if getattr(entry, "shape", None) is None or entry.dtype.kind not in "biuf":
        raise BrokenFile(f"{path} must hold numbers for {name}, not {entry!r}")
    if name in ("terminations", "truncations"):
        marks = entry[...]
        if not np.isfinite(marks).all():
            raise BrokenFile(f"{path}: {name} hold values that are not finite")
        values = marks.astype(bool)
    else:
        values = np.empty(entry.shape, np.float32)
        if entry.size:
            entry.read_direct(values)
    # The dataset need not copy what nobody can change.
    values.setflags(write=False)
    single = name not in ("observations", "actions", "next_observations")
    return values[:, 0] if single and values.ndim == 2 and values.shape[1] == 1 else values


def _names(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, entry: found.append(name) if hasattr(entry, "shape") else None)
    return found[:30]


def _breaks(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where, without a mark, the next observation is not the one that follows."""
    observations, following = columns["observations"], columns.get("next_observations")
    breaks = np.zeros(columns["terminations"].shape, bool)
    fits = observations.ndim == 2 and observations.shape[:1] == breaks.shape
    if fits and following is not None and following.shape == observations.shape:
        breaks[:-1] = (following[:-1] != observations[1:]).any(axis=1)
    return breaks & ~columns["terminations"]
