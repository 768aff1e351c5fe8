"""Weights of k skills: for all layers alike, by layer and block of its outputs, or asked of it.

Arrays of weights are constant, or have the batch as their first axis.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# (k,) or (batch, k) for all layers; path → (k, m) or (batch, k, m), a weight for each of m equal
# blocks of the layer's outputs; or (path, the layer's input (..., d_in)) → (..., k, m).
Weights = Array | np.ndarray | Mapping[str, Array] | Callable[[str, Array], Array] | None
WeightsByLayer = Mapping[str, Array] | Callable[[str, Array], Array]


def by_layer(weights: Weights, names: Sequence[str], outputs: Mapping[str, int]) -> WeightsByLayer:
    """``weights`` as (..., k, m) for each layer; ``None`` is weight 1 for each skill.

    ``names`` are the k skills, ``outputs`` maps each layer's path to d_out. Raises ``ValueError``
    for weights that do not fit; a function's are checked where it is called.
    """
    if callable(weights):
        return lambda path, x: _fitting(weights(path, x), names, path, outputs[path])
    if isinstance(weights, Mapping):
        if weights.keys() != outputs.keys():
            raise ValueError(
                f"weights by layer must be given for just the layers {sorted(outputs)}; missing: "
                f"{sorted(outputs.keys() - weights.keys())}, unknown: "
                f"{sorted(weights.keys() - outputs.keys())}"
            )
        fitting = {path: _fitting(weights[path], names, path, outputs[path]) for path in outputs}
        sizes = {w.shape[:-2] for w in fitting.values() if w.ndim > 2}
        if len(sizes) > 1 or any(len(size) > 1 for size in sizes):
            raise ValueError(
                f"weights by layer must have no batch axis or the same one, not {sorted(sizes)}"
            )
        return fitting
    weights = jnp.ones(len(names)) if weights is None else jnp.asarray(weights, jnp.float32)
    check_shared(weights, names)
    return dict.fromkeys(outputs, weights[..., None])


def check_shared(weights: Array | np.ndarray, names: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``weights`` are (k,) or (batch, k)."""
    shape, count = jnp.shape(weights), len(names)
    if len(shape) not in (1, 2) or shape[-1] != count:
        raise ValueError(
            f"weights of shape {shape} do not fit {count} skill(s) {list(names)}; expected "
            f"({count},) or (batch, {count})"
        )


def samples(weights: Weights) -> int | None:
    """The size of the batch that weights are for; None where they are constant or a function."""
    if weights is None or callable(weights):
        return None
    if isinstance(weights, Mapping):
        return next((len(w) for w in weights.values() if np.ndim(w) > 2), None)
    return len(weights) if np.ndim(weights) > 1 else None


def is_fixed(weights: Weights) -> bool:
    """Whether weights are the same for every sample: arrays without a batch axis."""
    return not callable(weights) and samples(weights) is None


def per_skill(weights: Weights) -> Float[Array, "... skill"]:
    """The mean weight of each skill over layers and blocks, (k,) or (batch, k).

    Raises ``ValueError`` for a function, whose weights depend on what each layer sees.
    """
    if callable(weights):
        raise ValueError(
            "weights that are asked of each layer depend on its input, so no weight of a skill "
            "follows from the state; use weights that are arrays"
        )
    if not isinstance(weights, Mapping):
        return jnp.asarray(weights)
    means = [jnp.mean(w, axis=-1) for w in weights.values()]
    return sum(means[1:], start=means[0]) / len(means)


def _fitting(weights: Array, names: Sequence[str], path: str, outputs: int) -> Array:
    weights, count = jnp.asarray(weights, jnp.float32), len(names)
    shape = weights.shape
    if len(shape) < 2 or shape[-2] != count or shape[-1] < 1 or outputs % shape[-1]:
        raise ValueError(
            f"weights of shape {shape} do not fit {count} skill(s) {list(names)} at the layer "
            f"{path!r} of {outputs} outputs; expected (..., {count}, blocks) with a number of "
            f"blocks that divides {outputs}"
        )
    return weights
