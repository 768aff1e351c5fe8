"""What objects that hold arrays are to a reader: a few lines with sizes and fingerprints."""

import functools
import hashlib
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import numpy as np

from psec_jax import fingerprints

if TYPE_CHECKING:
    from psec_jax.policies import Policy

WIDTH, LINES = 99, 5


def brief(parts: Callable[[Any], Iterable[str]]) -> Callable[[Any], str]:
    """A ``__repr__``: the class's name and, in brackets, the ``parts`` that are yielded."""

    @functools.wraps(parts)
    def __repr__(self: Any) -> str:
        try:
            inside = ", ".join(parts(self))
        except Exception:
            # While JAX maps over a tree its fields may hold anything, and no repr may raise.
            inside = "…"
        lines = textwrap.wrap(
            f"{type(self).__name__}({inside})",
            WIDTH,
            subsequent_indent="    ",
            max_lines=LINES,
            placeholder=" …)",
            break_on_hyphens=False,
        )
        return "\n".join(lines)

    return __repr__


def parameters(tree: Any) -> str:
    """How many numbers ``tree`` holds: ``1.6 M parameters``."""
    size = float(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)))
    for unit in ("", " k", " M"):
        if size < 999.5:
            return f"{size:.3g}{unit} parameters"
        size /= 1000
    return f"{size:.3g} G parameters"


def values(tree: Any) -> str:
    """A hash of what ``tree`` holds: ``values 3fa94c1b…``; ``values unknown`` if it is traced."""
    leaves = jax.tree.leaves(tree)
    if not all(map(_is_known, leaves)):
        return "values unknown"
    digest = hashlib.sha256()
    for leaf in leaves:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return f"values {short(digest.hexdigest())}"


def fingerprint(policy: "Policy") -> str:
    """That of a base policy, as far as it is known."""
    if all(map(_is_known, jax.tree.leaves((policy.params, policy.statistics)))):
        return f"fingerprint {short(fingerprints.fingerprint(policy))}"
    return "fingerprint unknown"


def short(digest: str) -> str:
    return f"{digest[:8]}…"


def listed(names: Sequence[str], most: int = 6) -> str:
    """``[walk, run]``, and of many the first few."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return f"[{', '.join([*names[:most], *more])}]"


def stacked(one: Any, axes: int) -> Iterable[str]:
    """``3 stacked`` where ``one``, an array of ``axes``, has another axis in front."""
    if len(one.shape) > axes:
        yield f"{one.shape[0]} stacked"


def _is_known(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
        return leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, np.ndarray | np.generic | bool | int | float)
