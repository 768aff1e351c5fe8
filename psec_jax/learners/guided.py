"""Learners that critics guide: which samples are worth imitating, and training both at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from psec_jax.learners.critics import Critics
from psec_jax.training.seeds import named_key

Batch = dict[str, Array]
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
        return exponential(critics[self.critic].advantage(batch), self.temperature, self.clip)


def exponential(advantage: Array, temperature: float, clip: float) -> Array:
    """min(exp(temperature · A), clip), without overflow."""
    return jnp.exp(jnp.minimum(temperature * advantage, jnp.log(clip)))


@struct.dataclass
class Weighted:
    """A learner whose samples ``weigh`` weighs; None leaves them as they are."""

    learner: Any
    weigh: Weigh | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class Frozen:
    """Something learnt before, in a learner's place: no update changes it."""

    learnt: Any

    name = "frozen"
    columns = ()

    def init(self, key: jax.Array, example: Batch) -> tuple[()]:
        return ()

    def update(self, state: tuple[()], batch: Batch, key: jax.Array) -> tuple[tuple[()], dict]:
        return state, {}

    def result(self, state: tuple[()]) -> Any:
        return self.learnt


@struct.dataclass
class GuidedLearner:
    """Critics, and the learners that they guide, trained on the same batches.

    Each update first moves the critics, then every learner, weighted by what the critics now say.
    """

    critics: dict[str, Any]
    learners: dict[str, Weighted]

    name = "guided"

    @property
    def columns(self) -> tuple[str, ...]:
        parts = [*self.critics.values(), *(w.learner for w in self.learners.values())]
        return tuple(dict.fromkeys(column for part in parts for column in part.columns))

    def init(self, key: jax.Array, example: Batch) -> dict[str, dict[str, Any]]:
        return {
            "critics": {
                name: critic.init(named_key(key, f"critic {name}"), example)
                for name, critic in self.critics.items()
            },
            "learners": {
                name: weighted.learner.init(named_key(key, name), example)
                for name, weighted in self.learners.items()
            },
        }

    def update(
        self, state: dict[str, dict[str, Any]], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Array]]:
        critic_states, states, metrics = {}, {}, {}
        for name, critic in self.critics.items():
            critic_states[name], found = critic.update(
                state["critics"][name], batch, named_key(key, f"critic {name}")
            )
            metrics |= {f"{name}/{metric}": value for metric, value in found.items()}
        critics = {n: c.result(critic_states[n]) for n, c in self.critics.items()}
        loss = 0.0
        for name, weighted in self.learners.items():
            own = batch
            if weighted.weigh is not None:
                weights = jax.lax.stop_gradient(weighted.weigh(critics, batch))
                metrics[f"{name}/weight"] = weights.mean()
                own = {**batch, "weights": weights}
            states[name], found = weighted.learner.update(
                state["learners"][name], own, named_key(key, name)
            )
            metrics |= {f"{name}/{metric}": value for metric, value in found.items()}
            loss += found["loss"]
        metrics["loss"] = loss
        return {"critics": critic_states, "learners": states}, metrics

    def result(self, state: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What each learner has learnt, and each critic, by name."""
        learnt = {n: w.learner.result(state["learners"][n]) for n, w in self.learners.items()}
        critics = {n: c.result(state["critics"][n]) for n, c in self.critics.items()}
        return learnt, critics


def _check_weights(temperature: float, clip: float) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 and finite, not {temperature!r}")
    if not clip >= 1:
        raise ValueError(f"clip must be at least 1, not {clip!r}")
