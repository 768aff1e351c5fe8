"""Evaluating a policy in an environment: many episodes at once, one policy call for all."""

import gc
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from psec_jax import envs
from psec_jax.evaluation.rollout import rollout


@dataclass(frozen=True)
class Evaluation:
    """Every episode's return and length, (episodes,)."""

    returns: Float[np.ndarray, "episode"]
    lengths: Int[np.ndarray, "episode"]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """The standard deviation over episodes."""
        return float(np.std(self.returns))

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.std:.1f} over {len(self.returns)} episodes"


def evaluate(
    policy: Any, env_id: str, *, episodes: int, key: jax.Array, parallel: int = 50
) -> Evaluation:
    """Undiscounted returns of ``episodes`` episodes, up to ``parallel`` of them at once.

    ``policy`` is a pytree with ``sample(key, observations)``. Both its randomness and the
    environments' seeds follow from ``key``. Raises ``ValueError`` if the environment does not
    fit the policy.
    """
    for name, value in {"episodes": episodes, "parallel": parallel}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    rounds = -(-episodes // parallel)
    vector = envs.make(env_id, -(-episodes // rounds))
    returns, lengths = [], []
    try:
        check_fit(policy, vector, env_id)
        for round_key in jax.random.split(key, rounds):
            count = min(vector.num_envs, episodes - len(returns))
            total, length = np.zeros(vector.num_envs), np.zeros(vector.num_envs, int)
            for step in _episodes(policy, vector, count, round_key):
                total += np.where(step.active, step.rewards, 0.0)
                length += step.active
            returns.extend(total[:count])
            lengths.extend(length[:count])
    finally:
        vector.close()
        del vector
        # Simulators lie in reference cycles, and many evaluations would pile up gigabytes of them.
        gc.collect()
    return Evaluation(np.array(returns), np.array(lengths))


def trace_weights(
    policy: Any, env_id: str, *, key: jax.Array
) -> tuple[Float[np.ndarray, "step skill"], Float[np.ndarray, "step"]]:
    """α(s) and the reward at each step of one episode of a composed policy."""
    vector = envs.make(env_id, 1)
    try:
        check_fit(policy, vector, env_id)
        weigh = jax.jit(type(policy).weights)
        steps = [
            (np.asarray(weigh(policy, step.observations))[0], step.rewards[0])
            for step in _episodes(policy, vector, 1, key)
        ]
    finally:
        vector.close()
    weights, rewards = zip(*steps, strict=True)
    return np.array(weights), np.array(rewards)


def check_fit(policy: Any, vector: Any, env_id: str) -> None:
    """Raise ``ValueError`` unless the environment's sizes are the policy's."""
    sizes = vector.single_observation_space.shape[0], vector.single_action_space.shape[0]
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"{env_id} has (observation, action) sizes {sizes}, but the policy was made for "
            f"{expected}; evaluate it in an environment like the one its data came from"
        )


def _episodes(policy, vector, count, key):
    seed_key, act_key = jax.random.split(key)
    seeds = np.asarray(jax.random.randint(seed_key, (count,), 0, 2**31 - 1))
    steps = itertools.count()

    def act(observations):
        return np.asarray(_act(policy, act_key, next(steps), observations))

    return rollout(vector, act, seeds)


@jax.jit
def _act(policy, key, step, observations):
    return policy.sample(jax.random.fold_in(key, step), observations)
