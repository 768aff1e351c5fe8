import dataclasses

import jax
import numpy as np
import pytest

from psec_jax import (
    Composer,
    GaussianBackbone,
    Optimizer,
    SkillLibrary,
    TransitionDataset,
    compose,
)
from psec_jax.composition import ComposedPolicy, NoiseLevel
from psec_jax.learners import ContextLearner
from psec_jax.networks import ConstantWeights, ContextNetwork
from psec_jax.training import Training, fit

KEY = jax.random.key(4)
TWO = ({"scale": 4.0}, {"rank": 3, "scale": 4.0})


@pytest.fixture(scope="module")
def carrying(gaussian, make_bank):
    return gaussian.with_bank(make_bank(gaussian, TWO))


def learn(composed, data, steps):
    learner = ContextLearner(composed, Optimizer(steps=steps, learning_rate=0.03, ema_rate=0.2))
    return learner.result(fit(learner, data, key=KEY, training=Training(steps, 64)))


def acted(policy, data, weights):
    """The same states with the actions that ``policy`` takes in them under ``weights``."""
    return dataclasses.replace(data, actions=policy.act(KEY, data.observations, weights))


@pytest.mark.parametrize("level", ["parameter", "action"])
def test_constant_weights_find_the_mixture_that_made_the_data(gaussian, make_bank, level):
    """From random actions at the parameter level, whose loss is the likelihood."""
    sampling = GaussianBackbone(2, gaussian.backbone.network, deterministic=level == "action")
    policy = gaussian.replace(backbone=sampling)
    carrying = policy.with_bank(make_bank(policy, TWO))
    states = np.random.default_rng(0).normal(size=(1500, 5))
    data = TransitionDataset(states, np.zeros((1500, 2)), *np.zeros((3, 1500)))
    truth = np.float32([0.9, -0.4])
    composed = ComposedPolicy.create(carrying, ConstantWeights(2), level, KEY)
    learned = learn(composed, acted(composed, data, truth), 200)
    np.testing.assert_allclose(learned.weights(states), truth, atol=0.1)


def test_constants_reach_a_corner_by_the_verbs_own_optimizer(gaussian, make_skill, tmp_path):
    """From the even mixture to the second skill alone, in as many updates as a demo has."""
    library = SkillLibrary.create(tmp_path / "library", gaussian)
    for index, name in enumerate(("first", "second")):
        library.add(name, make_skill(gaussian, index, **TWO[index]))
    states = np.random.default_rng(0).normal(size=(500, 5))
    data = TransitionDataset(states, np.zeros((500, 2)), *np.zeros((3, 500)))
    of_bank = gaussian.with_bank(library.bank())
    composed = ComposedPolicy.create(of_bank, ConstantWeights(2), "action", KEY)
    data = acted(composed, data, np.float32([0, 1]))
    composer = Composer("constant", "action")
    agent = compose(library, data, key=KEY, training=Training(300), composer=composer)
    np.testing.assert_allclose(agent.weights(states), [0, 1], atol=0.05)


def test_the_noise_level_may_be_trained_by_the_actions_that_it_samples(dataset, diffusion):
    batch = {"observations": dataset.observations, "actions": dataset.actions}

    def composed(**settings):
        level = NoiseLevel(**settings)
        return ComposedPolicy.of_policies(diffusion, (diffusion,), ConstantWeights(1), level, KEY)

    by_actions = composed(trained_by="actions")
    sampled = np.asarray(by_actions.sample(KEY, dataset.observations))
    expected = np.square(sampled - dataset.actions).sum(axis=1)
    np.testing.assert_allclose(by_actions.loss(batch, KEY), expected, rtol=1e-4)
    assert np.mean(composed().loss(batch, KEY)) != pytest.approx(np.mean(expected), rel=0.1)


def test_context_tells_which_skill_is_due_in_which_state(carrying, dataset):
    first = dataset.observations[:, 0] > dataset.observations[:, 0].mean()
    truth = np.stack([first, ~first], axis=1).astype(np.float32)
    composed = ComposedPolicy.create(carrying, ContextNetwork(2, (32,)), "action", KEY)
    learned = learn(composed, acted(composed, dataset, truth), 300)
    weights = learned.weights(dataset.observations)
    assert weights[first, 0].mean() - weights[~first, 0].mean() > 0.5
    assert weights[~first, 1].mean() - weights[first, 1].mean() > 0.5


@pytest.mark.parametrize(
    ("policy", "level"),
    [("gaussian", "parameter"), ("diffusion", "noise"), ("gaussian", "action")],
    indirect=["policy"],
)
def test_learning_to_mix_leaves_the_base_and_its_skills_as_they_are(
    policy, dataset, make_bank, same, level
):
    policy = policy.with_bank(make_bank(policy))
    before = jax.device_get(policy)
    composed = ComposedPolicy.create(policy, ContextNetwork(3, (8,)), level, KEY)
    mixed = jax.device_get((composed.base, composed.parts))
    learned = learn(composed, dataset, 2)
    assert same(policy, before)
    assert same((learned.base, learned.parts), mixed)
    assert np.ptp(learned.weights(dataset.observations), axis=0).min() > 0


def test_what_has_been_learned_is_the_average(carrying, same):
    composed = ComposedPolicy.create(carrying, ContextNetwork(2, (8,)), "parameter", KEY)
    learner = ContextLearner(composed, Optimizer())
    state = learner.init(KEY, {})
    state = state.replace(average=jax.tree.map(lambda leaf: leaf + 1, state.average))
    assert same(learner.result(state).context_params, state.average)


def test_an_anchor_draws_mean_weights_towards_itself(carrying, dataset):
    """The stronger, the nearer; without strength it changes nothing."""
    composed = ComposedPolicy.create(carrying, ContextNetwork(2, (32,)), "parameter", KEY)
    anchor = (2.0, -1.0)

    def distance(*options):
        optimizer = Optimizer(steps=200, learning_rate=0.03, ema_rate=0.2)
        learner = ContextLearner(composed, optimizer, *options)
        state = fit(learner, dataset, key=KEY, training=Training(200, 64))
        weights = learner.result(state).weights(dataset.observations)
        return float(np.abs(np.asarray(weights).mean(axis=0) - np.array(anchor)).max())

    assert distance(anchor, 0.0) == pytest.approx(distance(), rel=1e-5)
    assert distance(anchor, 1e4) < 0.05 < distance()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (((1.0,), 1.0), r"anchor \(1.0,\) does not fit 2 skill"),
        (((1.0, 1.0), -1.0), "anchor_strength must be at least 0, not -1.0"),
    ],
)
def test_bad_anchors_are_refused(carrying, options, message):
    composed = ComposedPolicy.create(carrying, ContextNetwork(2, (8,)), "parameter", KEY)
    with pytest.raises(ValueError, match=message):
        ContextLearner(composed, Optimizer(), *options)
