"""Offline data: transitions in the order in which they were met, trajectory after trajectory."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from psec_jax import reprs
from psec_jax.data.checks import (
    DIMENSIONS,
    INSIDE,
    check_seed,
    checked,
    following_actions,
    read_only,
)


@dataclass(frozen=True, eq=False)
class TransitionDataset:
    """n transitions on the host, immutable.

    ``terminations`` marks transitions into a terminal state, beyond which nothing is worth
    anything; ``truncations`` the last transition of a trajectory that was merely cut off. The last
    transition of all ends its trajectory, marked or not. Actions lie in [−1, 1] and are kept 1e-5
    inside. ``costs`` may be missing, and so may ``next_observations``: they are then the
    observations that follow, and at the end of a trajectory, whose successor no array holds, the
    last observation stands in for it. ``rewards`` may be None where data are for imitation only.

    ``next_actions``, those taken at the next observations, are a column too. Where they are None
    they follow from the actions, with NaN at the end of a trajectory, where none is known.

    Raises ``ValueError`` for empty, uneven, non-numeric or non-finite data, for marks other than 0
    and 1, and for actions out of bounds.
    """

    observations: Float[np.ndarray, "n observation"]
    actions: Float[np.ndarray, "n action"]
    rewards: Float[np.ndarray, "n"] | None
    terminations: Bool[np.ndarray, "n"]
    truncations: Bool[np.ndarray, "n"]
    costs: Float[np.ndarray, "n"] | None = None
    next_observations: Float[np.ndarray, "n observation"] | None = None
    next_actions: Float[np.ndarray, "n action"] | None = None

    def __post_init__(self):
        columns = {name: values for name, values in vars(self).items() if values is not None}
        for name, values in checked(columns).items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.observations)

    @reprs.brief
    def __repr__(self):
        yield f"{len(self)} transitions in {len(self.ends)} trajectories"
        yield f"observation {self.observation_size}, action {self.action_size}"
        if self.rewards is not None:
            yield f"return {self.returns.mean():.6g} ± {self.returns.std():.3g}"
        if self.costs is not None:
            yield f"cost {self.cost_returns.mean():.6g} ± {self.cost_returns.std():.3g}"
        # Of a thousand rows: there may be millions.
        some = slice(None, None, max(1, len(self) // 1000))
        yield reprs.values([values[some] for values in self.arrays().values()])

    @property
    def observation_size(self) -> int:
        return self.observations.shape[1]

    @property
    def action_size(self) -> int:
        return self.actions.shape[1]

    @functools.cached_property
    def ends(self) -> Int[np.ndarray, "trajectory"]:
        """One past the last transition of each trajectory."""
        return read_only(np.flatnonzero(self.terminations | self.truncations) + 1)

    @property
    def lengths(self) -> Int[np.ndarray, "trajectory"]:
        return np.diff(self.ends, prepend=0)

    @functools.cached_property
    def returns(self) -> Float[np.ndarray, "trajectory"]:
        """The undiscounted return of each trajectory; raises ``ValueError`` without rewards."""
        if self.rewards is None:
            raise ValueError(
                "these data have no rewards; read a dataset with rewards (a file's are named by "
                "keys={'rewards': '…'}), or set them"
            )
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
        good = np.ones(len(self.ends), bool)
        if return_at_least != -np.inf:
            good &= self.returns >= return_at_least
        if cost_at_most != np.inf:
            good &= self.cost_returns <= cost_at_most
        if not good.any():
            reach = []
            if self.rewards is not None:
                reach.append(f"the greatest return is {self.returns.max():.6g}")
            if self.costs is not None:
                reach.append(f"the least cost {self.cost_returns.min():.6g}")
            raise ValueError(
                f"none of {len(good)} trajectories has return_at_least={return_at_least:g} and "
                f"cost_at_most={cost_at_most:g}: {', '.join(reach)}; move a threshold"
            )
        return self.select(np.flatnonzero(good))

    def fraction(self, share: float, seed: int, by: str = "trajectory") -> "TransitionDataset":
        """A random ``share``, at least one, of the trajectories or (``by="transition"``) of the
        transitions, in the order of the data.

        A trajectory of chosen transitions is truncated wherever the next of them is not the one
        that followed; each keeps the next observation and the next action that it had.
        """
        if by not in ("trajectory", "transition"):
            raise ValueError(f"by={by!r} is unknown; expected 'trajectory' or 'transition'")
        if not 0 < share <= 1:
            raise ValueError(f"the share must be in (0, 1], not {share!r}")
        total = len(self.ends) if by == "trajectory" else len(self)
        count = max(1, round(share * total))
        generator = np.random.default_rng(check_seed(seed))
        chosen = np.sort(generator.choice(total, count, replace=False))
        return self.select(chosen) if by == "trajectory" else self._transitions(chosen)

    def truncations_as_terminations(self) -> "TransitionDataset":
        """The same transitions, each end of a trajectory a termination: nothing comes after it."""
        ends = self.terminations | self.truncations
        return self._with(terminations=ends, truncations=np.zeros_like(ends))

    def select(
        self, trajectories: Sequence[int] | Int[np.ndarray, "chosen"]
    ) -> "TransitionDataset":
        """These trajectories, by their numbers, in this order."""
        starts = (self.ends - self.lengths)[trajectories]
        lengths = self.lengths[trajectories]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self._rows(np.repeat(starts, lengths) + offsets)

    def summary(self) -> dict[str, Any]:
        """Counts, and quantiles over trajectories of length and (where known) return and cost.

        ``actions_clipped`` counts transitions with an action that lay at ±1 or beyond.
        """
        summary: dict[str, Any] = {
            "transitions": len(self),
            "trajectories": len(self.ends),
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "terminations": int(self.terminations.sum()),
            "truncations": int(self.truncations.sum()),
            "actions_clipped": int((np.abs(self.actions) >= np.float32(INSIDE)).any(axis=1).sum()),
            "length": _quantiles(self.lengths),
        }
        if self.rewards is not None:
            summary["return"] = _quantiles(self.returns)
        if self.costs is not None:
            summary["cost"] = _quantiles(self.cost_returns)
        return summary

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array there is under its name, on the host."""
        arrays = {name: getattr(self, name) for name in DIMENSIONS}
        return {name: values for name, values in arrays.items() if values is not None}

    def columns(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """The named arrays, on the host."""
        arrays = self.arrays()
        if "next_actions" in names:
            arrays["next_actions"] = self._next_actions
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"these data have no {' or '.join(missing)}")
        return {name: arrays[name] for name in names}

    def _rows(self, rows: slice | np.ndarray) -> "TransitionDataset":
        return _of({name: read_only(values[rows]) for name, values in self.arrays().items()})

    def _transitions(self, rows: Int[np.ndarray, "chosen"]) -> "TransitionDataset":
        """These transitions, in rising order."""
        if len(rows) == len(self):
            return self
        gaps = np.append(np.diff(rows) != 1, True)
        truncations = self.truncations[rows] | (gaps & ~self.terminations[rows])
        following = self._next_actions[rows]
        return self._rows(rows)._with(truncations=truncations, next_actions=following)

    @functools.cached_property
    def _next_actions(self) -> Float[np.ndarray, "n action"]:
        if self.next_actions is not None:
            return self.next_actions
        return following_actions(self.actions, self.terminations | self.truncations)

    def _with(self, **columns: np.ndarray) -> "TransitionDataset":
        return _of({**self.arrays(), **columns})

    def _summed(self, values: np.ndarray) -> np.ndarray:
        return read_only(np.add.reduceat(values.astype(np.float64), self.ends - self.lengths))

    def _check_count(self, trajectories: int) -> None:
        if not isinstance(trajectories, Integral) or not 1 <= trajectories <= len(self.ends):
            raise ValueError(
                f"cannot take {trajectories!r} trajectories of a dataset of {len(self.ends)}"
            )


def concatenate(datasets: Sequence[TransitionDataset]) -> TransitionDataset:
    """The trajectories of all ``datasets``, one dataset after the other."""
    if not datasets:
        raise ValueError("there is nothing to concatenate: give at least one dataset")
    sizes = {(d.observation_size, d.action_size) for d in datasets}
    if len(sizes) != 1:
        raise ValueError(f"(observation, action) sizes differ between datasets: {sorted(sizes)}")
    for name in ("costs", "rewards"):
        if len({getattr(d, name) is None for d in datasets}) != 1:
            raise ValueError(
                f"some of the datasets have {name} and some have none; give {name} to all"
            )
    names = {name: None for dataset in datasets for name in dataset.arrays()}
    parts = [dataset.columns(names) for dataset in datasets]
    return _of({name: read_only(np.concatenate([p[name] for p in parts])) for name in parts[0]})


def _of(arrays: Mapping[str, np.ndarray]) -> TransitionDataset:
    return TransitionDataset(**{"rewards": None, **arrays})


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = ("min", "quarter", "median", "three_quarters", "max")
    quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return {**dict(zip(names, map(float, quantiles), strict=True)), "mean": float(np.mean(values))}
