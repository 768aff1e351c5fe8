import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psec_jax import envs
from psec_jax.envs import metadrive

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="MetaDrive has no release for this Python"
)


def package_files():
    folder = Path(importlib.util.find_spec("metadrive").origin).parent
    return {path for path in folder.rglob("*") if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def drives():
    before = package_files()
    vector = envs.make("metadrive/easydense", 2)
    yield vector
    vector.close()
    assert package_files() == before


def play(vector, seeds, actions):
    """Everything that the copies answer, (copies, numbers)."""
    rows = [np.array(vector.reset(seed=seeds)[0])]
    for action in actions:
        answer = vector.step(np.repeat([action], vector.num_envs, axis=0))
        observations, *others, infos = answer
        rows += [observations, *(other[:, None] for other in others), infos["cost"][:, None]]
    return np.hstack(rows)


def speeds(observations):
    """km/h, from the fourth number of the observation, which is (v + 1) / 81."""
    return observations[:, 3] * 81 - 1


def test_the_seed_decides_the_traffic_and_nothing_else_of_an_episode(drives):
    """In another episode, after a different one, and in the other process."""
    generator = np.random.default_rng(0)
    actions = np.float32(generator.uniform([-0.05, 0], [0.05, 1], (30, 2)))
    first = play(drives, [1, 2], actions)
    play(drives, [3, 4], -actions[:7])
    np.testing.assert_array_equal(play(drives, [1, 2], actions), first)
    np.testing.assert_array_equal(play(drives, [2, 1], actions), first[::-1])
    assert not np.allclose(first[0], first[1])
    np.testing.assert_array_equal(first[0, :19], first[1, :19])


def test_episodes_without_seeds_follow_from_the_last_seed_and_differ(drives):
    starts = [drives.reset(seed=seed)[0][0] for seed in ([4, 5], None, None) * 2]
    np.testing.assert_array_equal(starts[:3], starts[3:])
    assert len(np.unique(starts, axis=0)) == 3


def test_the_cost_is_that_of_speed_nearness_and_accidents(drives):
    """Full throttle, one car straight on and one off the road, until both have ended."""
    observations, infos = drives.reset(seed=[0, 1])
    assert observations.dtype == np.float32
    assert drives.single_observation_space.contains(observations[0])
    np.testing.assert_array_equal(infos["cost"], [0, 0])
    active = np.ones(2, bool)
    fastest = 0.0
    while active.any():
        observations, _, terminations, truncations, infos = drives.step([[0, 1], [0.6, 1]])
        assert infos["cost"].dtype == np.float64
        nearest = observations[:, -240:].min(axis=1)
        expected = 0.01 * np.maximum(0, speeds(observations) - 10)
        expected += 0.01 * np.maximum(0, 0.1 - nearest) ** 2 + terminations
        np.testing.assert_allclose(infos["cost"][active], expected[active], atol=1e-3)
        assert not truncations.any()
        fastest = max(fastest, speeds(observations[active]).max())
        active &= ~terminations
    assert fastest > 40


def test_a_parked_car_is_truncated_after_a_thousand_steps_almost_without_cost(drives):
    drives.reset(seed=[0, 1])
    total, ends = np.zeros(2), []
    for _ in range(1001):
        *_, terminations, truncations, infos = drives.step(np.zeros((2, 2)))
        total += infos["cost"]
        ends.append(truncations)
        assert not terminations.any()
    assert not np.any(ends[:999]) and not np.any(ends[1000])
    assert ends[999].all()
    assert (total < 0.1).all()


@pytest.mark.parametrize("env_id", ["metadrive/mediumsparse", "metadrive/hardmean"])
def test_other_roads_stand_beside_the_first_and_are_given_back(drives, env_id, capfd):
    vector = envs.make(env_id, 1)
    observations, _ = vector.reset(seed=[2])
    answer = vector.step(np.array([[0.1, 0.5]]))
    processes = vector._processes
    vector.close()
    assert all(process.returncode is not None for process in processes)
    assert observations.shape == answer[0].shape == (1, 259)
    assert answer[1] > 0
    assert capfd.readouterr() == ("", "")


def test_the_spared_traffic_drives_as_the_simulators_own():
    """Episodes of the simulator as it comes, and of ours, in processes of their own."""
    ours, bare = (
        subprocess.run(
            [sys.executable, "-P", "-c", EPISODE, metadrive.__file__, which],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for which in ("ours", "bare")
    )
    assert ours == bare
    steps, cars, _ = ours.split()
    assert int(steps) == 120 and int(cars) > 2


EPISODE = """
import hashlib, runpy, sys
path, which = sys.argv[1:]
drive = runpy.run_path(path)
if which == "bare":
    from metadrive.envs.safe_metadrive_env import SafeMetaDriveEnv
    drive["Drive"].__init__.__globals__["simulator"] = SafeMetaDriveEnv
env = drive["Drive"]("easydense")
env.reset(seed=3, options={"driver": {"target_speed": 40}})
digest, steps = hashlib.sha256(), 0
for _ in range(120):
    observation, *others = env.step(None)
    digest.update(observation.tobytes())
    digest.update(repr(others).encode())
    steps += 1
cars = len(env.simulator.engine.traffic_manager._traffic_vehicles)
print(steps, cars, digest.hexdigest())
"""


def test_maps_and_densities_are_those_of_the_words():
    from psec_jax.envs.metadrive import config

    words = {}
    for env_id in envs.known_ids():
        if env_id.startswith("metadrive/"):
            chosen = config(env_id.removeprefix("metadrive/"))
            words[env_id] = (chosen["map"], chosen["start_seed"], chosen["traffic_density"])
    assert words["metadrive/easysparse"] == ("SCS", 0, 0.1)
    assert words["metadrive/mediummean"] == ("XST", 100, 0.15)
    assert words["metadrive/harddense"] == ("TRO", 200, 0.2)
    assert len(set(words.values())) == 9


def test_a_picture_from_above_shows_the_car_and_the_road(drives):
    drives.reset(seed=[0] * drives.num_envs)
    (picture, *_) = drives.render()
    assert picture.shape == (400, 400, 3) and picture.dtype == np.uint8
    colors = np.unique(picture.reshape(-1, 3), axis=0)
    assert len(colors) > 3
