"""Where composition weights come from: a network of the state, or one constant vector."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

# Each skill's weight before training, given how many there are.
STARTS = {"even": lambda skills: 1 / skills, "zero": lambda skills: 0.0}


class ContextNetwork(nn.Module):
    """α(s; θ): one weight a skill from the state (PSEC, section 3.3).

    Training begins from a known composition, the same in every state: with ``start`` ``even``
    from the even mixture, 1/k for each of k skills, with ``zero`` from π₀ (PSEC's published code
    begins near it).
    """

    skills: int
    hidden: tuple[int, ...] = (256, 256)
    start: str = "even"

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"]:
        x = observations
        for index, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{index}")(x))
        start = _start(self.start, self.skills)
        return nn.Dense(
            self.skills, kernel_init=nn.initializers.zeros, bias_init=start, name="weights"
        )(x)


class ConstantWeights(nn.Module):
    """Fixed weights as a module with one parameter vector: composition without context.

    ``start`` as in ``ContextNetwork``.
    """

    skills: int
    start: str = "even"

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"]:
        weights = self.param("weights", _start(self.start, self.skills), (self.skills,))
        return jnp.broadcast_to(weights, (*observations.shape[:-1], self.skills))


def _start(name: str, skills: int) -> nn.initializers.Initializer:
    if name not in STARTS:
        raise ValueError(f"start {name!r} is unknown; expected one of {sorted(STARTS)}")
    return nn.initializers.constant(STARTS[name](skills), jnp.float32)
