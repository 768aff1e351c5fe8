"""Actions between the bounds of their space, scaled to [−1, 1]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from psec_jax.data.checks import ROUNDING
from psec_jax.data.notices import notice

# (low, high), each one number for all dimensions or one a dimension.
Bounds = tuple[float | Sequence[float] | np.ndarray, float | Sequence[float] | np.ndarray]
Ends = tuple[np.ndarray, np.ndarray]


def check_bounds(bounds: Any) -> Ends:
    """``bounds`` as arrays; raises ``ValueError`` unless they are finite and rise."""
    try:
        low, high = (np.asarray(end, np.float64) for end in bounds)
        low, high = np.broadcast_arrays(low, high)
    except (ValueError, TypeError):
        raise ValueError(
            f"bounds must be (low, high), each a number or one a dimension, not {bounds!r}"
        ) from None
    if low.ndim > 1 or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(
            f"bounds must be finite and rise from low to high, not {_formatted(bounds)}"
        )
    return low, high


def scaled(
    actions: np.ndarray, bounds: Ends, source: object, hint: str = ""
) -> Float[np.ndarray, "n action"]:
    """``actions`` from their ``bounds`` to [−1, 1]; what lies beyond is clipped, with a warning.

    The warning counts the transitions of ``source`` beyond rounding and ends with ``hint``, in
    which ``{bounds}`` becomes bounds that hold every action. Values that are not finite are left
    to the dataset to refuse. Raises ``ValueError`` for bounds of another number of dimensions.
    """
    raw = np.asarray(actions, np.float32)
    low, high = bounds
    if low.ndim and raw.ndim == 2 and low.shape[0] not in (1, raw.shape[1]):
        raise ValueError(
            f"bounds are of {low.shape[0]} dimension(s), but actions of {source} have "
            f"{raw.shape[1]}"
        )
    if not raw.size or raw.ndim != 2 or not np.isfinite(raw).all():
        return raw
    rescaled = raw
    if (low != -1).any() or (high != 1).any():
        bottom, top = low.astype(np.float32), high.astype(np.float32)
        rescaled = 2 * (raw - bottom) / (top - bottom) - 1
    largest = max(rescaled.max(), -rescaled.min())
    if largest > 1 + ROUNDING:
        _warn(raw, np.abs(rescaled), bounds, source, hint)
    return np.clip(rescaled, -1, 1) if largest > 1 else rescaled


def _warn(raw: np.ndarray, sizes: np.ndarray, bounds: Ends, source: object, hint: str) -> None:
    beyond = int((sizes > 1 + ROUNDING).any(axis=1).sum())
    farthest = raw.ravel()[sizes.argmax()]
    low, high = bounds
    axis = 0 if low.ndim else None
    bottom = np.minimum(low, np.floor(raw.min(axis=axis).astype(np.float64) * 1000) / 1000)
    top = np.maximum(high, np.ceil(raw.max(axis=axis).astype(np.float64) * 1000) / 1000)
    if (low == -high).all():
        top = np.maximum(top, -bottom)
        bottom = -top
    notice(
        f"{source}: the actions of {beyond} of {len(raw)} transitions lie beyond the bounds "
        f"{_formatted(bounds)}, the farthest is {farthest:.6g}; they are clipped"
        + hint.format(bounds=_formatted((bottom, top))),
    )


def _formatted(bounds: Any) -> str:
    low, high = (np.asarray(end, np.float64).tolist() for end in bounds)
    return f"({low}, {high})"
