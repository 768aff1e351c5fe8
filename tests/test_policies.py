import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Mapping

import flax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import struct
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import (
    Bank,
    BestOf,
    DiffusionBackbone,
    GaussianBackbone,
    Policy,
    SkillLibrary,
    Statistics,
    Training,
    compose,
)
from psec_jax.acting import act
from psec_jax.errors import BaseMismatch
from psec_jax.networks import ContextNetwork, Denoiser, GaussianActor
from psec_jax.policies import backbone_to_dict, fingerprint

KEY = jax.random.key(7)


@given(arrays.arrays(np.float32, (30, 3), elements=st.floats(-100, 100, width=32), unique=True))
def test_normalized_data_have_mean_zero_and_deviation_one(observations):
    normalized = Statistics.of(observations, floor=1e-6).normalize(observations)
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=2e-2)
    varied = observations.std(axis=0) > 1e-3
    np.testing.assert_allclose(normalized.std(axis=0)[varied], 1, rtol=1e-2)


def test_a_coordinate_that_hardly_varies_is_not_blown_up():
    observations = np.zeros((10, 2), np.float32)
    observations[:, 1] = np.arange(10)
    statistics = Statistics.of(observations, floor=0.5)
    assert statistics.std[0] == 0.5
    assert statistics.std[1] == pytest.approx(np.arange(10).std())


def test_a_policy_sees_normalized_observations(policy, observations):
    raw = policy.act(KEY, observations)
    plain = policy.replace(statistics=Statistics.identity(observations.shape[1]))
    shifted = (observations - policy.statistics.mean) / policy.statistics.std
    np.testing.assert_allclose(raw, plain.act(KEY, shifted), atol=1e-5)
    assert not np.allclose(raw, plain.act(KEY, observations), atol=1e-3)


def test_the_loss_sees_normalized_observations(policy, observations, close):
    plain = policy.replace(statistics=Statistics.identity(observations.shape[1]))
    shifted = (observations - policy.statistics.mean) / policy.statistics.std
    actions = np.tanh(observations[:, :2])
    loss = jax.jit(Policy.loss)
    raw = loss(policy, {"observations": observations, "actions": actions}, KEY)
    close(raw, loss(plain, {"observations": shifted, "actions": actions}, KEY))


def test_diffusion_actions_follow_from_the_key(diffusion, observations):
    one, again, other = (
        np.asarray(diffusion.act(jax.random.key(seed), observations)) for seed in (0, 0, 1)
    )
    assert one.tobytes() == again.tobytes()
    assert not np.allclose(one, other)


def test_fresh_parameters_are_those_that_the_network_itself_starts_with(gaussian, close):
    backbone = gaussian.backbone
    fresh = Policy.create(backbone, gaussian.statistics, KEY).params
    own = backbone.network.init(KEY, *backbone.example(gaussian.observation_size))["params"]
    close(fresh, own)


def test_policies_can_be_mapped_over(gaussian, observations):
    policies = [
        Policy.create(gaussian.backbone, gaussian.statistics, jax.random.key(seed))
        for seed in (0, 1)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *policies)
    together = jax.vmap(lambda policy: policy.sample(KEY, observations))(stacked)
    for policy, actions in zip(policies, together, strict=True):
        np.testing.assert_allclose(actions, policy.act(KEY, observations), atol=1e-6)
    assert not np.allclose(*together)


@pytest.mark.parametrize("kind", ["low_rank", "full"])
def test_a_skill_is_its_base_at_birth(policy, observations, kind, make_bank, make_skill):
    skill = make_skill(policy, kind=kind)
    fresh = dataclasses.replace(
        skill, deltas=skill.adapter.fresh(jax.random.key(3), policy.dense_layers())
    )
    actions = policy.act(KEY, observations)
    newborn = policy.with_bank(Bank.of({"skill": fresh}))
    np.testing.assert_allclose(newborn.act(KEY, observations), actions, atol=1e-6)
    grown = policy.with_bank(Bank.of({"skill": skill}))
    assert not np.allclose(grown.act(KEY, observations), actions, atol=1e-3)


def test_merging_equals_injection_for_fixed_weights(policy, observations, make_bank):
    carrying = policy.with_bank(make_bank(policy))
    weights = np.float32([0.3, -0.5, 1.2])
    merged = carrying.merged(weights).act(KEY, observations)
    injected = carrying.act(KEY, observations, weights)
    np.testing.assert_allclose(merged, injected, atol=1e-4)
    assert carrying.merged(weights).bank is None
    assert not np.allclose(merged, policy.act(KEY, observations), atol=1e-3)


def test_weights_that_vary_by_sample_cannot_be_merged(policy, make_bank):
    carrying = policy.with_bank(make_bank(policy))
    with pytest.raises(ValueError, match=r"only fixed weights of shape \(3,\) can be merged"):
        carrying.merged(np.ones((4, 3), np.float32))


def test_a_policy_without_skills_has_nothing_to_merge_or_weigh(policy, observations):
    with pytest.raises(ValueError, match="carries no skills to merge"):
        policy.merged()
    with pytest.raises(ValueError, match="carries no skills"):
        policy.act(KEY, observations, np.ones(1))


def test_weights_by_sample_equal_fixed_weights_row_by_row(policy, observations, make_bank, close):
    carrying = policy.with_bank(make_bank(policy))
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    actions = np.linspace(-0.9, 0.9, 8, dtype=np.float32).reshape(4, 2)
    batch = {"observations": observations, "actions": actions}
    loss = jax.jit(lambda w: carrying.loss(batch, KEY, w))
    by_sample, fixed = loss(weights), np.stack([loss(w) for w in weights])
    close(by_sample, np.diag(fixed))
    assert np.ptp(fixed, axis=0).min() > 1e-3


@pytest.mark.parametrize("shape", [(5,), (4, 6), (4, 4), (2, 4, 5), ()])
def test_observations_of_another_size_are_refused(policy, shape):
    with pytest.raises(ValueError, match=r"do not fit a policy of 5 .*expected \(batch, 5\)"):
        policy.act(KEY, np.zeros(shape))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (4, 2), (3, 3), (5, 3)])
def test_weights_of_another_size_are_refused(policy, observations, make_bank, shape):
    carrying = policy.with_bank(make_bank(policy))
    with pytest.raises(ValueError, match=r"do not fit (a batch|3 skill)"):
        carrying.act(KEY, observations, np.ones(shape))


def altered(policy, what):
    if what == "params":
        leaves, tree = jax.tree.flatten(policy.params)
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].add(1e-3)
        return policy.replace(params=tree.unflatten(leaves))
    if what == "mean":
        mean = policy.statistics.mean.at[0].add(1e-3)
        return policy.replace(statistics=policy.statistics.replace(mean=mean))
    if what == "std":
        std = policy.statistics.std.at[0].add(1e-3)
        return policy.replace(statistics=policy.statistics.replace(std=std))
    backbone = policy.backbone
    if what == "network":
        network = backbone.network.clone(activation="gelu")
        return policy.replace(backbone=dataclasses.replace(backbone, network=network))
    if isinstance(backbone, GaussianBackbone):
        return policy.replace(backbone=dataclasses.replace(backbone, deterministic=False))
    return policy.replace(backbone=dataclasses.replace(backbone, schedule="cosine"))


@pytest.mark.parametrize("what", ["params", "mean", "std", "network", "backbone"])
def test_any_change_of_a_base_changes_its_fingerprint(policy, make_bank, what):
    other = altered(policy, what)
    mine, theirs = fingerprint(policy), fingerprint(other)
    assert mine != theirs
    bank = make_bank(policy)
    with pytest.raises(BaseMismatch) as error:
        other.with_bank(bank)
    assert mine in str(error.value)
    assert theirs in str(error.value)


def test_skills_do_not_change_the_fingerprint_but_merging_them_does(policy, make_bank):
    carrying = policy.with_bank(make_bank(policy))
    assert fingerprint(carrying) == fingerprint(policy)
    with pytest.raises(BaseMismatch):
        carrying.merged().with_bank(carrying.bank)


def test_the_fingerprint_does_not_depend_on_the_order_of_parameters(diffusion):
    turned = diffusion.replace(params=dict(reversed(diffusion.params.items())))
    assert fingerprint(turned) == fingerprint(diffusion)


def test_the_fingerprint_hashes_what_is_written_to_disk(diffusion):
    """0 and 0.0 are equal, yet are written differently."""
    policies = [
        diffusion.replace(backbone=dataclasses.replace(diffusion.backbone, network=network))
        for network in (Denoiser(dropout=0.0), Denoiser(dropout=0), Denoiser(dropout=0.5))
    ]
    texts = [json.dumps(backbone_to_dict(policy.backbone)) for policy in policies]
    assert len({fingerprint(policy) for policy in policies}) == len(set(texts))


class Squashed(nn.Module):
    """An actor whose activation is a function, not a name."""

    squash: Callable

    @nn.compact
    def __call__(self, observations):
        h = self.squash(nn.Dense(4)(observations))
        return nn.Dense(2)(h), nn.Dense(2)(h)


SQUASHES = [
    nn.tanh,
    nn.relu,
    np.tanh,
    functools.partial(nn.leaky_relu, negative_slope=0.1),
    functools.partial(nn.leaky_relu, negative_slope=0.2),
]


def test_functions_among_the_settings_of_a_network_are_part_of_its_fingerprint(gaussian):
    """By what they are, not by where in memory they lie in this process."""
    policies = [
        gaussian.replace(backbone=GaussianBackbone(2, Squashed(squash))) for squash in SQUASHES
    ]
    assert len({fingerprint(policy) for policy in policies}) == len(SQUASHES)
    for policy in policies:
        assert "0x" not in json.dumps(backbone_to_dict(policy.backbone))


class Layered(nn.Module):
    """An actor whose functions lie deep in its settings."""

    layers: tuple
    options: Mapping = flax.core.freeze({})

    @nn.compact
    def __call__(self, observations):
        return nn.Dense(2)(observations), nn.Dense(2)(observations)


def test_functions_deep_in_the_settings_of_a_network_are_known_by_their_names(gaussian):
    def local(x):
        return x

    networks = [
        Layered(((8, nn.tanh), [local])),
        Layered(((8, nn.relu), [local])),
        Layered(((8, nn.tanh), [local]), flax.core.freeze({"last": {local: (nn.relu, 1)}})),
    ]
    policies = [gaussian.replace(backbone=GaussianBackbone(2, network)) for network in networks]
    assert len({fingerprint(policy) for policy in policies}) == len(networks)
    for policy in policies:
        text = json.dumps(backbone_to_dict(policy.backbone))
        assert "0x" not in text
        assert "local" in text


def nearness(target):
    def score(target, observations, actions):
        return -jnp.sum(jnp.square(actions - target), axis=-1)

    return jax.tree_util.Partial(score, target)


@pytest.fixture(scope="module")
def random(gaussian):
    """A policy that acts at random, with few operations."""
    network = gaussian.backbone.network
    return gaussian.replace(backbone=GaussianBackbone(2, network, deterministic=False))


def test_best_of_is_the_candidate_with_the_highest_score(random, observations):
    scorer = nearness(jnp.array([0.2, -0.3]))
    best = BestOf(random, scorer, 6).act(KEY, observations)
    candidates = jnp.stack([random.act(key, observations) for key in jax.random.split(KEY, 6)])
    scores = scorer(observations, candidates)
    assert np.ptp(scores, axis=0).min() > 1e-3
    np.testing.assert_allclose(scorer(observations, best), scores.max(axis=0), atol=1e-6)


def test_more_candidates_score_better_on_average(random):
    observations = np.zeros((300, 5), np.float32)
    scorer = nearness(jnp.array([0.2, -0.3]))
    means = [
        scorer(observations, BestOf(random, scorer, n).act(KEY, observations)).mean()
        for n in (1, 4, 16)
    ]
    assert means == sorted(means)
    assert means[-1] - means[0] > 0.1


def test_the_best_of_one_is_distributed_like_the_policy(random):
    observations = np.zeros((4000, 5), np.float32)
    one = BestOf(random, nearness(jnp.zeros(2)), 1).act(KEY, observations)
    plain = random.act(jax.random.key(8), observations)
    for statistic in (np.mean, np.std):
        np.testing.assert_allclose(statistic(one, axis=0), statistic(plain, axis=0), atol=0.06)


@flax.struct.dataclass
class Drawn:
    """An actor that is no policy: any action, in any state."""

    observation_size: int = flax.struct.field(pytree_node=False, default=3)
    action_size: int = flax.struct.field(pytree_node=False, default=2)

    def sample(self, key, observations):
        return jax.random.uniform(key, (len(observations), 2), minval=-1.0)


def test_best_of_takes_an_actor_that_knows_no_weights():
    observations = np.zeros((50, 3), np.float32)
    first = jax.tree_util.Partial(lambda observations, actions: actions[:, 0])
    best = [BestOf(Drawn(), first, n).act(KEY, observations)[:, 0].mean() for n in (1, 20)]
    assert best[0] < 0.5 < best[1]


def test_best_of_passes_weights_on(gaussian, observations, make_bank):
    carrying = gaussian.with_bank(make_bank(gaussian))
    weights = np.array([0.5, -1.0, 0.7], np.float32)
    best = BestOf(carrying, nearness(jnp.zeros(2)), 2)
    np.testing.assert_allclose(
        best.act(KEY, observations, weights), carrying.act(KEY, observations, weights), atol=1e-6
    )


@pytest.mark.parametrize("candidates", [0, -1])
def test_best_of_needs_a_candidate(gaussian, observations, candidates):
    with pytest.raises(ValueError, match="candidates"):
        BestOf(gaussian, nearness(jnp.zeros(2)), candidates).act(KEY, observations)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diffusion", "gaussian"])
def test_bfloat16_is_an_option_of_computing_alone(kind):
    networks = {
        "diffusion": DiffusionBackbone(2, Denoiser(32, 1, dropout=0.0)),
        "gaussian": GaussianBackbone(2),
    }
    exact = networks[kind]
    rough = dataclasses.replace(exact, compute="bfloat16")
    key, statistics = jax.random.key(0), Statistics.identity(3)
    one, other = (Policy.create(b, statistics, key) for b in (exact, rough))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    observations = jax.random.normal(key, (20, 3))
    batch = {"observations": observations, "actions": 0.5 * jnp.tanh(observations[:, :2])}
    exactly, roughly = (
        jax.grad(lambda p, x=x: dataclasses.replace(x, params=p).loss(batch, key).mean())(x.params)
        for x in (one, other)
    )
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(roughly))
    exactly, roughly = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (exactly, roughly))
    assert 0 < np.linalg.norm(exactly - roughly) < 0.1 * np.linalg.norm(exactly)
    actions = [x.act(key, observations) for x in (one, other)]
    assert actions[1].dtype == np.float32
    assert 0 < np.abs(actions[0] - actions[1]).max() < 0.05
    words = str(jax.make_jaxpr(lambda o: other.sample(key, o))(observations))
    products = [line for line in words.splitlines() if "dot_general" in line]
    assert products and all("bf16" in line for line in products)


def test_a_type_to_compute_in_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="compute 'float8' is unknown"):
        GaussianBackbone(2, compute="float8")


class OneByOne(nn.Module):
    """``nn.vmap`` over the batch, and a layer that is normalized on its way."""

    @nn.compact
    def __call__(self, actions, time, observations):
        layer = nn.vmap(nn.Dense, {"params": None}, split_rngs={"params": False})
        h = layer(8, name="in")(jnp.concatenate([actions, time[:, None], observations], axis=-1))
        h = nn.WeightNorm(nn.Dense(8, name="normed"))(nn.relu(h))
        return nn.Dense(actions.shape[-1], name="out")(nn.relu(h))


@pytest.fixture(scope="module")
def one_by_one(statistics):
    with pytest.warns(UserWarning, match=r"no skill can adapt normed/kernel of OneByOne"):
        return Policy.create(DiffusionBackbone(2, OneByOne()), statistics, KEY)


def test_a_network_that_lays_out_its_batch_in_its_own_way_is_composed_and_acts(
    one_by_one, make_skill, dataset, observations, tmp_path
):
    library = SkillLibrary.create(tmp_path / "library", one_by_one)
    for seed, name in enumerate("uv"):
        library.add(name, make_skill(one_by_one, seed, size=0.3))
    narrow = ContextNetwork(2, (8,))
    agent = compose(library, dataset, key=KEY, training=Training(3, 16), composer=narrow)
    weights = np.asarray(agent.weights(observations))
    policy = one_by_one.with_bank(library.bank())
    for count in (1, 3, 4):
        mixed = agent.act(KEY, observations[:count])
        assert mixed.shape == (count, 2)
        by_hand = policy.act(KEY, observations[:count], weights[:count])
        np.testing.assert_allclose(mixed, by_hand, atol=1e-5)
    best = BestOf(agent, jax.tree_util.Partial(lambda o, a: a[:, 0]), candidates=3)
    assert best.act(KEY, observations).shape == (4, 2)


def test_a_skill_of_a_layer_that_carries_no_delta_is_refused(one_by_one, make_skill):
    skill = make_skill(one_by_one)
    wrong = dataclasses.replace(skill, deltas={"normed": next(iter(skill.deltas.values()))})
    with pytest.raises(ValueError, match=r"\['s'\] adapts \['normed'\], which carry no delta"):
        one_by_one.with_bank(Bank.of({"s": wrong}))


def test_no_kernel_of_our_own_networks_is_without_a_delta(statistics):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for backbone in (DiffusionBackbone(3), GaussianBackbone(3)):
            policy = Policy.create(backbone, statistics, KEY)
            flat = flax.traverse_util.flatten_dict(policy.params, sep="/")
            kernels = {f"{path}/kernel" for path in policy.dense_layers()}
            assert kernels == {name for name, value in flat.items() if value.ndim > 1}


def test_a_network_that_mixes_the_samples_of_a_batch_makes_no_policy(statistics):
    class Centred(nn.Module):
        @nn.compact
        def __call__(self, observations):
            h = nn.Dense(2)(observations - observations.mean(0))
            return h, h

    with pytest.raises(ValueError, match="Centred mixes the samples of a batch"):
        Policy.create(GaussianBackbone(2, Centred()), statistics, KEY)


def test_the_shapes_of_a_policy_cost_nothing(statistics):
    """As a library reads them before it trusts a file."""
    backbone = GaussianBackbone(2, GaussianActor(2, hidden=(2**20, 2**20)))
    shapes = jax.eval_shape(lambda: Policy.create(backbone, statistics, jax.random.key(0)))
    assert shapes.params["hidden_1"]["kernel"].shape == (2**20, 2**20)


def test_agents_of_other_classes_never_share_a_program():
    def standing_at(level):
        @struct.dataclass
        class Stands:
            observation_size = 3
            action_size = 1

            def sample(self, key, observations, weights=None):
                return jnp.full((len(observations), 1), level)

        return Stands()

    acts = [float(act(standing_at(n), KEY, np.zeros((1, 3)))[0, 0]) for n in range(60)]
    assert acts == list(range(60))
