"""What every column of a dataset must be, and how it is made so."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Actions stay this much inside ±1, where a squashed policy gives every action a density.
INSIDE = 1 - 1e-5
# Actions may lie this much outside their bounds: float32 rounding of scaled values.
ROUNDING = 1e-5
MARKS = ("terminations", "truncations")
DIMENSIONS = {
    "observations": 2,
    "actions": 2,
    "rewards": 1,
    "terminations": 1,
    "truncations": 1,
    "costs": 1,
    "next_observations": 2,
    "next_actions": 2,
}


def checked(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of a dataset as read-only arrays, with those that follow from the others.

    Raises ``ValueError`` for empty, uneven, non-numeric or non-finite columns and for actions
    outside [−1, 1].
    """
    for name in ("observations", "actions", *MARKS):
        if name not in columns:
            raise ValueError(f"{name} must be an array, not None")
    arrays = {name: _column(name, values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the lengths of a dataset's arrays differ: {lengths}")
    if not all(values.size for values in arrays.values()):
        shapes = {name: values.shape for name, values in arrays.items()}
        raise ValueError(f"the dataset is empty; the shapes of its arrays are {shapes}")
    for name, values in arrays.items():
        if name != "next_actions":
            _check_finite(name, values)
    arrays["actions"] = _inside("actions", arrays["actions"])
    if "next_actions" in arrays:
        _check_next_actions(arrays["next_actions"], arrays["actions"])
    arrays["truncations"] = _closed(arrays["terminations"], arrays["truncations"])
    if "next_observations" not in arrays:
        arrays["next_observations"] = _following(arrays)
    elif arrays["next_observations"].shape != arrays["observations"].shape:
        raise ValueError(
            f"next_observations of shape {arrays['next_observations'].shape} do not fit "
            f"observations of shape {arrays['observations'].shape}"
        )
    return arrays


def as_marks(name: str, marks: np.ndarray) -> np.ndarray:
    """``marks`` of 0 and 1 as booleans; raises ``ValueError`` for any other value."""
    if marks.dtype == bool:
        return marks
    if not np.isfinite(marks).all():
        raise ValueError(f"{name} hold values that are not finite; expected 0 or 1")
    other = (marks != 0) & (marks != 1)
    if other.any():
        row = int(other.argmax())
        value = marks.ravel()[row]
        raise ValueError(f"{name} hold {value} at transition {row}; expected 0 or 1")
    return marks.astype(bool)


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def check_seed(seed: Any) -> int:
    """``seed`` if NumPy and JAX both take it; raises ``ValueError`` otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be an integer from 0 to 2**32 - 1, not {seed!r}")
    return int(seed)


def _column(name: str, values: Any) -> np.ndarray:
    try:
        raw = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be one array of numbers: {error}") from None
    if raw.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, not values of dtype {raw.dtype}")
    if raw.ndim != DIMENSIONS[name]:
        raise ValueError(
            f"{name} must have {DIMENSIONS[name]} dimension(s), not shape {raw.shape}"
        )
    if name in MARKS:
        as_marks(name, raw)
        return _frozen(values, np.bool_)
    return _frozen(values, np.float32)


def _frozen(values: Any, kind: type) -> np.ndarray:
    """``values`` as a read-only array of ``kind``, copied unless nobody else can write to it."""
    owner = values
    while isinstance(getattr(owner, "base", None), np.ndarray):
        owner = owner.base
    if isinstance(owner, np.ndarray) and not owner.flags.writeable:
        return read_only(np.asarray(values, dtype=kind))
    return read_only(np.array(values, dtype=kind))


def _check_finite(name: str, values: np.ndarray) -> None:
    # A sum is finite only if every number in it is: most data need no look at single rows.
    with np.errstate(invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    raise ValueError(
        f"{name} hold {int(bad.sum())} row(s) that are not finite, the first at transition "
        f"{int(bad.argmax())}; drop those trajectories or mend the file"
    )


def _inside(name: str, actions: np.ndarray) -> np.ndarray:
    largest = max(actions.max(), -actions.min())
    if largest > 1 + ROUNDING:
        raise ValueError(
            f"{name} must lie in [-1, 1], but one is as large as {largest:g}; scale them by "
            "the bounds of the environment's action space"
        )
    if largest <= np.float32(INSIDE):
        return actions
    return read_only(np.clip(actions, -INSIDE, INSIDE))


def _check_next_actions(following: np.ndarray, actions: np.ndarray) -> None:
    if following.shape != actions.shape:
        raise ValueError(
            f"next_actions of shape {following.shape} do not fit actions of shape {actions.shape}"
        )
    known = following[~np.isnan(following).all(axis=1)]
    if len(known):
        _check_finite("next_actions", known)
        _inside("next_actions", known)


def _closed(terminations: np.ndarray, truncations: np.ndarray) -> np.ndarray:
    if terminations[-1] or truncations[-1]:
        return truncations
    closed = truncations.copy()
    closed[-1] = True
    return read_only(closed)


def following_actions(actions: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The actions that follow, NaN after the ``last`` of each trajectory."""
    following = np.roll(actions, -1, axis=0)
    following[last] = np.nan
    return read_only(following)


def _following(arrays: dict[str, np.ndarray]) -> np.ndarray:
    observations = arrays["observations"]
    following = np.roll(observations, -1, axis=0)
    last = arrays["terminations"] | arrays["truncations"]
    following[last] = observations[last]
    return read_only(following)
