"""The laws of injection over networks that are built in many ways."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from psec_jax import Adapter, Bank, Skill
from psec_jax.skills import dense_layers, inject, merge

pytestmark = pytest.mark.slow

OUT, FEATURES = 2, 6
X = np.random.default_rng(0).normal(size=(4, FEATURES)).astype(np.float32)


def tokens(x, count=3, axis=1):
    """Different tokens of each sample, stacked along ``axis``."""
    return jnp.stack([x * (i + 1) - i for i in range(count)], axis)


class Plain(nn.Module):
    layer: type = nn.Dense

    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUT)(nn.tanh(self.layer(5, name="h")(x)))


class Halved(nn.Dense):
    """Its kernel acts once, at half its strength."""

    @nn.compact
    def __call__(self, inputs):
        return 0.5 * super().__call__(inputs)


class Twofold(nn.Dense):
    """Its kernel acts at two places."""

    @nn.compact
    def __call__(self, inputs):
        return super().__call__(inputs) * jnp.tanh(super().__call__(inputs + 1))


class Wrapper(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, use_bias=False)(inputs=x) + 1


class TimeMajor(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(5, name="token")(tokens(x, axis=0)))
        return nn.Dense(OUT, name="out")(h.mean(0))


class BatchMajor(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(5, name="token")(tokens(x)))
        return nn.Dense(OUT, name="out")(h.mean(1))


class Folded(nn.Module):
    """All tokens of all samples in one axis."""

    @nn.compact
    def __call__(self, x):
        h = tokens(x).reshape(-1, FEATURES)
        h = nn.tanh(nn.Dense(5, name="token")(h)).reshape(len(x), -1)
        return nn.Dense(OUT, name="out")(h)


class Transformer(nn.Module):
    """One token a coordinate, with a table of positions that is itself projected."""

    @nn.compact
    def __call__(self, x):
        table = self.param("positions", nn.initializers.normal(1.0), (FEATURES, 4))
        h = nn.Dense(8, name="embed")(x[..., None]) + nn.Dense(8, name="position")(table)
        h = h + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(h))
        h = h + nn.Dense(8, name="down")(nn.gelu(nn.Dense(16, name="up")(h)))
        return nn.Dense(OUT, name="out")(h.mean(1))


class General(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = tokens(x)
        h = nn.tanh(nn.DenseGeneral((2, 3), axis=(2, 1), name="both")(h))
        h = nn.tanh(nn.DenseGeneral(4, axis=-2, name="middle")(h))
        h = jnp.moveaxis(h, 0, 1)
        return nn.DenseGeneral(OUT, axis=(0, 2), use_bias=False, name="around")(h)


class Tied(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(FEATURES, name="tied")
        return nn.Dense(OUT)(layer(nn.tanh(layer(tokens(x).mean(1)))))


class Block(nn.Module):
    """A layer of a stack, in the form that ``nn.scan`` asks for."""

    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.tanh(nn.Dense(FEATURES, name="in")(x)), None


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUT)(nn.remat(Block)(name="block")(x)[0])


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Block, {"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(OUT, name="out")(stack(name="stack")(x, None)[0])


class ScannedTied(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Block, variable_broadcast="params", split_rngs={"params": False}, length=3)
        return nn.Dense(OUT, name="out")(stack(name="stack")(x, None)[0])


class Ensemble(nn.Module):
    """Members of one network, each with scanned layers: kernels of two stack axes."""

    @nn.compact
    def __call__(self, x):
        members = nn.vmap(
            Scanned, {"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2
        )
        return members(name="members")(x).mean(0)


class OneByOne(nn.Module):
    @nn.compact
    def __call__(self, x):
        over_batch = nn.vmap(Plain, {"params": None}, split_rngs={"params": False})
        return over_batch(name="plain")(x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUT)(nn.RNN(nn.GRUCell(4))(tokens(x))[:, -1])


class Spread(nn.Module):
    """A mean and a deviation that does not depend on the state, in three shapes."""

    shape: tuple[int, ...] = (OUT,)

    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUT, name="mean")(x), self.param(
            "log_std", nn.initializers.ones, self.shape
        )


class Whole(nn.Module):
    """A layer on inputs that are not floating point numbers."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(5, name="kind")((x > 0).astype(int) + 1) + nn.Dense(5, name="below")(x < 9)
        return nn.Dense(OUT, name="out")(nn.tanh(h))


class Partitioned(nn.Module):
    @nn.compact
    def __call__(self, x):
        initializer = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
        return nn.Dense(OUT, kernel_init=initializer)(nn.Dense(5, name="h")(x))


class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(32, name="h", dtype=jnp.bfloat16)(x))
        return nn.Dense(OUT, param_dtype=jnp.bfloat16)(h)


class Branches(nn.Module):
    """One layer in both branches of a condition, and layers of which a sample uses one."""

    @nn.compact
    def __call__(self, x):
        def turned(module, x):
            return module(-x)

        turn = self.param("turn", nn.initializers.ones, ()) > 0
        h = nn.cond(turn, turned, nn.Dense.__call__, nn.Dense(FEATURES, name="h"), x)
        experts = jnp.stack([nn.Dense(OUT, name=f"expert_{i}")(h) for i in range(2)], axis=1)
        return jnp.where(x[:, :1] > 0, experts[:, 0], experts[:, 1])


class Bound(nn.Module):
    """``jax.vmap`` over a layer that is bound already."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(5, name="h")
        layer(x)
        return nn.Dense(OUT)(nn.tanh(jax.vmap(layer)(x)))


class Use(nn.Module):
    layer: nn.Module

    def __call__(self, x):
        return nn.tanh(self.layer(x))


class Shared(nn.Module):
    """One layer in two modules."""

    def setup(self):
        self.shared = nn.Dense(FEATURES)
        self.first, self.second = Use(self.shared), Use(self.shared)
        self.out = nn.Dense(OUT)

    def __call__(self, x):
        return self.out(self.second(self.first(x)))


class Silent(nn.Module):
    """Gives zero, whatever happens inside, until it is trained."""

    @nn.compact
    def __call__(self, x):
        gate = nn.Dense(FEATURES, kernel_init=nn.initializers.zeros, name="gate")(x)
        return nn.Dense(OUT, name="out")(x + gate * Plain()(x).sum(-1, keepdims=True))


Lifted = nn.vmap(nn.Dense, {"params": None}, split_rngs={"params": False})
NETWORKS = {
    "plain": Plain(),
    "subclass": Plain(Halved),
    "twofold": Plain(Twofold),
    "wrapper": Plain(Wrapper),
    "lifted layer": Plain(Lifted),
    "time-major": TimeMajor(),
    "batch-major": BatchMajor(),
    "folded": Folded(),
    "transformer": Transformer(),
    "general": General(),
    "tied": Tied(),
    "remat": Remat(),
    "scanned": Scanned(),
    "scanned and tied": ScannedTied(),
    "ensemble": Ensemble(),
    "one by one": OneByOne(),
    "recurrent": Recurrent(),
    "spread": Spread(),
    "spread of one": Spread(()),
    "spread of a batch": Spread((1, OUT)),
    "integers": Whole(),
    "partitioned": Partitioned(),
    "half precision": Half(),
    "branches": Branches(),
    "bound": Bound(),
    "shared": Shared(),
    "silent": Silent(),
    "bare layer": nn.Dense(OUT),
}
# The second leaves some layers alone, so that the slices of a stack differ.
ADAPTERS = (
    Adapter("full", targets=".*", scale=0.5),
    Adapter(rank=3, targets="(?!.*/1$|Dense_0$).*", scale=1.0),
)

each_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def params_of(network):
    return nn.unbox(jax.jit(network.init)(jax.random.key(0), X)["params"])


@functools.cache
def bank_of(network):
    random = np.random.default_rng(1)
    layers = dense_layers(network, X[:1])
    skills = {}
    for i, adapter in enumerate(ADAPTERS):
        deltas = jax.eval_shape(lambda k, a=adapter: a.fresh(k, layers), jax.random.key(0))
        normal = lambda d: jnp.asarray(random.normal(size=d.shape) / 2, d.dtype)  # noqa: E731
        skills[f"skill-{i}"] = Skill(jax.tree.map(normal, deltas), adapter, "base")
    return Bank.of(skills)


@functools.partial(jax.jit, static_argnums=0)
def run(network, params, bank=None, weights=None, x=X):
    return inject(network, params, bank, weights)(x)


def leaves(output, batch=4):
    """All outputs, spread over the batch."""
    return np.concatenate(
        [np.broadcast_to(leaf, (batch, OUT)) for leaf in jax.tree.leaves(output)], axis=1
    )


def by_block(bank, weigh):
    """Weights by layer, of as many blocks in turn as a layer has outputs, one, and two."""
    blocks = {
        path: (d, 1, math.gcd(d, 2))[i % 3] for i, (path, d) in enumerate(bank.outputs.items())
    }
    return {path: weigh(size=(len(X), 2, m)).astype(np.float32) for path, m in blocks.items()}


def check_laws(network, precision=1e-4):
    params, bank = params_of(network), bank_of(network)
    bare, weigh = leaves(run(network, params)), np.random.default_rng(2).normal
    close = functools.partial(np.testing.assert_allclose, rtol=10 * precision, atol=precision)

    for weights in (weigh(size=(len(X), 2)).astype(np.float32), by_block(bank, weigh)):
        each = [jax.tree.map(lambda w, i=i: w[i], weights) for i in range(len(X))]
        injected = leaves(run(network, params, bank, each[0]))
        close(injected, leaves(run(network, merge(params, bank, each[0]))))
        assert np.abs(injected - bare).max() > 20 * precision

        rows = [
            leaves(run(network, merge(params, bank, w), x=X[i : i + 1]), 1)
            for i, w in enumerate(each)
        ]
        close(leaves(run(network, params, bank, weights)), np.concatenate(rows))

    for zero in (np.zeros(2), np.zeros((len(X), 2))):
        close(leaves(run(network, params, bank, zero)), bare)


@each_network
def test_injected_is_merged_and_by_sample_is_row_by_row(name):
    check_laws(NETWORKS[name], precision=1e-2 if name == "half precision" else 1e-4)


@each_network
def test_gradients_reach_every_delta_and_every_weight(name):
    network = NETWORKS[name]
    params, bank = params_of(network), bank_of(network)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(layers, weights):
        output = inject(network, params, bank.replace(layers=layers), weights)(X)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(output))

    for shape in ((2,), (len(X), 2)):
        layers, weights = gradient(bank.layers, jnp.full(shape, 0.5))
        assert weights.shape == shape and np.all(weights)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(layers))


JittedLayer = nn.jit(nn.Dense)
Normalized = functools.partial(nn.map_variables, nn.Dense, "params", init=True)


def rounded(a, b, dimensions, precision=None):
    return jax.lax.dot_general(a, jnp.round(8 * b) / 8, dimensions)


def straight_through(a):
    """Rounded, with the gradient of what is not."""
    return a + jax.lax.stop_gradient(jnp.round(2 * a) / 2 - a)


class Tail(nn.Module):
    """``middle`` between two layers that carry deltas."""

    middle: str

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(FEATURES, name="in")(x))
        return nn.Dense(OUT, name="out")(MIDDLES[self.middle][0](h))


def read_elsewhere(x):
    layer = nn.Dense(5, name="h")
    return nn.tanh(layer(x)) @ layer.variables["params"]["kernel"].T


def another_network(x):
    """It is applied by itself, and has a layer of the same path as one here."""
    network = nn.Dense(FEATURES)
    inner = nn.Sequential((network,))
    parent = nn.module._context.module_stack[-1]
    params = parent.param("inner", lambda key: inner.init(key, x)["params"])
    return inner.apply({"params": params}, nn.Dense(FEATURES, name="layers_0")(x))


def own_kernels(x):
    x = nn.Conv(FEATURES, (3,), name="conv")(x[..., None]).mean(-2)
    x = x + nn.Embed(3, FEATURES, name="table")(jnp.zeros(len(x), int))
    return nn.Einsum((FEATURES, 5), "bi,io->bo", name="einsum")(x)


def scanned_along(axis, length):
    def stacked(x):
        block = nn.scan(Bare, {"params": axis}, split_rngs={"params": True}, length=length)
        return block(name="h")(x, None)[0]

    return stacked


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.tanh(nn.Dense(FEATURES, use_bias=False, name="in")(x)), None


# What carries no delta, and the kernels that the warning names.
MIDDLES = {
    "jit": (lambda x: JittedLayer(5, name="h")(x), ["h/kernel"]),
    "weight norm": (lambda x: nn.WeightNorm(nn.Dense(5, name="h"))(x), ["h/kernel"]),
    "halved variables": (
        lambda x: Normalized(lambda v: jax.tree.map(lambda a: a / 2, v))(5, name="h")(x),
        ["h/kernel"],
    ),
    "rounded variables": (
        lambda x: Normalized(lambda v: jax.tree.map(straight_through, v))(5, name="h")(x),
        ["h/kernel"],
    ),
    "own product": (lambda x: nn.Dense(5, name="h", dot_general=rounded)(x), ["h/kernel"]),
    "batch axes": (
        lambda x: nn.DenseGeneral(5, batch_dims=(0,), name="h")(tokens(x, axis=0)).mean(0),
        ["h/kernel"],
    ),
    "read elsewhere": (read_elsewhere, ["h/kernel"]),
    "another network": (another_network, ["inner/layers_0/kernel", "layers_0/kernel"]),
    "own kernels": (own_kernels, ["conv/kernel", "einsum/kernel", "table/embedding"]),
    "stacked in the middle": (scanned_along(1, 3), ["h/in/kernel"]),
    "stacked somewhere": (scanned_along(1, FEATURES), ["h/in/kernel"]),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_what_carries_no_delta_is_named_once_and_the_rest_obeys_the_laws(middle):
    network = Tail(middle)
    with pytest.warns(UserWarning, match="no skill can adapt") as said:
        layers = dense_layers(network, X[:1])
    (message,) = (str(warning.message) for warning in said)
    named = message.removeprefix("no skill can adapt ").split(" of Tail: ")[0]
    assert sorted(named.split(", ")) == MIDDLES[middle][1]
    assert layers.keys() == {"in", "out"}
    check_laws(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dense_layers(network, X[:1]) == layers


def test_a_vector_is_no_kernel_that_a_skill_could_adapt():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dense_layers(Spread((1, 1, OUT)), X[:1]) == {"mean": (FEATURES, OUT)}


def test_a_stack_of_layers_is_a_layer_a_slice():
    assert dense_layers(Scanned(), X[:1]) == {
        **{f"stack/in/{i}": (FEATURES, FEATURES) for i in range(3)},
        "out": (FEATURES, OUT),
    }
    assert {f"members/stack/in/{i}/{j}" for i in range(2) for j in range(3)} < dense_layers(
        Ensemble(), X[:1]
    ).keys()


def test_the_kernels_of_attention_are_seen_as_matrices():
    layers = dense_layers(Transformer(), X[:1])
    projections = {layers[f"attention/{name}"] for name in ("query", "key", "value", "out")}
    assert projections == {(8, 8)}
    assert dense_layers(General(), X[:1]) == {
        "both": (3 * FEATURES, 6),
        "middle": (2, 4),
        "around": (12, OUT),
    }


def test_layers_are_found_from_inside_a_transformation():
    class New(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(OUT)(x)

    def count(a):
        return a * len(dense_layers(New(), X[:1]))

    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(count)))(np.ones(3)), np.ones(3))


def test_layers_are_found_where_jit_is_disabled():
    with jax.disable_jit():
        assert dense_layers(nn.Dense(7), X[:1]) == {"": (FEATURES, 7)}


class Mixing(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        mixed = x.mean(0) if self.how == "mean" else nn.MultiHeadDotProductAttention(2)(x)
        return nn.Dense(OUT)(x - mixed)


@pytest.mark.parametrize("how", ["mean", "attention"])
def test_a_network_that_mixes_the_samples_of_a_batch_is_refused(how):
    with pytest.raises(ValueError, match="Mixing mixes the samples of a batch"):
        dense_layers(Mixing(how), X[:1])


class Stateful(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "batch_stats":
            x = nn.BatchNorm(use_running_average=True)(x)
        elif self.kind == "kernel":
            x = nn.Dense(len(x))(x.T).T
        else:
            x = nn.Dropout(0.5, deterministic=False)(x)
        return nn.Dense(OUT)(x)


@pytest.mark.parametrize("kind", ["batch_stats", "dropout", "kernel"])
def test_a_network_that_needs_more_than_parameters_is_refused(kind):
    with pytest.raises(ValueError, match=f"Stateful cannot be applied to a batch of 2 .*{kind}"):
        dense_layers(Stateful(kind), X[:1])
