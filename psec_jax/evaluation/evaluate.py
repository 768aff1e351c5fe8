"""Evaluating a policy in an environment: many episodes at once, one policy call for all."""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Int, UInt8

from psec_jax import envs, reprs
from psec_jax.acting import Actor, ComposedActor
from psec_jax.composition import ComposedPolicy, home_rewards
from psec_jax.envs import Environment
from psec_jax.evaluation.rollout import Step, rollout
from psec_jax.networks import Homing
from psec_jax.parameters import classes
from psec_jax.policies import BestOf
from psec_jax.settings import integer_of
from psec_jax.skills.weights import per_skill
from psec_jax.training.seeds import PerSeed, for_each_seed, groups, seed_count, shapes, stacked

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
    with _opened(environment, copies * min(len(policies), most // copies)) as vector:
        for policy in policies:
            check_fit(policy, vector, environment)
        at_once = vector.num_envs // copies
        for first in range(0, len(policies), at_once):
            some = policies[first : first + at_once]
            parts = []
            policy_keys = (jax.random.split(key, rounds) for key in keys[first : first + at_once])
            for index, round_keys in enumerate(zip(*policy_keys, strict=True)):
                count = min(copies, episodes - index * copies)
                steps = _episodes(some, vector, copies, count, round_keys)
                limited = _limited(steps, max_steps, environment)
                totals = _totals(limited, vector.num_envs)[:, : len(some) * copies]
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


def _limited(steps: Iterator[Step], max_steps: int, environment: Environment) -> Iterator[Step]:
    for number, step in enumerate(steps):
        if number == max_steps:
            raise RuntimeError(
                f"an episode of {environment} has not ended after {max_steps} steps; give it a "
                "time limit, such as gymnasium.wrappers.TimeLimit, or a larger max_steps"
            )
        yield step


@dataclass(frozen=True)
class Trace:
    """One episode of a composed policy, step by step.

    ``pictures`` are (step, image (height, width, 3)). Of an agent that goes home,
    ``home_rewards`` are π₀'s modeled rewards, and ``switch`` the levels of these between which
    skills take over from it (``composition.homing``).
    """

    weights: Float[np.ndarray, "step skill"]
    rewards: Float[np.ndarray, "step"]
    costs: Float[np.ndarray, "step"]
    pictures: tuple[tuple[int, np.ndarray], ...] = ()
    home_rewards: Float[np.ndarray, "step"] | None = None
    switch: tuple[float, float] | None = None

    @property
    def steps_at_home(self) -> int:
        """In how many steps π₀ acted alone, as the agent was at home."""
        if self.home_rewards is None or self.switch is None:
            return 0
        return int((self.home_rewards <= self.switch[0]).sum())

    @reprs.brief
    def __repr__(self):
        yield f"{len(self.weights)} steps"
        yield f"mean weights {self.weights.mean(axis=0).round(2).tolist()}"
        yield f"return {self.rewards.sum():.6g}, cost {self.costs.sum():.6g}"
        if self.home_rewards is not None:
            yield f"at home for {self.steps_at_home} steps"
        yield f"{len(self.pictures)} pictures"


def trace_weights(
    policy: ComposedActor,
    environment: Environment,
    *,
    key: jax.Array,
    picture_every: int = 0,
    max_steps: int = 100_000,
) -> Trace:
    """α(s), reward and cost at each step of one episode of a composed policy; of weights by layer
    the mean.

    ``environment`` and ``max_steps`` are those of ``evaluate``. A picture is taken after each so
    many steps in environments that can be rendered; raises ``ValueError`` where rendering gives
    no picture.
    """
    with _opened(environment, 1) as vector:
        check_fit(policy, vector, environment)
        steps, pictures, kind = [], [], classes(policy)
        episode = _limited(_episodes([policy], vector, 1, 1, [key]), max_steps, environment)
        for index, step in enumerate(episode):
            weights = np.atleast_2d(_weights(policy, step.observations, kind=kind))[0]
            steps.append((weights, step.rewards[0], step.costs[0], step.observations[0]))
            if picture_every and index % picture_every == 0:
                pictures.append((index, _picture(vector, environment)))
    weights, rewards, costs, observations = map(np.array, zip(*steps, strict=True))
    trace = Trace(weights, rewards, costs, tuple(pictures))
    mixture = policy.policy if isinstance(policy, BestOf) else policy
    if not isinstance(mixture, ComposedPolicy) or not isinstance(mixture.context, Homing):
        return trace
    home = np.asarray(home_rewards(mixture, observations))
    return replace(trace, home_rewards=home, switch=(mixture.context.low, mixture.context.high))


def film(
    policy: Actor,
    environment: Environment,
    *,
    key: jax.Array,
    pictures_per_second: float = 10.0,
    max_steps: int = 100_000,
) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Pictures of one episode, so many for each second of it.

    ``environment`` and ``max_steps`` are those of ``evaluate``. Where its ``render_fps`` does not
    say how long a step is, each step is a picture. Raises ``ValueError`` where rendering gives
    none.
    """
    with _opened(environment, 1) as vector:
        check_fit(policy, vector, environment)
        every = picture_interval(vector, pictures_per_second)
        episode = _limited(_episodes([policy], vector, 1, 1, [key]), max_steps, environment)
        return [
            np.array(_picture(vector, environment))
            for index, _ in enumerate(episode)
            if index % every == 0
        ]


def picture_interval(vector: VectorEnv, pictures_per_second: float) -> int:
    """After how many steps a picture is taken; 1 where ``render_fps`` does not say how long a step
    is."""
    rate = vector.metadata.get("render_fps") or pictures_per_second
    return max(1, round(rate / pictures_per_second))


def _picture(vector: VectorEnv, environment: Environment) -> np.ndarray:
    """The first copy, (height, width, 3)."""
    try:
        pictures = vector.render()
    except NotImplementedError:
        pictures = None
    if pictures is None or np.ndim(pictures[0]) != 3:
        raise ValueError(
            f"rendering {environment} gave no picture; make it with render_mode='rgb_array', or "
            "leave the pictures out"
        )
    return cast(np.ndarray, pictures[0])


@contextmanager
def _opened(environment: Environment, copies: int) -> Iterator[VectorEnv]:
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


def _episodes(policies, vector, copies, count, keys):
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


@functools.partial(jax.jit, static_argnames="kind")
def _weights(policy, observations, kind):
    del kind
    return per_skill(policy.weights(observations))


@functools.partial(jax.jit, static_argnames=("kind", "several"))
def _act(policy, key, step, observations, kind, several):
    del kind

    def act(policy, key, observations):
        return policy.sample(jax.random.fold_in(key, step), observations)

    return (jax.vmap(act) if several else act)(policy, key, observations)
