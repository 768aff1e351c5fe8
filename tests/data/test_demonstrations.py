import dataclasses

import numpy as np
import pytest

from psec_jax.data.demonstrations import BehaviourPolicy, generate

NAMES = "walker-stand", "walker-walk", "walker-run"


@pytest.fixture(scope="module")
def stand():
    return BehaviourPolicy.load("walker-stand")


@pytest.fixture(scope="module")
def demonstrations(stand):
    return generate(stand, 2, seed=0, parallel=1)


def columns(dataset):
    return [values.tobytes() for values in dataset.arrays().values()]


@pytest.mark.parametrize("name", NAMES)
def test_a_behaviour_policy_is_a_relu_network_squashed_by_tanh(name):
    policy = BehaviourPolicy.load(name)
    x = np.random.default_rng(0).normal(size=(7, 24)).astype(np.float32)
    w = {key: value.astype(float) for key, value in policy.weights.items()}
    h = np.maximum(x @ w["hidden_0/kernel"] + w["hidden_0/bias"], 0)
    h = np.maximum(h @ w["hidden_1/kernel"] + w["hidden_1/bias"], 0)
    actions = np.tanh(h @ w["mean/kernel"] + w["mean/bias"])
    np.testing.assert_allclose(policy(x), actions, atol=1e-4)
    assert actions.shape == (7, 6)
    assert policy.environment == f"dm_control/{name}-v0"


def test_demonstrations_are_what_the_policy_does(stand, demonstrations):
    np.testing.assert_allclose(
        stand(demonstrations.observations), demonstrations.actions, atol=1e-5
    )
    np.testing.assert_array_equal(demonstrations.ends, [1000, 2000])
    assert not demonstrations.terminations.any()
    assert demonstrations.returns == pytest.approx(stand.return_mean, rel=0.3)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(stand, demonstrations):
    """However many environments are stepped at once."""
    again = generate(stand, 1, seed=0)
    other = generate(stand, 1, seed=1)
    assert columns(again) == columns(demonstrations.take(1))
    assert not set(columns(other)[:3]) & set(columns(again)[:3])
    first, second = np.split(demonstrations.observations, 2)
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_simulator_that_gives_other_returns_is_noticed(stand, factor):
    policy = dataclasses.replace(stand, return_mean=stand.return_mean * factor)
    with pytest.raises(RuntimeError, match=r"returned .* known to return .*; install the pinned"):
        generate(policy, 1, seed=0)
