import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax.skills.deltas import Full, LowRank, bundled, fresh_full, fresh_low_rank

INPUT, OUTPUT, BATCH = 4, 3, 5

# The delta of one skill for one layer: the rank of a low-rank one, "full", or none at all.
KINDS = st.lists(st.sampled_from([None, 1, 2, 5, "full"]), min_size=1, max_size=4).filter(any)


def single(kind, generator):
    def normal(*shape):
        return generator.normal(size=shape).astype(np.float32)

    if kind is None:
        return None
    if kind == "full":
        return Full(normal(1, INPUT, OUTPUT), (1,))
    return LowRank(normal(INPUT, kind), normal(kind, OUTPUT), (kind,))


def product(delta):
    """The kernel that one skill adds at gain 1, from its definition."""
    if delta is None:
        return np.zeros((INPUT, OUTPUT))
    return delta.kernels[0] if isinstance(delta, Full) else delta.down @ delta.up


@given(KINDS, st.integers(0, 99))
def test_deltas_side_by_side_contribute_the_weighted_sum_of_the_single_ones(kinds, seed):
    generator = np.random.default_rng(seed)
    deltas = [single(kind, generator) for kind in kinds]
    groups = bundled(deltas)
    assert len(groups) == len({kind == "full" for kind in kinds if kind})
    gains = generator.normal(size=len(kinds)).astype(np.float32)
    by_sample = generator.normal(size=(BATCH, len(kinds))).astype(np.float32)
    x = generator.normal(size=(BATCH, INPUT)).astype(np.float32)
    kernel = sum(g * product(delta) for g, delta in zip(gains, deltas, strict=True))

    np.testing.assert_allclose(sum(d.kernel(gains[:, None]) for d in groups), kernel, atol=1e-4)
    np.testing.assert_allclose(
        sum(d.contribution(x, gains[:, None]) for d in groups), x @ kernel, atol=1e-4
    )
    np.testing.assert_allclose(
        sum(d.contribution(x, by_sample[..., None]) for d in groups),
        np.einsum("bk,bi,kio->bo", by_sample, x, np.stack([product(d) for d in deltas])),
        atol=1e-4,
    )


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_fresh_low_rank_deltas_add_zero_yet_can_learn(rank):
    """Zero beside the output, LeCun-normal (variance 1/d_in) beside the input."""
    delta = fresh_low_rank(jax.random.key(0), (400, OUTPUT), rank)
    x = np.ones((2, 400), np.float32)
    gains = np.array([[16.0]], np.float32)
    assert not np.any(delta.contribution(x, gains))
    assert not np.any(delta.kernel(gains))
    assert np.std(delta.down) == pytest.approx(400**-0.5, rel=0.15)
    gradient = jax.grad(lambda d: d.contribution(x, gains).sum())(delta)
    assert np.any(gradient.up)


def test_fresh_full_deltas_add_zero_yet_can_learn():
    delta = fresh_full(jax.random.key(0), (INPUT, OUTPUT))
    x, gains = np.ones((2, INPUT), np.float32), np.array([[16.0]], np.float32)
    assert not np.any(delta.contribution(x, gains))
    gradient = jax.grad(lambda d: d.contribution(x, gains).sum())(delta)
    np.testing.assert_allclose(gradient.kernels, 32.0)


def test_fresh_deltas_of_different_keys_differ():
    one, other = (fresh_low_rank(jax.random.key(seed), (8, 8), 2).down for seed in (0, 1))
    assert not np.any(np.asarray(one) == np.asarray(other))
