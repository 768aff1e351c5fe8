"""Training a whole policy: π₀, or a policy from scratch."""

from collections.abc import Mapping

import jax
from flax import struct
from jaxtyping import Array

from psec_jax.backbones import Batch
from psec_jax.learners.actors import ActorLoss, AllParameters, imitation
from psec_jax.learners.critics import Critics
from psec_jax.learners.optimizer import AnyOptimizer, TrainState, descend, mean_loss
from psec_jax.policies import Policy


@struct.dataclass
class PolicyLearner:
    """Trains every parameter of ``policy`` by ``loss``: its backbone's imitation loss, or one that
    critics enter (``learners.actors``)."""

    policy: Policy
    optimizer: AnyOptimizer = struct.field(pytree_node=False)
    loss: ActorLoss = struct.field(pytree_node=False, default=imitation)

    name = "policy"
    columns = ("observations", "actions")

    def init(self, key: jax.Array, example: Batch) -> TrainState:
        """Starts from the policy's own parameters."""
        del example
        return TrainState.start(AllParameters(self.policy).init(key), self.optimizer)

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        critics: Mapping[str, Critics] | None = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        trained = AllParameters(self.policy)

        def loss(params):
            return mean_loss(self.loss(trained.at(params), batch, critics or {}, key), batch)

        return descend(loss, state, self.optimizer)

    def result(self, state: TrainState) -> Policy:
        """The policy with the averaged parameters."""
        return AllParameters(self.policy).result(state.average)
