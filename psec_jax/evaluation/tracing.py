"""One episode step by step: weights, rewards and pictures."""

import functools
from dataclasses import dataclass, replace
from typing import cast

import jax
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Float, UInt8

from psec_jax import reprs
from psec_jax.acting import Actor, ComposedActor
from psec_jax.composition import ComposedPolicy, home_rewards
from psec_jax.envs import Environment
from psec_jax.evaluation.episodes import check_fit, episodes_of, limited, opened
from psec_jax.networks import Homing
from psec_jax.parameters import classes
from psec_jax.policies import BestOf
from psec_jax.skills.weights import per_skill


@dataclass(frozen=True)
class Trace:
    """One episode of a composed policy, step by step.

    ``pictures`` are (step, image (height, width, 3)). Of an agent that goes home,
    ``home_rewards`` are π₀'s modeled rewards, in units of the usual one, and ``switch`` the levels
    of these between which skills take over from it (``composition.homing``).
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
    with opened(environment, 1) as vector:
        check_fit(policy, vector, environment)
        steps, pictures, kind = [], [], classes(policy)
        episode = limited(episodes_of([policy], vector, 1, 1, [key]), max_steps, environment)
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
    with opened(environment, 1) as vector:
        check_fit(policy, vector, environment)
        every = picture_interval(vector, pictures_per_second)
        episode = limited(episodes_of([policy], vector, 1, 1, [key]), max_steps, environment)
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


@functools.partial(jax.jit, static_argnames="kind")
def _weights(policy, observations, kind):
    del kind
    return per_skill(policy.weights(observations))
