import os

import gymnasium
import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import envs

ROBOTS = ("halfcheetah", "walker2d", "hopper", "ant")
IDS = [f"mujoco/{robot}-{version}" for robot in ROBOTS for version in ("v4", "v5")]
NATIVE = {"halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "hopper": "Hopper", "ant": "Ant"}
THIGHS = {
    "halfcheetah": (["bthigh", "fthigh"], "head"),
    "walker2d": (["thigh_geom", "thigh_left_geom"], "foot_geom"),
    "hopper": (["thigh_geom"], "foot_geom"),
    "ant": (
        ["left_leg_geom", "right_leg_geom", "back_leg_geom", "rightback_leg_geom"],
        "left_ankle_geom",
    ),
}
factor = st.floats(0.2, 5.0)


def simulator(env_id):
    vector = envs.make(env_id, 1)
    vector.reset(seed=[0])
    return vector.envs[0].unwrapped


def play(env_id, steps=40, seed=3):
    vector = envs.make(env_id, 1)
    generator = np.random.default_rng(0)
    rows = [np.array(vector.reset(seed=[seed])[0])]
    for _ in range(steps):
        action = generator.uniform(-1, 1, vector.action_space.shape).astype(np.float32)
        observations, rewards, *_ = vector.step(action)
        rows += [np.array(observations), rewards[:, None].copy()]
    vector.close()
    return np.hstack(rows)


def capsule_volume(radius, half):
    return np.pi * radius**2 * (2 * half) + 4 / 3 * np.pi * radius**3


def body_mass(env, geom):
    return env.model.body_mass[env.model.geom(geom).bodyid[0]]


def masses(env, geoms):
    """The masses of the geoms' bodies, each of which has no other geom."""
    bodies = [env.model.geom(geom).bodyid[0] for geom in geoms]
    assert all((env.model.geom_bodyid == body).sum() == 1 for body in bodies)
    return env.model.body_mass[bodies]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("env_id", IDS)
def test_without_factors_it_is_the_environment_of_gymnasium_step_by_step(
    env_id, tmp_path, monkeypatch
):
    """Over ends of episodes, of which the hopper has several."""
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a warning about Gymnasium's own to a file.
    robot, version = env_id.removeprefix("mujoco/").split("-")
    native = gymnasium.make(f"{NATIVE[robot]}-{version}", disable_env_checker=True)
    vector = envs.make(env_id, 1)
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(
        vector.reset(seed=[5])[0][0], np.float32(native.reset(seed=5)[0])
    )
    for _ in range(80):
        action = generator.uniform(-1, 1, native.action_space.shape).astype(np.float32)
        expected, reward, terminated, truncated, _ = native.step(action)
        observations, *others, infos = vector.step(action[None])
        np.testing.assert_array_equal(observations[0], np.float32(expected))
        assert [other[0] for other in others] == [reward, terminated, truncated]
        assert infos == {}
        if terminated:
            start = np.float32(native.reset()[0])
            np.testing.assert_array_equal(vector.reset()[0][0], start)
    native.close()


@pytest.mark.parametrize("env_id", IDS)
def test_a_factor_of_one_is_no_shift_and_two_are_one_bit_for_bit(env_id):
    plain = play(env_id)
    np.testing.assert_array_equal(play(f"{env_id}?gravity=1&friction=1&thigh=1"), plain)
    both = play(f"{env_id}?gravity=2&thigh=1.5")
    np.testing.assert_array_equal(play(f"{env_id}?thigh=1.5&gravity=2"), both)
    for part in ("gravity=2", "thigh=1.5"):
        assert not np.allclose(play(f"{env_id}?{part}"), both)
    np.testing.assert_array_equal(play(env_id), plain)


@given(factor)
@pytest.mark.parametrize("env_id", IDS)
def test_a_free_fall_accelerates_in_proportion_to_gravity(env_id, factor):
    """The centre of mass of a robot far above the ground, to the step's accuracy."""
    env = simulator(f"{env_id}?gravity={factor}")
    height = 1 if "ant" not in env_id else 2
    positions, still = env.init_qpos.copy(), np.zeros(env.model.nv)
    positions[height] += 10
    env.set_state(positions, still)
    speeds = []
    for _ in range(2):
        mujoco.mj_forward(env.model, env.data)
        mujoco.mj_subtreeVel(env.model, env.data)
        speeds.append(env.data.subtree_linvel[1, 2])
        mujoco.mj_step(env.model, env.data)
    acceleration = (speeds[1] - speeds[0]) / env.model.opt.timestep
    np.testing.assert_allclose(acceleration, -9.81 * factor, atol=0.02)


@given(factor)
@pytest.mark.parametrize("env_id", IDS)
def test_the_mass_of_a_thigh_follows_the_volume_of_its_capsule(env_id, factor):
    """Relative to a part that is not shifted, as the halfcheetah's whole mass is fixed."""
    thighs, other = THIGHS[env_id.removeprefix("mujoco/").partition("-")[0]]
    plain, shifted = simulator(env_id), simulator(f"{env_id}?thigh={factor}")
    relative = [masses(env, thighs) / body_mass(env, other) for env in (plain, shifted)]
    radius, half = plain.model.geom(thighs[0]).size[:2]
    longer = half if "ant" in env_id else half * factor
    ratio = capsule_volume(radius * factor, longer) / capsule_volume(radius, half)
    np.testing.assert_allclose(relative[1] / relative[0], ratio, rtol=1e-6)


@pytest.mark.parametrize("env_id", ["mujoco/walker2d-v4", "mujoco/hopper-v5"])
def test_the_inertia_of_a_similar_thigh_grows_with_the_fifth_power(env_id):
    (thigh, *_), _ = THIGHS[env_id.removeprefix("mujoco/").partition("-")[0]]
    plain, shifted = simulator(env_id), simulator(f"{env_id}?thigh=2")
    body = plain.model.geom(thigh).bodyid[0]
    np.testing.assert_allclose(
        shifted.model.body_inertia[body], 32 * plain.model.body_inertia[body], rtol=1e-6
    )
    np.testing.assert_array_equal(shifted.model.body_pos, plain.model.body_pos)


@pytest.mark.parametrize("env_id", IDS)
def test_a_robot_slides_further_the_less_friction_there_is(env_id):
    """Lying on the ground, pushed once, its motors off."""

    def distance(factor):
        env = simulator(f"{env_id}?friction={factor}")
        still = np.zeros(env.model.nu)
        for _ in range(250):
            env.do_simulation(still, env.frame_skip)
        start = env.data.qpos[0]
        env.data.qvel[0] += 4.0
        for _ in range(250):
            env.do_simulation(still, env.frame_skip)
        return env.data.qpos[0] - start

    slippery, plain, rough = map(distance, (0.1, 1, 4))
    assert slippery > 1.5 * plain > 0
    assert plain > rough


@pytest.mark.parametrize("env_id", ["mujoco/halfcheetah-v5", "mujoco/ant-v4"])
def test_actions_reach_the_motors_bounds(env_id):
    env = envs.make(env_id, 1)
    env.reset(seed=[0])
    simulator = env.envs[0].unwrapped
    for side, bound in (("low", -1), ("high", 1)):
        action = getattr(env.single_action_space, side)
        np.testing.assert_array_equal(action, bound)
        env.step(action[None])
        expected = simulator.model.actuator_ctrlrange[:, int(bound > 0)]
        np.testing.assert_array_equal(simulator.data.ctrl, expected)


@pytest.mark.parametrize("env_id", ["mujoco/halfcheetah-v4", "mujoco/halfcheetah-v5?gravity=2"])
def test_an_episode_is_truncated_after_a_thousand_steps(env_id):
    vector = envs.make(env_id, 1)
    vector.reset(seed=[0])
    still = np.zeros(vector.action_space.shape, np.float32)
    ends = []
    for _ in range(1001):
        *_, terminations, truncations, _ = vector.step(still)
        ends.append((bool(terminations[0]), bool(truncations[0])))
    assert ends == 999 * [(False, False)] + [(False, True), (False, False)]


def test_making_leaves_no_file_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for robot in ROBOTS:
        envs.make(f"mujoco/{robot}-v5?thigh=2&friction=0.5", 1).close()
        envs.make(f"mujoco/{robot}-v4", 1).close()
    assert os.listdir() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("env_id", ["mujoco/walker2d-v5", "mujoco/walker2d-v4?gravity=2"])
def test_pictures_can_be_asked_for_later(env_id):
    vector = envs.make(env_id, 1)
    assert vector.envs[0].render_mode == "rgb_array"
    assert vector.metadata["render_fps"] == 125
    vector.close()
