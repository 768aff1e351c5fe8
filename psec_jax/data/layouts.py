"""Files of transitions: one table of columns, or one numbered group a demonstration."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from psec_jax import storage
from psec_jax.data.actions import Bounds, check_bounds, scaled
from psec_jax.data.checks import MARKS
from psec_jax.data.columns import (
    DONES,
    NAMES,
    Columns,
    Names,
    Table,
    find,
    missing,
    read_columns,
)
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.notices import notice
from psec_jax.errors import BrokenFile

# What the table in an open file is.
Opened = Callable[[Path], AbstractContextManager[Table]]


def read_table(
    path: str | Path,
    opened: Opened,
    kind: str,
    keys: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
    observation_keys: Sequence[str] | None = None,
) -> TransitionDataset:
    """The transitions in a file of some ``kind``, which ``opened`` opens as a table.

    The table has the columns itself or in a folder of it, or numbered groups (``data/demo_0``,
    ``data/demo_1``, …) have them, each a demonstration, whose observations may be one more than
    its actions. See ``read_columns`` for the names. A demonstration is a trajectory, or a piece of
    one where its last next observation is the first observation of the next. In a single table
    without truncations a trajectory ends where the next observation is not the one that follows.
    ``bounds`` are those of the action space, by default −1 and 1.

    Raises ``ValueError`` for wrong options and ``BrokenFile`` naming the file, what is wrong with
    it and how to fix it. Warns of what is left out or clipped, with counts.
    """
    path = plain_file(path)
    if observation_keys is not None and not isinstance(observation_keys, str):
        observation_keys = tuple(observation_keys)
    names = Names(keys or {}, observation_keys)
    ends = check_bounds((-1.0, 1.0) if bounds is None else bounds)
    try:
        with opened(path) as table:
            columns, groups = _read(table, names, path)
    except BrokenFile:
        raise
    except Exception as error:  # what a library raises depends on where the file is damaged
        reason = (str(error) or repr(error)).splitlines()[0]
        raise BrokenFile(f"{path} is not a readable {kind} file: {reason}") from None
    if bounds is None and columns["actions"].dtype.kind in "biu":
        raise BrokenFile(
            f"{path} holds actions that are integers, as discrete choices are, but policies here "
            "act with real numbers; if these are on a scale, give its ends: bounds=(low, high)"
        )
    hint = ", as many environments do; where the action space is wider, pass its bounds={bounds}"
    columns["actions"] = scaled(columns["actions"], ends, path, hint)
    try:
        columns["truncations"] = _truncations(columns, groups)
        _warn_of_cuts(columns, groups, path)
        # The dataset need not copy what nobody else can change.
        for values in columns.values():
            values.setflags(write=False)
        return TransitionDataset(**{"rewards": None, **columns})
    except ValueError as error:
        raise BrokenFile(f"{path}: {error}") from None


def plain_file(path: str | Path) -> Path:
    """``path``, with ``~`` for the home folder; raises ``BrokenFile`` where there is no file."""
    path = storage.expanded(path)
    if not path.is_file():
        raise BrokenFile(f"{path} is missing or not a plain file")
    return path


def _read(table: Table, names: Names, path: Path) -> tuple[Columns, np.ndarray | None]:
    """The columns, and of numbered groups one past the last transition of each."""
    places = _places(table, names)
    if not places:
        raise missing(table, "actions", names, path)
    numbered = [place for place in places if _numbered(place)]
    if len(places) == 1 and not numbered:
        folder = find(table, places[0]) if places[0] else table
        return _whole(folder, names, path, table), None
    if len(numbered) != len(places) or len({_stem(place) for place in places}) != 1:
        raise BrokenFile(
            f"{path} holds actions in several places that are not numbered alike: {places[:9]}; "
            "say where the columns of one are: keys={'actions': …, 'observations': …, …}"
        )
    stem = _stem(places[0])
    folder = find(table, stem.rpartition("/")[0]) if "/" in stem else table
    siblings = [
        name
        for name in folder
        if _numbered(name)
        and _stem(name) == stem.rpartition("/")[2]
        and isinstance(folder.get(name), Mapping)
    ]
    parts = {place: _part(table, place, names, path) for place in sorted(places, key=_number)}
    parts = {place: part for place, part in parts.items() if len(part["actions"])}
    if len(parts) < len(siblings):
        notice(
            f"{path}: {len(siblings) - len(parts)} of {len(siblings)} groups like "
            f"{places[0]!r} hold no actions and are left out"
        )
    if not parts:
        raise BrokenFile(f"{path}: the dataset is empty; no group like {places[0]!r} has actions")
    return _joined(parts, path), np.cumsum([len(part["actions"]) for part in parts.values()])


def _places(table: Table, names: Names, prefix: str = "", depth: int = 3) -> list[str]:
    """Where actions are: in the table itself, or in folders of it."""
    if _any(table, names.of("actions")):
        return [prefix.rstrip("/")]
    folders = {name: table.get(name) for name in table} if depth else {}
    return [
        place
        for name, folder in folders.items()
        if isinstance(folder, Mapping)
        for place in _places(folder, names, f"{prefix}{name}/", depth - 1)
    ]


def _whole(table: Table, names: Names, path: Path, root: Table) -> Columns:
    columns = read_columns(table, names, path, root)
    if "terminations" not in columns:
        if "truncations" not in names.keys or "truncations" not in columns:
            error = str(missing(table, "terminations", names, path))
            for key in names.of("truncations") if "truncations" in columns else ():
                if _any(table, [key]):
                    error += f"; or, where nothing terminates, keys={{'truncations': {key!r}}}"
            raise BrokenFile(error)
        columns["terminations"] = np.zeros_like(columns["truncations"])
    elif "truncations" not in columns and not _any(table, names.of("terminations")):
        done = next(key for key in DONES if _any(table, [key]))
        notice(
            f"{path}: {int(columns['terminations'].sum())} transitions are marked by {done!r} "
            "alone, which is read as terminated; if a time limit ended them, pass "
            f"keys={{'truncations': {done!r}}}"
        )
    return columns


def _part(table: Table, place: str, names: Names, path: Path) -> Columns:
    """The columns of one demonstration, each of one length."""
    group = find(table, place)
    columns = read_columns(group, names, f"{path} in {place}", group)
    for name in ("observations", "actions"):
        if columns[name].ndim != 2:
            shape = columns[name].shape
            raise BrokenFile(
                f"{path}: {name} in {place!r} must have 2 dimension(s), not shape {shape}"
            )
    steps, observations = len(columns["actions"]), columns["observations"]
    if observations.shape[:1] == (steps + 1,) and "next_observations" not in columns:
        columns["observations"] = observations[:-1]
        columns["next_observations"] = observations[1:]
    if "costs" in columns and columns["costs"].shape == (steps + 1,):
        # Infos begin with that of the reset.
        columns["costs"] = columns["costs"][1:]
    lengths = {name: values.shape[:1] for name, values in columns.items()}
    if set(lengths.values()) != {(steps,)}:
        shapes = {name: values.shape for name, values in columns.items()}
        raise BrokenFile(f"{path}: the lengths of the arrays in {place!r} differ: {shapes}")
    return columns


def _joined(parts: Mapping[str, Columns], path: Path) -> Columns:
    """One demonstration after the other; a column that some lack is left out, marks excepted."""
    joined: Columns = {}
    for name in NAMES:
        having = {place: part[name] for place, part in parts.items() if name in part}
        if not having:
            continue
        if lacking := len(parts) - len(having):
            what = f"{path}: {lacking} of {len(parts)} demonstrations have no {name}"
            if name in MARKS:
                raise BrokenFile(f"{what}, so how they ended is unknown; mark all or none")
            notice(f"{what}, which are left out of all")
            continue
        shapes = {values.shape[1:]: place for place, values in having.items()}
        if len(shapes) > 1:
            raise BrokenFile(f"{path}: the shapes of {name} differ between groups: {shapes}")
        joined[name] = np.concatenate(list(having.values()))
    joined.setdefault("terminations", np.zeros(len(joined["actions"]), bool))
    return joined


def _truncations(columns: Columns, groups: np.ndarray | None) -> np.ndarray:
    """The marks there are, and where else a trajectory ends without one."""
    terminations, marked = columns["terminations"], columns.get("truncations")
    following = _following(columns)
    breaks = np.zeros(terminations.shape, bool)
    if groups is not None:
        inner = groups[:-1] - 1
        breaks[inner] = True if following is None else ~following[inner]
    elif marked is not None:
        return marked
    elif following is not None:
        breaks[:-1] = ~following
    breaks &= ~terminations
    return breaks if marked is None else marked | breaks


def _following(columns: Columns) -> np.ndarray | None:
    """Whether each transition leads to the next one's observation, where that is known."""
    observations, following = columns["observations"], columns.get("next_observations")
    fits = observations.ndim == 2 and observations.shape[:1] == columns["terminations"].shape
    if following is None or not fits or following.shape != observations.shape:
        return None
    return (following[:-1] == observations[1:]).all(axis=1)


def _warn_of_cuts(columns: Columns, groups: np.ndarray | None, path: Path) -> None:
    if groups is None:
        return
    ends = columns["terminations"] | columns["truncations"]
    ends[groups - 1] = False
    cut = sum(part.any() for part in np.split(ends, groups[:-1]))
    if cut:
        notice(f"{path}: {cut} of {len(groups)} demonstrations end before their last transition")


def _numbered(place: str) -> bool:
    return place[-1:].isdecimal()


def _number(place: str) -> int:
    return int(place.removeprefix(_stem(place)))


def _stem(place: str) -> str:
    return re.sub(r"\d+$", "", place)


def _any(table: Table, keys: Sequence[str]) -> bool:
    return any(find(table, key) is not None for key in keys)
