"""Evaluating a policy in an environment: many episodes at once, one policy call for all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Int

from psec_jax import reprs
from psec_jax.acting import Actor
from psec_jax.envs import Environment
from psec_jax.evaluation.episodes import check_fit, episodes_of, limited, opened
from psec_jax.evaluation.rollout import Step
from psec_jax.settings import integer_of
from psec_jax.training.seeds import PerSeed, for_each_seed, seed_count

A = TypeVar("A", bound=Actor)


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

    @reprs.brief
    def __repr__(self):
        yield str(self)
        yield f"lengths {self.lengths.min()} to {self.lengths.max()}"

    def __str__(self) -> str:
        text = f"{self.mean:.1f} ± {self.std:.1f}"
        if self.costs is not None and self.costs.any():
            text += f", cost {np.mean(self.costs):.1f} ± {np.std(self.costs):.1f}"
        return f"{text} over {len(self.returns)} episodes"


def evaluate(
    policy: PerSeed[A],
    environment: Environment,
    *,
    episodes: int,
    key: jax.Array,
    parallel: int = 50,
    max_steps: int = 100_000,
) -> Evaluation:
    """Undiscounted returns and costs of ``episodes`` episodes, many at once.

    ``policy`` is a pytree with ``sample(key, observations)``. ``environment`` is one of:

    - an id, of this package, of ``psec.envs.register`` or of Gymnasium's registry, or a function
      that makes a ``gymnasium.Env``: up to ``parallel`` copies are made, and closed again;
    - a ``gymnasium.vector.VectorEnv`` of any autoreset mode, or a ``gymnasium.Env``, which plays
      one episode after another: they stay open, so whoever evaluates often saves making them.

    Observations must be vectors (a one-dimensional ``Box``), and actions a ``Box`` with finite
    bounds, to which the policy's [−1, 1] is scaled dimension by dimension; its array of another
    shape is filled row by row. Costs are those of ``info["cost"]``. Both the policy's randomness
    and the environments' seeds follow from ``key``.

    With keys of shape (n,) n evaluations are returned, each as if alone: of one policy, or of a
    list of n. As many of them act at once as there are copies for.

    Raises ``ValueError`` if the environment does not fit the policy, and ``RuntimeError`` if an
    episode takes more than ``max_steps`` steps.
    """
    counts = {"episodes": episodes, "parallel": parallel, "max_steps": max_steps}
    counts = {name: integer_of(name, value) for name, value in counts.items()}
    several = seed_count(key)
    keys = [key] if several is None else list(key)
    policies = for_each_seed(policy, len(keys), "policy")
    evaluations = _evaluations(policies, environment, keys, **counts)
    return cast(Evaluation, evaluations[0] if several is None else evaluations)


def _evaluations(policies, environment, keys, episodes, parallel, max_steps) -> list[Evaluation]:
    """One for each policy and key."""
    most = parallel
    if isinstance(environment, gymnasium.Env):
        most = 1
    elif isinstance(environment, VectorEnv):
        most = min(most, environment.num_envs)
    rounds = -(-episodes // most)
    copies = -(-episodes // rounds)
    evaluations = []
    with opened(environment, copies * min(len(policies), most // copies)) as vector:
        for policy in policies:
            check_fit(policy, vector, environment)
        at_once = vector.num_envs // copies
        for first in range(0, len(policies), at_once):
            some = policies[first : first + at_once]
            parts = []
            policy_keys = (jax.random.split(key, rounds) for key in keys[first : first + at_once])
            for index, round_keys in enumerate(zip(*policy_keys, strict=True)):
                count = min(copies, episodes - index * copies)
                steps = episodes_of(some, vector, copies, count, round_keys)
                steps = limited(steps, max_steps, environment)
                totals = _totals(steps, vector.num_envs)[:, : len(some) * copies]
                parts.append(totals.reshape(3, len(some), copies)[:, :, :count])
            for returns, lengths, costs in np.moveaxis(np.concatenate(parts, 2), 1, 0):
                evaluations.append(Evaluation(returns, lengths.astype(int), costs))
    return evaluations


def _totals(steps: Iterator[Step], num_envs: int) -> np.ndarray:
    """Returns, lengths and costs, (3, environment)."""
    totals = np.zeros((3, num_envs))
    for step in steps:
        totals += np.where(
            step.active, [step.rewards, np.ones_like(step.rewards), step.costs], 0.0
        )
    return totals
