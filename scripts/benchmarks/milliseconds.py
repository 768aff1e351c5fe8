"""Where the time of one update of pretraining goes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util

import psec_jax as psec
from benchmarks.cases import ACTIONS, DIFFUSION_STEPS, RANK, paper_policy, random_data
from benchmarks.learning import learners
from benchmarks.products import learner_products, product_seconds
from benchmarks.timing import best_seconds
from psec_jax.learners.optimizer import TrainState
from psec_jax.policies import Policy
from psec_jax.training import fit

STEPS = 200


def milliseconds(batch: int, repeats: int) -> dict:
    """Milliseconds of one update, part by part, each timed alone; what they leave of the whole is
    the last row but one."""
    base, data = paper_policy(), random_data()
    learner = learners(base, STEPS, 1)["pretraining"]
    training = psec.Training(STEPS, batch)
    run = partial(fit, learner, data, key=jax.random.key(0), training=training)
    whole = best_seconds(run, repeats) / STEPS
    products = learner_products(base, batch, RANK, 1)["pretraining"]
    parts = {
        "matrix products": product_seconds(products, repeats),
        "optimizer and average": optimizer_seconds(base.params, repeats),
        "elementwise": elementwise_seconds(base, batch, repeats),
        "random numbers and minibatch": drawing_seconds(data, batch, repeats),
    }
    parts["remainder"] = whole - sum(parts.values())
    parts["the whole update"] = whole
    table = {
        name: {"ms": round(1000 * seconds, 2), "share": round(seconds / whole, 3)}
        for name, seconds in parts.items()
    }
    moved = 9 * sum(leaf.nbytes for leaf in jax.tree.leaves(base.params))
    rate = bytes_per_second(repeats)
    return {
        **table,
        "bytes_moved_by_the_optimizer": moved,
        "gigabytes_per_second_of_the_memory": round(rate / 1e9, 1),
        "milliseconds_to_move_them": round(1000 * moved / rate, 2),
    }


def seconds_of_a_step(step: Callable, fixed: Any, carry: Any, repeats: int) -> float:
    """Of ``step(fixed, carry, index) -> carry``, which ``lax.scan`` repeats as ``fit`` does."""

    @jax.jit
    def program(fixed, carry):
        once = lambda carry, index: (step(fixed, carry, index), None)  # noqa: E731
        return jax.lax.scan(once, carry, jnp.arange(STEPS))[0]

    return best_seconds(partial(program, fixed, carry), repeats) / STEPS


def optimizer_seconds(params: Any, repeats: int) -> float:
    """AdamW and the moving average: they read five arrays as large as the parameters (these,
    their gradients, two moments, the average) and write four."""
    optimizer = psec.Optimizer(steps=STEPS)
    gradients = jax.tree.map(lambda leaf: 0.01 * jnp.ones_like(leaf), params)

    def step(gradients, state, index):
        del index
        updates, moments = optimizer.transformation.update(
            gradients, state.optimizer, state.params
        )
        new = optax.apply_updates(state.params, updates)
        average = optax.incremental_update(new, state.average, optimizer.ema_rate)
        return TrainState(new, average, moments)

    return seconds_of_a_step(step, gradients, TrainState.start(params, optimizer), repeats)


def elementwise_seconds(base: Policy, batch: int, repeats: int) -> float:
    """The network there and back without its products: biases, norms, activations, sums."""
    key = jax.random.key(0)
    noise = jax.random.normal(key, (batch, ACTIONS))
    observations = jax.random.normal(key, (batch, base.observation_size))
    time = jnp.arange(batch) % DIFFUSION_STEPS
    flat = traverse_util.flatten_dict(dict(base.params), sep="/")
    kernels = {path: leaf for path, leaf in flat.items() if path.endswith("kernel")}
    others = {path: leaf for path, leaf in flat.items() if path not in kernels}

    def loss(others, inputs):
        params = traverse_util.unflatten_dict({**kernels, **others}, sep="/")
        with nn.intercept_methods(without_product):
            prediction = base.backbone.network.apply({"params": params}, *inputs)
        return jnp.mean(jnp.sum(jnp.square(noise - prediction), axis=-1))

    def step(inputs, others, index):
        del index
        return jax.tree.map(lambda p, g: p - 1e-3 * g, others, jax.grad(loss)(others, inputs))

    return seconds_of_a_step(step, (noise, time, observations), others, repeats)


def without_product(call, args, kwargs, context):
    """A dense layer that repeats or cuts its input to the width of its output."""
    if not isinstance(context.module, nn.Dense) or context.method_name != "__call__":
        return call(*args, **kwargs)
    (x,), width = args, context.module.features
    x = jnp.tile(x, -(-width // x.shape[-1]))[:, :width]
    return x + context.module.get_variable("params", "bias")


def drawing_seconds(data: psec.TransitionDataset, batch: int, repeats: int) -> float:
    """The keys of an update, its rows, diffusion times and noise."""
    arrays = {
        name: jnp.asarray(a) for name, a in data.columns(("observations", "actions")).items()
    }
    key = jax.random.key(0)

    def step(arrays, carry, index):
        del carry
        rows_key, update_key = jax.random.split(jax.random.fold_in(key, index))
        rows = jax.random.randint(rows_key, (batch,), 0, len(data))
        loss_key, _ = jax.random.split(update_key)
        time_key, noise_key = jax.random.split(loss_key)
        drawn = {name: array[rows] for name, array in arrays.items()}
        time = jax.random.randint(time_key, (batch,), 0, DIFFUSION_STEPS)
        return drawn, time, jax.random.normal(noise_key, (batch, ACTIONS))

    start = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, arrays, None, 0)
    )
    return seconds_of_a_step(step, arrays, start, repeats)


def bytes_per_second(repeats: int, size: int = 2**25, times: int = 50) -> float:
    """Read and written, by an operation on each of ``size`` numbers in place."""

    @jax.jit
    def program(numbers):
        return jax.lax.fori_loop(0, times, lambda i, a: a + i, numbers)

    numbers = jnp.ones(size)
    return 2 * times * numbers.nbytes / best_seconds(partial(program, numbers), repeats)
