"""``fit``: one loop for every learner, chunks of updates compiled into one program."""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from psec_jax.data.dataset import TransitionDataset
from psec_jax.errors import Diverged
from psec_jax.settings import python_number
from psec_jax.training.beside import Beside
from psec_jax.training.checkpoints import Checkpoints
from psec_jax.training.devices import Layout
from psec_jax.training.metrics import Writer
from psec_jax.training.origin import Origin, origin_of
from psec_jax.training.processes import leads
from psec_jax.training.progress import Progress
from psec_jax.training.seeds import groups, joined, shapes, stacked, unstacked


class Learner(Protocol):
    """What ``fit`` trains: a pytree of frozen things and hyperparameters, with pure functions."""

    name: str
    # What a batch holds: names of the data's arrays.
    columns: tuple[str, ...]

    def init(self, key: jax.Array, example: dict[str, jax.Array]) -> Any: ...

    def update(
        self, state: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[Any, dict[str, jax.Array]]: ...


def fit(
    learner: Learner,
    data: TransitionDataset,
    *,
    steps: int,
    batch_size: int,
    key: jax.Array,
    state: Any = None,
    start: int = 0,
    chunk: int = 100,
    label: str | None = None,
    writer: Writer | None = None,
    progress: bool = False,
    every: int | None = None,
    inspect: Callable[[int, Any], float | None] | None = None,
    checkpoints: Checkpoints | None = None,
    best: bool = False,
) -> Any:
    """Train ``learner`` on minibatches drawn uniformly from ``data``; returns its final state.

    ``chunk`` updates run in one compiled program, with the data on the device and the state's
    memory reused, and where there are several devices each takes its share of every batch; the
    host sees only the mean of each metric over a chunk, which goes to ``writer`` and the progress
    bar under ``label``. Update i uses the key ``fold_in(key, i)``, so training 0…n in one call
    equals 0…m and then, with ``state`` and ``start=m``, m…n.

    After ``join_processes`` all processes must make the same calls, with equal data, keys and
    states, and an ``inspect`` that does alike; each returns the same, and the first alone writes.

    After ``every`` updates, and the last, ``inspect(step, state)`` is called in a thread beside
    the training, one call at a time, and has returned before a later state is saved. With
    ``checkpoints`` the states of this ``label`` are saved there, and learning goes on after the
    last of them: the result is the same as if it had never stopped. States that another learner,
    data, key, batch size or initial state made are refused with ``OtherTraining``, which names
    what differs; the code of a learner's class is not compared.

    ``inspect`` may return how good the state is, and the best state of those that are saved then
    is kept among the checkpoints; with ``best`` it is returned in place of the last.

    Within ``side_by_side``, fits that differ in their numbers only are one program, ``vmap`` of
    the same update, and are saved as one: the best is then the best on average.

    Raises ``Diverged`` naming the learner and the step at which a metric stopped being finite.
    """
    steps, batch_size = _count("steps", steps), _count("batch_size", batch_size)
    chunk, every = _count("chunk", chunk), _count("every", every or steps)
    start = python_number(start)
    if checkpoints is not None and label is None:
        raise ValueError("checkpoints need a label, by which the states of this fit are found")
    if best and (checkpoints is None or inspect is None):
        raise ValueError("best needs checkpoints, and an inspect that says how good a state is")
    init_key, update_key = jax.random.split(key)
    columns = data.columns(learner.columns)
    made_by = {}
    if checkpoints is not None:
        made_by = origin_of(learner, columns, key, batch_size, state, start)
    if state is None:
        state = learner.init(init_key, {name: jnp.asarray(a[:1]) for name, a in columns.items()})
    numbers = _Numbers(start, steps, batch_size, chunk, every, best)
    widths = {name: array.shape[1:] for name, array in columns.items()}
    one = _Fit(
        learner,
        columns,
        state,
        update_key,
        numbers,
        label or learner.name,
        writer if leads() else None,
        progress and leads(),
        inspect,
        checkpoints,
        made_by,
    )
    kind = numbers, widths, checkpoints, shapes((learner, state))
    return joined(_fit_together, one, kind)


def _count(name: str, value: Any) -> int:
    value = python_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer and be at least 1, not {value!r}")
    return value


@dataclass(frozen=True)
class _Numbers:
    start: int
    steps: int
    batch_size: int
    chunk: int
    every: int
    best: bool


@dataclass(frozen=True)
class _Fit:
    """What one call of ``fit`` asks for."""

    learner: Learner
    columns: dict[str, np.ndarray]
    state: Any
    key: jax.Array
    numbers: _Numbers
    label: str
    writer: Writer | None
    progress: bool
    inspect: Callable[[int, Any], float | None] | None
    checkpoints: Checkpoints | None
    made_by: Origin


def _fit_together(fits: Sequence[_Fit]) -> list[Any]:
    """The final state of each of these fits, which can be one program."""
    numbers, checkpoints = fits[0].numbers, fits[0].checkpoints
    step, steps, every = numbers.start, numbers.steps, numbers.every
    label = " + ".join(one.label for one in fits)
    layout = Layout.of(len(fits), numbers.batch_size)
    learner, state, key = stacked([(one.learner, one.state, one.key) for one in fits])
    # Chunks donate the state, so it must not share memory with the learner's frozen parts.
    state = layout.by_seed(jax.tree.map(jnp.copy, state))
    with nullcontext() if checkpoints is None else checkpoints.of(label, state) as track:
        if track is not None:
            labels, origins = [one.label for one in fits], [one.made_by for one in fits]
            step, state = track.latest(state, labels, origins) or (step, state)
            if step > steps:
                raise ValueError(
                    f"{label} was trained for {step} updates before, not {steps}; remove "
                    f"{checkpoints.folder} to learn anew"
                )
            for one in fits:
                if one.writer is not None:
                    one.writer.rewind(one.label, step)
        arrays, ranges = _pooled([one.columns for one in fits])
        learner, key, ranges = layout.by_seed((learner, key, ranges))
        arrays = layout.everywhere(arrays)
        shown = Progress(_short(fits), steps, step, shown=fits[0].progress)
        with shown as bar, Beside() as beside:
            while step < steps:
                length = min(numbers.chunk, steps - step, every - step % every)
                state, metrics = _run_chunk(
                    learner,
                    state,
                    arrays,
                    ranges,
                    key,
                    step,
                    length=length,
                    batch_size=numbers.batch_size,
                    layout=layout,
                )
                means = [
                    _finite_means(found, one.label, step)
                    for found, one in zip(
                        unstacked(jax.device_get(metrics), len(fits)), fits, strict=True
                    )
                ]
                step += length
                bar.advance(step, float(np.mean([mean["loss"] for mean in means])))
                for mean, one in zip(means, fits, strict=True):
                    if one.writer is not None:
                        one.writer.write(one.label, step, mean)
                inspected = any(one.inspect for one in fits)
                if inspected and (step % every == 0 or step == steps):
                    beside.wait()
                    beside(_inspect, fits, step, unstacked(layout.returned(state), len(fits)))
                if track is not None:
                    track.keep(step, state, last=step == steps, after=beside.wait)
        if numbers.best:
            step, state = track.best(state) or (step, state)
    return unstacked(layout.returned(state), len(fits))


def _inspect(fits: Sequence[_Fit], step: int, learnt: Sequence[Any]) -> tuple[int, float] | None:
    """Shows each its state; returns the step and the mean of how good they are, where all say."""
    inspects = [one.inspect or (lambda *_: None) for one in fits]
    said = [inspect(step, one) for inspect, one in zip(inspects, learnt, strict=True)]
    return None if any(one is None for one in said) else (step, float(np.mean(said)))


def _short(fits: Sequence[_Fit]) -> str:
    return fits[0].label + (f" + {len(fits) - 1} more" if len(fits) > 1 else "")


def _pooled(data: Sequence[dict[str, np.ndarray]]) -> tuple[dict[str, jax.Array], jax.Array]:
    """The rows of all data in common arrays, and [first, size] of each one's in them.

    Data that several have alike are there once.
    """
    members = groups(data, lambda a, b: all(np.array_equal(a[name], b[name]) for name in a))
    different = [data[group[0]] for group in members]
    sizes = [len(next(iter(columns.values()))) for columns in different]
    ranges = np.zeros((len(data), 2), np.int32)
    for group, size, end in zip(members, sizes, np.cumsum(sizes), strict=True):
        ranges[group] = end - size, size
    arrays = {
        name: jnp.asarray(np.concatenate([columns[name] for columns in different]))
        for name in data[0]
    }
    return arrays, stacked(list(jnp.asarray(ranges)))


@functools.partial(
    jax.jit, static_argnames=("length", "batch_size", "layout"), donate_argnames="state"
)
def _run_chunk(learner, state, arrays, ranges, key, start, *, length, batch_size, layout):
    def run(learner, state, key, rows):
        def step(state, index):
            batch_key, update_key = jax.random.split(jax.random.fold_in(key, index))
            first, size = rows
            drawn = first + jax.random.randint(batch_key, (batch_size,), 0, size)
            batch = layout.batch(jax.tree.map(lambda a: a[drawn], arrays))
            return learner.update(state, batch, update_key)

        return jax.lax.scan(step, state, start + jnp.arange(length))

    state, metrics = layout.over_seeds(run)(learner, state, key, ranges)
    return state, layout.whole(metrics)


def _finite_means(metrics: dict[str, jax.Array], label: str, start: int) -> dict[str, float]:
    """The mean of each metric; ``Diverged`` names the first that went, the loss before others."""
    metrics = jax.device_get(metrics)
    finite = {name: np.isfinite(values) for name, values in metrics.items()}
    if bad := {name: int(np.argmin(good)) for name, good in finite.items() if not good.all()}:
        name = min(bad, key=lambda name: (bad[name], name != "loss"))
        raise Diverged(
            f"{label}: {name} became {metrics[name][bad[name]]} at step {start + bad[name] + 1}; "
            "try a smaller learning rate, gradient clipping, or look for extreme values in the "
            "data"
        )
    return {name: float(np.mean(values)) for name, values in metrics.items()}
