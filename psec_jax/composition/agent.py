"""A policy whose skills are mixed by weights that follow from the state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from psec_jax.composition.levels import LEVELS, check_level
from psec_jax.networks import ConstantWeights
from psec_jax.policies import Policy, act


@struct.dataclass
class ComposedPolicy:
    """π₀ and its skills under a context network (or constant weights), at one level.

    Weights are computed once for an observation and held through the denoising steps.
    """

    policy: Policy
    context_params: Any
    context: nn.Module = struct.field(pytree_node=False)
    level: str = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls, policy: Policy, context: nn.Module, level: str, key: jax.Array
    ) -> "ComposedPolicy":
        """With a fresh context network; raises ``ValueError`` if its width is not the bank's."""
        check_level(level, policy)
        variables = context.init(key, jnp.zeros((1, policy.observation_size)))
        composed = cls(policy, variables.get("params", {}), context, level)
        shape = jax.eval_shape(
            composed.weights, jax.ShapeDtypeStruct((1, policy.observation_size), jnp.float32)
        ).shape
        if shape != (1, policy.bank.size):
            raise ValueError(
                f"the context network gives weights of shape {shape} for one observation, but "
                f"the bank holds {policy.bank.size} skill(s) {list(policy.bank.names)}"
            )
        return composed

    @classmethod
    def fixed(cls, policy: Policy, weights: Array, level: str = "parameter") -> "ComposedPolicy":
        """With given constant weights (k,)."""
        check_level(level, policy)
        policy.bank.gains(weights)
        params = {"weights": jnp.asarray(weights, jnp.float32)}
        return cls(policy, params, ConstantWeights(policy.bank.size), level)

    @property
    def observation_size(self) -> int:
        return self.policy.observation_size

    @property
    def action_size(self) -> int:
        return self.policy.action_size

    def weights(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"]:
        """α(s) for raw observations."""
        normalised = self.policy.statistics.normalise(observations)
        return self.context.apply({"params": self.context_params}, normalised)

    def act(
        self, key: jax.Array, observations: Array, weights: Array | None = None
    ) -> Float[Array, "batch action"]:
        """Actions for a batch of observations; given ``weights`` replace the context network's."""
        return act(self, key, observations, weights)

    def sample(self, key: jax.Array, observations: Array, weights: Array | None = None) -> Array:
        if weights is None:
            weights = self.weights(observations)
        return LEVELS[self.level].sample(self.policy, key, observations, weights)

    def loss(self, batch: dict[str, Array], key: jax.Array) -> Float[Array, "batch"]:
        """The level's loss of each sample, as a function of the context parameters."""
        weights = self.weights(batch["observations"])
        return LEVELS[self.level].loss(self.policy, batch, key, weights)

    def with_context(self, context_params: Any) -> "ComposedPolicy":
        return dataclasses.replace(self, context_params=context_params)

