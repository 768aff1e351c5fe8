"""Learning how to mix: the context network over a frozen policy and frozen skills."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from psec_jax.backbones import Batch
from psec_jax.composition import ComposedPolicy
from psec_jax.learners.critics import Critics
from psec_jax.learners.optimizer import AnyOptimizer, TrainState, descend, mean_loss
from psec_jax.skills.weights import per_skill


@struct.dataclass
class ContextLearner:
    """Trains ``composed``'s context parameters by the loss of its level; all else is frozen.

    With a ``ConstantWeights`` context it tunes fixed weights instead. ``anchor`` holds each
    skill's mean weight over a batch (and over layers and blocks) near a given value: it adds
    ``anchor_strength`` times the sum of their squared distances to the loss.
    """

    composed: ComposedPolicy
    optimizer: AnyOptimizer = struct.field(pytree_node=False)
    anchor: tuple[float, ...] | None = struct.field(pytree_node=False, default=None)
    anchor_strength: float = struct.field(pytree_node=False, default=1.0)

    def __post_init__(self):
        if self.anchor is not None and len(self.anchor) != len(self.composed.names):
            raise ValueError(
                f"anchor {self.anchor} does not fit {len(self.composed.names)} skill(s) "
                f"{list(self.composed.names)}; give one weight for each"
            )
        if not self.anchor_strength >= 0:
            raise ValueError(f"anchor_strength must be at least 0, not {self.anchor_strength!r}")

    name = "context"
    columns = ("observations", "actions")

    def init(self, key: jax.Array, example: Batch) -> TrainState:
        """Starts from the composed policy's own context parameters."""
        del key, example
        return TrainState.start(self.composed.context_params, self.optimizer)

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        critics: Mapping[str, Critics] | None = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        del critics  # They weigh its samples, but do not enter the loss of a level.

        def loss(params):
            composed = self.composed.with_context(params)
            loss = mean_loss(composed.loss(batch, key), batch)
            return loss + self._distance(composed, batch)

        return descend(loss, state, self.optimizer)

    def _distance(self, composed: ComposedPolicy, batch: Batch) -> Float[Array, ""]:
        if self.anchor is None:
            return jnp.zeros(())
        weights = per_skill(composed.weights(batch["observations"]))
        means = jnp.atleast_2d(weights).mean(axis=0)
        return self.anchor_strength * jnp.sum(jnp.square(means - jnp.asarray(self.anchor)))

    def result(self, state: TrainState) -> ComposedPolicy:
        """The composed policy with the averaged context parameters."""
        return self.composed.with_context(state.average)
