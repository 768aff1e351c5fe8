import dataclasses

import numpy as np
import pytest

from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.data.demonstrations import generate, roll_out
from psec_jax.data.recipes import Part, Recipe
from psec_jax.data.registry import local_datasets

STAND = local_datasets()["local/walker-stand-expert"]


@pytest.fixture(scope="module")
def demonstrations():
    return generate(STAND.of_size(2), seed=0, parallel=1)


@pytest.fixture
def shelf(tmp_path):
    """Two policies for the ball that always roll, the one left and the one right."""
    for name, push in (("left", -0.5), ("right", 0.5)):
        weights = {"mean/kernel": np.zeros((7, 2), np.float32), "mean/bias": np.float32([push, 0])}
        BehaviorPolicy(weights, "relu", "clip", {}).save(tmp_path, name)
    return tmp_path


def ball(folder, *parts):
    return Recipe("two ways", "bullet/ballrun", parts, folder)


def columns(dataset):
    return {name: values.tobytes() for name, values in dataset.arrays().items()}


def test_demonstrations_are_what_the_policy_does(demonstrations):
    policy = BehaviorPolicy.load(STAND.folder, "walker-stand")
    np.testing.assert_allclose(
        policy(demonstrations.observations), demonstrations.actions, atol=2e-5
    )
    np.testing.assert_array_equal(demonstrations.ends, [1000, 2000])
    assert not demonstrations.terminations.any()
    assert demonstrations.costs is None
    assert demonstrations.returns == pytest.approx(STAND.return_mean, rel=0.3)


def test_what_a_step_led_to_is_recorded_also_at_the_end(demonstrations):
    inside = ~demonstrations.truncations[:-1]
    following = demonstrations.observations[1:][inside]
    np.testing.assert_array_equal(demonstrations.next_observations[:-1][inside], following)
    ends = demonstrations.ends - 1
    step = np.abs(demonstrations.next_observations - demonstrations.observations).max(axis=1)
    assert step[ends].min() > 0 and step[ends].max() < 10 * np.median(step) + 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(demonstrations):
    """However many environments are stepped at once."""
    again = generate(STAND.of_size(1), seed=0)
    other = generate(STAND.of_size(1), seed=1)
    assert columns(again) == columns(demonstrations.take(1))
    for name in ("observations", "actions", "rewards"):
        assert columns(other)[name] != columns(again)[name]
    first, second = np.split(demonstrations.observations, 2)
    assert not np.array_equal(first[0], second[0])


def test_a_mixture_has_each_part_with_its_noise_and_costs(shelf):
    recipe = ball(shelf, Part("left", 3), Part("right", 2, noise=0.1))
    data = roll_out(recipe, seed=0)
    assert len(data.ends) == 5
    parts = list(data.trajectories())
    for part in parts[:3]:
        np.testing.assert_allclose(part.actions, np.tile([-0.5, 0], (len(part), 1)), atol=1e-6)
    noise = np.concatenate([part.actions for part in parts[3:]]) - [0.5, 0]
    assert noise.std() == pytest.approx(0.1, rel=0.15)
    assert abs(noise.mean()) < 0.02
    assert not np.array_equal(parts[3].actions, parts[4].actions)
    assert data.costs is not None and set(np.unique(data.costs)) <= {0, 1}
    alone = roll_out(recipe, seed=0, parallel=1)
    assert columns(alone) == columns(data)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_simulator_that_gives_other_returns_is_noticed(factor):
    recipe = dataclasses.replace(STAND.of_size(1), return_mean=STAND.return_mean * factor)
    with pytest.raises(RuntimeError, match=r"mean return .* is known to be .*; install the pin"):
        generate(recipe, seed=0)


def test_a_simulator_that_gives_other_costs_is_noticed(shelf):
    recipe = ball(shelf, Part("right", 2))
    recipe = recipe.measured(roll_out(recipe, seed=0))
    generate(recipe, seed=1)
    other = dataclasses.replace(recipe, cost_mean=recipe.cost_mean + 50)
    with pytest.raises(RuntimeError, match="mean cost in bullet/ballrun"):
        generate(other, seed=1)
