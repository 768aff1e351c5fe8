"""The laws of weights: shared, by layer, by block of its outputs, by sample, as a function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import Adapter, Bank, Skill
from psec_jax.skills import dense_layers, inject, merge
from psec_jax.skills.weights import is_fixed, per_skill, samples

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(8, name="in")(x))
        heads = nn.DenseGeneral((2, 4), name="heads")(x)
        return nn.Dense(4, name="out")(nn.tanh(heads.reshape(len(x), 8)))


NETWORK = Network()
PARAMS = jax.jit(NETWORK.init)(jax.random.key(0), X)["params"]
OUTPUTS = {"in": 8, "heads": 8, "out": 4}


@functools.cache
def layers():
    return dense_layers(NETWORK, X[:1])


def skill(adapter, random):
    shapes = jax.eval_shape(lambda key: adapter.fresh(key, layers()), jax.random.key(0))
    deltas = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype), shapes
    )
    return Skill(deltas, adapter, "base")


ADAPTERS = st.builds(
    Adapter,
    kind=st.sampled_from(["low_rank", "full"]),
    rank=st.integers(1, 4),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
    targets=st.sampled_from([".*", "in|out", "heads", "(?!in).*"]),
)


@st.composite
def banks(draw):
    """One to four skills of any kind, rank and layers."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    adapters = draw(st.lists(ADAPTERS, min_size=1, max_size=4))
    return Bank.of({f"skill-{i}": skill(a, random) for i, a in enumerate(adapters)}), random


# None is each output by itself.
BLOCKS = st.sampled_from([1, 2, 4, None])


def run(bank=None, weights=None, params=PARAMS, x=X):
    return np.asarray(inject(NETWORK, params, bank, weights)(x))


def shapes_of(bank, blocks):
    return {path: (bank.size, blocks or OUTPUTS[path]) for path in bank.layers}


close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@given(BLOCKS, banks())
def test_equal_numbers_in_every_layer_block_and_sample_are_shared_weights(blocks, made):
    bank, random = made
    shared = random.normal(size=bank.size).astype(np.float32)
    by_layer = {
        path: np.broadcast_to(shared[:, None], shape)
        for path, shape in shapes_of(bank, blocks).items()
    }
    by_sample = {path: np.broadcast_to(w, (len(X), *w.shape)) for path, w in by_layer.items()}
    expected = run(bank, shared)
    for weights in (by_layer, by_sample, lambda path, x: by_layer[path]):
        close(run(bank, weights), expected)
    close(run(bank, np.tile(shared, (len(X), 1))), expected)


@pytest.mark.parametrize("blocks", [1, 2, None])
@given(made=banks())
def test_injected_is_merged_and_by_sample_is_row_by_row(blocks, made):
    bank, random = made
    weights = {
        path: random.normal(size=(len(X), *shape)).astype(np.float32)
        for path, shape in shapes_of(bank, blocks).items()
    }
    each = [{path: w[i] for path, w in weights.items()} for i in range(len(X))]
    merged = [run(params=merge(PARAMS, bank, w)) for w in each]
    close(run(bank, each[0]), merged[0])
    close(run(bank, lambda path, x: each[0][path]), merged[0])
    close(run(bank, weights), np.stack([merged[i][i] for i in range(len(X))]))


def test_a_block_is_so_many_neighboring_outputs():
    """Of the last layer's four outputs only the first two have a skill in them."""
    bank = Bank.of({"a": skill(Adapter("full", targets="out"), np.random.default_rng(0))})
    changed = run(bank, {"out": np.float32([[1, 0]])}) != run()
    np.testing.assert_array_equal(changed, np.tile([True, True, False, False], (len(X), 1)))


def test_some_layers_may_be_constant_and_others_by_sample():
    bank = Bank.of({"a": skill(Adapter(targets="in|out"), np.random.default_rng(0))})
    by_sample = np.linspace(-1, 1, len(X), dtype=np.float32)[:, None, None]
    mixed = {"in": np.float32([[0.5]]), "out": by_sample}
    rows = [run(bank, {"in": mixed["in"], "out": w})[i] for i, w in enumerate(by_sample)]
    close(run(bank, mixed), np.stack(rows))


def test_a_function_is_asked_with_the_input_of_its_layer():
    bank = Bank.of({"a": skill(Adapter(), np.random.default_rng(0))})
    seen = {}

    def weigh(path, x):
        seen[path] = x
        return jnp.tanh(x[..., :1, None])

    output = run(bank, weigh)
    np.testing.assert_array_equal(seen["in"], X)
    assert {path: x.shape for path, x in seen.items()} == {
        "in": (5, 6),
        "heads": (5, 8),
        "out": (5, 8),
    }
    rows = [run(bank, weigh, x=X[i : i + 1])[0] for i in range(len(X))]
    close(output, np.stack(rows))
    assert not np.allclose(output, run(bank), atol=1e-2)


def test_constant_weights_make_nothing_of_the_size_of_the_batch_and_the_outputs():
    """By a block for each output, what is weighed is the deltas themselves."""
    bank = Bank.of({"a": skill(Adapter(rank=3), np.random.default_rng(0))})
    weights = {path: jnp.ones(shape) for path, shape in shapes_of(bank, None).items()}
    program = str(jax.make_jaxpr(lambda w: inject(NETWORK, PARAMS, bank, w)(X))(weights))
    by_sample = {path: jnp.ones((len(X), *w.shape)) for path, w in weights.items()}
    other = str(jax.make_jaxpr(lambda w: inject(NETWORK, PARAMS, bank, w)(X))(by_sample))
    assert "f32[5,3,8]" not in program and "f32[5,1,3,8]" in other


def three():
    random = np.random.default_rng(0)
    return Bank.of({name: skill(Adapter(), random) for name in ("a", "b", "c")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in": np.ones((2, 1))}, r"shape \(2, 1\) do not fit 3 skill.*'a', 'b', 'c'.*layer 'in'"),
        ({"in": np.ones(3)}, r"shape \(3,\) do not fit"),
        ({"heads": np.ones((3, 3))}, r"'heads' of 8 outputs; .* blocks that divides 8"),
        ({"heads": np.ones((3, 16))}, "blocks that divides 8"),
        ({"heads": np.ones((3, 0))}, "blocks that divides 8"),
        ({"other": np.ones((3, 1))}, r"unknown: \['other'\]"),
        ({"in": None}, r"missing: \['in'\]"),
        ({"in": np.ones((4, 3, 1)), "out": np.ones((5, 3, 1))}, "no batch axis or the same one"),
        ({"in": np.ones((2, 5, 3, 1))}, "no batch axis or the same one"),
        ({"in": np.ones((4, 3, 1))}, r"weights for 4 samples do not fit .* \(5, 6\)"),
    ],
)
def test_weights_that_fit_no_layer_are_refused(change, message):
    weights = {path: np.ones((3, 1)) for path in OUTPUTS} | change
    weights = {path: w for path, w in weights.items() if w is not None}
    with pytest.raises(ValueError, match=message):
        run(three(), weights)


def test_so_are_those_of_a_function():
    with pytest.raises(ValueError, match=r"shape \(5, 8\) do not fit 3 skill.*layer 'heads'"):
        run(three(), lambda path, x: x if path == "heads" else np.ones((3, 1)))


def test_only_fixed_weights_are_merged():
    bank = three()
    by_sample = {path: np.ones((5, 3, 1)) for path in OUTPUTS}
    with pytest.raises(ValueError, match=r"\(3, blocks\) by layer, not weights by sample: kernel"):
        merge(PARAMS, bank, by_sample)
    with pytest.raises(ValueError, match="not a function of each layer's input"):
        merge(PARAMS, bank, lambda path, x: np.ones((3, 1)))


def test_a_skills_weight_is_its_mean_over_layers_and_blocks():
    weights = {"in": np.float32([[1, 3], [0, 0]]), "out": np.float32([[[4], [1]], [[6], [2]]])}
    np.testing.assert_allclose(per_skill(weights), [[3, 0.5], [4, 1]])
    np.testing.assert_array_equal(per_skill(np.float32([1, 2])), [1, 2])
    with pytest.raises(ValueError, match="no weight of a skill follows from the state"):
        per_skill(lambda path, x: x)


@pytest.mark.parametrize(
    ("weights", "size", "fixed"),
    [
        (None, None, True),
        (np.ones(3), None, True),
        (np.ones((4, 3)), 4, False),
        ({"in": np.ones((3, 1)), "out": np.ones((3, 2))}, None, True),
        ({"in": np.ones((3, 1)), "out": np.ones((4, 3, 2))}, 4, False),
        (lambda path, x: x, None, False),
    ],
)
def test_weights_are_fixed_where_they_have_no_batch_axis(weights, size, fixed):
    assert (samples(weights), is_fixed(weights)) == (size, fixed)
