import os
import subprocess
import sys

import numpy as np
import pytest

from psec_jax import envs


@pytest.fixture
def walkers():
    vector = envs.make("dm_control/walker-walk-v0", 2)
    yield vector
    vector.close()


def test_observations_are_the_dictionary_of_the_task_laid_flat(walkers):
    """In the dictionary's own order, after the same actions from the same physical state."""
    from dm_control import suite

    observations, _ = walkers.reset(seed=[1, 2])
    task = suite.load("walker", "walk")
    task.reset()
    state = walkers.envs[0].unwrapped.simulator.physics.get_state()
    with task.physics.reset_context():
        task.physics.set_state(state)
    expected = task.task.get_observation(task.physics)
    assert list(expected) == ["orientations", "height", "velocity"]
    assert observations.dtype == np.float32
    np.testing.assert_allclose(
        observations[0], np.hstack([np.ravel(v) for v in expected.values()]), atol=1e-5
    )
    assert walkers.single_observation_space.shape == observations[0].shape == (24,)


def test_an_episode_follows_from_its_seed(walkers):
    def play(seeds):
        observations, _ = walkers.reset(seed=seeds)
        rows = [np.array(observations)]
        for _ in range(3):
            observations, rewards, *_ = walkers.step(np.full((2, 6), 0.3))
            rows.append(np.hstack([observations, rewards[:, None]], dtype=np.float32)[:, :24])
        return np.stack(rows)

    one, again, swapped = play([1, 2]), play([1, 2]), play([2, 1])
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, swapped[:, ::-1])
    assert not np.allclose(one[:, 0], one[:, 1])


@pytest.mark.parametrize("env_id", ["dm_control/walker-walk-v0", "dm_control/quadruped-walk-v0"])
def test_actions_lie_in_the_unit_box_whatever_those_of_the_simulator(env_id):
    vector = envs.make(env_id, 1)
    spec = vector.envs[0].unwrapped.simulator.action_spec()
    sent = []
    physics = vector.envs[0].unwrapped.simulator
    physics.step = lambda action, step=physics.step: sent.append(action) or step(action)
    space = vector.single_action_space
    vector.reset(seed=[0])
    for action in (space.low, space.high):
        vector.step(action[None])
    vector.close()
    np.testing.assert_array_equal(space.low, -1)
    np.testing.assert_array_equal(space.high, 1)
    np.testing.assert_array_equal(sent, [spec.minimum, spec.maximum])


def test_controls_without_bounds_are_taken_as_they_are():
    vector = envs.make("dm_control/lqr-lqr_2_1-v0", 1)
    task = vector.envs[0].unwrapped.simulator
    vector.reset(seed=[0])
    for action in (-1.0, 0.25, 1.0):
        vector.step(np.full((1, 1), action))
        np.testing.assert_array_equal(task.physics.control(), [action])
    vector.close()


RENDERS = """
import numpy as np
from psec_jax import envs
vector = envs.make("dm_control/walker-walk-v0", 2)
vector.reset(seed=[1, 2])
first = np.array(vector.render())
for _ in range(20):
    vector.step(np.ones((2, 6)))
after = np.array(vector.render())
shape = *after.shape, after.dtype.name
print(shape, (first[0] != first[1]).any(), (first != after).mean() > 0.01, after.std() > 10)
print(vector.metadata["render_fps"])
"""


def test_pictures_show_what_each_copy_does():
    """Without a display. An episode of 1000 steps takes 25 seconds."""
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    environment.pop("DISPLAY", None)
    command = [sys.executable, "-c", RENDERS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "EGL" in done.stderr or "cannot render here" in done.stderr:
        pytest.skip("this machine has no EGL")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(2, 240, 320, 3, 'uint8') True True True", "40"]


def test_where_nothing_can_be_rendered_it_is_said_what_to_set(walkers):
    physics = walkers.envs[0].unwrapped.simulator.physics

    def fails(*_, **__):
        raise RuntimeError("no OpenGL")

    physics.render = fails
    with pytest.raises(RuntimeError, match=r"cannot render here \(no OpenGL\); .*MUJOCO_GL=egl"):
        walkers.render()
