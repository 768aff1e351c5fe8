"""Several seeds at once: keys of shape (n,), lists of what each seed has, one program for all."""

import operator
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from psec_jax.parameters import classes

T = TypeVar("T")
# The same for all seeds, or a list with one entry for each.
PerSeed = T | list[T]


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The key for the stage called ``name``; of keys (n,) each one's.

    It depends on the name alone, so that adding a stage to a run changes no other stage.
    """
    number = zlib.crc32(name.encode())
    if seed_count(key) is None:
        return jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (0, None))(key, number)


def seed_count(key: jax.Array) -> int | None:
    """How many seeds ``key`` stands for: n for keys of shape (n,), None for a single one.

    Raises ``ValueError`` for keys of any other shape.
    """
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    shape = key.shape if typed else key.shape[:-1]
    if len(shape) > 1 or 0 in shape:
        raise ValueError(
            f"keys of shape {shape} are neither one key nor (n,), one for each of n seeds; use "
            "jax.random.split(key, n)"
        )
    return shape[0] if shape else None


def for_each_seed(value: PerSeed[T], count: int, name: str) -> list[T]:
    """A list as it is, one entry a seed; anything else is the same for each of ``count`` seeds.

    Raises ``ValueError`` for a list of another length.
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} is a list of {len(value)}, but there are keys of {count} seed(s); give one "
            "entry for each, or a single one for all"
        )
    return value


def shapes(tree: Any) -> Any:
    """What ``stack`` needs to be equal: the structure, and each leaf's shape and type."""
    leaves, structure = jax.tree.flatten(tree)
    return (
        structure,
        classes(tree),
        [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves],
    )


def groups(values: Sequence[T], equal: Callable[[T, T], bool] = operator.eq) -> list[list[int]]:
    """The indices of equal values, in the order in which each comes first."""
    grouped: list[list[int]] = []
    for index, value in enumerate(values):
        for members in grouped:
            if equal(values[members[0]], value):
                members.append(index)
                break
        else:
            grouped.append([index])
    return grouped


def stack(trees: Sequence[T]) -> T:
    """One tree of all, along a new first axis, for ``jax.vmap``."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: T) -> list[T]:
    """The trees that ``tree`` was stacked from."""
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(counts) != 1 or () in counts:
        raise ValueError(f"a stacked tree has one first axis in common, not {sorted(counts)}")
    ((count,),) = counts
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def stacked(trees: Sequence[T]) -> T:
    """``stack``, but a single tree stays as it is: one seed's program has no axis of seeds."""
    return trees[0] if len(trees) == 1 else stack(trees)


def unstacked(tree: T, count: int) -> list[T]:
    """The ``count`` trees that ``stacked`` was given."""
    if count == 1:
        return [tree]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]
