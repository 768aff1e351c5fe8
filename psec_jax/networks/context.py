"""Where composition weights come from: a network of the state, or one constant vector."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class ContextNetwork(nn.Module):
    """α(s; θ): one weight a skill from the state (PSEC, section 3.3).

    Starts at the even mixture, 1/k for each skill whatever the state, so that training
    begins from a known composition.
    """

    skills: int
    hidden: tuple[int, ...] = (256, 256)

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"]:
        x = observations
        for index, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{index}")(x))
        even = nn.initializers.constant(1 / self.skills)
        return nn.Dense(
            self.skills, kernel_init=nn.initializers.zeros, bias_init=even, name="weights"
        )(x)


class ConstantWeights(nn.Module):
    """Fixed weights as a module with one parameter vector: composition without context."""

    skills: int

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"]:
        even = nn.initializers.constant(1 / self.skills)
        weights = self.param("weights", even, (self.skills,))
        return jnp.broadcast_to(weights, (*observations.shape[:-1], self.skills))
