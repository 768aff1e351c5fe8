"""Adding a bank's deltas to any Linen network from outside, and merging them into its kernels.

``flax.linen.intercept_methods`` sees each ``nn.Dense`` as it is called, so a network needs no
LoRA versions of its layers, and one that is not ours carries skills just as well.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from psec_jax.skills.bank import Bank


def _dense_path(context: nn.module.InterceptorContext) -> str | None:
    if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
        return "/".join(context.module.path)
    return None


def _input(args: tuple, kwargs: Mapping[str, Any]) -> jax.Array:
    return args[0] if args else kwargs["inputs"]


def _along(gains: jax.Array, x: jax.Array) -> jax.Array:
    """Gains by sample (batch, k) for an input with further axes between batch and features."""
    if gains.ndim == 2 and x.ndim > 2:
        return gains.reshape(gains.shape[0], *(1,) * (x.ndim - 2), gains.shape[1])
    return gains


def inject(bank: Bank | None, weights: jax.Array | None = None) -> AbstractContextManager:
    """A context in which every ``apply`` adds the bank's deltas at the layers they belong to.

    ``weights`` is (k,), or (batch, k) for one mixture a sample; ``None`` is weight 1 for each
    skill. ``bank=None`` adds nothing.
    """
    if bank is None:
        if weights is not None:
            raise ValueError("weights were given to a policy that carries no skills")
        return nullcontext()
    gains = bank.gains(weights)

    def add_deltas(call, args, kwargs, context):
        y = call(*args, **kwargs)
        path = _dense_path(context)
        for delta in bank.layers.get(path, ()):
            x = _input(args, kwargs)
            y = y + delta.contribution(x, _along(gains, x)).astype(y.dtype)
        return y

    return nn.intercept_methods(add_deltas)


def dense_layers(function: Callable, *args: Any) -> dict[str, tuple[int, int]]:
    """The path and kernel shape (d_in, d_out) of each dense layer that ``function(*args)`` calls.

    Nothing is computed: ``function`` is traced with abstract values.
    """
    layers = {}

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if (path := _dense_path(context)) is not None:
            layers[path] = (_input(args, kwargs).shape[-1], y.shape[-1])
        return y

    with nn.intercept_methods(record):
        jax.eval_shape(function, *args)
    return layers


def merge(params: Mapping, bank: Bank, weights: jax.Array | None = None) -> dict:
    """Parameters whose kernels include the bank's deltas at fixed ``weights`` (k,).

    Acting with them costs what the bare network costs and gives the actions of injection, to
    float tolerance. Raises ``ValueError`` for weights that vary by sample.
    """
    gains = bank.gains(weights)
    if gains.ndim != 1:
        raise ValueError(
            f"only fixed weights of shape ({bank.size},) can be merged, not {jnp.shape(weights)}"
        )
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    for path, deltas in bank.layers.items():
        for delta in deltas:
            kernel = f"{path}/kernel".removeprefix("/")
            flat[kernel] = flat[kernel] + delta.kernel(gains)
    return traverse_util.unflatten_dict(flat, sep="/")
