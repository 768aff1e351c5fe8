"""Demonstrations that come along: small trained actors, rolled out into datasets.

Each asset is an actor trained with SAC (256 × 256, 200k environment steps); the JSON file beside
its weights says in which environment, and the return it is known to reach.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from psec_jax import envs, storage
from psec_jax.data.dataset import TransitionDataset
from psec_jax.evaluation.rollout import Step, rollout


@dataclass(frozen=True)
class BehaviourPolicy:
    """A deterministic actor in numpy: tanh(relu MLP), with the facts recorded about it."""

    weights: dict[str, np.ndarray]
    environment: str
    return_mean: float

    @classmethod
    def load(cls, name: str) -> "BehaviourPolicy":
        with resources.as_file(resources.files("psec_jax.assets")) as folder:
            weights, _ = storage.read_tensors(Path(folder) / f"{name}.safetensors")
            facts = json.loads((Path(folder) / f"{name}.json").read_text())
        return cls(weights, facts["environment"], facts["return_mean"])

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Actions (n, act) for raw observations (n, obs)."""
        h = observations
        for layer in ("hidden_0", "hidden_1"):
            h = np.maximum(h @ self.weights[f"{layer}/kernel"] + self.weights[f"{layer}/bias"], 0)
        return np.tanh(h @ self.weights["mean/kernel"] + self.weights["mean/bias"])


def generate(
    policy: BehaviourPolicy, trajectories: int, seed: int, parallel: int = 50
) -> TransitionDataset:
    """Roll ``policy`` out for ``trajectories`` episodes, seeded.

    Raises ``RuntimeError`` if the mean return is not the one recorded for the policy, beyond what
    chance allows: then the simulator is not the one it was trained in.
    """
    vector = envs.make(policy.environment, min(parallel, trajectories))
    seeds = np.random.SeedSequence(seed).generate_state(trajectories)
    parts: list[list[np.ndarray]] = []
    try:
        for start in range(0, trajectories, vector.num_envs):
            batch = seeds[start : start + vector.num_envs]
            steps = list(rollout(vector, policy, batch))
            parts.extend(_trajectory(steps, index) for index in range(len(batch)))
    finally:
        vector.close()
    dataset = TransitionDataset(*map(np.concatenate, zip(*parts, strict=True)))
    _check_return(policy, dataset.returns)
    return dataset


def _trajectory(steps: list[Step], index: int) -> list[np.ndarray]:
    steps = [step for step in steps if step.active[index]]
    columns = ("observations", "actions", "rewards", "terminations", "truncations")
    return [np.array([getattr(step, name)[index] for step in steps]) for name in columns]


def _check_return(policy: BehaviourPolicy, returns: np.ndarray) -> None:
    # Returns have a long lower tail, so a few trajectories may lie well below the mean.
    tolerance = policy.return_mean * (0.02 + 0.4 / np.sqrt(len(returns)))
    if abs(returns.mean() - policy.return_mean) > tolerance:
        raise RuntimeError(
            f"demonstrations in {policy.environment} returned {returns.mean():.1f} on average, "
            f"but this policy is known to return {policy.return_mean:.1f} ± {tolerance:.1f}; "
            "install the pinned simulator versions: pip install -c constraints.txt -e ."
        )
