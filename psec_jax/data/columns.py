"""The columns of one table of transitions, by the names that libraries give them.

A table is a mapping of names to arrays (or functions that give one), such as an HDF5 group;
``a/b`` is what lies under ``b`` in ``a``. Raises ``BrokenFile`` throughout.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from psec_jax.data.checks import MARKS, as_marks
from psec_jax.errors import BrokenFile

Table = Mapping[str, Any]
Columns = dict[str, np.ndarray]

# Our name for a quantity → what D4RL and DSRL (first), Gymnasium, Minari and robomimic call it.
NAMES = {
    "observations": ("observations", "obs", "observation"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminations": ("terminals", "terminations", "terminated", "terminal"),
    "truncations": ("timeouts", "truncations", "truncated", "timeout"),
    "costs": ("costs", "cost", "infos/cost"),
    "next_observations": ("next_observations", "next_obs", "next_observation"),
}
# The end of an episode, of whichever kind.
DONES = ("dones", "done")
VECTORS = ("observations", "actions", "next_observations")


@dataclass(frozen=True)
class Names:
    """Where columns are, if not where ``NAMES`` says.

    ``keys`` maps our names to keys of the table. ``observation_keys`` chooses entries of
    observations that are a dictionary, and their order. Raises ``ValueError`` for unknown names.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    observation_keys: Sequence[str] | None = None

    def __post_init__(self):
        if unknown := sorted(set(self.keys) - set(NAMES)):
            raise ValueError(f"keys {unknown} are unknown; expected some of {list(NAMES)}")
        if wrong := [key for key in self.keys.values() if not isinstance(key, str)]:
            raise ValueError(f"keys must map to names in the file, not to {wrong[0]!r}")
        if isinstance(self.observation_keys, str) or self.observation_keys == ():
            raise ValueError("observation_keys must be a sequence of one or more names")

    def of(self, name: str) -> tuple[str, ...]:
        return (self.keys[name],) if name in self.keys else NAMES[name]


def find(table: Any, key: str) -> Any:
    """What lies under ``key``, or None."""
    for part in key.strip("/").split("/"):
        if not isinstance(table, Mapping) or part not in table:
            return None
        table = table[part]
    return table


def listing(table: Table) -> list[str]:
    """The keys of the first arrays in it."""
    return list(islice((key for key, _ in _leaves(table)), 30))


def read_columns(table: Table, names: Names, source: object, root: Table) -> Columns:
    """The columns that there are; actions are as stored, marks boolean, all else float32.

    Keys that were named may also be those of the file's ``root``. Of two columns for one quantity
    both must say the same. Dictionaries of observations become vectors, by default in alphabetical
    order. ``dones`` are the terminations, less the truncations where these are known.
    """
    columns: Columns = {}
    order = names.observation_keys
    for name in NAMES:
        candidates = {}
        for key in names.of(name):
            entry = find(table, key)
            if entry is None and name in names.keys:
                entry = find(root, key)
            if entry is None:
                continue
            if name in ("observations", "next_observations"):
                candidates[key], order = _observations(entry, name, key, order, source)
            else:
                candidates[key] = _array(entry, name, source)
        if candidates:
            columns[name] = _agreed(candidates, name, source)
        elif name in names.keys or name in ("observations", "actions"):
            raise missing(table, name, names, source)
    _read_dones(table, columns, names, source)
    return columns


def missing(table: Table, name: str, names: Names, source: object) -> BrokenFile:
    """The error that a column is not there."""
    return BrokenFile(
        f"{source} has no dataset {names.of(name)[0]!r} for {name}; it holds {listing(table)}. "
        f"Say where they are: keys={{{name!r}: '…'}}"
    )


def _array(entry: Any, name: str, source: object) -> np.ndarray:
    """What a key holds, without an axis of one that a transition does not have."""
    values: np.ndarray
    entry = _opened(entry)
    if getattr(entry, "shape", None) is None or entry.dtype.kind not in "biuf":
        raise BrokenFile(f"{source} must hold numbers for {name}, not {_described(entry)}")
    if name in MARKS:
        try:
            values = as_marks(name, entry[...])
        except ValueError as error:
            raise BrokenFile(f"{source}: {error}") from None
    elif name == "actions":
        values = entry[...]
    elif hasattr(entry, "read_direct"):
        values = np.empty(entry.shape, np.float32)
        if entry.size:
            entry.read_direct(values)
    else:
        with np.errstate(over="ignore"):
            values = np.asarray(entry, np.float32)
    axes = 2 if name in VECTORS else 1
    return values[:, 0] if values.ndim == axes + 1 and values.shape[1] == 1 else values


def _opened(entry: Any) -> Any:
    return entry() if callable(entry) else entry


def _described(entry: Any) -> str:
    if isinstance(entry, np.ndarray):
        return f"an array of dtype {entry.dtype}"
    return repr(entry) if not isinstance(entry, dict) else f"a dictionary of {sorted(entry)[:9]}"


def _observations(
    entry: Any, name: str, key: str, order: Sequence[str] | None, source: object
) -> tuple[np.ndarray, Sequence[str] | None]:
    """One array, and of a dictionary the order of its entries in it."""
    if not isinstance(entry, Mapping):
        if order is not None:
            raise BrokenFile(
                f"{source}: {key!r} is one array, but a dictionary with {list(order)} was expected"
            )
        return _array(entry, name, source), None
    entries = {leaf: _opened(values) for leaf, values in _leaves(entry, order)}
    order = order or tuple(sorted(entries))
    if lacking := [leaf for leaf in order if leaf not in entries]:
        raise BrokenFile(f"{source} has no {lacking[0]!r} in {key!r}; it holds {listing(entry)}")
    # Images are not even read.
    shapes: dict[str, tuple[int, ...]] = {
        leaf: getattr(values, "shape", None) or () for leaf, values in entries.items()
    }
    vectors = sorted(
        leaf
        for leaf, shape in shapes.items()
        if len(shape) in (1, 2) and entries[leaf].dtype.kind in "biuf"
    )
    if others := [leaf for leaf in order if leaf not in vectors]:
        raise BrokenFile(
            f"{source}: {others[0]!r} in {key!r} is of shape {shapes[others[0]]}, expected a "
            f"vector of numbers a transition; choose among observation_keys={vectors}"
        )
    if len({shapes[leaf][0] for leaf in order}) != 1:
        lengths = {leaf: shapes[leaf][0] for leaf in order}
        raise BrokenFile(f"{source}: the lengths of the arrays in {key!r} differ: {lengths}")
    parts = [_array(entries[leaf], name, source) for leaf in order]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1), order


def _leaves(
    table: Table, only: Sequence[str] | None = None, prefix: str = "", depth: int = 4
) -> Iterator[tuple[str, Any]]:
    """Every array with its key, or ``only`` those."""
    if only is not None:
        yield from ((key, entry) for key in only if (entry := find(table, key)) is not None)
        return
    for name in table:
        entry = table.get(name)
        if entry is None:  # a link that leads nowhere
            continue
        if not isinstance(entry, Mapping):
            yield f"{prefix}{name}", entry
        elif depth:
            yield from _leaves(entry, None, f"{prefix}{name}/", depth - 1)


def _agreed(candidates: Mapping[str, np.ndarray], name: str, source: object) -> np.ndarray:
    (first, values), *others = candidates.items()
    for key, other in others:
        if not np.array_equal(values, other, equal_nan=values.dtype.kind == "f"):
            raise _disagreement(first, key, name, source)
    return values


def _disagreement(one: str, other: str, name: str, source: object) -> BrokenFile:
    return BrokenFile(
        f"{source} has {one!r} and {other!r} for {name}, which disagree; say which is right: "
        f"keys={{{name!r}: {one!r}}}"
    )


def _read_dones(table: Table, columns: Columns, names: Names, source: object) -> None:
    """Complete the marks by the ends of episodes, unless the user named another column."""
    key = next((key for key in DONES if find(table, key) is not None), None)
    if key is None or "terminations" in names.keys or names.keys.get("truncations") == key:
        return
    dones = _array(find(table, key), "terminations", source)
    terminations, truncations = (columns.get(name) for name in MARKS)
    ends = next((end for end in names.of("terminations") if find(table, end) is not None), key)
    if any(m is not None and m.shape != dones.shape for m in (terminations, truncations)):
        raise BrokenFile(f"{source}: {key!r} has another length than the other marks")
    if terminations is None:
        columns["terminations"] = dones if truncations is None else dones & ~truncations
    elif truncations is None:
        if (terminations & ~dones).any():
            raise _disagreement(ends, key, "terminations", source)
        if (dones & ~terminations).any():
            columns["truncations"] = dones & ~terminations
    elif not any(np.array_equal(dones, m) for m in (terminations, terminations | truncations)):
        raise _disagreement(ends, key, "terminations", source)
