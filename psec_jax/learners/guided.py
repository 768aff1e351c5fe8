"""Learners that critics guide: training critics and what they guide at once."""

import operator
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from psec_jax.backbones import Batch
from psec_jax.learners.critics import Critics
from psec_jax.learners.weights import Weigh
from psec_jax.training.learner import Learner
from psec_jax.training.seeds import named_key


@struct.dataclass
class Frozen:
    """Something learned before, in a learner's place: no update changes it."""

    learned: Any

    name = "frozen"
    columns = ()

    def init(self, key: jax.Array, example: Batch) -> tuple[()]:
        return ()

    def update(self, state: tuple[()], batch: Batch, key: jax.Array) -> tuple[tuple[()], dict]:
        return state, {}

    def result(self, state: tuple[()]) -> Any:
        return self.learned


class Guidable(Learner, Protocol):
    """A learner whose update also takes critics, none where it learns alone."""

    def update(
        self,
        state: Any,
        batch: Batch,
        key: jax.Array,
        critics: Mapping[str, Critics] | None = None,
    ) -> tuple[Any, dict[str, Array]]: ...


@struct.dataclass
class GuidedLearner:
    """Critics, and a learner that they guide, trained on the same batches.

    Each update first moves the critics, by name, then one copy of ``learner`` for each of
    ``weighs``: pairs of a name and what the copy's samples are weighed by, where None leaves them
    as they are. The copies are one vectorized program.

    The learner's ``update(state, batch, key, critics)`` finds the weights in the batch, and is
    given the critics themselves, for losses that they enter (``learners.actors``).
    """

    critics: Mapping[str, Learner]
    learner: Guidable
    weighs: tuple[tuple[str, Weigh | None], ...] = struct.field(pytree_node=False)

    name = "guided"

    @property
    def columns(self) -> tuple[str, ...]:
        parts = [self.learner, *self.critics.values()]
        return tuple(dict.fromkeys(column for part in parts for column in part.columns))

    def init(self, key: jax.Array, example: Batch) -> dict[str, Any]:
        return {
            "critics": {
                name: critic.init(named_key(key, f"critic {name}"), example)
                for name, critic in self.critics.items()
            },
            "copies": jax.vmap(lambda k: self.learner.init(k, example))(self._keys(key)),
        }

    def update(
        self, state: dict[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        critic_states, metrics = {}, {}
        for name, critic in self.critics.items():
            critic_states[name], critic_metrics = critic.update(
                state["critics"][name], batch, named_key(key, f"critic {name}")
            )
            metrics |= {f"{name}/{metric}": value for metric, value in critic_metrics.items()}
        critics = {name: c.result(critic_states[name]) for name, c in self.critics.items()}
        weights = jax.lax.stop_gradient(
            jnp.stack([_weights(weigh, critics, batch) for _, weigh in self.weighs])
        )

        def update(copy, copy_weights, k):
            return self.learner.update(copy, {**batch, "weights": copy_weights}, k, critics)

        copies, copy_metrics = jax.vmap(update)(state["copies"], weights, self._keys(key))
        copy_metrics = {**copy_metrics, "weight": weights.mean(axis=1)}
        for index, (name, _) in enumerate(self.weighs):
            metrics |= {f"{name}/{metric}": value[index] for metric, value in copy_metrics.items()}
        metrics["loss"] = copy_metrics["loss"].sum()
        return {"critics": critic_states, "copies": copies}, metrics

    def result(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What each copy of the learner has learned, and each critic, by name."""
        learned = {
            name: self.learner.result(jax.tree.map(operator.itemgetter(index), state["copies"]))
            for index, (name, _) in enumerate(self.weighs)
        }
        return learned, {n: c.result(state["critics"][n]) for n, c in self.critics.items()}

    def _keys(self, key: jax.Array) -> jax.Array:
        return jnp.stack([named_key(key, name) for name, _ in self.weighs])


def _weights(weigh: Weigh | None, critics: Mapping[str, Critics], batch: Batch) -> Array:
    return jnp.ones(len(batch["actions"])) if weigh is None else weigh(critics, batch)
