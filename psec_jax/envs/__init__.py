"""Environments by id, as Gymnasium vector environments.

Observations are flat float32 vectors and actions lie in [−1, 1], whatever the simulator. The
simulators are imported where they are used.
"""

from gymnasium.vector import SyncVectorEnv, VectorEnv


def make(env_id: str, num_envs: int) -> VectorEnv:
    """``num_envs`` copies of an environment such as ``dm_control/walker-walk-v0``.

    Raises ``ValueError`` for an id that is not known, naming the closest ones, and
    ``ImportError`` naming the extra to install where the simulator is missing.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs!r}")
    family, _, name = env_id.partition("/")
    if family != "dm_control":
        raise ValueError(
            f"unknown environment {env_id!r}; expected dm_control/<domain>-<task>-v0, for example "
            "dm_control/walker-walk-v0"
        )
    from psec_jax.envs import dm_control

    return SyncVectorEnv([dm_control.factory(name)] * num_envs, copy=False)
