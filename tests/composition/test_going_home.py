"""Going home: the reward that a policy is for, and a gate on the weights of skills."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import psec_jax as psec
from psec_jax import Composer, compose, homing, learn_purpose
from psec_jax.composition import ActionLevel, ComposedPolicy, NoiseLevel
from psec_jax.learners import Purpose, PurposeLearner, rewards_ahead
from psec_jax.networks import ByLayer, ConstantWeights, Critic
from psec_jax.policies import Statistics

KEY = jax.random.key(8)
NETWORK = Critic(hidden=())


def purpose_of(policy, slope=0.0, level=1.0, usual=1.0):
    """r̂(s) = level + slope · (the first normalized coordinate)."""
    kernel = jnp.zeros((policy.observation_size, 1)).at[0].set(slope)
    params = {"value": {"kernel": kernel, "bias": jnp.full(1, level)}}
    return Purpose(params, jnp.float32(usual), policy.statistics, NETWORK)


@pytest.fixture(scope="module")
def agent(gaussian, make_bank):
    carrying = gaussian.with_bank(make_bank(gaussian))
    return ComposedPolicy.create(carrying, ConstantWeights(3, start=0.5), "parameter", KEY)


def tabular(rewards):
    """One state for each reward, told apart by its own coordinate."""
    n = len(rewards)
    return psec.TransitionDataset(
        np.eye(n), np.zeros((n, 2)), np.asarray(rewards), np.zeros(n), np.zeros(n)
    )


def test_where_all_is_well_the_agent_acts_as_it_did_and_where_not_the_base_does(
    agent, observations
):
    acts = agent.act(KEY, observations)
    well, ill = (
        homing(agent, purpose_of(agent.base, level=level)).act(KEY, observations)
        for level in (0.5, -0.5)
    )
    np.testing.assert_allclose(well, acts, atol=1e-6)
    bare = dataclasses.replace(agent.base, bank=None)
    np.testing.assert_allclose(ill, bare.act(KEY, observations), atol=1e-6)
    assert np.abs(acts - bare.act(KEY, observations)).max() > 1e-3


def test_between_the_levels_weights_rise_with_the_reward_in_units_of_the_usual(agent):
    observations = np.zeros((50, agent.observation_size), np.float32)
    observations[:, 0] = np.linspace(-9, 9, 50)
    model = purpose_of(agent.base, slope=1.0, usual=2.0)
    reward = np.asarray(model.reward(observations))
    weights = homing(agent, model, low=0.25, high=0.75).weights(observations)
    expected = 0.5 * np.clip(reward - 0.5, 0, 1)
    np.testing.assert_allclose(weights, np.tile(expected[:, None], 3), atol=1e-5)
    assert 0 < (weights == 0).mean() < 0.9 and (weights == 0.5).any()


def test_weights_by_layer_go_home_alike(gaussian, make_bank, observations):
    carrying = gaussian.with_bank(make_bank(gaussian))
    layers = dict.fromkeys(carrying.bank.layers, 1)
    by_layer = ByLayer.of(ConstantWeights(3, start=0.5), layers)
    shared = ConstantWeights(3, start=0.5)
    model = purpose_of(gaussian, slope=0.1, level=0.2)
    acts = [
        homing(ComposedPolicy.create(carrying, source, "parameter", KEY), model).act(
            KEY, observations
        )
        for source in (by_layer, shared)
    ]
    np.testing.assert_allclose(*acts, atol=1e-5)


def test_it_is_saved_and_loaded_with_the_agent(agent, observations, tmp_path):
    gone = homing(agent, purpose_of(agent.base, slope=0.1, level=0.2))
    gone.save(tmp_path / "agent")
    loaded = psec.load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.act(KEY, observations), gone.act(KEY, observations))


def test_samples_weigh_one_on_average_and_each_level_of_reward_alike():
    rewards = np.float32([0.0] + 60 * [1.0] + 39 * [0.55])
    data = tabular(rewards)
    learner = PurposeLearner.of(data, Statistics.identity(100), psec.Optimizer())
    weights = np.asarray(learner.weights)[np.digitize(rewards, learner.edges)]
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    totals = [weights[rewards == level].sum() for level in np.unique(rewards)]
    np.testing.assert_allclose(totals, np.full(3, 100 / 3), rtol=1e-5)


def test_the_model_is_the_reward_of_each_state_and_its_usual_level_the_median():
    rewards = np.float32([-1.0, 0.0, 0.5, 0.5, 2.0])
    data = tabular(rewards)
    policy = psec.Policy.create(psec.GaussianBackbone(2), Statistics.identity(5), KEY)
    optimizer = psec.Optimizer(0.02, weight_decay=0.0, ema_rate=0.1)
    training = psec.Training(400, 64, optimizer)
    model = learn_purpose(policy, data, key=KEY, training=training)
    np.testing.assert_allclose(model.reward(data.observations), rewards, atol=0.05)
    assert float(model.usual) == 0.5


def test_several_seeds_are_learned_at_once(dataset, gaussian):
    dataset = dataclasses.replace(dataset, rewards=dataset.rewards + 5)
    keys = jax.random.split(KEY, 2)
    training = psec.Training(3, 8, optax.sgd(1e-3))
    several = learn_purpose(gaussian, dataset, key=keys, training=training)
    for key, one in zip(keys, several, strict=True):
        alone = learn_purpose(gaussian, dataset, key=key, training=training)
        np.testing.assert_allclose(
            alone.reward(dataset.observations), one.reward(dataset.observations), atol=1e-4
        )


def test_data_that_say_nothing_of_a_purpose_are_refused(dataset, gaussian):
    training = psec.Training(1, 8)
    for rewards, match in (
        (np.full(60, 3.0), "the reward is 3 in all"),
        (None, "no rewards"),
        (np.linspace(-3, 1, 60), "the usual reward of these data is -1"),
    ):
        data = dataclasses.replace(dataset, rewards=rewards)
        with pytest.raises(ValueError, match=match):
            learn_purpose(gaussian, data, key=KEY, training=training)


@pytest.mark.parametrize(
    ("changes", "levels", "match"),
    [({}, (0.3, 0.3), "low must be below high, not 0.3 and 0.3"),
     ({"statistics": Statistics.identity(5)}, (0.1, 0.3), "normalizes observations otherwise"),
     ({"usual": jnp.float32(-1.0)}, (0.1, 0.3), "usual reward is -1, of which no share")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(agent, changes, levels, match):
    model = purpose_of(agent.base).replace(**changes)
    with pytest.raises(ValueError, match=match):
        homing(agent, model, *levels)


@pytest.mark.parametrize("level", [NoiseLevel(base_enters=False), ActionLevel(base_enters=False)])
def test_a_mixture_without_the_base_has_no_home(diffusion, make_bank, level):
    carrying = diffusion.with_bank(make_bank(diffusion))
    agent = ComposedPolicy.create(carrying, ConstantWeights(3), level, KEY)
    with pytest.raises(ValueError, match="weights of 0 are π₀ only where it enters the mixture"):
        homing(agent, purpose_of(diffusion))


class AsksEachLayer(nn.Module):
    @nn.compact
    def __call__(self, observations):
        return lambda path, x: jnp.ones((3, 1))


def test_weights_that_follow_from_each_layers_input_are_refused(gaussian, make_bank):
    carrying = gaussian.with_bank(make_bank(gaussian))
    agent = ComposedPolicy.create(carrying, AsksEachLayer(), "parameter", KEY)
    with pytest.raises(ValueError, match="a function of each layer's input"):
        homing(agent, purpose_of(gaussian))


def test_the_value_is_the_average_reward_ahead():
    """Of a constant reward itself; 0 beyond a termination; else its last reward goes on."""
    discount = 0.5
    rewards = np.float32([2.0, 2.0, 2.0, 0.0, 4.0, 0.0, 4.0])
    ends = np.isin(np.arange(7), [4]), np.isin(np.arange(7), [2, 6])
    data = psec.TransitionDataset(np.eye(7), np.zeros((7, 2)), rewards, *ends)
    expected = [2, 2, 2, 1, 2, 2, 4]
    np.testing.assert_allclose(rewards_ahead(data, discount).rewards, expected, rtol=1e-6)
    np.testing.assert_array_equal(rewards_ahead(data, 0.0).rewards, rewards)
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            rewards_ahead(data, wrong)


def test_a_discount_learns_the_value(gaussian, dataset):
    data = dataclasses.replace(dataset, rewards=dataset.rewards + 5)
    training = psec.Training(3, 8, optax.sgd(1e-3))
    value = learn_purpose(gaussian, data, key=KEY, training=training, discount=0.9)
    ahead = rewards_ahead(data, 0.9)
    reward = learn_purpose(gaussian, ahead, key=KEY, training=training)
    assert float(value.usual) == float(reward.usual) == np.float32(np.median(ahead.rewards))
    acts = [model.reward(data.observations) for model in (value, reward)]
    np.testing.assert_allclose(*acts, atol=1e-6)


TRAINING = psec.Training(5, 8, optax.sgd(1e-3))


@pytest.mark.parametrize("level", ["parameter", "noise", "action"])
def test_composing_by_the_name_home_is_constant_weights_that_go_home(
    library, dataset, observations, level
):
    purpose = purpose_of(library.base, slope=0.1, level=0.2)
    how = {"key": KEY, "training": TRAINING}
    plain = compose(library, dataset, composer=Composer("constant", level), **how)
    library.add_purpose(purpose)
    several = compose(
        [library] * 2,
        dataset,
        composer=Composer("home", level, switch=(0.1, 0.4)),
        key=jnp.stack([KEY, KEY]),
        training=TRAINING,
    )
    expected = homing(plain, purpose, 0.1, 0.4).weights(observations)
    assert np.ptp(expected) > 0.1
    for agent in several:
        np.testing.assert_allclose(agent.weights(observations), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:in 5 updates")
def test_a_purpose_sends_any_composer_home(library, dataset, observations):
    carrying = library.base.with_bank(library.bank())
    how = {"key": KEY, "training": psec.Training(5, 8)}
    purpose = purpose_of(library.base, level=-1.0)
    for weights in ("context", "constant", "home"):
        agent = compose(carrying, dataset, composer=Composer(weights, purpose=purpose), **how)
        np.testing.assert_array_equal(agent.weights(observations), 0)


def test_what_was_trained_goes_home_by_any_purpose_and_switch(
    library, dataset, observations, tmp_path
):
    """Its saved states are resumed, since the training does not depend on them."""
    checkpoints = psec.Checkpoints(tmp_path / "states")
    training = dataclasses.replace(TRAINING, checkpoints=checkpoints, label="mixture")
    purpose = purpose_of(library.base, slope=0.1, level=0.2)
    plain, first, second = (
        compose(library, dataset, key=KEY, training=training, composer=composer)
        for composer in (
            "constant",
            Composer("home", purpose=purpose),
            Composer("home", purpose=purpose, switch=(0.1, 0.4)),
        )
    )
    for agent, switch in ((first, (0.1, 0.3)), (second, (0.1, 0.4))):
        expected = homing(plain, purpose, *switch).weights(observations)
        np.testing.assert_array_equal(agent.weights(observations), expected)


@pytest.mark.parametrize(
    ("weights", "switch", "match"),
    [("home", (0.1, 0.2, 0.3), "switch must be two numbers"),
     ("home", 0.2, "switch must be two numbers"),
     ("home", (0.3, 0.1), "low must be below high, not 0.3 and 0.1"),
     ("home", (0.1, float("nan")), "low must be below high"),
     ("constant", (0.2, 0.4), "says when the mixture goes home, but it does not")],
)  # fmt: skip
def test_a_switch_is_two_numbers_in_order_of_a_mixture_that_goes_home(weights, switch, match):
    with pytest.raises(ValueError, match=match):
        Composer(weights, switch=switch)


def test_seeds_of_other_usual_rewards_are_evaluated_in_one_program(agent):
    """As the shapes of their parameters and all else are alike."""
    shapes = {
        jax.tree.structure(homing(agent, purpose_of(agent.base, usual=usual)))
        for usual in (0.5, 2.0)
    }
    assert len(shapes) == 1


def test_only_a_composed_policy_goes_home(agent):
    for other in (agent.base, psec.BestOf(agent, lambda *_: 0.0, 2)):
        with pytest.raises(ValueError, match=f"composed policy, not a {type(other).__name__}"):
            homing(other, purpose_of(agent.base))


def test_a_home_that_is_not_known_or_does_not_fit_is_refused_before_training(library, dataset):
    training = psec.Training(10**9, 8)
    carrying = library.base.with_bank(library.bank())
    other = purpose_of(library.base).replace(statistics=Statistics.identity(5))
    for parts, composer, error, match in (
        (library, "home", KeyError, "does not say what π₀ is for"),
        (carrying, "home", ValueError, "weights 'home' take what π₀ is for from a library"),
        (library, Composer("context", purpose=other), ValueError, "normalizes observations"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            compose(parts, dataset, key=KEY, training=training, composer=composer)
