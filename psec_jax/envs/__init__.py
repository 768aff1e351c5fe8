"""Environments by id, as Gymnasium vector environments.

Observations are flat float32 vectors and actions lie in [−1, 1], whatever the simulator. Where a
simulator has costs, ``infos["cost"]`` holds one float for each environment after every step, and
0 after a reset; elsewhere the key is absent. An environment whose episode has ended stays where it
is until the next reset. The simulators are imported where they are used.
"""

import os

from gymnasium.vector import VectorEnv

from psec_jax.envs.ids import known_ids, parse
from psec_jax.envs.in_process import InProcessVectorEnv

__all__ = ["copies_at_once", "known_ids", "make"]


def make(env_id: str, num_envs: int) -> VectorEnv:
    """``num_envs`` copies of an environment.

    ========================================  ==================================================
    ``dm_control/<domain>-<task>-v0``         DeepMind Control
    ``mujoco/<robot>-<v4 or v5>``             Gymnasium's halfcheetah, walker2d, hopper and ant,
                                              with factors as ``?gravity=2&friction=0.5&thigh=2``
    ``bullet/<agent><run or circle>``         Bullet-Safety-Gym's ant, ball, car and drone
    ``metadrive/<road><traffic>``             DSRL's easy, medium and hard roads with sparse,
                                              mean and dense traffic; each copy is a process
    ========================================  ==================================================

    Raises ``ValueError`` for an id that is not known, naming the closest ones, and
    ``ImportError`` naming what to install where the simulator is missing.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs!r}")
    family, name, factors = parse(env_id)
    if family == "metadrive":
        return _metadrive(env_id, name, num_envs)
    if family == "mujoco":
        from psec_jax.envs import mujoco

        factory = mujoco.factory(name, factors)
    elif family == "bullet":
        from psec_jax.envs import bullet

        factory = bullet.factory(name)
    else:
        from psec_jax.envs import dm_control

        factory = dm_control.factory(name)
    return InProcessVectorEnv(factory, num_envs)


def copies_at_once(env_id: str, episodes: int) -> int:
    """How many copies are worth making for so many episodes, which they share out evenly.

    Where each copy is a process there are four for each core that this one may use, as those whose
    episode has ended early leave it to the others; there are never more than 50.
    """
    most = min(50, 4 * _cores()) if parse(env_id)[0] == "metadrive" else 50
    return -(-episodes // -(-episodes // most))


def _cores() -> int:
    """Those that this process may use, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _metadrive(env_id: str, name: str, num_envs: int) -> VectorEnv:
    from psec_jax.envs import metadrive, processes

    metadrive.check_installed()
    return processes.ProcessVectorEnv(env_id, metadrive.__file__, "Drive", (name,), num_envs)
