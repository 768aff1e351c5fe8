"""Which layers of a network carry deltas: found by tracing it, and checked by one gradient.

Adding a delta to a layer's output and adding it to the layer's kernel must be the same. They are
exactly where the gradients with respect to either are the same at a generic point, which fails
for a kernel that is normalized, transformed or quantized on its way into the layer, or that is
used in another place too. A kernel that is rounded as if it were not (a straight-through
estimator) is told by its value.
"""

import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.errors import FlaxError

from psec_jax.skills.deltas import Full
from psec_jax.skills.injection import Product, apply_with

_BATCH = 2
# Run once on a batch of two: the time goes into compiling it.
_QUICKLY: dict[str, Any] = {"xla_backend_optimization_level": 0}
_TOLERANCE = 0.03  # Above what bfloat16 rounds, far below what a kernel used otherwise gives.


def dense_layers(network: nn.Module, *example: jax.Array) -> dict[str, tuple[int, int]]:
    """The path and kernel shape (d_in, d_out) of each layer of ``network`` that carries deltas.

    These are the ``nn.Dense`` and ``nn.DenseGeneral`` that it calls on inputs like ``example`` (a
    batch of one), whose kernels are seen as matrices. A kernel that ``nn.scan`` or ``nn.vmap``
    stacks is one layer a slice: ``block/in/0``, ``block/in/1``, …. Warns once of kernels that no
    delta can go into; raises ``ValueError`` if samples of one batch depend on each other, or if
    the network needs more than its parameters.
    """
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in example)
    return dict(_checked(network, shapes))


@functools.lru_cache(maxsize=256)
def _checked(network: nn.Module, example: tuple[jax.ShapeDtypeStruct, ...]):
    # Nothing here depends on a value that may be traced where a policy is used.
    inputs = tuple(_input(x) for x in example)
    variables = jax.eval_shape(lambda *x: network.init(jax.random.key(0), *x), *example)
    shapes = traverse_util.flatten_dict(nn.unbox(variables.get("params", {})))
    try:
        layers = _traced(network, shapes, inputs)
    except FlaxError as error:
        raise ValueError(
            f"{type(network).__name__} cannot be applied to a batch of {_BATCH} with parameters "
            f"alone (its variables are {sorted(variables)}); a policy's network has the one "
            "collection 'params', of the same shapes for every batch, and a dropout that is off "
            f"without a 'dropout' key: {error}"
        ) from error
    agrees = _compared(network, shapes, layers, inputs)
    carrying = [layer for layer in layers if agrees[layer]]
    kernels = {(*layer, "kernel") for layer in carrying}
    _warn_of(network, [name for name in shapes if name not in kernels], shapes)
    return {path: shape for layer in carrying for path, shape in layers[layer].items()}


def _traced(network, shapes, inputs) -> dict[tuple[str, ...], dict[str, tuple[int, int]]]:
    """Each layer's slices (one, unless its kernel is stacked) and their shapes as matrices."""
    seen: dict[tuple[str, ...], set] = {}

    def record(call, args, kwargs, context):
        if (product := Product.of(context, args, kwargs)) is not None:
            plain = _is_plain(context.module)
            key = (product.kernel, product.contracted) if plain else None
            seen.setdefault(product.path, set()).add(key)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = {"params": traverse_util.unflatten_dict(shapes)}
        jax.eval_shape(network.apply, variables, *inputs)
    layers = {}
    for layer, kinds in seen.items():
        stored = shapes.get((*layer, "kernel"))
        if stored is None or len(kinds) > 1 or None in kinds:
            continue
        ((kernel, contracted),) = kinds
        stack = stored.shape[: max(stored.ndim - len(kernel), 0)]
        if stored.shape == (*stack, *kernel):
            shape = math.prod(kernel[:contracted]), math.prod(kernel[contracted:])
            paths = ("/".join((*layer, *map(str, i))) for i in np.ndindex(stack))
            layers[layer] = dict.fromkeys(paths, shape)
    return layers


def _is_plain(layer: nn.Module) -> bool:
    """Whether it multiplies by its kernel and does nothing else with it, as far as it says."""
    custom_product = layer.dot_general is not None or layer.dot_general_cls is not None
    return not (custom_product or getattr(layer, "batch_dims", ()))


def _compared(network, shapes, layers, inputs) -> dict[tuple[str, ...], bool]:
    """Whether the gradients of each layer's deltas, at zero, are those of its kernel."""
    random = np.random.default_rng(0)
    values = {
        name: _parameter(leaf, random, kernel=name[:-1] in layers) for name, leaf in shapes.items()
    }
    kernels = {layer: values.pop((*layer, "kernel")) for layer in layers}
    slices = {path: shape for paths in layers.values() for path, shape in paths.items()}
    deltas = {path: np.zeros((1, *shape), np.float32) for path, shape in slices.items()}

    def total(kernels, deltas, floating):
        given = tuple(floating.get(i, x) for i, x in enumerate(inputs))
        whole = values | {(*layer, "kernel"): kernel for layer, kernel in kernels.items()}
        full = {path: (Full(kernel, (1,)),) for path, kernel in deltas.items()}
        gains = dict.fromkeys(full, jnp.ones((1, 1)))
        params = traverse_util.unflatten_dict(whole)
        with _marking_changed_kernels(kernels):
            output = apply_with(network, params, full, gains, given)
        return sum(_of_first_sample(leaf) for leaf in jax.tree.leaves(output))

    floating = {i: x for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)}
    with jax.disable_jit(False):
        gradient = jax.jit(jax.grad(total, (0, 1, 2))).lower(kernels, deltas, floating)
        gradient = gradient.compile(_QUICKLY)
        gradients = jax.device_get(gradient(kernels, deltas, floating))
    kernel_gradients, delta_gradients, input_gradients = gradients
    _check_samples(network, input_gradients)

    def agree(layer):
        expected = kernel_gradients[layer].ravel()
        actual = np.concatenate([delta_gradients[path].ravel() for path in layers[layer]])
        return bool(np.linalg.norm(expected - actual) <= _TOLERANCE * np.linalg.norm(expected))

    return {layer: agree(layer) for layer in layers}


def _marking_changed_kernels(stored: Mapping[tuple[str, ...], jax.Array]):
    """A context that shifts the gradient of each kernel whose value in its layer is not (a slice
    of) the one in ``stored``: a rounding may pass gradients on as if it did nothing."""

    def mark(call, args, kwargs, context):
        y = call(*args, **kwargs)
        product = Product.of(context, args, kwargs)
        if product is None or (whole := stored.get(product.path)) is None:
            return y
        seen = context.module.get_variable("params", "kernel")
        same = jnp.all(whole.reshape(-1, seen.size) == seen.ravel(), axis=1).any()
        total = seen.sum()
        return y + jnp.where(same, 0, total - jax.lax.stop_gradient(total)).astype(y.dtype)

    return nn.intercept_methods(mark)


def _input(x: jax.ShapeDtypeStruct) -> np.ndarray:
    """Two different samples where ``x`` is a batch of one."""
    shape = (_BATCH, *x.shape[1:]) if x.ndim else ()
    values = np.random.default_rng(1).normal(size=shape)
    return values.astype(x.dtype)


def _parameter(leaf: jax.ShapeDtypeStruct, random: np.random.Generator, kernel: bool):
    """Random values of the size that networks start from; positive but for kernels, since a
    parameter may be a scale. None is zero, so that no layer is cut off."""
    size = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1
    values = random.normal(size=leaf.shape)
    values = values / size**0.5 if kernel else np.exp(values / 2) / size
    return values.astype(leaf.dtype)


def _of_first_sample(leaf: jax.Array) -> jax.Array:
    """A random linear function of what a network gives for the first sample of its batch."""
    cotangent = np.random.default_rng(2).normal(size=leaf.shape)
    if leaf.ndim and len(leaf) == _BATCH:
        cotangent[1:] = 0
    return jnp.sum(leaf.astype(jnp.float32) * cotangent)


def _check_samples(network: nn.Module, gradients: Mapping[int, np.ndarray]) -> None:
    batched = [g for g in gradients.values() if g.ndim]
    first, other = (max((np.abs(g[i]).max(initial=0) for g in batched), default=0) for i in (0, 1))
    if other > _TOLERANCE * first:
        raise ValueError(
            f"{type(network).__name__} mixes the samples of a batch: its output for one depends "
            "on the others. A policy's network must treat each sample by itself, with the batch "
            "as the first axis of its inputs and outputs; look for a mean, a softmax, a norm or "
            "an attention along the batch axis"
        )


def _warn_of(network: nn.Module, names: list[tuple[str, ...]], shapes: Mapping) -> None:
    """Say which kernels no delta goes into: parameters that are more than vectors, stacked biases
    and scales aside."""
    kernels = [
        "/".join(name)
        for name in names
        if sum(size > 1 for size in shapes[name].shape) > 1 and name[-1] not in ("bias", "scale")
    ]
    if kernels:
        warnings.warn(
            f"no skill can adapt {', '.join(kernels)} of {type(network).__name__}: deltas go into "
            "the kernels of nn.Dense and nn.DenseGeneral (without batch_dims, dot_general or "
            "nn.jit), where these are used as they are stored and nowhere else",
            stacklevel=2,
        )
