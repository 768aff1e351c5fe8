"""Offline data: transitions in the order in which they were met, trajectory after trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class TransitionDataset:
    """n transitions on the host, immutable.

    observations (n, obs) and actions (n, act) in [−1, 1] and rewards (n,) are float32;
    ``terminations`` marks transitions into a terminal state, ``truncations`` the last transition
    of a trajectory that was cut off, both (n,). The data end with the end of a trajectory even
    where neither is marked. Raises ``ValueError`` for empty, uneven or non-finite data
    and for actions out of bounds.
    """

    observations: Float[np.ndarray, "n observation"]
    actions: Float[np.ndarray, "n action"]
    rewards: Float[np.ndarray, "n"]
    terminations: Bool[np.ndarray, "n"]
    truncations: Bool[np.ndarray, "n"]

    def __post_init__(self):
        for name, dimensions in _DIMENSIONS.items():
            kind = np.bool_ if name in ("terminations", "truncations") else np.float32
            values = np.array(getattr(self, name), dtype=kind)
            if values.ndim != dimensions:
                raise ValueError(
                    f"{name} must have {dimensions} dimension(s), not shape {values.shape}"
                )
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the lengths of a dataset's arrays differ: {lengths}")
        if not len(self):
            raise ValueError("the dataset is empty: it needs at least one transition")
        for name in ("observations", "actions", "rewards"):
            bad = ~np.isfinite(getattr(self, name)).reshape(len(self), -1).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"{name} hold {int(bad.sum())} row(s) that are not finite, the first at "
                    f"transition {int(bad.argmax())}; drop those trajectories or mend the file"
                )
        if (largest := np.abs(self.actions).max()) > 1 + 1e-5:
            raise ValueError(
                f"actions must lie in [-1, 1], but one is as large as {largest:g}; scale them by "
                "the bounds of the environment's action space"
            )

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def observation_size(self) -> int:
        return self.observations.shape[1]

    @property
    def action_size(self) -> int:
        return self.actions.shape[1]

    @property
    def ends(self) -> Int[np.ndarray, "trajectory"]:
        """One past the last transition of each trajectory."""
        last = self.terminations | self.truncations
        ends = np.flatnonzero(last) + 1
        return ends if last[-1] else np.append(ends, len(self))

    @property
    def returns(self) -> Float[np.ndarray, "trajectory"]:
        """The undiscounted return of each trajectory."""
        starts = np.append(0, self.ends[:-1])
        return np.add.reduceat(self.rewards.astype(np.float64), starts)

    def take(self, trajectories: int) -> "TransitionDataset":
        """The first ``trajectories`` trajectories."""
        if not 1 <= trajectories <= len(self.ends):
            raise ValueError(
                f"cannot take {trajectories} trajectories of a dataset of {len(self.ends)}"
            )
        end = self.ends[trajectories - 1]
        return TransitionDataset(*(getattr(self, f.name)[:end] for f in fields(self)))

    def device(self) -> dict[str, jax.Array]:
        """Observations and actions as arrays on the default device."""
        return {
            "observations": jnp.asarray(self.observations),
            "actions": jnp.asarray(self.actions),
        }


_DIMENSIONS = {
    "observations": 2,
    "actions": 2,
    "rewards": 1,
    "terminations": 1,
    "truncations": 1,
}


def concatenate(datasets: Sequence[TransitionDataset]) -> TransitionDataset:
    """The trajectories of all ``datasets``, one dataset after the other."""
    if not datasets:
        raise ValueError("there is nothing to concatenate: give at least one dataset")
    sizes = {(d.observation_size, d.action_size) for d in datasets}
    if len(sizes) != 1:
        raise ValueError(f"(observation, action) sizes differ between datasets: {sorted(sizes)}")
    columns = {f.name: [getattr(d, f.name) for d in datasets] for f in fields(TransitionDataset)}
    for dataset, truncations in zip(datasets, columns["truncations"], strict=True):
        if not (truncations[-1] or dataset.terminations[-1]):
            raise ValueError("a dataset that does not end its last trajectory cannot be joined")
    return TransitionDataset(**{name: np.concatenate(parts) for name, parts in columns.items()})
