"""The nine driving tasks of the DSRL benchmark in MetaDrive, whose infos carry a cost.

This file runs in a process of its own, as its simulator allows one engine a process, and there it
is loaded by its path, without the rest of the package.

The cost of a step is that of DSRL's environments:

    cost = [out of road, or crashed] + 0.01 · max(0, v − 10) + 0.01 · max(0, 0.1 − d)²

with the speed v in km/h and d the least of the 240 lidar readings (1 is 50 m). A crash, leaving
the road and arriving each end the episode; 1000 steps truncate it.

The road and the car's lane are the same in every episode; its seed decides the traffic.
"""

import importlib.util
import logging
from typing import Any

import gymnasium
import numpy as np

ROADS = {"easy": ("SCS", 0), "medium": ("XST", 100), "hard": ("TRO", 200)}
TRAFFIC = {"sparse": 0.1, "mean": 0.15, "dense": 0.2}
HORIZON = 1000


def check_installed() -> None:
    """Raises ``ImportError`` that names the extra, without importing the simulator."""
    if importlib.util.find_spec("metadrive") is None:
        raise ImportError(
            "metadrive environments need the extra, on Python 3.11: "
            "pip install 'psec-jax[metadrive]' (No module named 'metadrive')"
        )


def config(name: str) -> dict[str, Any]:
    """The simulator's settings for ``<road><traffic>``."""
    road = next(road for road in ROADS if name.startswith(road))
    blocks, scenario = ROADS[road]
    return {
        "map": blocks,
        "start_seed": scenario,
        "num_scenarios": 1,
        "traffic_density": TRAFFIC[name.removeprefix(road)],
        "traffic_mode": "hybrid",
        "random_traffic": True,
        "accident_prob": 0.0,
        "crash_vehicle_penalty": 0.0,
        "horizon": HORIZON,
        # Objects kept for the next episode would carry the last one's rounding errors into it.
        "force_destroy": True,
        "log_level": logging.ERROR,
    }


class Drive(gymnasium.Env):
    """One car on one of the roads: observations (259,), actions steering and throttle."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (259,), np.float32)

    def __init__(self, name: str):
        from metadrive.engine.base_engine import BaseEngine
        from metadrive.envs.safe_metadrive_env import SafeMetaDriveEnv

        # The models and textures, a download, are for rendering; the physics needs none of them.
        BaseEngine.try_pull_asset = staticmethod(lambda: None)
        self.simulator = SafeMetaDriveEnv(config(name))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.simulator.lazy_init()
        traffic = self.simulator.engine.traffic_manager
        traffic.np_random = np.random.RandomState(self.np_random.integers(2**32))
        observation, _ = self.simulator.reset()
        return np.asarray(observation, np.float32), {"cost": 0.0}

    def step(self, action: np.ndarray):
        observation, reward, _, _, info = self.simulator.step(action)
        ended = info["arrive_dest"] or info["crash"] or info["out_of_road"]
        speed = 3.6 * info["velocity"]
        nearest = float(np.min(observation[-240:]))
        cost = info["cost"] + 0.01 * max(0.0, speed - 10) + 0.01 * max(0.0, 0.1 - nearest) ** 2
        return (
            np.asarray(observation, np.float32),
            float(reward),
            bool(ended),
            bool(info["max_step"]),
            {"cost": float(cost)},
        )

    def close(self) -> None:
        self.simulator.close()
