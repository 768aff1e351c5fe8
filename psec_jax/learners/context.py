"""Learning how to mix: the context network over a frozen policy and frozen skills."""

import jax
from flax import struct
from jaxtyping import Array

from psec_jax.composition import ComposedPolicy
from psec_jax.learners.optimisation import Optimisation, TrainState, descend, mean_loss


@struct.dataclass
class ContextLearner:
    """Trains ``composed``'s context parameters by the loss of its level; all else is frozen.

    With a ``ConstantWeights`` context it tunes fixed weights instead.
    """

    composed: ComposedPolicy
    optimisation: Optimisation = struct.field(pytree_node=False)

    name = "context"
    columns = ("observations", "actions")

    def init(self, key: jax.Array, example: dict[str, Array]) -> TrainState:
        """Starts from the composed policy's own context parameters."""
        del key, example
        return TrainState.start(self.composed.context_params, self.optimisation)

    def update(
        self, state: TrainState, batch: dict[str, Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, Array]]:
        def loss(params):
            return mean_loss(self.composed.with_context(params).loss(batch, key), batch)

        return descend(loss, state, self.optimisation)

    def result(self, state: TrainState) -> ComposedPolicy:
        """The composed policy with the averaged context parameters."""
        return self.composed.with_context(state.average)
