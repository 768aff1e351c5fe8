"""Learning a skill: deltas on a frozen policy, by behaviour cloning."""

import dataclasses
from typing import Any

import jax
from flax import struct
from jaxtyping import Array

from psec_jax.learners.optimisation import Optimisation, TrainState, descend, mean_loss
from psec_jax.policies import Policy, fingerprint
from psec_jax.skills.bank import Adapter, Bank, Skill


@struct.dataclass
class SkillLearner:
    """Trains one skill's deltas; ``policy`` (without a bank) stays as it is."""

    policy: Policy
    adapter: Adapter = struct.field(pytree_node=False)
    optimisation: Optimisation = struct.field(pytree_node=False)

    name = "skill"
    columns = ("observations", "actions")

    def init(self, key: jax.Array, example: dict[str, Array]) -> TrainState:
        """Starts from deltas that add exactly zero, so the fresh skill is π₀."""
        del example
        deltas = self.adapter.fresh(key, self.policy.dense_layers())
        return TrainState.start(deltas, self.optimisation)

    def update(
        self, state: TrainState, batch: dict[str, Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, Array]]:
        loss_key, dropout_key = jax.random.split(key)

        def loss(deltas):
            skill = Skill(deltas, self.adapter, base="")
            policy = dataclasses.replace(self.policy, bank=Bank.of({"skill": skill}))
            return mean_loss(policy.loss(batch, loss_key, dropout=dropout_key), batch)

        return descend(loss, state, self.optimisation)

    def result(self, state: TrainState, **provenance: Any) -> Skill:
        """The averaged deltas as a skill of this base policy."""
        return Skill(state.average, self.adapter, fingerprint(self.policy), provenance)
