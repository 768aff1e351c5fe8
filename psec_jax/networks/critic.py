"""A scalar function of a state, or of a state and an action."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from psec_jax.networks.activations import activation


class Critic(nn.Module):
    """An MLP from its inputs, side by side, to one number each: V(s) or Q(s, a).

    ``input_norm`` is a LayerNorm on the inputs, as PSEC's published code has on V's but not on
    Q's; ``layer_norm`` one after each hidden layer's activation, as ReBRAC has.
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    input_norm: bool = False
    layer_norm: bool = False

    @nn.compact
    def __call__(self, *inputs: Float[Array, "batch _"]) -> Float[Array, "batch"]:
        x = jnp.concatenate(inputs, axis=-1)
        if self.input_norm:
            x = nn.LayerNorm(name="norm")(x)
        for index, width in enumerate(self.hidden):
            x = activation(self.activation)(nn.Dense(width, name=f"hidden_{index}")(x))
            if self.layer_norm:
                x = nn.LayerNorm(name=f"norm_{index}")(x)
        return nn.Dense(1, name="value")(x)[..., 0]
