"""Environments by id, as Gymnasium vector environments, and everybody's own.

Observations are flat float32 vectors and actions lie in [−1, 1], whatever the simulator; they are
scaled to its bounds dimension by dimension. Where a simulator has costs, ``infos["cost"]`` holds
one float for each environment after every step, and 0 after a reset; elsewhere the key is absent.
An environment whose episode has ended stays where it is until the next reset. The simulators are
imported where they are used.
"""

import gymnasium
from gymnasium.vector import VectorEnv

from psec_jax.envs.adapter import Adapter
from psec_jax.envs.families import family, register, register_vector
from psec_jax.envs.ids import known_ids, parse
from psec_jax.envs.in_process import InProcessVectorEnv, adapted_copies
from psec_jax.envs.vector import EpisodeVectorEnv, Factory
from psec_jax.envs.vector_adapter import VectorAdapter

__all__ = [
    "Environment",
    "adapt",
    "copies_at_once",
    "known_ids",
    "make",
    "register",
    "register_vector",
]

# What a policy can be evaluated in.
Environment = str | gymnasium.Env | VectorEnv | Factory


def make(environment: str | Factory, num_envs: int) -> VectorEnv:
    """``num_envs`` copies of an environment, given by its id or by a function that makes one.

    ========================================  ==================================================
    ``dm_control/<domain>-<task>-v0``         DeepMind Control
    ``mujoco/<robot>-<v4 or v5>``             Gymnasium's halfcheetah, walker2d, hopper and ant,
                                              with factors as ``?gravity=2&friction=0.5&thigh=2``
    ``bullet/<agent><run or circle>``         Bullet-Safety-Gym's ant, ball, car and drone
    ``metadrive/<road><traffic>``             DSRL's easy, medium and hard roads with sparse,
                                              mean and dense traffic; each copy is a process
    ``<prefix>/<name>``                       a family of your own: ``psec_jax.envs.register``,
                                              ``register_vector``
    anything else                             Gymnasium's registry: ``Pendulum-v1``
    ========================================  ==================================================

    With ``module:`` in front of an id that module is imported first, as by Gymnasium.

    Raises ``ValueError`` for an id that is not known, naming the closest ones, and for spaces that
    no policy acts in; ``ImportError`` naming what to install where the simulator is missing.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs!r}")
    if isinstance(environment, str):
        prefix, name, factors = parse(environment)
        return family(prefix).vector(name, factors, num_envs)
    if not callable(environment):
        raise TypeError(
            f"{environment!r} is no environment; expected an id, a gymnasium.Env, a "
            "gymnasium.vector.VectorEnv, or a function that makes a gymnasium.Env"
        )
    return adapted_copies(environment, num_envs)


def adapt(environment: gymnasium.Env | VectorEnv) -> VectorEnv:
    """An environment made elsewhere, as a policy sees it: a single one as the only copy.

    Whoever made it closes it. Raises ``ValueError`` for spaces that no policy acts in.
    """
    if isinstance(environment, EpisodeVectorEnv):
        return environment
    if isinstance(environment, VectorEnv):
        return VectorAdapter(environment)
    return InProcessVectorEnv(lambda: Adapter(environment), 1)


def copies_at_once(env_id: str, episodes: int) -> int:
    """How many copies are worth making for so many episodes, which they share out evenly.

    Where each copy is a process there are four for each core that this one may use, as those whose
    episode has ended early leave it to the others; there are never more than 50.
    """
    most = min(50, family(parse(env_id)[0]).most())
    return -(-episodes // -(-episodes // most))
