"""The nine driving tasks of the DSRL benchmark in MetaDrive, whose infos carry a cost.

This file runs in a process of its own, as its simulator allows one engine a process, and there it
is loaded by its path, without the rest of the package.

The cost of a step is that of DSRL's environments:

    cost = [out of road, or crashed] + 0.01 · max(0, v − 10) + 0.01 · max(0, 0.1 − d)²

with the speed v in km/h and d the least of the 240 lidar readings (1 is 50 m). A crash, leaving
the road and arriving each end the episode; 1000 steps truncate it.

The road and the car's lane are the same in every episode; its seed decides the traffic.

A car can also drive itself for an episode: ``reset(options={"driver": {"target_speed": 20}})``
gives it the simulator's own driver, whose settings are those of ``DRIVER``, and the option
``noise`` is the standard deviation of what is added to each of its actions. The actions given to
``step`` are then ignored, and its infos hold the ``executed_action``.
"""

import importlib.util
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

ROADS = {"easy": ("SCS", 0), "medium": ("XST", 100), "hard": ("TRO", 200)}
TRAFFIC = {"sparse": 0.1, "mean": 0.15, "dense": 0.2}
HORIZON = 1000

# The settings of a driver. A number may also be a pair, between which each episode draws its own.
DRIVER = {
    "target_speed": 30.0,  # km/h
    "time_gap": 1.5,  # seconds behind the car ahead
    "distance_gap": 10.0,  # metres behind the car ahead
    "heeds_traffic": True,  # brakes behind others
    "changes_lanes": True,  # overtakes
    "wander": 0.0,  # standard deviation of a drift of the steering over seconds
}
# How much of the drift is left after a step of 0.1 s.
PERSISTENCE = 0.95
# As far as actions go in a dataset, so that those of a driver are kept as they were executed.
LARGEST = 1 - 1e-5


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


def check_driver(settings: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for settings that no driver has."""
    for key, value in settings.items():
        if key not in DRIVER:
            raise ValueError(f"a driver has no setting {key!r}; expected {', '.join(DRIVER)}")
        if isinstance(DRIVER[key], bool):
            if not isinstance(value, bool):
                raise ValueError(f"{key} of a driver is true or false, not {value!r}")
            continue
        pair: Any = value if isinstance(value, list | tuple) and len(value) == 2 else (value,) * 2
        low, high = pair
        if not all(type(end) in (int, float) for end in (low, high)) or not 0 <= low <= high:
            raise ValueError(
                f"{key} of a driver is a number from 0 on, or two in order, not {value!r}"
            )


class Drive(gymnasium.Env):
    """One car on one of the roads: observations (259,), actions steering and throttle."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (259,), np.float32)

    def __init__(self, name: str):
        from metadrive.engine.base_engine import BaseEngine

        # The models and textures, a download, are for rendering; the physics needs none of them.
        BaseEngine.try_pull_asset = staticmethod(lambda: None)
        self.simulator = simulator(config(name))
        self.driver: Driver | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.simulator.lazy_init()
        traffic = self.simulator.engine.traffic_manager
        traffic.np_random = np.random.RandomState(self.np_random.integers(2**32))
        observation, _ = self.simulator.reset()
        self.driver = None
        if options and "driver" in options:
            (chance,) = self.np_random.spawn(1)
            self.driver = Driver(self.simulator.agent, chance, **options)
        return np.asarray(observation, np.float32), {"cost": 0.0}

    def step(self, action: np.ndarray):
        executed = {}
        if self.driver is not None:
            action = self.driver.act()
            executed = {"executed_action": action}
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
            {"cost": float(cost), **executed},
        )

    def render(self) -> np.ndarray:
        """The car and its surroundings from above, (400, 400, 3) with bytes."""
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        return self.simulator.render(
            mode="topdown",
            window=False,
            screen_size=(400, 400),
            film_size=(2000, 2000),
            scaling=6,
            semantic_map=False,
        )

    def close(self) -> None:
        self.simulator.close()


def simulator(settings: Mapping[str, Any]) -> Any:
    """DSRL's simulator, whose traffic is spared what is computed about it and read by nobody.

    Every other car notes its distances, contacts, energy and the way ahead at each step, as if it
    were the one that learns; without that the simulator makes more steps a second (153 for 108 on
    the easy road with mean traffic) and goes the same way, bit for bit.
    """
    from metadrive.envs.safe_metadrive_env import SafeMetaDriveEnv
    from metadrive.manager.traffic_manager import PGTrafficManager

    class Traffic(PGTrafficManager):
        def spawn_object(self, *args: Any, **kwargs: Any):
            car = super().spawn_object(*args, **kwargs)
            car.navigation._get_info_for_checkpoint = lambda **_: (0.0, 0.0, None)
            car.after_step = lambda: car.navigation.update_localization(car)
            return car

    class Simulator(SafeMetaDriveEnv):
        def setup_engine(self):
            super().setup_engine()
            self.engine.update_manager("traffic_manager", Traffic())

    return Simulator(dict(settings))


class Driver:
    """The simulator's intelligent-driver model at the wheel of one car for one episode.

    It keeps a gap to the car ahead, follows its lane, and overtakes. ``chance`` is the generator
    of whatever is random in it.
    """

    def __init__(
        self,
        car: Any,
        chance: np.random.Generator,
        driver: Mapping[str, Any],
        noise: float = 0.0,
    ):
        from metadrive.policy.idm_policy import IDMPolicy

        check_driver(driver)
        drawn = {
            key: value if isinstance(value, bool) else chance.uniform(*np.broadcast_to(value, 2))
            for key, value in {**DRIVER, **driver}.items()
        }
        self._chance, self._noise, self._wander = chance, noise, drawn["wander"]
        self._drift = self._wander * chance.standard_normal()
        self._model: Any = IDMPolicy(car, int(chance.integers(2**32)))
        self._model.NORMAL_SPEED = self._model.target_speed = drawn["target_speed"]
        self._model.TIME_WANTED = drawn["time_gap"]
        self._model.DISTANCE_WANTED = drawn["distance_gap"]
        self._model.enable_lane_change = drawn["changes_lanes"]
        self._model.disable_idm_deceleration = not drawn["heeds_traffic"]

    def act(self) -> np.ndarray:
        """Steering and throttle (2,)."""
        steer, throttle, drift = self._chance.standard_normal(3)
        fresh = math.sqrt(1 - PERSISTENCE**2) * self._wander
        self._drift = PERSISTENCE * self._drift + fresh * drift
        action = self._model.act() + self._noise * np.array([steer, throttle])
        action[0] += self._drift
        return np.clip(action, -LARGEST, LARGEST).astype(np.float32)
