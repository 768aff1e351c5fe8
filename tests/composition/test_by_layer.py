"""Compositions whose weights are by layer and block, and sources of weights of one's own."""

import dataclasses

import flows
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import psec_jax as psec
from psec_jax import GaussianBackbone, Optimizer, SkillLibrary, TransitionDataset
from psec_jax.composition import ComposedPolicy
from psec_jax.learners import ContextLearner
from psec_jax.networks import ByLayer, ConstantWeights, ContextNetwork
from psec_jax.networks.context import LINKS
from psec_jax.skills.weights import per_skill
from psec_jax.training import Training, fit

KEY = jax.random.key(5)
TWO = ({"scale": 2.0}, {"rank": 3, "scale": 1.0})
SOURCES = {
    "constants": ConstantWeights,
    "network": lambda skills, **settings: ContextNetwork(skills, (8,), **settings),
}

each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@pytest.fixture(scope="module")
def carrying(gaussian, make_bank):
    return gaussian.with_bank(make_bank(gaussian))


def layouts(bank):
    return {
        "shared": None,
        "by layer": dict.fromkeys(bank.layers, 1),
        "by two blocks": dict.fromkeys(bank.layers, 2),
        "by output": bank.outputs,
    }


def composed(policy, source, layers, **settings):
    source = source(policy.bank.size, **settings)
    context = source if layers is None else ByLayer.of(source, layers)
    return ComposedPolicy.create(policy, context, "parameter", KEY)


@each_source
@pytest.mark.parametrize("layout", ["shared", "by layer", "by two blocks", "by output"])
@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({}, 1 / 3),
        ({"start": "zero"}, 0.0),
        ({"start": 0.3, "link": "clip"}, 0.3),
        ({"start": -0.5}, -0.5),
        ({"start": "zero", "link": "softmax"}, 1 / 3),
        ({"start": 2.0, "link": "sigmoid"}, 1 / 3),
    ],
)
def test_every_composition_starts_where_it_says(
    carrying, observations, source, layout, settings, each
):
    """At the even mixture, at π₀, or at a number."""
    agent = composed(carrying, source, layouts(carrying.bank)[layout], **settings)
    expected = carrying.act(KEY, observations, np.full(3, each, np.float32))
    np.testing.assert_allclose(agent.act(KEY, observations), expected, atol=1e-5)
    assert agent.has_fixed_weights == (source is ConstantWeights)


@pytest.mark.parametrize("link", LINKS)
def test_links_map_numbers_across_skills(link):
    source = ConstantWeights(3, link=link)
    numbers = np.float32([2.0, -1.0, 0.5])
    weights = np.asarray(source.apply({"params": {"weights": numbers}}, jnp.zeros((1, 5))))
    assert np.all(np.diff(weights[[1, 2, 0]]) > 0)
    if link in ("softmax", "sigmoid"):
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    expected = {"identity": numbers, "clip": [1, 0, 0.5]}.get(link, weights)
    np.testing.assert_allclose(weights, expected)


def test_unknown_links_starts_and_sources_that_do_not_fit_are_refused(carrying):
    with pytest.raises(ValueError, match=r"link 'max' is unknown; expected one of \['clip'"):
        composed(carrying, ConstantWeights, None, link="max")
    layers = dict.fromkeys(carrying.bank.layers, 1)
    for context, message in (
        (ByLayer(ConstantWeights(3), tuple(layers.items())), "a mixture for each block of the la"),
        (ByLayer.of(ConstantWeights(2), layers), "do not fit 3 skill"),
        (ByLayer.of(ConstantWeights(3), layers | {"no": 1}), r"unknown: \['no'\]"),
        (ByLayer.of(ConstantWeights(3), layers | {"mean": 3}), "blocks that divides 2"),
        (ConstantWeights(3, mixtures=4), "weights for 4 samples to 2 observations"),
    ):
        with pytest.raises(ValueError, match=message):
            ComposedPolicy.create(carrying, context, "parameter", KEY).act(KEY, np.zeros((3, 5)))


def by_layer(policy, seed=0):
    """Other weights in each layer, of two blocks each."""
    random = np.random.default_rng(seed)
    shape = (policy.bank.size, 2)
    return {path: random.normal(size=shape).astype(np.float32) for path in policy.bank.layers}


def test_learning_by_layer_finds_the_weights_that_made_the_data(gaussian, make_bank):
    """From random actions; one weight a skill cannot give them."""
    sampling = GaussianBackbone(2, gaussian.backbone.network, deterministic=False)
    policy = gaussian.replace(backbone=sampling)
    policy = policy.with_bank(make_bank(policy, ({"scale": 8.0}, {"rank": 3, "scale": 8.0})))
    states = np.random.default_rng(0).normal(size=(2000, 5)).astype(np.float32)
    truth = {path: np.float32([[0.9], [-0.4]]) for path in policy.bank.layers}
    truth["mean"] = np.float32([[-0.8], [1.6]])
    data = TransitionDataset(states, policy.act(KEY, states, truth), *np.zeros((3, 2000)))

    def learned(layers):
        agent = composed(policy, ConstantWeights, layers)
        learner = ContextLearner(agent, Optimizer(steps=300, learning_rate=0.03, ema_rate=0.2))
        return learner.result(fit(learner, data, key=KEY, training=Training(300, 64)))

    means = mean_actions(policy, states, truth)
    shared, by_layer = (
        np.square(mean_actions(policy, states, agent.weights(states)) - means).mean()
        for agent in (learned(None), learned(dict.fromkeys(policy.bank.layers, 1)))
    )
    assert by_layer < 0.1 * shared


def mean_actions(policy, states, weights):
    """The means of the actions."""
    plain = dataclasses.replace(policy.backbone, deterministic=True)
    return policy.replace(backbone=plain).act(KEY, states, weights)


def test_fixed_weights_by_layer_are_the_given_ones(carrying, observations):
    weights = by_layer(carrying)
    agent = composed(carrying, ContextNetwork, None).with_fixed(weights)
    assert agent.has_fixed_weights
    expected = carrying.act(KEY, observations, weights)
    np.testing.assert_array_equal(agent.act(KEY, observations), expected)
    merged = carrying.merged(weights).act(KEY, observations)
    np.testing.assert_allclose(merged, expected, atol=1e-5)
    assert not np.allclose(merged, carrying.act(KEY, observations), atol=1e-3)
    by_sample = {path: np.ones((4, 3, 1)) for path in weights}
    for other in (by_sample, lambda path, x: x):
        with pytest.raises(ValueError, match="these vary by sample or layer input"):
            agent.with_fixed(other)


@pytest.mark.parametrize("adapters", [TWO, None])
def test_they_fold_into_one_skill_of_a_library(
    gaussian, make_bank, observations, tmp_path, adapters
):
    bank = make_bank(gaussian) if adapters is None else make_bank(gaussian, adapters)
    policy = gaussian.with_bank(bank)
    weights = by_layer(policy)
    agent = composed(policy, ConstantWeights, None).with_fixed(weights)
    library = SkillLibrary.create(tmp_path / "library", gaussian)
    library.add("mixed", agent)
    skill = library.get("mixed")
    assert skill.adapter.kind == ("full" if adapters is None else "low_rank")
    mixture = list(skill.provenance["mixture"].values())
    np.testing.assert_allclose(mixture, per_skill(weights), rtol=1e-5)
    alone = gaussian.with_bank(library.bank(["mixed"]))
    expected = agent.act(KEY, observations)
    np.testing.assert_allclose(alone.act(KEY, observations), expected, atol=1e-5)


@each_source
def test_an_anchor_holds_the_mean_over_layers_and_blocks(carrying, dataset, source):
    agent = composed(carrying, source, dict.fromkeys(carrying.bank.layers, 2))
    learner = ContextLearner(
        agent, Optimizer(steps=200, learning_rate=0.03, ema_rate=0.2), (2.0, -1.0, 0.0), 1e4
    )
    learned = learner.result(fit(learner, dataset, key=KEY, training=Training(200, 64)))
    means = np.atleast_2d(per_skill(learned.weights(dataset.observations))).mean(axis=0)
    np.testing.assert_allclose(means, [2, -1, 0], atol=0.05)


@pytest.mark.parametrize("level", ["noise", "action"])
def test_levels_that_mix_policies_take_no_weights_of_layers(
    diffusion, observations, make_bank, level
):
    policy = diffusion.with_bank(make_bank(diffusion))
    layers = dict.fromkeys(policy.bank.layers, 1)
    context = ByLayer.of(ConstantWeights(3), layers)
    message = "whole policies, which have no layers in common, and these weights are "
    with pytest.raises(ValueError, match=f"ByLayer does not fit: .*{message}by layer"):
        ComposedPolicy.create(policy, context, level, KEY)
    agent = ComposedPolicy.create(policy, ConstantWeights(3), level, KEY)
    given = {path: np.ones((3, 1), np.float32) for path in layers}
    for weights, kind in ((given, "by layer"), (lambda path, x: x, "a function")):
        with pytest.raises(ValueError, match=message + kind):
            agent.act(KEY, observations, weights)
    with pytest.raises(ValueError, match=message + "by layer"):
        agent.with_fixed(given)


def test_a_source_may_ask_each_layer(carrying, observations, dataset, tmp_path):
    """As Arrow does (Ostapenko et al., 2024): weights from what the layer sees."""
    agent = ComposedPolicy.create(carrying, flows.Routed(3), "parameter", KEY)
    assert not agent.has_fixed_weights
    weights = agent.weights(observations)
    expected = carrying.act(KEY, observations, weights)
    np.testing.assert_allclose(agent.act(KEY, observations), expected, atol=1e-6)
    assert not np.allclose(expected, carrying.act(KEY, observations), atol=1e-3)
    batch = {"observations": dataset.observations, "actions": dataset.actions}
    learner = ContextLearner(agent, Optimizer())
    state, metrics = jax.jit(learner.update)(learner.init(KEY, batch), batch, KEY)
    assert np.isfinite(metrics["loss"])
    agent.save(tmp_path / "agent")
    loaded = psec.load(tmp_path / "agent").act(KEY, observations)
    np.testing.assert_array_equal(loaded, agent.act(KEY, observations))
    with pytest.raises(ValueError, match="Routed and depend on the state"):
        SkillLibrary.create(tmp_path / "library", carrying.with_bank(None)).add("no", agent)
    with pytest.raises(ValueError, match="no weight of a skill follows from the state"):
        ContextLearner(agent, Optimizer(), (0.0, 0.0, 0.0)).update(state, batch, KEY)
