"""Adding a bank's deltas to any Linen network from outside, and merging them into its kernels.

``flax.linen.intercept_methods`` sees each call of Flax's own ``nn.Dense`` and ``nn.DenseGeneral``,
also from a subclass or a wrapper, and a delta is added there: where the kernel meets its input.
So a network needs no LoRA versions of its layers, and one that is not ours carries skills too.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from psec_jax.parameters import Params, Path, by_path, nested
from psec_jax.skills.bank import Bank
from psec_jax.skills.deltas import Delta
from psec_jax.skills.weights import Weights, WeightsByLayer, is_fixed, samples

_CALLS = tuple(inspect.unwrap(layer.__call__) for layer in (nn.Dense, nn.DenseGeneral))
_SLICE = "psec_slice"


def inject(
    network: nn.Module,
    params: Params,
    bank: Bank | None,
    weights: Weights = None,
    dropout: jax.Array | None = None,
) -> Callable[..., Any]:
    """``network`` as a function of its inputs, with the bank's deltas mixed in by ``weights``.

    ``weights`` are constant or by sample, for all layers or by layer (``skills.weights``);
    ``None`` is weight 1 for each skill. With weights by sample the network sees each sample as a
    batch of one, under ``vmap``, so that its layers may lay out the batch as they like; all inputs
    but scalars then have the batch as their first axis. A function is given each layer's input as
    it is laid out there, features last. ``bank=None`` adds nothing. ``dropout`` is the random key
    that switches dropout on.
    """
    if bank is None:
        if weights is not None:
            raise ValueError("weights were given to a policy that carries no skills")
        return lambda *inputs: apply_with(network, params, {}, {}, inputs, dropout)
    gains = bank.gains(weights)
    size = samples(gains)
    if size is None:
        return lambda *inputs: apply_with(network, params, bank.layers, gains, inputs, dropout)

    def one(gains, key, inputs):
        output = apply_with(network, params, bank.layers, gains, inputs, key)
        return jax.tree.map(lambda leaf: jnp.atleast_2d(leaf)[0], output)

    def by_sample(*inputs):
        _check_batch(size, inputs)
        keys = None if dropout is None else jax.random.split(dropout, size)
        rows = tuple(x[:, None] if jnp.ndim(x) else x for x in inputs)
        axes = tuple(0 if jnp.ndim(x) else None for x in inputs)
        return jax.vmap(one, in_axes=(gain_axes, 0, axes))(row_gains, keys, rows)

    row_gains = {path: g[:, None] if g.ndim > 2 else g for path, g in gains.items()}
    gain_axes = {path: 0 if g.ndim > 2 else None for path, g in gains.items()}
    return by_sample


def merge(params: Params, bank: Bank, weights: Weights = None) -> Params:
    """Parameters whose kernels include the bank's deltas at fixed ``weights``.

    Acting with them costs what the bare network costs and gives the actions of injection, to
    float tolerance. Raises ``ValueError`` for weights that vary by sample or are a function.
    """
    gains = bank.gains(weights)
    if callable(gains) or not is_fixed(gains):
        given = "a function of each layer's input" if callable(gains) else "weights by sample"
        raise ValueError(
            f"only fixed weights of shape ({bank.size},) can be merged, or of ({bank.size}, "
            f"blocks) by layer, not {given}: kernels are the same in every state"
        )
    flat = by_path(params)
    for path, deltas in bank.layers.items():
        layer, index = _place(path, flat)
        kernel = flat[*layer, "kernel"]
        for delta in deltas:
            added = delta.kernel(gains[path]).reshape(kernel.shape[len(index) :])
            kernel = jnp.asarray(kernel).at[index].add(added) if index else kernel + added
        flat[*layer, "kernel"] = kernel
    return nested(flat)


@dataclass(frozen=True)
class Product:
    """One call of a dense layer as a product of matrices.

    ``x`` is its input, (..., d_in), with the contracted axes last and flattened; ``kernel`` is
    the shape of its kernel there, of which the first ``contracted`` axes make up d_in.
    """

    path: Path
    x: jax.Array
    kernel: tuple[int, ...]
    contracted: int

    @classmethod
    def of(cls, context: nn.module.InterceptorContext, args, kwargs) -> "Product | None":
        """What is about to be called, or None where that is not Flax's own dense layer."""
        if context.orig_method.func not in _CALLS:
            return None
        layer, x = context.module, jnp.asarray(args[0] if args else kwargs["inputs"])
        features, axes = np.atleast_1d(layer.features).tolist(), [-1]
        if isinstance(layer, nn.DenseGeneral):
            axes = np.atleast_1d(layer.axis).tolist()
        axes = sorted(axis % x.ndim for axis in axes)
        kernel = (*(x.shape[axis] for axis in axes), *features)
        x = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
        rest = x.shape[: x.ndim - len(axes)]
        x = x.reshape(*rest, math.prod(x.shape[len(rest) :]))
        return cls(layer.path, x, kernel, len(axes))


def apply_with(
    network: nn.Module,
    params: Params,
    layers: Mapping[str, tuple[Delta, ...]],
    gains: WeightsByLayer,
    inputs: tuple[jax.Array, ...],
    dropout: jax.Array | None = None,
) -> Any:
    """Apply ``network`` with the deltas of ``layers`` added at ``gains``, (k, m) or (1, k, m) by
    layer, or a function."""
    rngs = None if dropout is None else {"dropout": dropout}
    if not layers:
        return network.apply({"params": params}, *inputs, rngs=rngs)
    flat = by_path(params)
    places: dict[Path, dict[tuple[int, ...], str]] = {}
    for path in layers:
        layer, index = _place(path, flat)
        places.setdefault(layer, {})[index] = path
    stacks = {layer: flat[*layer, "kernel"].shape[: len(min(places[layer]))] for layer in places}
    for layer, stack in stacks.items():
        if stack:
            flat[*layer, _SLICE] = _numbered(stack, flat[*layer, "kernel"].shape)

    def add(path, y, x):
        if path is None:
            return y
        at_layer = gains(path, x) if callable(gains) else gains[path]
        for delta in layers[path]:
            y = y + delta.contribution(x, at_layer).astype(y.dtype).reshape(y.shape)
        return y

    def add_deltas(call, args, kwargs, context):
        y = call(*args, **kwargs)
        product = Product.of(context, args, kwargs)
        if product is None or (slices := places.get(product.path)) is None:
            return y
        x = product.x.astype(jnp.result_type(product.x, y))
        if () in slices:
            return add(slices[()], y, x)
        branches = [partial(add, slices.get(i)) for i in np.ndindex(stacks[product.path])]
        number = context.module.get_variable("params", _SLICE).ravel()[0]
        return jax.lax.switch(number, branches, y, x)

    with nn.intercept_methods(add_deltas):
        variables = {"params": nested(flat)}
        return network.apply(variables, *inputs, rngs=rngs)


def _place(path: str, flat: Mapping[Path, jax.Array]) -> tuple[Path, tuple[int, ...]]:
    """The layer that ``path`` names, and which slice of its kernel where kernels are stacked:
    ``block/in/2`` is slice 2 of the kernel of ``block/in``."""
    parts = tuple(path.split("/")) if path else ()
    for end in range(len(parts), -1, -1):
        index = parts[end:]
        if (*parts[:end], "kernel") in flat and all(part.isdecimal() for part in index):
            return parts[:end], tuple(int(part) for part in index)
    raise ValueError(f"the network has no dense layer {path!r} for a delta to go into")


def _numbered(stack: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """For each entry of stacked kernels the number of its slice. Whatever a lifted transform does
    to the kernels it does to this too, so that a layer's call knows which slice it sees."""
    numbers = jnp.arange(math.prod(stack)).reshape(*stack, *(1,) * (len(shape) - len(stack)))
    return jnp.broadcast_to(numbers, shape)


def _check_batch(size: int, inputs: tuple[jax.Array, ...]) -> None:
    for x in inputs:
        if jnp.ndim(x) and len(x) != size:
            raise ValueError(
                f"weights for {size} samples do not fit an input of shape {jnp.shape(x)}; the "
                "first axis of each must be the batch"
            )
