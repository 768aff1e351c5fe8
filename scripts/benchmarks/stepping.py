"""Steps per second of the environments."""

import time
import warnings
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from psec_jax import envs


def bare_dm_control() -> tuple[Callable, Callable]:
    from psec_jax.envs.dm_control import suite

    simulator = suite.load("walker", "walk")
    return simulator.reset, lambda action: simulator.step(action).last()


def bare_gymnasium(env_id: str) -> tuple[Callable, Callable]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulator = gymnasium.make(env_id)
    return simulator.reset, lambda action: any(simulator.step(action)[2:4])


def bare_bullet() -> tuple[Callable, Callable]:
    envs.make("bullet/carrun", 1).close()  # registers the package's own ids
    return bare_gymnasium("SafetyCarRun-v0")


def bare_metadrive() -> tuple[Callable, Callable]:
    from metadrive.engine.base_engine import BaseEngine
    from metadrive.envs.safe_metadrive_env import SafeMetaDriveEnv

    from psec_jax.envs.metadrive import config

    BaseEngine.try_pull_asset = staticmethod(lambda: None)
    simulator = SafeMetaDriveEnv(config("easymean"))
    return simulator.reset, lambda action: any(simulator.step(action)[2:4])


BARE = {
    "dm_control/walker-walk-v0": bare_dm_control,
    "mujoco/halfcheetah-v5": partial(bare_gymnasium, "HalfCheetah-v5"),
    "mujoco/walker2d-v5": partial(bare_gymnasium, "Walker2d-v5"),
    "bullet/carrun": bare_bullet,
    "metadrive/easymean": bare_metadrive,
}


def stepping(repeats: int, steps: int = 600) -> dict:
    """Steps per second of one and of four copies of an environment under random actions, resets
    included, and the share of the bare simulator's rate, from pairs of turns one after another."""
    section: dict = {}
    for env_id, make_bare in BARE.items():
        reset, step = make_bare()
        reset()

        def bare_rate(actions: np.ndarray, reset=reset, step=step) -> float:
            start = time.perf_counter()
            for action in actions:
                if step(action):
                    reset()
            return len(actions) / (time.perf_counter() - start)

        def rate(vector: VectorEnv, actions: np.ndarray) -> float:
            taken, over = 0, np.zeros(vector.num_envs, bool)
            start = time.perf_counter()
            for action in actions:
                _, _, terminations, truncations, _ = vector.step(action)
                taken += np.count_nonzero(~over)
                over |= terminations | truncations
                if over.all():
                    vector.reset()
                    over[:] = False
            return taken / (time.perf_counter() - start)

        for copies in (1, 4):
            vector = envs.make(env_id, copies)
            vector.reset(seed=0)
            shape = (steps // copies, *vector.action_space.shape)
            actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
            flat = actions.reshape(-1, shape[-1])
            pairs = [(rate(vector, actions), bare_rate(flat)) for _ in range(repeats + 1)][1:]
            vector.close()
            section.setdefault(env_id, {})[f"{copies}_at_once"] = {
                "steps_per_second": round(max(ours for ours, _ in pairs), 1),
                "bare_steps_per_second": round(max(bare for _, bare in pairs), 1),
                "share": round(float(np.median([ours / bare for ours, bare in pairs])), 3),
            }
    return section
