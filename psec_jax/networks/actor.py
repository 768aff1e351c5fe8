"""A plain actor: the mean and log standard deviation of a normal that tanh squashes."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from psec_jax.networks.activations import activation


class GaussianActor(nn.Module):
    """An MLP from observations to (mean, log_std), each of shape (batch, action)."""

    action_size: int
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    log_std_bounds: tuple[float, float] = (-5.0, 2.0)

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> tuple[Float[Array, "batch action"], Float[Array, "batch action"]]:
        x = observations
        for index, width in enumerate(self.hidden):
            x = activation(self.activation)(nn.Dense(width, name=f"hidden_{index}")(x))
        mean = nn.Dense(self.action_size, name="mean")(x)
        log_std = nn.Dense(self.action_size, name="log_std")(x)
        return mean, jnp.clip(log_std, *self.log_std_bounds)
