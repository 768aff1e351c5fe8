import sys

import numpy as np
import pytest

from psec_jax import envs

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="PyBullet has no wheel for this Python"
)
IDS = [env_id for env_id in envs.known_ids() if env_id.startswith("bullet/")]
HORIZONS = {"antrun": 200, "ballrun": 100, "carrun": 200, "dronerun": 200} | {
    "antcircle": 500,
    "ballcircle": 200,
    "carcircle": 300,
    "dronecircle": 300,
}


def play(vector, seeds, steps=25, strength=1.0):
    """Everything that the copies answer, (copies, numbers)."""
    generator = np.random.default_rng(0)
    shape = vector.single_action_space.shape
    rows = [np.array(vector.reset(seed=seeds)[0])]
    for _ in range(steps):
        action = strength * generator.uniform(-1, 1, (1, *shape)).astype(np.float32)
        observations, *others, infos = vector.step(np.repeat(action, vector.num_envs, axis=0))
        rows += [np.array(observations), *(other[:, None].copy() for other in others)]
        rows.append(infos["cost"][:, None])
    return np.hstack(rows)


@pytest.mark.parametrize("env_id", IDS)
def test_an_episode_follows_from_its_seed_whatever_came_before_and_beside_it(env_id):
    """In the same environment again, in another beside it, and in one made later."""
    vector = envs.make(env_id, 2)
    state = np.random.get_state()[1].copy()
    first = play(vector, [1, 2])
    for steps, strength in ((3, 0.0), (13, 0.3), (60, 1.0)):
        play(vector, [5, 6], steps, strength)
        np.testing.assert_array_equal(play(vector, [1, 2]), first)
    np.testing.assert_array_equal(play(vector, [2, 1]), first[::-1])
    assert not np.allclose(first[0], first[1])
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    later = envs.make(env_id, 1)
    np.testing.assert_array_equal(play(later, [1]), first[:1])
    vector.close()
    later.close()


def test_episodes_without_seeds_follow_from_the_last_seed_and_differ():
    vector = envs.make("bullet/ballrun", 1)
    starts = []
    for seed in ([4], None, None, [4], None, None):
        starts.append(np.array(vector.reset(seed=seed)[0]))
    vector.close()
    np.testing.assert_array_equal(starts[:3], starts[3:])
    assert len(np.unique(starts, axis=0)) == 3


@pytest.mark.parametrize("env_id", IDS)
def test_a_standing_agent_is_truncated_at_the_horizon_with_float_costs_all_along(env_id):
    vector = envs.make(env_id, 1)
    observations, infos = vector.reset(seed=[0])
    assert observations.dtype == np.float32
    assert vector.single_observation_space.contains(observations[0])
    still = np.zeros(vector.action_space.shape, np.float32)
    ends = []
    while not any(map(any, ends)):
        assert infos["cost"].dtype == np.float64
        assert infos["cost"][0] in (0, 1)
        _, _, terminations, truncations, infos = vector.step(still)
        ends.append((terminations[0], truncations[0]))
    assert len(ends) == HORIZONS[env_id.removeprefix("bullet/")]
    assert ends[-1] == (False, True)
    *_, infos = vector.step(still)
    assert infos["cost"].tolist() == [0]
    vector.close()


def test_a_car_that_runs_at_full_speed_comes_to_cost_one_a_step():
    vector = envs.make("bullet/carrun", 1)
    vector.reset(seed=[0])
    costs = [vector.step(np.array([[-1, 0]], np.float32))[-1]["cost"][0] for _ in range(60)]
    vector.close()
    assert costs[0] == 0
    assert costs[-1] == 1


def test_actions_reach_the_agent_as_they_are():
    vector = envs.make("bullet/antrun", 1)
    agent = vector.envs[0].unwrapped.agent
    sent = []
    agent.apply_action = lambda action, apply=agent.apply_action: (
        sent.append(action) or apply(action)
    )
    space = vector.single_action_space
    vector.reset(seed=[0])
    sent.clear()
    for action in (space.low, space.high):
        vector.step(action[None])
    vector.close()
    np.testing.assert_array_equal(sent, [np.full(8, -1), np.full(8, 1)])


def test_a_picture_is_drawn_without_a_display():
    vector = envs.make("bullet/carrun", 1)
    vector.reset(seed=[0])
    (picture,) = vector.render()
    vector.close()
    assert picture.shape[2] == 3 and picture.dtype == np.uint8
    assert len(np.unique(picture)) > 10
