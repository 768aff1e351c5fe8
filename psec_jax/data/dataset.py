"""Offline data: transitions in the order in which they were met, trajectory after trajectory."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

# Actions stay this much inside ±1, where a squashed policy gives every action a density.
INSIDE = 1 - 1e-5
_DIMENSIONS = {
    "observations": 2,
    "actions": 2,
    "rewards": 1,
    "terminations": 1,
    "truncations": 1,
    "costs": 1,
    "next_observations": 2,
}


@dataclass(frozen=True, eq=False)
class TransitionDataset:
    """n transitions on the host, immutable.

    ``terminations`` marks transitions into a terminal state, beyond which nothing is worth
    anything; ``truncations`` the last transition of a trajectory that was merely cut off. The last
    transition of all ends its trajectory, marked or not. Actions lie in [−1, 1] and are kept 1e-5
    inside. ``costs`` may be missing, and so may ``next_observations``: they are then the
    observations that follow, and at the end of a trajectory, whose successor no array holds, the
    last observation stands in for it.

    Raises ``ValueError`` for empty, uneven or non-finite data and for actions out of bounds.
    """

    observations: Float[np.ndarray, "n observation"]
    actions: Float[np.ndarray, "n action"]
    rewards: Float[np.ndarray, "n"]
    terminations: Bool[np.ndarray, "n"]
    truncations: Bool[np.ndarray, "n"]
    costs: Float[np.ndarray, "n"] | None = None
    next_observations: Float[np.ndarray, "n observation"] | None = None

    def __post_init__(self):
        arrays = {name: values for name, values in vars(self).items() if values is not None}
        for name, values in arrays.items():
            kind = np.bool_ if name in ("terminations", "truncations") else np.float32
            arrays[name] = _frozen(values, kind)
            if np.ndim(values) != _DIMENSIONS[name]:
                raise ValueError(
                    f"{name} must have {_DIMENSIONS[name]} dimension(s), not shape "
                    f"{np.shape(values)}"
                )
        lengths = {name: len(values) for name, values in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the lengths of a dataset's arrays differ: {lengths}")
        if not all(values.size for values in arrays.values()):
            shapes = {name: values.shape for name, values in arrays.items()}
            raise ValueError(f"the dataset is empty; the shapes of its arrays are {shapes}")
        for name, values in arrays.items():
            _check_finite(name, values)
        arrays["actions"] = _inside(arrays["actions"])
        arrays["truncations"] = _closed(arrays["terminations"], arrays["truncations"])
        if "next_observations" not in arrays:
            arrays["next_observations"] = _following(arrays)
        elif arrays["next_observations"].shape != arrays["observations"].shape:
            raise ValueError(
                f"next_observations of shape {arrays['next_observations'].shape} do not fit "
                f"observations of shape {arrays['observations'].shape}"
            )
        for name, values in arrays.items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def observation_size(self) -> int:
        return self.observations.shape[1]

    @property
    def action_size(self) -> int:
        return self.actions.shape[1]

    @functools.cached_property
    def ends(self) -> Int[np.ndarray, "trajectory"]:
        """One past the last transition of each trajectory."""
        return _read_only(np.flatnonzero(self.terminations | self.truncations) + 1)

    @property
    def lengths(self) -> Int[np.ndarray, "trajectory"]:
        return np.diff(self.ends, prepend=0)

    @functools.cached_property
    def returns(self) -> Float[np.ndarray, "trajectory"]:
        """The undiscounted return of each trajectory."""
        return self._summed(self.rewards)

    @functools.cached_property
    def cost_returns(self) -> Float[np.ndarray, "trajectory"]:
        """The undiscounted cost of each trajectory; raises ``ValueError`` without costs."""
        if self.costs is None:
            raise ValueError(
                "these data have no costs; read a dataset of a safe task, or set them"
            )
        return self._summed(self.costs)

    def trajectories(self) -> Iterator["TransitionDataset"]:
        """Each trajectory as a dataset of its own."""
        for start, end in zip(self.ends - self.lengths, self.ends, strict=True):
            yield self._rows(slice(start, end))

    def take(self, trajectories: int) -> "TransitionDataset":
        """The first ``trajectories`` trajectories."""
        self._check_count(trajectories)
        return self._rows(slice(0, self.ends[trajectories - 1]))

    def top(self, trajectories: int, by: str = "return") -> "TransitionDataset":
        """The ``trajectories`` of greatest ``return`` or of least ``cost``, best first."""
        if by not in ("return", "cost"):
            raise ValueError(f"by={by!r} is unknown; expected 'return' or 'cost'")
        self._check_count(trajectories)
        worth = self.returns if by == "return" else -self.cost_returns
        return self.select(np.argsort(-worth, kind="stable")[:trajectories])

    def where(
        self, return_at_least: float = -np.inf, cost_at_most: float = np.inf
    ) -> "TransitionDataset":
        """The trajectories within both bounds.

        Raises ``ValueError`` saying how far the data reach if there is none.
        """
        good = self.returns >= return_at_least
        if cost_at_most < np.inf:
            good &= self.cost_returns <= cost_at_most
        if not good.any():
            reach = f"the greatest return is {self.returns.max():.6g}"
            if self.costs is not None:
                reach += f", the least cost {self.cost_returns.min():.6g}"
            raise ValueError(
                f"none of {len(good)} trajectories has return_at_least={return_at_least:g} and "
                f"cost_at_most={cost_at_most:g}: {reach}; move a threshold"
            )
        return self.select(np.flatnonzero(good))

    def fraction(self, share: float, seed: int) -> "TransitionDataset":
        """A random ``share`` of the trajectories, at least one, in the order of the data."""
        if not 0 < share <= 1:
            raise ValueError(f"the share must be in (0, 1], not {share!r}")
        total = len(self.ends)
        count = max(1, round(share * total))
        chosen = np.random.default_rng(seed).choice(total, count, replace=False)
        return self.select(np.sort(chosen))

    def select(self, trajectories: Sequence[int]) -> "TransitionDataset":
        """These trajectories, by their numbers, in this order."""
        starts = (self.ends - self.lengths)[trajectories]
        lengths = self.lengths[trajectories]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self._rows(np.repeat(starts, lengths) + offsets)

    def summary(self) -> dict[str, Any]:
        """Counts, and quantiles over trajectories of length, return and (where known) cost.

        ``actions_clipped`` counts transitions with an action that lay at ±1 or beyond.
        """
        facts: dict[str, Any] = {
            "transitions": len(self),
            "trajectories": len(self.ends),
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "terminations": int(self.terminations.sum()),
            "truncations": int(self.truncations.sum()),
            "actions_clipped": int((np.abs(self.actions) >= np.float32(INSIDE)).any(axis=1).sum()),
            "length": _quantiles(self.lengths),
            "return": _quantiles(self.returns),
        }
        if self.costs is not None:
            facts["cost"] = _quantiles(self.cost_returns)
        return facts

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array there is under its name, on the host."""
        found = {name: getattr(self, name) for name in _DIMENSIONS}
        return {name: values for name, values in found.items() if values is not None}

    def columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named arrays, on the host."""
        arrays = self.arrays()
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"these data have no {' or '.join(missing)}")
        return {name: arrays[name] for name in names}

    def _rows(self, rows: slice | np.ndarray) -> "TransitionDataset":
        return TransitionDataset(
            **{name: _read_only(a[rows]) for name, a in self.arrays().items()}
        )

    def _summed(self, values: np.ndarray) -> np.ndarray:
        return _read_only(np.add.reduceat(values.astype(np.float64), self.ends - self.lengths))

    def _check_count(self, trajectories: int) -> None:
        if not 1 <= trajectories <= len(self.ends):
            raise ValueError(
                f"cannot take {trajectories} trajectories of a dataset of {len(self.ends)}"
            )


def concatenate(datasets: Sequence[TransitionDataset]) -> TransitionDataset:
    """The trajectories of all ``datasets``, one dataset after the other."""
    if not datasets:
        raise ValueError("there is nothing to concatenate: give at least one dataset")
    sizes = {(d.observation_size, d.action_size) for d in datasets}
    if len(sizes) != 1:
        raise ValueError(f"(observation, action) sizes differ between datasets: {sorted(sizes)}")
    if len({d.costs is None for d in datasets}) != 1:
        raise ValueError("some of the datasets have costs and some have none; give costs to all")
    parts = [dataset.arrays() for dataset in datasets]
    return TransitionDataset(
        **{name: _read_only(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    )


def _frozen(values: Any, kind: type) -> np.ndarray:
    """``values`` as a read-only array of ``kind``, copied unless nobody else can write to it."""
    owner = values
    while isinstance(getattr(owner, "base", None), np.ndarray):
        owner = owner.base
    if isinstance(owner, np.ndarray) and not owner.flags.writeable:
        return _read_only(np.asarray(values, dtype=kind))
    return _read_only(np.array(values, dtype=kind))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


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


def _inside(actions: np.ndarray) -> np.ndarray:
    largest = max(actions.max(), -actions.min())
    if largest > 1 + 1e-5:
        raise ValueError(
            f"actions must lie in [-1, 1], but one is as large as {largest:g}; scale them by "
            "the bounds of the environment's action space"
        )
    if largest <= np.float32(INSIDE):
        return actions
    return _read_only(np.clip(actions, -INSIDE, INSIDE))


def _closed(terminations: np.ndarray, truncations: np.ndarray) -> np.ndarray:
    if terminations[-1] or truncations[-1]:
        return truncations
    closed = truncations.copy()
    closed[-1] = True
    return _read_only(closed)


def _following(arrays: dict[str, np.ndarray]) -> np.ndarray:
    observations = arrays["observations"]
    following = np.roll(observations, -1, axis=0)
    last = arrays["terminations"] | arrays["truncations"]
    following[last] = observations[last]
    return _read_only(following)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = ("min", "quarter", "median", "three_quarters", "max")
    found = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return {**dict(zip(names, map(float, found), strict=True)), "mean": float(np.mean(values))}
