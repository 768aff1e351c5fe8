"""Gymnasium's MuJoCo robots, with shifted dynamics where the id has factors.

Without factors an environment is what ``gymnasium.make`` gives, step by step: observations of 17
numbers for halfcheetah and walker2d and of 11 for hopper, in both versions. Those of the ant are
27 in v4, which leaves the contact forces out, and 105 in v5, which has those of all bodies but
the world. The 111 of D4RL's ant are the 27 and the forces on all 14 bodies, the world included,
and are what Gymnasium's Ant-v4 gives with ``use_contact_forces=True``; no id here asks for that.

A factor multiplies what the robot's file says, before the model is compiled, so that masses and
inertias follow:

- ``gravity``: the vector of gravity.
- ``friction``: all three coefficients (sliding, torsional, rolling) of every geom, the floor's
  too, whether a geom has them from its own line, from the file's defaults or from MuJoCo's.
- ``thigh``: every number of the ``size`` of the thighs' geoms; joints stay where they are. The
  thighs of the halfcheetah (two), the walker2d (two) and the hopper (one) are capsules with a
  radius and half a length, and both grow, about the middle of the thigh. The thighs of the ant
  are the four capsules between hip and ankle; they are given by their ends, so only the radius
  grows. The masses of the halfcheetah are scaled to 14 kg in all as its file asks, so there a
  larger thigh makes the rest lighter.
"""

# mujoco declares few of the names that its compiled modules define.
# pyright: reportAttributeAccessIssue=false

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import gymnasium
from gymnasium.envs.registration import load_env_creator

from psec_jax.envs.adapter import Adapter
from psec_jax.envs.vector import Factory

try:
    import mujoco
    from gymnasium.envs.mujoco import MujocoEnv
except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
    raise ImportError(
        f"mujoco environments need the extra: pip install 'psec-jax[mujoco]' ({error})"
    ) from error

ROBOTS = {
    "halfcheetah": ("HalfCheetah", ("bthigh", "fthigh")),
    "walker2d": ("Walker2d", ("thigh_geom", "thigh_left_geom")),
    "hopper": ("Hopper", ("thigh_geom",)),
    "ant": ("Ant", ("left_leg_geom", "right_leg_geom", "back_leg_geom", "rightback_leg_geom")),
}


def factory(name: str, **factors: float) -> Factory:
    """What makes the environment ``<robot>-<version>``, its dynamics shifted by ``factors``."""
    robot, version = name.split("-")
    title, thighs = ROBOTS[robot]
    spec = gymnasium.spec(f"{title}-{version}")
    kind = load_env_creator(str(spec.entry_point))
    steps = spec.max_episode_steps
    assert steps is not None, "each robot has a time limit"
    shifted = _shifted(cast(type[MujocoEnv], kind), factors, thighs)

    def make() -> gymnasium.Env:
        with _without_warnings():
            env = shifted(**{"render_mode": "rgb_array", **spec.kwargs})
        return Adapter(gymnasium.wrappers.TimeLimit(env, steps))

    return make


def _shifted(kind: type[MujocoEnv], factors: dict[str, float], thighs: tuple[str, ...]) -> type:
    class Shifted(kind):
        def _initialize_simulation(self):
            robot = mujoco.MjSpec.from_file(self.fullpath)
            _shift(robot, factors, thighs)
            glob = robot.visual.global_
            glob.offwidth = max(glob.offwidth, self.width)
            glob.offheight = max(glob.offheight, self.height)
            model = robot.compile()
            return model, mujoco.MjData(model)

    return Shifted if factors else kind


def _shift(robot: "mujoco.MjSpec", factors: dict[str, float], thighs: tuple[str, ...]) -> None:
    robot.option.gravity *= factors.get("gravity", 1.0)
    for geom in robot.geoms:
        geom.friction *= factors.get("friction", 1.0)
    for thigh in thighs:
        robot.geom(thigh).size *= factors.get("thigh", 1.0)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """MuJoCo calls a word of the halfcheetah's file outdated, and logs that to a file here."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(before)
