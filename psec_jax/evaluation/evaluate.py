"""Evaluating a policy in an environment: many episodes at once, one policy call for all."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Int

from psec_jax import envs
from psec_jax.evaluation.rollout import rollout


@dataclass(frozen=True)
class Evaluation:
    """Every episode's undiscounted return, length and cost, (episodes,).

    Costs are 0 in environments without any.
    """

    returns: Float[np.ndarray, "episode"]
    lengths: Int[np.ndarray, "episode"]
    costs: Float[np.ndarray, "episode"] | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """The standard deviation over episodes."""
        return float(np.std(self.returns))

    def __str__(self) -> str:
        words = f"{self.mean:.1f} ± {self.std:.1f}"
        if self.costs is not None and self.costs.any():
            words += f", cost {np.mean(self.costs):.1f} ± {np.std(self.costs):.1f}"
        return f"{words} over {len(self.returns)} episodes"


def evaluate(
    policy: Any,
    environment: str | VectorEnv,
    *,
    episodes: int,
    key: jax.Array,
    parallel: int = 50,
) -> Evaluation:
    """Undiscounted returns and costs of ``episodes`` episodes, many at once.

    ``environment`` is an id, of which up to ``parallel`` copies are made and closed again, or a
    vector environment that stays open: whoever evaluates often saves making the simulators.
    ``policy`` is a pytree with ``sample(key, observations)``. Both its randomness and the
    environments' seeds follow from ``key``. Raises ``ValueError`` if the environment does not
    fit the policy.
    """
    for name, value in {"episodes": episodes, "parallel": parallel}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    returns, lengths, costs = [], [], []
    rounds = -(-episodes // parallel)
    with _opened(environment, -(-episodes // rounds)) as vector:
        check_fit(policy, vector, environment)
        rounds = -(-episodes // vector.num_envs)
        for round_key in jax.random.split(key, rounds):
            count = min(vector.num_envs, episodes - len(returns))
            total, cost = np.zeros((2, vector.num_envs))
            length = np.zeros(vector.num_envs, int)
            for step in _episodes(policy, vector, count, round_key):
                total += np.where(step.active, step.rewards, 0.0)
                cost += np.where(step.active, step.costs, 0.0)
                length += step.active
            returns.extend(total[:count])
            lengths.extend(length[:count])
            costs.extend(cost[:count])
    return Evaluation(np.array(returns), np.array(lengths), np.array(costs))


@dataclass(frozen=True)
class Trace:
    """One episode of a composed policy, step by step, and pictures of it from above.

    ``pictures`` are (step, image (height, width, 3)).
    """

    weights: Float[np.ndarray, "step skill"]
    rewards: Float[np.ndarray, "step"]
    costs: Float[np.ndarray, "step"]
    pictures: tuple[tuple[int, np.ndarray], ...] = ()


def trace_weights(
    policy: Any, environment: str | VectorEnv, *, key: jax.Array, picture_every: int = 0
) -> Trace:
    """α(s), reward and cost at each step of one episode of a composed policy.

    A picture is taken after each so many steps in environments that can be rendered.
    """
    with _opened(environment, 1) as vector:
        check_fit(policy, vector, environment)
        weigh = jax.jit(type(policy).weights)
        steps, pictures = [], []
        for index, step in enumerate(_episodes(policy, vector, 1, key)):
            weights = np.asarray(weigh(policy, step.observations))[0]
            steps.append((weights, step.rewards[0], step.costs[0]))
            if picture_every and index % picture_every == 0:
                pictures.append((index, vector.render()[0]))
    return Trace(*map(np.array, zip(*steps, strict=True)), tuple(pictures))


@contextmanager
def _opened(environment: str | VectorEnv, copies: int) -> Iterator[VectorEnv]:
    if not isinstance(environment, str):
        yield environment
        return
    vector = envs.make(environment, copies)
    try:
        yield vector
    finally:
        vector.close()


def check_fit(policy: Any, vector: VectorEnv, environment: Any) -> None:
    """Raise ``ValueError`` unless the environment's sizes are the policy's."""
    sizes = vector.single_observation_space.shape[0], vector.single_action_space.shape[0]
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"{environment} has (observation, action) sizes {sizes}, but the policy was made for "
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
