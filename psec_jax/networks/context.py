"""Where composition weights come from: a network of the state or constants, shared or by layer.

A source of weights is any Linen module from observations to ``skills.weights.Weights``.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from psec_jax.networks.critic import Critic

# Each skill's weight before training, given how many there are.
STARTS = {"even": lambda skills: 1 / skills, "zero": lambda skills: 0.0}
# What becomes of a source's numbers, along the axis of skills.
LINKS = {
    "identity": lambda numbers: numbers,
    "softmax": jax.nn.softmax,
    "sigmoid": lambda numbers: _normalized(jax.nn.sigmoid(numbers)),
    "clip": lambda numbers: jnp.clip(numbers, 0, 1),
}


class ContextNetwork(nn.Module):
    """α(s; θ): one weight a skill from the state (PSEC, section 3.3).

    Training begins from a known composition, the same in every state: with ``start`` ``even``
    from the even mixture, 1/k for each of k skills, with ``zero`` from π₀ (PSEC's published code
    begins near it), or a number is where each begins. ``link`` then makes weights of the numbers:
    ``identity``, ``softmax``, ``sigmoid`` (divided by their sum) or ``clip`` to [0, 1]; softmax
    and sigmoid start from the even mixture wherever the numbers do. ``mixtures`` is how many
    mixtures are given side by side, (batch, mixtures, skill), for ``ByLayer``; None is one,
    (batch, skill).
    """

    skills: int
    hidden: tuple[int, ...] = (256, 256)
    start: str | float = "even"
    link: str = "identity"
    mixtures: int | None = None

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"] | Float[Array, "batch mixture skill"]:
        x = observations
        for index, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{index}")(x))
        shape, start = _shape(self), _start(self.start, self.skills)
        numbers = nn.Dense(
            int(np.prod(shape)), kernel_init=nn.initializers.zeros, bias_init=start, name="weights"
        )(x)
        return _link(self.link)(numbers.reshape(*numbers.shape[:-1], *shape))


class ConstantWeights(nn.Module):
    """Fixed weights as a module with one array of parameters: composition without context.

    Without a batch axis: (skill,), or (mixture, skill). The fields are ``ContextNetwork``'s.
    """

    skills: int
    start: str | float = "even"
    link: str = "identity"
    mixtures: int | None = None

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "skill"] | Float[Array, "mixture skill"]:
        numbers = self.param("weights", _start(self.start, self.skills), _shape(self))
        return _link(self.link)(numbers)


class ByLayer(nn.Module):
    """Weights by layer, and by block of its outputs: path → (..., skill, block).

    ``layers`` are (path, blocks), where the number of blocks divides that layer's outputs. Each
    block of each layer takes one of the mixtures (..., mixture, skill) that ``source`` gives.
    """

    source: nn.Module
    layers: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, source: nn.Module, layers: Mapping[str, int]) -> "ByLayer":
        """``source`` with as many ``mixtures`` as there are blocks in ``layers``, path → blocks:
        ``dict.fromkeys(bank.layers, 1)`` is by layer, ``bank.outputs`` by each output."""
        return cls(source.clone(mixtures=sum(layers.values())), tuple(layers.items()))

    @nn.compact
    def __call__(
        self, observations: Float[Array, "batch observation"]
    ) -> dict[str, Float[Array, "... skill block"]]:
        mixtures, ends = self.source(observations), np.cumsum([m for _, m in self.layers])
        if mixtures.ndim < 2 or mixtures.shape[-2] != ends[-1]:
            raise ValueError(
                f"{type(self.source).__name__} gives weights of shape {mixtures.shape}; expected "
                f"(..., {ends[-1]}, skills), a mixture for each block of the layers "
                f"{dict(self.layers)}"
            )
        parts = jnp.split(mixtures, ends[:-1], axis=-2)
        return {
            path: jnp.swapaxes(part, -1, -2)
            for (path, _), part in zip(self.layers, parts, strict=True)
        }


class Homing(nn.Module):
    """α(s) = g(s) · source(s): the source's weights where all is well, π₀ where it is not.

    g(s) = clip((r̂(s) / usual − low) / (high − low), 0, 1), with ``reward`` the model r̂ of π₀'s own
    reward (``learners.Purpose``), of which it is the ``network``. ``usual`` is a parameter.
    """

    source: nn.Module
    reward: Critic
    low: float
    high: float

    @nn.compact
    def __call__(self, observations: Float[Array, "batch observation"]) -> Any:
        usual = self.param("usual", nn.initializers.ones, ())
        share = (self.reward(observations) / usual - self.low) / (self.high - self.low)
        gate = jnp.clip(share, 0, 1)[..., None]
        weights = self.source(observations)
        if isinstance(weights, Mapping):
            return {path: gate[..., None] * by_layer for path, by_layer in weights.items()}
        return gate * weights


def _shape(source: ContextNetwork | ConstantWeights) -> tuple[int, ...]:
    return (source.skills,) if source.mixtures is None else (source.mixtures, source.skills)


def _start(start: str | float, skills: int) -> nn.initializers.Initializer:
    if isinstance(start, str) and start not in STARTS:
        raise ValueError(
            f"start {start!r} is unknown; expected one of {sorted(STARTS)}, or a number"
        )
    number = STARTS[start](skills) if isinstance(start, str) else start
    return nn.initializers.constant(number, jnp.float32)


def _link(name: str):
    if name not in LINKS:
        raise ValueError(f"link {name!r} is unknown; expected one of {sorted(LINKS)}")
    return LINKS[name]


def _normalized(numbers: Array) -> Array:
    return numbers / numbers.sum(axis=-1, keepdims=True)
