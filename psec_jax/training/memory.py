"""How much memory a fit will need, from shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from psec_jax.parameters import classes
from psec_jax.training.devices import Layout
from psec_jax.training.fit import Learner, _run_chunk

PHASES = ("entering", "laying out", "updates", "results")


@dataclass(frozen=True)
class Memory:
    """Bytes of each thing that is there in each phase of a fit: on the device, and on the host."""

    device: Mapping[str, Mapping[str, int]]
    host: Mapping[str, Mapping[str, int]]

    @property
    def device_peak(self) -> int:
        """Of an accelerator."""
        return max(sum(parts.values()) for parts in self.device.values())

    @property
    def shared_peak(self) -> int:
        """Of a CPU, which is host and device in one; without what the process takes for itself."""
        return max(
            sum(self.device[phase].values()) + sum(self.host[phase].values())
            for phase in self.device
        )


def predicted_memory(
    learner: Learner,
    arrays: Mapping[str, Any],
    *,
    batch_size: int,
    seeds: int = 1,
    chunk: int = 100,
    checkpoints: bool = False,
    inspected: bool = False,
) -> Memory:
    """The memory of a ``fit`` of ``seeds`` learners side by side on the same data and one device.

    ``arrays`` are all that the dataset holds, and ``learner`` too may be made of shapes, as of
    ``jax.eval_shape``: nothing is computed. What an update needs between its state and its result
    is XLA's own count for the program that ``fit`` would compile, on the device that JAX uses now.

    The phases: on entering the first states are copied, the data are laid out on the device, the
    updates run (with ``checkpoints`` beside a state that is being saved, and where ``inspected``
    beside one that is shown), and each seed's result is a copy.
    """
    learner = jax.eval_shape(lambda same: same, learner)
    columns = {name: _shape(arrays[name]) for name in learner.columns}
    key = jax.eval_shape(lambda: jax.random.key(0))
    example = {name: _shape(c, (1, *c.shape[1:])) for name, c in columns.items()}
    state = jax.eval_shape(lambda *a: a[0].init(*a[1:]), learner, key, example)

    frozen, states = seeds * _bytes(learner), seeds * _bytes(state)
    several, saved = seeds > 1, states if checkpoints else 0
    device = [
        ("learners", frozen, PHASES),
        ("their first states", seeds * _new_bytes(learner, key, example), PHASES),
        ("learners, stacked", frozen * several, PHASES),
        ("first states, stacked", states * several, ("entering",)),
        ("state", states, PHASES),
        ("data", _bytes(columns), ("laying out", "updates", "results")),
        (
            "program",
            _program(learner, state, columns, key, seeds, batch_size, chunk),
            ("updates",),
        ),
        ("state to save", saved, ("updates",)),
        ("state that is shown", states * inspected * (1 + several), ("updates",)),
        ("results, unstacked", states * several, ("results",)),
        ("results", states, ("results",)),
    ]
    host = [
        ("dataset", sum(_bytes(_shape(array)) for array in arrays.values()), PHASES),
        ("a column, joined", max(_bytes(c) for c in columns.values()), ("laying out",)),
        ("state being written", saved, ("updates",)),
    ]
    return Memory(_by_phase(device), _by_phase(host))


def _by_phase(things: list[tuple[str, int, tuple[str, ...]]]) -> dict[str, dict[str, int]]:
    return {
        phase: {name: size for name, size, when in things if phase in when and size}
        for phase in PHASES
    }


def _program(learner, state, columns, key, seeds, batch_size, chunk) -> int:
    """What a chunk of updates takes besides its arguments, of which the state is its result."""

    def stacked(tree):
        return tree if seeds == 1 else jax.tree.map(lambda a: _shape(a, (seeds, *a.shape)), tree)

    rows = jax.ShapeDtypeStruct((2,), np.int32)
    program = _run_chunk.lower(
        *(stacked(learner), stacked(state), columns, stacked(rows), stacked(key), 0),
        length=chunk,
        batch_size=batch_size,
        layout=Layout(seeds, None),
        kind=classes((learner, state)),
    )
    count = program.compile().memory_analysis()
    assert count is not None, "CPUs, GPUs and TPUs all say"
    return count.temp_size_in_bytes + count.output_size_in_bytes - count.alias_size_in_bytes


def _new_bytes(learner, key, example) -> int:
    """What the first state adds to the learner: it may share arrays with it and within itself."""
    traced = jax.make_jaxpr(lambda *a: a[0].init(*a[1:]))(learner, key, example).jaxpr
    new = {v for v in traced.outvars if not isinstance(v, Literal)} - set(traced.invars)
    return _bytes([v.aval for v in new])


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _shape(array: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape if shape is None else shape, array.dtype)
