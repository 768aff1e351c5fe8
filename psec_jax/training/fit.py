"""``fit``: one loop for every learner, chunks of updates compiled into one program."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from psec_jax.data.dataset import TransitionDataset
from psec_jax.errors import Diverged
from psec_jax.parameters import classes
from psec_jax.settings import python_number
from psec_jax.training.background import BackgroundWorker
from psec_jax.training.devices import Layout
from psec_jax.training.learner import Learner
from psec_jax.training.origin import Origin, origin_of
from psec_jax.training.processes import leads
from psec_jax.training.progress import Progress
from psec_jax.training.seeds import (
    PerSeed,
    for_each_seed,
    groups,
    seed_count,
    shapes,
    stacked,
    unstacked,
)
from psec_jax.training.training import Training, check_training

L = TypeVar("L", bound=Learner)


def fit(
    learner: PerSeed[L],
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    state: Any = None,
    start: int = 0,
) -> Any:
    """Train ``learner`` on minibatches drawn uniformly from ``data``; returns its final state.

    The data are on the device and the state's memory is reused; where there are several devices
    each takes its share of every batch. Update i uses the key ``fold_in(key, i)``, so training 0…n
    in one call equals 0…m and then, with ``state`` and ``start=m``, m…n. The learner has an
    optimizer of its own, so ``training`` may not.

    **Several seeds.** With keys of shape (n,) n seeds are trained in one program, ``vmap`` of the
    same update, and a list of n states is returned, those of one after another to float
    tolerance. ``learner``, ``data``, ``state`` and the label may each be a list of n, one for each
    seed, whose learners differ in their arrays only. Seeds are saved together.

    After ``join_processes`` all processes must make the same calls, with equal data, keys and
    states, and an ``inspect`` that does alike; each returns the same, and the first alone writes.

    Saved states that another learner, data, key, batch size or initial state made are refused with
    ``OtherTraining``, which names what differs; the code of a learner's class is not compared.
    Raises ``Diverged`` naming the label and the step at which a metric stopped being finite.
    """
    check_training(training)
    if training.optimizer is not None:
        raise ValueError(
            "fit takes no optimizer, since a learner has its own: give it to the learner, and "
            "leave it out of Training"
        )
    start = python_number(start)
    if not 0 <= start <= training.steps:
        raise ValueError(f"start must be from 0 to steps, {training.steps}, not {start!r}")
    if training.best and (seed_count(key) or 1) > 1:
        raise ValueError(
            "best is of one seed: several are saved together, at the same steps; train them one "
            "after another, or take the last states"
        )
    several = seed_count(key)
    count = several or 1
    seeds = [
        _Seed.of(*parts, training, start)
        for parts in zip(
            for_each_seed(learner, count, "learner"),
            for_each_seed(data, count, "data"),
            [key] if several is None else list(key),
            for_each_seed(state, count, "state"),
            _labels(training.label, for_each_seed(learner, count, "learner"), several),
            strict=True,
        )
    ]
    _check_alike(seeds)
    inspect = given = training.inspect
    if several is None and given is not None:
        inspect = lambda step, states: given(step, states[0])  # noqa: E731
    states = _run(seeds, dataclasses.replace(training, inspect=inspect), start)
    return states[0] if several is None else states


def _labels(label: PerSeed[str] | None, learners: list, several: int | None) -> list[str]:
    if isinstance(label, list):
        return for_each_seed(label, len(learners), "label")
    names = [label or learner.name for learner in learners]
    if several is None:
        return names
    return [f"{name} [{index}]" for index, name in enumerate(names)]


@dataclass(frozen=True)
class _Seed:
    """What one seed is trained from."""

    learner: Learner
    columns: dict[str, np.ndarray]
    state: Any
    key: jax.Array
    label: str
    made_by: Origin

    @classmethod
    def of(cls, learner, data, key, state, label, training, start) -> "_Seed":
        init_key, update_key = jax.random.split(key)
        columns = data.columns(learner.columns)
        made_by = {}
        if training.checkpoints is not None:
            made_by = origin_of(learner, columns, key, training.batch_size, state, start)
        if state is None:
            example = {name: jnp.asarray(values[:1]) for name, values in columns.items()}
            state = learner.init(init_key, example)
        return cls(learner, columns, state, update_key, label, made_by)


def _check_alike(seeds: Sequence[_Seed]) -> None:
    kinds = [
        (shapes((seed.learner, seed.state)), {n: a.shape[1:] for n, a in seed.columns.items()})
        for seed in seeds
    ]
    for seed, kind in zip(seeds, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"{seed.label} cannot be trained in one program with {seeds[0].label}: their "
                "learners or data differ in more than numbers, such as shapes or settings; train "
                "them one after another"
            )


def _run(seeds: Sequence[_Seed], training: Training, start: int) -> list[Any]:
    """The final state of each seed."""
    step, steps, every = start, training.steps, training.every or training.steps
    inspect, checkpoints = training.inspect, training.checkpoints
    writer = training.writer if leads() else None
    labels = [seed.label for seed in seeds]
    label = " + ".join(labels)
    layout = Layout.of(len(seeds), training.batch_size)
    learner, state, key = stacked([(seed.learner, seed.state, seed.key) for seed in seeds])
    # Chunks donate the state, so it must not share memory with the learner's frozen parts.
    state = layout.by_seed(jax.tree.map(jnp.copy, state))
    with nullcontext() if checkpoints is None else checkpoints.of(label, state) as session:
        if session is not None:
            origins = [seed.made_by for seed in seeds]
            step, state = session.latest(state, labels, origins) or (step, state)
            if step > steps:
                raise ValueError(
                    f"{label} was trained for {step} updates before, not {steps}; give steps of "
                    f"at least {step}, or remove {session.folder} to train anew"
                )
            if writer is not None:
                for name in labels:
                    writer.rewind(name, step)
        arrays, ranges = _pooled([seed.columns for seed in seeds])
        learner, key, ranges = layout.by_seed((learner, key, ranges))
        arrays, kind = layout.everywhere(arrays), classes((learner, state))
        with (
            Progress(_short(labels), steps, step, shown=training.progress and leads()) as bar,
            BackgroundWorker() as worker,
        ):
            while step < steps:
                length = min(training.chunk, steps - step, every - step % every)
                state, metrics = _run_chunk(
                    learner,
                    state,
                    arrays,
                    ranges,
                    key,
                    step,
                    length=length,
                    batch_size=training.batch_size,
                    layout=layout,
                    kind=kind,
                )
                each = unstacked(jax.device_get(metrics), len(seeds))
                means = [
                    _finite_means(metrics, name, step)
                    for metrics, name in zip(each, labels, strict=True)
                ]
                step += length
                bar.advance(step, float(np.mean([mean["loss"] for mean in means])))
                if writer is not None:
                    for name, mean in zip(labels, means, strict=True):
                        writer.write(name, step, mean)
                if inspect is not None and (step % every == 0 or step == steps):
                    worker.wait()
                    states = unstacked(layout.returned(state), len(seeds))
                    worker(_inspect, inspect, step, states)
                if session is not None:
                    session.keep(step, state, last=step == steps, after=worker.wait)
        if training.best and session is not None:
            step, state = session.best(state) or (step, state)
    return unstacked(layout.returned(state), len(seeds))


def _inspect(inspect: Callable, step: int, states: list[Any]) -> tuple[int, float] | None:
    """Shows the states; returns the step and their mean score, if ``inspect`` gives one."""
    score = inspect(step, states)
    if score is None or (isinstance(score, list | tuple) and None in score):
        return None
    return step, float(np.mean(score))


def _short(labels: Sequence[str]) -> str:
    return labels[0] + (f" + {len(labels) - 1} more" if len(labels) > 1 else "")


def _pooled(data: Sequence[dict[str, np.ndarray]]) -> tuple[dict[str, jax.Array], jax.Array]:
    """The rows of all data in common arrays, and [first, size] of each one's in them.

    Data that several have alike are there once.
    """
    members = groups(data, _same)
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


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(
        one[name] is other[name] or np.array_equal(one[name], other[name], equal_nan=True)
        for name in one
    )


@functools.partial(
    jax.jit, static_argnames=("length", "batch_size", "layout", "kind"), donate_argnames="state"
)
def _run_chunk(learner, state, arrays, ranges, key, start, *, length, batch_size, layout, kind):
    del kind

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
