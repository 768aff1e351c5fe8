"""The noise predictor of the diffusion policy (PSEC, section 3.1 and appendix)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from psec_jax.networks.activations import activation


class FourierFeatures(nn.Module):
    """Learnable random features of a scalar: ``[cos 2πtf, sin 2πtf]`` (Tancik et al., 2020)."""

    features: int = 64

    @nn.compact
    def __call__(self, time: Float[Array, "batch"]) -> Float[Array, "batch features"]:
        normal = nn.initializers.normal(0.2, jnp.float32)
        frequencies = self.param("frequencies", normal, (self.features // 2,))
        angles = 2 * jnp.pi * time[:, None] * frequencies
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Fourier features followed by two dense layers; stays frozen while skills are learned."""

    features: int = 64
    hidden: int = 128
    activation: str = "swish"

    @nn.compact
    def __call__(self, time: Float[Array, "batch"]) -> Float[Array, "batch hidden"]:
        x = FourierFeatures(self.features, name="fourier")(time)
        x = activation(self.activation)(nn.Dense(self.hidden, name="in")(x))
        return nn.Dense(self.hidden, name="out")(x)


class ResidualBlock(nn.Module):
    """Dropout, LayerNorm, an ``expansion``-times wider hidden layer, and a skip connection."""

    expansion: int = 4
    activation: str = "swish"
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
        width = x.shape[-1]
        h = nn.Dropout(self.dropout)(x, deterministic=not self.has_rng("dropout"))
        h = nn.LayerNorm(name="norm")(h)
        h = activation(self.activation)(nn.Dense(self.expansion * width, name="up")(h))
        return x + nn.Dense(width, name="down")(h)


class Denoiser(nn.Module):
    """ε_θ(a_t, t, s): predicts the noise in a noisy action.

    Dropout is active exactly when a ``dropout`` random key is given to ``apply``.
    """

    features: int = 256
    blocks: int = 3
    expansion: int = 4
    activation: str = "swish"
    dropout: float = 0.1
    time_features: int = 64
    time_hidden: int = 128

    @nn.compact
    def __call__(
        self,
        noisy_actions: Float[Array, "batch action"],
        time: Float[Array, "batch"],
        observations: Float[Array, "batch observation"],
    ) -> Float[Array, "batch action"]:
        embedding = TimeEmbedding(
            self.time_features, self.time_hidden, self.activation, name="time"
        )(time)
        x = jnp.concatenate([noisy_actions, observations, embedding], axis=-1)
        x = nn.Dense(self.features, name="in")(x)
        for index in range(self.blocks):
            x = ResidualBlock(
                self.expansion, self.activation, self.dropout, name=f"block_{index}"
            )(x)
        return nn.Dense(noisy_actions.shape[-1], name="out")(activation(self.activation)(x))
