"""Sample weights: which samples are worth imitating, as critics see them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from psec_jax.backbones import Batch
from psec_jax.learners.critics import Critics

# What each sample's loss is multiplied by, given the critics by name.
Weigh = Callable[[Mapping[str, Critics], Batch], Float[Array, "batch"]]


@dataclass(frozen=True)
class AdvantageWeights:
    """min(exp(temperature · A), clip), with the advantage A of one critic (AWR, IQL)."""

    critic: str = "return"
    temperature: float = 3.0
    clip: float = 100.0

    def __post_init__(self):
        _check_weights(self.temperature, self.clip)

    def __call__(self, critics: Mapping[str, Critics], batch: Batch) -> Float[Array, "batch"]:
        return exponential(
            _critic(critics, self.critic).advantage(batch), self.temperature, self.clip
        )


@dataclass(frozen=True)
class FeasibleWeights:
    """min(exp(temperature · A), clip) where A > 0, else 0: what is safer than the state's value.

    With A = V_h − Q_h of feasibility critics these are the paper's 1[A_h < 0] exp(−temp · A_h).
    """

    critic: str = "feasibility"
    temperature: float = 3.0
    clip: float = 150.0

    def __post_init__(self):
        _check_weights(self.temperature, self.clip)

    def __call__(self, critics: Mapping[str, Critics], batch: Batch) -> Float[Array, "batch"]:
        advantage = _critic(critics, self.critic).advantage(batch)
        return jnp.where(advantage > 0, exponential(advantage, self.temperature, self.clip), 0.0)


@dataclass(frozen=True)
class FisorWeights:
    """FISOR's: in feasible states the advantage in return of actions that stay feasible, elsewhere
    the advantage in feasibility (Zheng et al., 2024)."""

    reward: str = "return"
    safety: str = "feasibility"
    temperature: float = 3.0
    safety_temperature: float = 5.0
    clip: float = 100.0

    def __post_init__(self):
        _check_weights(self.temperature, self.clip)
        _check_weights(self.safety_temperature, self.clip)

    def __call__(self, critics: Mapping[str, Critics], batch: Batch) -> Float[Array, "batch"]:
        reward, safety = _critic(critics, self.reward), _critic(critics, self.safety)
        observations = batch["observations"]
        rewarding = exponential(reward.advantage(batch), self.temperature, self.clip)
        staying = safety.q(observations, batch["actions"]) <= 0
        escaping = exponential(safety.advantage(batch), self.safety_temperature, self.clip)
        feasible = safety.value(observations) <= 0
        return jnp.where(feasible, jnp.where(staying, rewarding, 0.0), escaping)


def exponential(advantage: Array, temperature: float, clip: float) -> Array:
    """min(exp(temperature · A), clip), without overflow."""
    return jnp.exp(jnp.minimum(temperature * advantage, jnp.log(clip)))


def _critic(critics: Mapping[str, Critics], name: str) -> Critics:
    if name not in critics:
        raise ValueError(
            f"samples are weighed by the critic {name!r}, but there are {list(critics)}; name one "
            f"of these, such as AdvantageWeights({next(iter(critics), 'return')!r})"
        )
    return critics[name]


def _check_weights(temperature: float, clip: float) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 and finite, not {temperature!r}")
    if not clip >= 1:
        raise ValueError(f"clip must be at least 1, not {clip!r}")
