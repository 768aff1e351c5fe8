"""The matrix products that a program cannot do without, and how fast this machine does them."""

from functools import partial

import jax

from benchmarks.cases import ACTIONS, OBSERVATIONS
from benchmarks.timing import best_seconds
from psec_jax.policies import Policy

Product = tuple[int, int, int]


def product_seconds(products: list[Product], repeats: int) -> float:
    """How long the matrix products (rows, inner, columns) take, one after another."""
    key = jax.random.key(0)
    pairs = [
        (jax.random.normal(key, (rows, inner)), jax.random.normal(key, (inner, columns)))
        for rows, inner, columns in products
    ]

    @jax.jit
    def program(pairs):
        done = []
        for left, right in pairs:
            # The barrier keeps a product from starting before the one in front of it ends.
            left, done = jax.lax.optimization_barrier((left, done))
            done = [*done, left @ right]
        return done

    return best_seconds(partial(program, pairs), repeats, 20)


def flops(products: list[Product]) -> int:
    return sum(2 * rows * inner * columns for rows, inner, columns in products)


def forward(batch: int, layers: list[tuple[int, int]]) -> list[Product]:
    return [(batch, d_in, d_out) for d_in, d_out in layers]


def input_gradient(batch: int, layers: list[tuple[int, int]]) -> list[Product]:
    return [(batch, d_out, d_in) for d_in, d_out in layers]


def kernel_gradient(batch: int, layers: list[tuple[int, int]]) -> list[Product]:
    return [(d_in, batch, d_out) for d_in, d_out in layers]


def factors(layers: list[tuple[int, int]], rank: int) -> list[tuple[int, int]]:
    return [pair for d_in, d_out in layers for pair in ((d_in, rank), (rank, d_out))]


def learner_products(policy: Policy, batch: int, rank: int, skills: int) -> dict[str, list]:
    """The matrix products of one update of each learner."""
    dense = policy.dense_layers()
    every = list(dense.values())
    adapted = [shape for path, shape in dense.items() if not path.startswith("time/")]
    context = [(OBSERVATIONS, 256), (256, 256), (256, skills)]
    one, bank = factors(adapted, rank), factors(adapted, rank * skills)
    skill = (
        forward(batch, every)
        + input_gradient(batch, adapted[1:])
        + forward(batch, one)
        + input_gradient(batch, one[1:])
        + kernel_gradient(batch, one)
    )
    return {
        "pretraining": forward(batch, every)
        + input_gradient(batch, every[1:])
        + kernel_gradient(batch, every),
        "skill": skill,
        "critics and skill": skill + critic_products(batch),
        "context": forward(batch, every)
        + input_gradient(batch, adapted[1:])
        + forward(batch, bank)
        + input_gradient(batch, bank[1:])
        + forward(batch, context)
        + input_gradient(batch, context[1:])
        + kernel_gradient(batch, context),
    }


def critic_products(batch: int) -> list[Product]:
    """Those of one update of V and two Qs, and of the weights that they give."""
    value = [(OBSERVATIONS, 256), (256, 256), (256, 1)]
    q = [(OBSERVATIONS + ACTIONS, 256), *value[1:]]

    def descent(layers: list[tuple[int, int]]) -> list[Product]:
        gradients = input_gradient(batch, layers[1:]) + kernel_gradient(batch, layers)
        return forward(batch, layers) + gradients

    seen = 2 * forward(batch, q) + forward(batch, value)
    return descent(value) + 2 * descent(q) + 2 * seen
