import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import Bank, DiffusionBackbone, GaussianBackbone, Policy, Statistics
from psec_jax.composition import LEVELS, ComposedPolicy, NoiseLevel
from psec_jax.composition.levels import blend
from psec_jax.diffusion import vp_schedule
from psec_jax.networks import ConstantWeights

KEY = jax.random.key(11)
WEIGHTS = np.float32([0.6, -0.3, 0.9])
ONE_HOT = np.eye(3, dtype=np.float32)

LINEAR = ({"scale": 1.0}, {"rank": 1, "scale": 2.0}, {"kind": "full", "scale": 1.0})


class LinearDenoiser(nn.Module):
    @nn.compact
    def __call__(self, noisy_actions, time, observations):
        x = jnp.concatenate([noisy_actions, time[:, None] / 5, observations], axis=-1)
        return nn.Dense(2, name="out")(x)


class PointMass(nn.Module):
    """The exact denoiser of one action a state, which a dense layer gives."""

    @nn.compact
    def __call__(self, noisy_actions, time, observations):
        bar = jnp.asarray(vp_schedule(5).alpha_bars)[time.astype(int)][:, None]
        action = nn.Dense(2, name="out")(observations / 4)
        return (noisy_actions - jnp.sqrt(bar) * action) / jnp.sqrt(1 - bar)


create = jax.jit(Policy.create, static_argnums=0)


def with_network(diffusion, network):
    return create(DiffusionBackbone(2, network), diffusion.statistics, jax.random.key(0))


def compose(policy, level):
    return ComposedPolicy.create(policy, ConstantWeights(policy.bank.size), level, KEY)


def act(policy, level, observations, weights, key=KEY):
    return compose(policy, level).act(key, observations, weights)


@given(
    arrays.arrays(np.float32, (4, 3, 2), elements=st.floats(-1, 1, width=32)),
    arrays.arrays(np.float32, (3, 3), elements=st.floats(-2, 2, width=32)),
)
def test_blending_is_a_sum_whose_weights_add_to_one(predictions, weights):
    base, *parts = predictions
    expected = (1 - weights.sum(axis=1, keepdims=True)) * base
    for index, part in enumerate(parts):
        expected += weights[:, index : index + 1] * part
    np.testing.assert_allclose(blend(base, np.stack(parts), weights), expected, atol=1e-4)
    fixed = blend(base, np.stack(parts), weights[0])
    np.testing.assert_allclose(fixed[0], expected[0], atol=1e-4)


@pytest.mark.parametrize("level", ["noise", "action"])
def test_without_the_base_a_mixture_is_the_weighted_sum_of_the_parts(
    diffusion, observations, make_bank, level
):
    """The same as with it where weights add to one; twice the weights are twice the sum."""
    policy = diffusion.with_bank(make_bank(diffusion))
    free = compose(policy, dataclasses.replace(LEVELS[level], base_enters=False))
    summing = np.float32([0.5, -0.25, 0.75])
    with_base = act(policy, level, observations, summing)
    np.testing.assert_allclose(free.act(KEY, observations, summing), with_base, atol=1e-5)
    other = dataclasses.replace(policy, params=jax.tree.map(jnp.zeros_like, policy.params))
    moved = dataclasses.replace(free, base=dataclasses.replace(other, bank=None))
    acted = free.act(KEY, observations, WEIGHTS)
    np.testing.assert_array_equal(moved.act(KEY, observations, WEIGHTS), acted)
    if level == "action":
        np.testing.assert_allclose(free.act(KEY, observations, 2 * WEIGHTS), 2 * acted, rtol=1e-5)


@pytest.mark.parametrize("level", ["parameter", "noise"])
def test_zero_weights_are_the_base_and_one_hot_weights_that_skill(
    diffusion, observations, make_bank, level
):
    policy = diffusion.with_bank(make_bank(diffusion))
    base = diffusion.act(KEY, observations)
    np.testing.assert_allclose(act(policy, level, observations, 0 * WEIGHTS), base, atol=1e-5)
    for alone in ONE_HOT:
        skill = policy.act(KEY, observations, alone)
        assert not np.allclose(skill, base, atol=1e-3)
        np.testing.assert_allclose(act(policy, level, observations, alone), skill, atol=1e-4)


@pytest.mark.parametrize("level", ["parameter", "action"])
def test_the_same_holds_for_a_gaussian_backbone(gaussian, observations, make_bank, level):
    policy = gaussian.with_bank(make_bank(gaussian))
    base = gaussian.act(KEY, observations)
    np.testing.assert_allclose(act(policy, level, observations, 0 * WEIGHTS), base, atol=1e-5)
    for alone in ONE_HOT:
        skill = policy.act(KEY, observations, alone)
        assert not np.allclose(skill, base, atol=1e-3)
        np.testing.assert_allclose(act(policy, level, observations, alone), skill, atol=1e-5)


def test_the_action_level_mixes_actions(gaussian, observations, make_bank):
    policy = gaussian.with_bank(make_bank(gaussian))
    base = gaussian.act(KEY, observations)
    skills = [policy.act(KEY, observations, w) for w in ONE_HOT]
    expected = base + sum(w * (a - base) for w, a in zip(WEIGHTS, skills, strict=True))
    mixed = act(policy, "action", observations, WEIGHTS)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    assert not np.allclose(mixed, act(policy, "parameter", observations, WEIGHTS), atol=1e-3)


def test_noise_and_parameter_level_agree_where_the_denoiser_is_linear_in_its_kernels(
    diffusion, observations, make_bank
):
    linear = with_network(diffusion, LinearDenoiser())
    policy = linear.with_bank(make_bank(linear, LINEAR))
    by_sample = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for weights in (WEIGHTS, by_sample):
        by_parameter, by_noise = (
            act(policy, level, observations, weights) for level in ("parameter", "noise")
        )
        np.testing.assert_allclose(by_noise, by_parameter, atol=1e-4)
        assert not np.allclose(by_noise, linear.act(KEY, observations), atol=1e-2)


def test_all_levels_agree_where_each_skill_is_certain_of_an_action_linear_in_its_kernel(
    diffusion, observations, make_bank
):
    certain = with_network(diffusion, PointMass())
    policy = certain.with_bank(make_bank(certain, LINEAR))
    actions = [
        act(policy, level, observations, WEIGHTS, jax.random.key(seed))
        for seed, level in enumerate(LEVELS)
    ]
    assert np.abs(actions[0]).max() < 0.99
    np.testing.assert_allclose(actions[1], actions[0], atol=1e-4)
    np.testing.assert_allclose(actions[2], actions[0], atol=1e-4)


def test_noise_and_parameter_level_differ_where_the_denoiser_is_not_linear(
    diffusion, observations, make_bank
):
    policy = diffusion.with_bank(make_bank(diffusion))
    by_parameter, by_noise = (
        act(policy, level, observations, 3 * WEIGHTS) for level in ("parameter", "noise")
    )
    assert not np.allclose(by_parameter, by_noise, atol=1e-3)


@pytest.mark.parametrize("level", ["parameter", "noise"])
def test_the_loss_at_one_hot_weights_is_the_loss_of_that_skill(
    diffusion, observations, make_bank, level
):
    policy = diffusion.with_bank(make_bank(diffusion))
    batch = {"observations": observations, "actions": np.tanh(observations[:, :2])}
    composed = compose(policy, level)
    np.testing.assert_allclose(
        composed.with_fixed(0 * WEIGHTS).loss(batch, KEY), diffusion.loss(batch, KEY), rtol=1e-4
    )
    for alone in ONE_HOT:
        expected = policy.loss(batch, KEY, alone)
        np.testing.assert_allclose(
            composed.with_fixed(alone).loss(batch, KEY), expected, rtol=1e-3
        )


def test_the_action_loss_is_the_squared_distance_of_the_mixed_action(
    gaussian, observations, make_bank
):
    composed = compose(gaussian.with_bank(make_bank(gaussian)), "action").with_fixed(WEIGHTS)
    actions = composed.act(KEY, observations) + np.float32([[0.3, 0.4]])
    loss = composed.loss({"observations": observations, "actions": actions}, KEY)
    np.testing.assert_allclose(loss, np.full(4, 0.25), rtol=1e-4)


def test_each_part_at_the_action_level_has_noise_of_its_own(diffusion, make_bank):
    """Two independent samples of one distribution, evenly mixed, have half its variance."""
    policy = with_network(diffusion, LinearDenoiser())
    silent = make_bank(policy, ({"scale": 1.0},))
    silent = silent.replace(layers=jax.tree.map(jnp.zeros_like, silent.layers))
    observations = np.zeros((3000, 5), np.float32)
    single = policy.act(KEY, observations)
    mixed = act(policy.with_bank(silent), "action", observations, np.float32([0.5]))
    np.testing.assert_allclose(mixed.var(axis=0), single.var(axis=0) / 2, rtol=0.15)


def test_two_copies_of_a_skill_are_one_at_the_sum_of_their_weights(
    gaussian, observations, make_skill
):
    skill = make_skill(gaussian)
    twice = gaussian.with_bank(Bank.of({"a": skill, "b": skill}))
    once = gaussian.with_bank(Bank.of({"a": skill}))
    for level in ("parameter", "action"):
        np.testing.assert_allclose(
            act(twice, level, observations, np.float32([0.3, 0.7])),
            once.act(KEY, observations),
            atol=1e-5,
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (4, 1), (4, 2), (3, 3)])
def test_weights_of_another_size_are_refused_at_every_level(
    diffusion, observations, make_bank, level, shape
):
    composed = compose(diffusion.with_bank(make_bank(diffusion)), level)
    with pytest.raises(ValueError, match="do not fit"):
        composed.act(KEY, observations, np.ones(shape, np.float32))


def test_levels_that_cannot_be_are_refused(diffusion, gaussian, make_bank):
    with pytest.raises(ValueError, match=r"'layer' is unknown; expected one of .*'parameter'"):
        compose(diffusion.with_bank(make_bank(diffusion)), "layer")
    with pytest.raises(ValueError, match=r"only a diffusion backbone makes; use 'parameter' or"):
        compose(gaussian.with_bank(make_bank(gaussian)), "noise")
    with pytest.raises(ValueError, match="trained_by 'noise' is unknown; use 'denoising' or 'ac"):
        NoiseLevel(trained_by="noise")


# Policies that share no parameters.


def of_policies(base, parts, level, names=None):
    context = ConstantWeights(len(parts))
    return ComposedPolicy.of_policies(base, parts, context, level, KEY, names)


def separate(policy, seed):
    """Another policy with parameters and statistics of its own."""
    statistics = jax.tree.map(lambda leaf: leaf + 0.1 * seed, policy.statistics)
    return create(policy.backbone, statistics, jax.random.key(seed))


@pytest.mark.parametrize(("backbone", "level"), [("diffusion", "noise"), ("gaussian", "action")])
def test_one_of_several_policies_at_weight_one_is_that_policy(
    request, observations, backbone, level
):
    policy = request.getfixturevalue(backbone)
    parts = [separate(policy, seed) for seed in (1, 2)]
    composed = of_policies(policy, parts, level)
    for weights, expected in zip(
        np.float32([[0, 0], [1, 0], [0, 1]]), (policy, *parts), strict=True
    ):
        np.testing.assert_allclose(
            composed.act(KEY, observations, weights), expected.act(KEY, observations), atol=1e-5
        )


@pytest.mark.parametrize("level", ["noise", "action"])
def test_merged_skills_are_mixed_like_the_bank_they_come_from(
    diffusion, observations, make_bank, same, level
):
    policy = diffusion.with_bank(make_bank(diffusion))
    of_bank = compose(policy, level)
    apart = of_policies(diffusion, [policy.merged(w) for w in ONE_HOT], level, of_bank.names)
    assert of_bank.names == policy.bank.names
    assert same(of_bank.act(KEY, observations, WEIGHTS), apart.act(KEY, observations, WEIGHTS))


def test_separate_policies_that_cannot_be_mixed_are_refused(diffusion, gaussian):
    with pytest.raises(ValueError, match="share no kernels; use level 'noise' or 'action'"):
        of_policies(diffusion, [separate(diffusion, 1)], "parameter")
    with pytest.raises(ValueError, match="only a diffusion backbone makes"):
        of_policies(diffusion, [gaussian], "noise")
    for change in ({"schedule": "cosine"}, {"diffusion_steps": 6}):
        other = diffusion.replace(backbone=dataclasses.replace(diffusion.backbone, **change))
        with pytest.raises(ValueError, match="needs one noise schedule, but the policies have"):
            of_policies(diffusion, [other], "noise")


@pytest.mark.parametrize("sizes", [(6, 2), (5, 3)])
def test_policies_of_another_robot_cannot_be_mixed(gaussian, sizes):
    observation, action = sizes
    other = Policy.create(GaussianBackbone(action), Statistics.identity(observation), KEY)
    with pytest.raises(ValueError, match=r"size.*\(5, 2\)"):
        of_policies(gaussian, [other], "action")


def test_there_is_one_name_for_each_policy(gaussian):
    parts = [separate(gaussian, seed) for seed in (1, 2)]
    assert of_policies(gaussian, parts, "action", ["a", "b"]).names == ("a", "b")
    for names in (["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=r"name|skill"):
            ComposedPolicy.of_policies(
                gaussian, parts, ConstantWeights(len(names)), "action", KEY, names
            )
