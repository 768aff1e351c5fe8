import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import Statistics
from psec_jax.composition import ComposedPolicy
from psec_jax.networks import ConstantWeights, ContextNetwork

KEY = jax.random.key(13)
WEIGHTS = np.float32([0.6, -0.3, 0.9])


@pytest.fixture(scope="module")
def carrying(gaussian, make_bank):
    return gaussian.with_bank(make_bank(gaussian))


@pytest.fixture(scope="module")
def informed(carrying):
    """A composed policy whose weights do depend on the state."""
    composed = ComposedPolicy.create(carrying, ContextNetwork(3, (8,)), "parameter", KEY)
    return composed.with_context(jax.tree.map(lambda leaf: leaf + 0.1, composed.context_params))


@pytest.mark.parametrize("module", [ContextNetwork, ConstantWeights])
@pytest.mark.parametrize("skills", [1, 3, 7])
@given(arrays.arrays(np.float32, (2, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_fresh_weights_are_exactly_even_in_every_state(module, skills, observations):
    context = module(skills)
    weights = context.apply(context.init(KEY, jnp.zeros((1, 5))), observations)
    shape = (skills,) if module is ConstantWeights else (2, skills)
    np.testing.assert_array_equal(weights, np.full(shape, np.float32(1 / skills)))


@pytest.mark.parametrize("module", [ContextNetwork, ConstantWeights])
def test_weights_that_start_at_zero_are_those_of_the_base(module, carrying, gaussian):
    context = module(3, start="zero")
    composed = ComposedPolicy.create(carrying, context, "parameter", KEY)
    states = 10 * np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    assert not np.any(composed.weights(states))
    alone = gaussian.act(KEY, states)
    np.testing.assert_allclose(composed.act(KEY, states), alone, atol=1e-6)
    even = ComposedPolicy.create(carrying, module(3), "parameter", KEY)
    assert np.abs(even.act(KEY, states) - alone).max() > 1e-3


@pytest.mark.parametrize("module", [ContextNetwork, ConstantWeights])
def test_a_start_that_is_not_known_is_refused(module, carrying):
    with pytest.raises(ValueError, match=r"start 'base' is unknown; .*\['even', 'zero'\]"):
        ComposedPolicy.create(carrying, module(3, start="base"), "parameter", KEY)


@pytest.mark.parametrize("start", ["even", "zero"])
def test_a_fresh_context_network_learns_from_the_state(start):
    """Its output is one whatever the state, but its gradient is not."""
    context = ContextNetwork(2, (8,), start)
    params = context.init(KEY, jnp.zeros((1, 5)))
    states = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    gradients = [
        jax.grad(lambda p, s=s: context.apply(p, s[None]).sum())(params)["params"]["weights"]
        for s in states
    ]
    assert np.any(gradients[0]["kernel"])
    assert not np.allclose(gradients[0]["kernel"], gradients[1]["kernel"])


@pytest.mark.parametrize("level", ["parameter", "action"])
def test_fixed_weights_are_the_given_ones_in_every_state(carrying, informed, observations, level):
    learned = ComposedPolicy.create(carrying, ContextNetwork(3, (8,)), level, KEY)
    composed = learned.with_fixed(WEIGHTS)
    np.testing.assert_array_equal(composed.weights(observations), WEIGHTS)
    assert composed.has_fixed_weights and not learned.has_fixed_weights
    np.testing.assert_allclose(
        composed.act(KEY, observations), learned.act(KEY, observations, WEIGHTS), atol=1e-6
    )


def test_given_weights_replace_those_of_the_context(informed, carrying, observations):
    given_weights = informed.act(KEY, observations, WEIGHTS)
    np.testing.assert_allclose(given_weights, carrying.act(KEY, observations, WEIGHTS), atol=1e-6)
    assert not np.allclose(given_weights, informed.act(KEY, observations), atol=1e-3)


def test_a_composed_policy_acts_by_the_weights_of_each_state(informed, carrying, observations):
    weights = informed.weights(observations)
    assert np.ptp(weights, axis=0).min() > 1e-3
    rows = [carrying.act(KEY, observations[i : i + 1], w)[0] for i, w in enumerate(weights)]
    np.testing.assert_allclose(informed.act(KEY, observations), np.stack(rows), atol=1e-5)


def test_the_context_sees_normalized_observations(informed, observations):
    statistics = informed.base.statistics
    plain = informed.replace(base=informed.base.replace(statistics=Statistics.identity(5)))
    shifted = (observations - statistics.mean) / statistics.std
    np.testing.assert_allclose(informed.weights(observations), plain.weights(shifted), atol=1e-5)
    assert not np.allclose(informed.weights(observations), plain.weights(observations), atol=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (1, 3), (4, 3)])
def test_fixed_weights_of_another_size_are_refused(informed, shape):
    with pytest.raises(ValueError, match=r"(do not fit|must have shape).*3.*skill-0"):
        informed.with_fixed(np.ones(shape))


@pytest.mark.parametrize("skills", [1, 2, 4])
@pytest.mark.parametrize("module", [ContextNetwork, ConstantWeights])
def test_a_context_of_another_width_is_refused(carrying, module, skills):
    with pytest.raises(ValueError, match=rf"shape .*{skills},?\) do not fit 3 skill.*skill-0"):
        ComposedPolicy.create(carrying, module(skills), "parameter", KEY)


def test_without_skills_there_is_nothing_to_compose(gaussian):
    with pytest.raises(ValueError, match="carries no bank of skills"):
        ComposedPolicy.create(gaussian, ContextNetwork(3), "parameter", KEY)


def test_observations_of_another_size_are_refused(informed):
    with pytest.raises(ValueError, match="do not fit a policy of 5"):
        informed.act(KEY, np.zeros((4, 6)))
