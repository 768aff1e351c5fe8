"""Training a skill: deltas on a frozen policy."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import struct
from jaxtyping import Array

from psec_jax.backbones import Batch
from psec_jax.learners.actors import ActorLoss, Deltas, imitation
from psec_jax.learners.critics import Critics
from psec_jax.learners.optimizer import AnyOptimizer, TrainState, descend, mean_loss
from psec_jax.policies import Policy
from psec_jax.skills.bank import Adapter, Skill


@struct.dataclass
class SkillLearner:
    """Trains one skill's deltas by ``loss``; ``policy`` (without a bank) stays as it is."""

    policy: Policy
    adapter: Adapter = struct.field(pytree_node=False)
    optimizer: AnyOptimizer = struct.field(pytree_node=False)
    loss: ActorLoss = struct.field(pytree_node=False, default=imitation)

    name = "skill"
    columns = ("observations", "actions")

    def init(self, key: jax.Array, example: Batch) -> TrainState:
        """Starts from deltas that add exactly zero, so the fresh skill is π₀."""
        del example
        return TrainState.start(Deltas(self.policy, self.adapter).init(key), self.optimizer)

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        critics: Mapping[str, Critics] | None = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        trained = Deltas(self.policy, self.adapter)

        def loss(deltas):
            return mean_loss(self.loss(trained.at(deltas), batch, critics or {}, key), batch)

        return descend(loss, state, self.optimizer)

    def result(self, state: TrainState, **provenance: Any) -> Skill:
        """The averaged deltas as a skill of this base policy."""
        return Deltas(self.policy, self.adapter).result(state.average, **provenance)
