"""``fit``: one loop for every learner, chunks of updates compiled into one program."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from psec_jax.data.dataset import TransitionDataset
from psec_jax.errors import Diverged
from psec_jax.training.checkpoints import Checkpoints
from psec_jax.training.devices import batch_sharding, on_each
from psec_jax.training.metrics import Writer
from psec_jax.training.progress import Progress


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
    inspect: Callable[[int, Any], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Any:
    """Train ``learner`` on minibatches drawn uniformly from ``data``; returns its final state.

    ``chunk`` updates run in one compiled program, with the data on the device and the state's
    memory reused, and where there are several devices each takes its share of every batch; the
    host sees only the mean of each metric over a chunk, which goes to
    ``writer`` and the progress bar under ``label``. Update i uses the key ``fold_in(key, i)``, so
    training 0…n in one call equals 0…m and then, with ``state`` and ``start=m``, m…n.

    After ``every`` updates, and the last, ``inspect(step, state)`` is called. With ``checkpoints``
    the states of this ``label`` are saved there, and learning goes on after the last of them: the
    result is the same as if it had never stopped.

    Raises ``Diverged`` naming the learner and the step at which a metric stopped being finite.
    """
    every = every or steps
    numbers = {"steps": steps, "batch_size": batch_size, "chunk": chunk, "every": every}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    if checkpoints is not None and label is None:
        raise ValueError("checkpoints need a label, by which the states of this fit are found")
    label = label or learner.name
    init_key, update_key = jax.random.split(key)
    arrays = data.device(learner.columns)
    if state is None:
        state = learner.init(init_key, jax.tree.map(lambda a: a[:1], arrays))
    # Chunks donate the state, so it must not share memory with the learner's frozen parts.
    state = jax.tree.map(jnp.copy, state)
    sharding, step = batch_sharding(batch_size), start
    with nullcontext() if checkpoints is None else checkpoints.of(label, state) as track:
        if track is not None:
            step, state = track.latest(state) or (step, state)
            if step > steps:
                raise ValueError(
                    f"{label} was trained for {step} updates before, not {steps}; remove "
                    f"{checkpoints.folder} to learn anew"
                )
            if writer is not None:
                writer.rewind(label, step)
        if sharding is not None:
            learner, state, arrays = (on_each(t, sharding) for t in (learner, state, arrays))
        with Progress(label, steps, step, shown=progress) as bar:
            while step < steps:
                length = min(chunk, steps - step, every - step % every)
                state, metrics = _run_chunk(
                    learner,
                    state,
                    arrays,
                    update_key,
                    step,
                    length=length,
                    batch_size=batch_size,
                    sharding=sharding,
                )
                means = _finite_means(metrics, label, step)
                step += length
                bar.advance(step, means["loss"])
                if writer is not None:
                    writer.write(label, step, means)
                if inspect is not None and (step % every == 0 or step == steps):
                    inspect(step, _returned(state, sharding))
                if track is not None:
                    track.keep(step, state, last=step == steps)
    return state if sharding is None else _returned(state, sharding)


def _returned(state, sharding):
    """A copy of its own, on one device: another stage may use another number of them."""
    if sharding is None:
        return jax.tree.map(jnp.copy, state)
    return jax.device_put(state, sharding.mesh.devices[0])


@functools.partial(
    jax.jit, static_argnames=("length", "batch_size", "sharding"), donate_argnames="state"
)
def _run_chunk(learner, state, arrays, key, start, *, length, batch_size, sharding=None):
    size = jax.tree.leaves(arrays)[0].shape[0]

    def step(state, index):
        batch_key, update_key = jax.random.split(jax.random.fold_in(key, index))
        rows = jax.random.randint(batch_key, (batch_size,), 0, size)
        batch = jax.tree.map(lambda a: a[rows], arrays)
        if sharding is not None:
            batch = jax.lax.with_sharding_constraint(batch, sharding)
        return learner.update(state, batch, update_key)

    return jax.lax.scan(step, state, start + jnp.arange(length))


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
