"""Episodes of policies in a vector environment: what evaluating and tracing have in common."""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from psec_jax import envs
from psec_jax.acting import Actor
from psec_jax.envs import Environment
from psec_jax.evaluation.rollout import Step, rollout
from psec_jax.parameters import classes
from psec_jax.training.seeds import groups, shapes, stacked


@contextmanager
def opened(environment: Environment, copies: int) -> Iterator[VectorEnv]:
    if isinstance(environment, gymnasium.Env | VectorEnv):
        yield envs.adapt(environment)
        return
    vector = envs.make(environment, copies)
    try:
        yield vector
    finally:
        vector.close()


def check_fit(policy: Actor, vector: VectorEnv, environment: Environment) -> None:
    """Raise ``TypeError`` unless the policy is a pytree, and ``ValueError`` unless the
    environment's sizes are its own."""
    if jax.tree_util.all_leaves([policy]):
        raise TypeError(
            f"{type(policy).__name__} is no pytree, so it cannot enter a compiled program; "
            "decorate it with @flax.struct.dataclass"
        )
    spaces = vector.single_observation_space, vector.single_action_space
    sizes = tuple(gymnasium.spaces.flatdim(space) for space in spaces)
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"{environment} has (observation, action) sizes {sizes}, but the policy was made for "
            f"{expected}; evaluate it in an environment like the one its data came from"
        )


def limited(steps: Iterator[Step], max_steps: int, environment: Environment) -> Iterator[Step]:
    for number, step in enumerate(steps):
        if number == max_steps:
            raise RuntimeError(
                f"an episode of {environment} has not ended after {max_steps} steps; give it a "
                "time limit, such as gymnasium.wrappers.TimeLimit, or a larger max_steps"
            )
        yield step


def episodes_of(policies, vector, copies, count, keys):
    """``count`` episodes of each policy, in ``copies`` of the environments each."""
    seed_keys, act_keys = zip(*(jax.random.split(key) for key in keys), strict=True)
    seeds: list[int | None] = []
    for key in seed_keys:
        seeds += np.asarray(jax.random.randint(key, (count,), 0, 2**31 - 1)).tolist()
        seeds += [None] * (copies - count)
    alike = [
        (
            group,
            stacked([policies[i] for i in group]),
            stacked([act_keys[i] for i in group]),
            classes(policies[group[0]]),
        )
        for group in groups([shapes(policy) for policy in policies])
    ]
    numbers = itertools.count()

    def act(observations):
        each = observations[: len(policies) * copies].reshape(len(policies), copies, -1)
        actions = np.zeros((len(observations), *vector.single_action_space.shape), np.float32)
        acted = actions[: len(policies) * copies].reshape(*each.shape[:2], -1)
        number = next(numbers)
        for group, policy, key, kind in alike:
            rows = stacked([each[i] for i in group])
            acted[group] = _act(policy, key, number, rows, kind=kind, several=len(group) > 1)
        return actions

    return rollout(vector, act, seeds)


@functools.partial(jax.jit, static_argnames=("kind", "several"))
def _act(policy, key, step, observations, kind, several):
    del kind

    def act(policy, key, observations):
        return policy.sample(jax.random.fold_in(key, step), observations)

    return (jax.vmap(act) if several else act)(policy, key, observations)
