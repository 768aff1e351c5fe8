"""Behaviour cloning of a whole policy: π₀, or a policy from scratch."""

import dataclasses

import jax
from flax import struct
from jaxtyping import Array

from psec_jax.learners.optimisation import Optimisation, TrainState, descend, mean_loss
from psec_jax.policies import Policy


@struct.dataclass
class PolicyLearner:
    """Trains every parameter of ``policy`` by its backbone's imitation loss."""

    policy: Policy
    optimisation: Optimisation = struct.field(pytree_node=False)

    name = "policy"
    columns = ("observations", "actions")

    def init(self, key: jax.Array, example: dict[str, Array]) -> TrainState:
        """Starts from the policy's own parameters."""
        del key, example
        return TrainState.start(self.policy.params, self.optimisation)

    def update(
        self, state: TrainState, batch: dict[str, Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, Array]]:
        loss_key, dropout_key = jax.random.split(key)

        def loss(params):
            policy = dataclasses.replace(self.policy, params=params)
            return mean_loss(policy.loss(batch, loss_key, dropout=dropout_key), batch)

        return descend(loss, state, self.optimisation)

    def result(self, state: TrainState) -> Policy:
        """The policy with the averaged parameters."""
        return dataclasses.replace(self.policy, params=state.average)
