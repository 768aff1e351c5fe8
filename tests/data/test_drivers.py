"""Datasets from the driver that MetaDrive has of its own."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest

from psec_jax import envs
from psec_jax.data import demonstrations
from psec_jax.data.demonstrations import roll_out
from psec_jax.data.recipes import Part, Recipe, read_recipes
from psec_jax.data.registry import local_datasets
from psec_jax.envs.metadrive import LARGEST
from psec_jax.errors import BrokenFile
from psec_jax.evaluation.rollout import rollout

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="MetaDrive has no release for this Python"
)

TASK = "metadrive/easymean"
DRIVERS = {
    "drunk": {"target_speed": [15, 30], "wander": 0.4},
    "blind": {"target_speed": 70, "heeds_traffic": False},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    parts = (Part("drunk", 3, noise=0.3), Part("blind", 1, noise=0.1))
    folder = tmp_path_factory.mktemp("shelf")
    return Recipe("short drives", TASK, parts, folder, drivers=DRIVERS)


@pytest.fixture(scope="module")
def data(recipe):
    return roll_out(recipe, seed=0, parallel=2)


@pytest.fixture(scope="module")
def road():
    """One car to be driven; it has been driven by another before."""
    vector = envs.make(TASK, 1)
    vector.reset(seed=[9], options={"driver": DRIVERS["blind"]})
    vector.step(np.zeros((1, 2)))
    yield vector
    vector.close()


def columns(dataset):
    return {name: values.tobytes() for name, values in dataset.arrays().items()}


def test_the_recorded_actions_lead_anyone_through_the_same_episode(recipe, data, road):
    """The driver sees and changes nothing that the plain environment does not."""
    seeds = np.random.SeedSequence(0).generate_state(recipe.trajectories)
    for seed, trajectory in zip(seeds, data.trajectories(), strict=True):
        actions = iter(trajectory.actions)
        steps = list(rollout(road, lambda _, actions=actions: next(actions)[None], [seed]))
        assert len(steps) == len(trajectory)
        for name, values in trajectory.arrays().items():
            again = np.array([getattr(step, name)[0] for step in steps]).astype(values.dtype)
            np.testing.assert_array_equal(again, values, err_msg=name)


def test_the_seed_decides_every_byte_whatever_the_width(recipe, data):
    assert columns(roll_out(recipe, seed=0, parallel=1)) == columns(data)
    other = roll_out(recipe.of_size(2), seed=1)
    taken = data.take(2)
    for name in ("observations", "actions", "rewards"):
        assert columns(other)[name] != columns(taken)[name]


def test_what_was_executed_is_recorded_as_far_as_a_dataset_keeps_it(data):
    assert np.abs(data.actions).max() == np.float32(LARGEST)
    assert (data.actions.std(axis=0) > 0.1).all()
    first = [trajectory.actions[0] for trajectory in data.trajectories()]
    assert len(np.unique(first, axis=0)) == len(first)


def drive(road, driver, seed=5, steps=60):
    """Speeds in km/h of a driver that ignores the others."""
    options = {"driver": {"heeds_traffic": False, **driver}}
    observations, _ = road.reset(seed=[seed], options=options)
    rows = [observations]
    for _ in range(steps):
        rows.append(road.step(np.zeros((1, 2)))[0])
    return np.concatenate(rows)[:, 3] * 81 - 1


def test_a_driver_reaches_its_speed_and_keeps_it(road):
    for speed in (8, 15):
        assert drive(road, {"target_speed": speed})[-20:] == pytest.approx(speed, abs=1)
    narrow = drive(road, {"target_speed": [12, 12]})
    np.testing.assert_array_equal(narrow, drive(road, {"target_speed": 12}))
    ends = [drive(road, {"target_speed": [8, 20]}, seed)[-1] for seed in (1, 2, 3)]
    assert 7 < min(ends) < max(ends) - 1 < 20


def test_without_a_driver_the_actions_are_obeyed_again(road):
    drive(road, {}, steps=2)
    road.reset(seed=[0])
    for _ in range(5):
        observations, *_, infos = road.step(np.zeros((1, 2)))
    assert "executed_action" not in infos
    assert observations[0, 3] * 81 - 1 < 0.1


def test_there_are_no_more_than_four_processes_for_a_core_with_even_shares(recipe, monkeypatch):
    asked = []

    def make(env_id, num_envs):
        asked.append((env_id, num_envs))
        raise InterruptedError

    monkeypatch.setattr(demonstrations.envs, "make", make)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3}, raising=False)
    with pytest.raises(InterruptedError):
        roll_out(recipe.of_size(40), seed=0)
    longest = max(part.trajectories for part in recipe.of_size(40).parts)
    rounds = -(-longest // 12)
    assert asked == [(TASK, -(-longest // rounds))] and asked[0][1] <= 12


def test_the_fingerprint_follows_the_drivers_that_drive(recipe):
    def changed(name, **settings):
        drivers = {**DRIVERS, name: {**DRIVERS.get(name, {}), **settings}}
        return dataclasses.replace(recipe, drivers=drivers).fingerprint

    assert changed("drunk", wander=0.4) == recipe.fingerprint
    assert changed("nobody", wander=0.5) == recipe.fingerprint
    assert changed("drunk", wander=0.5) != recipe.fingerprint
    assert changed("blind", target_speed=71) != recipe.fingerprint


def test_a_recipe_with_drivers_comes_back_from_disk(recipe, tmp_path):
    shelved = dataclasses.replace(recipe, folder=tmp_path)
    path = shelved.save("drives")
    assert dict(read_recipes(tmp_path)) == {"drives": shelved}
    facts = json.loads(path.read_text())
    facts["drivers"]["blind"]["target_sped"] = 3
    path.write_text(json.dumps(facts))
    with pytest.raises(BrokenFile, match=r"drives.*no setting 'target_sped'; expected target_sp"):
        list(read_recipes(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed": 3}, "no setting 'speed'; expected target_speed, time_gap"),
        ({"target_speed": -3}, "target_speed of a driver is a number from 0 on.*not -3"),
        ({"target_speed": [9, 3]}, r"two in order, not \[9, 3\]"),
        ({"target_speed": [1, 2, 3]}, r"two in order, not \[1, 2, 3\]"),
        ({"wander": float("nan")}, "not nan"),
        ({"wander": True}, "not True"),
        ({"wander": "much"}, "not 'much'"),
        ({"heeds_traffic": 1}, "heeds_traffic of a driver is true or false, not 1"),
    ],
)
def test_settings_that_no_driver_has_are_refused(recipe, settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipe, drivers={"odd": settings})


def test_drivers_drive_cars_only(recipe):
    with pytest.raises(ValueError, match=r"bullet/carrun has no drivers, .* remove drunk, blind"):
        dataclasses.replace(recipe, environment="bullet/carrun")


@pytest.mark.parametrize("task", ["easysparse", "easymean", "mediummean", "hardmean"])
def test_a_mixture_for_driving_comes_along(task):
    recipe = local_datasets()[f"local/metadrive-{task}-mixed"]
    assert recipe.environment == f"metadrive/{task}"
    assert {part.policy for part in recipe.parts} == set(recipe.drivers)
    assert recipe.return_mean > 50 and recipe.cost_mean > 5
