"""Going home: π₀ acts where its own reward says that things have gone wrong.

A skill's few demonstrations never show what they avoid, such as a robot that lies on the ground,
so no context that is learned from them knows what to do there. π₀'s own data show it, with
rewards. Where π₀'s reward is low, π₀ is the expert in setting it right; elsewhere the mixture acts
as it was composed. All of this is learned from offline data.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from psec_jax.acting import Observations
from psec_jax.composition.agent import ComposedPolicy
from psec_jax.composition.levels import Level
from psec_jax.imports import class_at
from psec_jax.networks import Homing
from psec_jax.policies import Policy

if TYPE_CHECKING:
    from psec_jax.learners import Purpose

# Between which shares of the usual reward skills take over from π₀. A compromise: of walker's
# seeds 10 and 11, stand → run and walk → run gained by higher levels, and stand → walk lost more.
SWITCH = (0.1, 0.3)


def homing(
    agent: ComposedPolicy, purpose: "Purpose", low: float = SWITCH[0], high: float = SWITCH[1]
) -> ComposedPolicy:
    """``agent`` with its weights times g(s), from 0 where π₀'s reward is at most ``low`` to 1
    where it is at least ``high`` (``networks.Homing``); both in units of π₀'s ``usual`` reward.

    ``purpose`` is that of the agent's base policy, learned with its statistics. Raises
    ``ValueError`` for one that does not fit it, for levels out of order, and for a mixture that is
    not π₀ at weights of 0 or whose weights are functions of each layer's input.
    """
    if not isinstance(agent, ComposedPolicy):
        raise ValueError(
            f"what goes home is a composed policy, not a {type(agent).__name__}; compose one, and "
            "choose among its actions (BestOf) afterwards"
        )
    check_home(agent.level)
    if callable(agent.weights(jnp.zeros((1, agent.observation_size)))):
        raise ValueError(
            "the weights are a function of each layer's input, which no function of the state "
            "can be multiplied with; use weights by skill, or by layer (networks.ByLayer)"
        )
    low, high = switch_of((low, high))
    check_purpose_of(agent.base, purpose)
    context = Homing(agent.context, purpose.network, low, high)
    usual = jnp.asarray(purpose.usual, jnp.float32)
    params = {"source": agent.context_params, "reward": purpose.params, "usual": usual}
    return dataclasses.replace(agent, context=context, context_params=params)


def check_home(level: Level) -> None:
    """Raises ``ValueError`` for a level at which weights of 0 are not π₀."""
    if not getattr(level, "base_enters", True):
        raise ValueError(
            f"weights of 0 are π₀ only where it enters the mixture, and it does not in {level!r}; "
            "compose with base_enters=True, or at level 'parameter'"
        )


def switch_of(levels: Sequence[float]) -> tuple[float, float]:
    """(low, high) as numbers; raises ``ValueError`` unless they are two in order."""
    try:
        low, high = map(float, levels)
    except (TypeError, ValueError):
        raise ValueError(f"switch must be two numbers, (low, high), not {levels!r}") from None
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low must be below high, not {low!r} and {high!r}")
    return low, high


def check_purpose_of(base: Policy, purpose: Any) -> None:
    """Raises ``ValueError`` unless ``purpose`` is one that was learned with ``base``'s statistics:
    a number for each state, and a usual one that is positive."""
    if not isinstance(purpose, class_at("Purpose", {})):
        raise ValueError(f"a {type(purpose).__name__} is no purpose; see learn_purpose")
    expected, given = base.statistics, purpose.statistics
    alike = jax.tree.structure(given) == jax.tree.structure(expected)
    if not (alike and all(map(np.array_equal, jax.tree.leaves(given), jax.tree.leaves(expected)))):
        raise ValueError(
            "the purpose normalizes observations otherwise than the base policy; learn it with "
            "learn_purpose(π₀, …), which takes the statistics of π₀"
        )
    states = jax.ShapeDtypeStruct((2, base.observation_size), jnp.float32)
    try:
        usual, rewards = float(purpose.usual), jax.eval_shape(purpose.reward, states)
    except Exception as error:
        raise ValueError(f"the parts of the purpose do not fit each other: {error}") from error
    if rewards.shape != (2,):
        raise ValueError(
            f"the purpose's network gives {rewards.shape} for 2 states; expected a reward for each"
        )
    if not 0 < usual < math.inf:
        raise ValueError(
            f"the purpose's usual reward is {usual:g}, of which no share can be taken; expected a "
            "positive number"
        )


def home_rewards(
    agent: ComposedPolicy, observations: Observations
) -> Float[Array, "batch"] | None:
    """r̂(s) in units of the usual reward, by which an agent of ``homing`` goes home; None for one
    that does not."""
    context, params = agent.context, agent.context_params
    if not isinstance(context, Homing):
        return None
    normalized = agent.base.statistics.normalize(jnp.asarray(observations))
    rewards = cast(Array, context.reward.apply({"params": params["reward"]}, normalized))
    return rewards / params["usual"]
