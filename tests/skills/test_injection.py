import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import Adapter, Bank, Skill
from psec_jax.skills import dense_layers, inject, merge


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(nn.tanh(nn.Dense(7, name="wide")(x)))
        return nn.Dense(4)(h)


class Network(nn.Module):
    """Someone else's network: nested modules, a shared layer, a convolution, an embedding."""

    def setup(self):
        self.table = nn.Embed(3, 4)
        self.conv = nn.Conv(4, kernel_size=(3,))
        self.blocks = [Inner(), Inner()]
        self.shared = nn.Dense(4, use_bias=False)
        self.attention = nn.DenseGeneral((2, 2))
        self.head = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])

    def __call__(self, x):
        x = self.conv(x[..., None]).mean(axis=-2) + self.table(jnp.zeros(len(x), int))
        for block in self.blocks:
            x = x + block(x)
        x = self.shared(nn.tanh(self.shared(x)))
        return self.head(self.attention(x).reshape(x.shape))


class Parallel(nn.Module):
    """Linear in all of its kernels together."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="left")(x) + nn.Dense(3, name="right")(2 * x)


class Sequence(nn.Module):
    """Dense layers on inputs of more than two dimensions."""

    @nn.compact
    def __call__(self, x):
        tokens = jnp.stack([x, 2 * x, x**2, x - 1], axis=1)
        return nn.Dense(3, name="out")(nn.tanh(nn.Dense(6, name="in")(tokens))).mean(axis=1)


X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
NETWORKS = [Network(), Sequence(), Parallel(), nn.Dense(3)]

# Three skills of different ranks, kinds and layers.
MIXED = (
    Adapter(rank=1, scale=2.0),
    Adapter(rank=3, scale=1.0, targets=r"|left|in|out|head.*|.*wide"),
    Adapter("full", scale=0.5, targets=r"|left|in|blocks_0.*|shared|.*layers_2"),
)
WEIGHTS = np.float32([0.4, -1.1, 0.7])

each_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)


@functools.cache
def params_of(network):
    return jax.jit(network.init)(jax.random.key(0), X)["params"]


def layers_of(network):
    return dense_layers(network, X[:1])


@functools.cache
def skills_of(network, adapters=MIXED):
    layers, generator = layers_of(network), np.random.default_rng(1)

    def random(leaf):
        return jnp.asarray(generator.normal(size=leaf.shape) / 3, leaf.dtype)

    fresh = [
        jax.eval_shape(functools.partial(a.fresh, layers=layers), jax.random.key(0))
        for a in adapters
    ]
    return {
        f"skill-{i}": Skill(jax.tree.map(random, shapes), adapter, "base")
        for i, (shapes, adapter) in enumerate(zip(fresh, adapters, strict=True))
    }


def bank_of(network, adapters=MIXED):
    return Bank.of(skills_of(network, adapters))


def run(network, bank=None, weights=None, x=X, params=None):
    return inject(network, params or params_of(network), bank, weights)(x)


@given(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3).map(np.float32))
def test_a_bank_adds_the_sum_of_what_its_skills_add_alone(weights):
    network = Parallel()
    base = run(network)
    alone = [
        run(network, Bank.of({name: skill})) - base for name, skill in skills_of(network).items()
    ]
    assert min(jnp.abs(part).max() for part in alone) > 0.1
    mixed = run(network, bank_of(network), weights)
    np.testing.assert_allclose(mixed, base + np.tensordot(weights, alone, 1), atol=1e-4)


@each_network
def test_zero_weights_leave_a_network_as_it_is(network):
    np.testing.assert_array_equal(run(network, bank_of(network), np.zeros(3)), run(network))


@each_network
def test_weights_by_sample_equal_fixed_weights_row_by_row(network):
    bank = bank_of(network)
    weights = np.random.default_rng(2).normal(size=(len(X), 3)).astype(np.float32)
    rows = [run(network, bank, w, X[i : i + 1])[0] for i, w in enumerate(weights)]
    np.testing.assert_allclose(run(network, bank, weights), np.stack(rows), rtol=1e-4, atol=1e-4)


@each_network
def test_merging_equals_injection(network):
    bank = bank_of(network)
    merged = merge(params_of(network), bank, WEIGHTS)
    injected = run(network, bank, WEIGHTS)
    np.testing.assert_allclose(run(network, params=merged), injected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(injected, run(network), atol=1e-2)


def test_every_dense_layer_is_found_and_nothing_else():
    found = layers_of(Network())
    assert found == {
        "blocks_0/wide": (4, 7),
        "blocks_0/Dense_0": (7, 4),
        "blocks_1/wide": (4, 7),
        "blocks_1/Dense_0": (7, 4),
        "shared": (4, 4),
        "attention": (4, 4),
        "head/layers_0": (4, 5),
        "head/layers_2": (5, 2),
    }


def test_merging_leaves_all_but_the_kernels_of_adapted_layers_alone(same):
    network = Network()
    bank = bank_of(network, (Adapter(targets="shared|head/layers_0"),))
    before = traverse_util.flatten_dict(params_of(network), sep="/")
    after = traverse_util.flatten_dict(merge(params_of(network), bank), sep="/")
    changed = {path for path in before if not same(before[path], after[path])}
    assert changed == {"shared/kernel", "head/layers_0/kernel"}


def test_a_layer_that_is_called_twice_is_adapted_twice():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(6, use_bias=False, name="shared")
            return layer(layer(x))

    network = Twice()
    bank = bank_of(network, (Adapter(rank=2, scale=1.0),))
    (delta,) = bank.layers["shared"]
    kernel = params_of(network)["shared"]["kernel"] + delta.down @ delta.up
    np.testing.assert_allclose(run(network, bank), X @ kernel @ kernel, rtol=1e-4, atol=1e-5)


def test_nothing_is_injected_outside_of_the_function():
    network = Parallel()
    before = run(network)
    assert not np.allclose(run(network, bank_of(network)), before)
    np.testing.assert_array_equal(run(network), before)


def test_injection_goes_through_jit_vmap_and_grad():
    network, bank = Network(), bank_of(Network())
    weights = np.stack([WEIGHTS, -WEIGHTS])
    together = jax.jit(jax.vmap(lambda w: run(network, bank, w)))(weights)
    for w, output in zip(weights, together, strict=True):
        np.testing.assert_allclose(output, run(network, bank, w), rtol=1e-4, atol=1e-4)

    def total(w):
        return run(Parallel(), bank_of(Parallel()), w).sum()

    ones = [total(w) - total(np.zeros(3)) for w in np.eye(3, dtype=np.float32)]
    np.testing.assert_allclose(jax.grad(total)(WEIGHTS), np.array(ones), rtol=1e-3, atol=1e-4)


def test_an_input_given_by_keyword_is_adapted_too():
    class Keyword(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="left")(inputs=x)

    network = Keyword()
    assert layers_of(network) == {"left": (6, 3)}
    bank = bank_of(network)
    merged = merge(params_of(network), bank, WEIGHTS)
    np.testing.assert_allclose(
        run(network, bank, WEIGHTS), run(network, params=merged), rtol=1e-4, atol=1e-5
    )


def test_a_layer_keeps_its_own_precision():
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, dtype=jnp.bfloat16)(x)

    network = Half()
    adapted = run(network, bank_of(network, (Adapter(), Adapter("full"))))
    assert adapted.dtype == run(network).dtype == jnp.bfloat16
    assert not np.allclose(adapted, run(network), atol=0.1)


def test_each_sample_has_its_own_dropout():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5)(x, deterministic=not self.has_rng("dropout"))
            return nn.Dense(3, name="left")(x)

    network = Dropping()
    same = np.repeat(X[:1], 4, axis=0)
    by_sample = inject(
        network, params_of(network), bank_of(network), np.tile(WEIGHTS, (4, 1)), jax.random.key(3)
    )
    outputs = np.asarray(by_sample(same))
    assert len(np.unique(outputs, axis=0)) == 4
    np.testing.assert_array_equal(by_sample(same), outputs)


def test_weights_for_another_number_of_samples_are_refused():
    with pytest.raises(ValueError, match=r"weights for 3 samples do not fit .* \(4, 6\)"):
        run(Parallel(), bank_of(Parallel()), np.ones((3, 3)))


def test_batch_first_inputs_are_not_moved():
    network, bank = Sequence(), bank_of(Sequence())
    for weights in (WEIGHTS, np.tile(WEIGHTS, (4, 1))):
        program = str(jax.make_jaxpr(lambda w: run(network, bank, w))(weights))
        assert "dot_general" in program
        assert "transpose[" not in program


def test_a_delta_for_a_layer_that_is_not_there_is_refused():
    bank = bank_of(Parallel())
    other = bank.replace(layers={"right/x": bank.layers["right"]})
    for place in (lambda: run(Parallel(), other), lambda: merge(params_of(Parallel()), other)):
        with pytest.raises(ValueError, match="has no dense layer 'right/x'"):
            place()


@pytest.mark.parametrize("shape", [(), (2,), (4,), (4, 1), (4, 2), (1, 4, 3)])
def test_weights_of_another_width_are_refused_with_the_names_of_the_skills(shape):
    with pytest.raises(ValueError, match=r"do not fit 3 skill.*'skill-0', 'skill-1'"):
        run(Parallel(), bank_of(Parallel()), np.ones(shape))


def test_merging_needs_fixed_weights():
    with pytest.raises(ValueError, match=r"only fixed weights of shape \(3,\) can be merged"):
        merge(params_of(Parallel()), bank_of(Parallel()), np.ones((4, 3)))


def test_weights_without_a_bank_are_refused():
    with pytest.raises(ValueError, match="carries no skills"):
        run(Parallel(), None, np.ones(1))
