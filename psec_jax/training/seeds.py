"""Several seeds at once: each runs as if alone, and what they learn they learn in one program."""

import functools
import operator
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from greenlet import getcurrent, greenlet

Item, Call, Result = TypeVar("Item"), TypeVar("Call"), TypeVar("Result")


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The key for the stage called ``name``.

    It depends on the name alone, so that adding a stage to a run changes no other stage.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def side_by_side(run: Callable[[Item], Result], each: Sequence[Item]) -> list[Result]:
    """``[run(item) for item in each]``, where what all of them train or evaluate is done at once.

    Usually each item is a random key or a seed. They run in turn, each until it comes to a ``fit``
    or an ``evaluate``; what waits there is then put together, where shapes, steps and
    hyperparameters agree, into one program with a leading axis of seeds. Results are those of one
    after another, to float tolerance. The order in which they run is always the same.

    An error in one ends all.
    """
    lanes = [_Lane(functools.partial(run, item)) for item in each]
    try:
        for lane in lanes:
            lane.go_on()
        while waiting := [lane for lane in lanes if lane.asks is not None]:
            answers: dict[int, Any] = {}
            for group in groups([lane.asks[:2] for lane in waiting]):
                together = waiting[group[0]].asks[0]
                found = together([waiting[i].asks[2] for i in group])
                answers |= zip(group, found, strict=True)
            for index, lane in enumerate(waiting):
                lane.go_on(answers[index])
    finally:
        for lane in lanes:
            lane.throw()
    return [lane.result for lane in lanes]


def joined(together: Callable[[list[Call]], list[Result]], call: Call, kind: Any = None) -> Result:
    """``together([call])[0]``; within ``side_by_side``, calls of equal ``kind`` at once."""
    here = getcurrent()
    if isinstance(here, _Lane):
        return here.parent.switch((together, kind, call))
    return together([call])[0]


class _Lane(greenlet):
    """A run that stops wherever it asks for something, and goes on with the answer.

    All lanes are in one thread, so what one of them locks does not shut out the others.
    """

    asks: tuple[Callable, Any, Any] | None = None
    result: Any = None

    def go_on(self, *answer: Any) -> None:
        """Until it asks again or ends; raises what it raised."""
        found = self.switch(*answer)
        self.asks, self.result = (None, found) if self.dead else (found, None)


def shapes(tree: Any) -> Any:
    """What ``stacked`` needs to be equal: the structure, and each leaf's shape and type."""
    leaves, structure = jax.tree.flatten(tree)
    # JAX calls two dataclasses' structures equal where their fields are; their hashes differ.
    return (
        structure,
        hash(structure),
        [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves],
    )


def groups(
    values: Sequence[Any], equal: Callable[[Any, Any], bool] = operator.eq
) -> list[list[int]]:
    """The indices of equal values, in the order in which each comes first."""
    found: list[list[int]] = []
    for index, value in enumerate(values):
        for members in found:
            if equal(values[members[0]], value):
                members.append(index)
                break
        else:
            found.append([index])
    return found


def stacked(trees: Sequence[Any]) -> Any:
    """One tree of all, along a new first axis; a single one stays as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree: Any, count: int) -> list[Any]:
    """The ``count`` trees that ``tree`` was stacked from."""
    if count == 1:
        return [tree]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]
