"""Activation functions by the names used in configurations and on disk."""

from collections.abc import Callable

import jax
from flax import linen as nn

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mish": jax.nn.mish,
    "swish": nn.swish,
    "relu": nn.relu,
    "gelu": nn.gelu,
    "tanh": nn.tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function called ``name``; raises ``ValueError`` for a name that is not in the table."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; expected one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]
