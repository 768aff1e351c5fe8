"""Vector environments whose copies share this process, one stepped after another."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

Seeds = int | Sequence[int | None] | None


class InProcessVectorEnv(VectorEnv):
    """``num_envs`` copies of what ``factory`` makes, whose observations are float32 vectors.

    It answers as Gymnasium's ``SyncVectorEnv`` does, with less overhead: beside a fast robot that
    one takes a fifth of the time. An episode that has ended stays where it is until the next
    reset: its steps do nothing, reward nothing and take no time.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env], num_envs: int):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.envs = [factory() for _ in range(num_envs)]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observations = np.empty(self.observation_space.shape, np.float32)
        infos: dict[str, Any] = {}
        for index, one in enumerate(one_seed_each(seed, self.num_envs)):
            observations[index], info = self.envs[index].reset(seed=one, options=options)
            infos = self._add_info(infos, info, index)
        self._over[:] = False
        self._still = still(infos, self.num_envs)
        self._observations = observations
        return observations, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = checked_actions(actions, self.action_space)
        observations = self._observations.copy()
        rewards = np.zeros(self.num_envs)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        infos = copy.deepcopy(self._still)
        for index in np.flatnonzero(~self._over):
            answer = self.envs[index].step(actions[index])
            observations[index], rewards[index] = answer[:2]
            terminations[index], truncations[index], info = answer[2:]
            if info:
                infos = self._add_info(infos, info, index)
        self._over |= terminations | truncations
        self._observations = observations
        return observations, rewards, terminations, truncations, infos

    def close_extras(self, **_: Any) -> None:
        for env in self.envs:
            env.close()


def still(infos: dict[str, Any], num_envs: int) -> dict[str, Any]:
    """What copies that are through say at each step: no cost, where the reset told of costs."""
    return {"cost": np.zeros(num_envs)} if "cost" in infos else {}


def one_seed_each(seed: Seeds, num_envs: int) -> Sequence[int | None]:
    """One seed for each copy: those given, ``seed``, ``seed + 1`` and so on, or none."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return range(int(seed), int(seed) + num_envs)
    if len(seed) != num_envs:
        raise ValueError(f"expected {num_envs} seeds, one for each copy, not {len(seed)}")
    return [None if one is None else int(one) for one in seed]


def checked_actions(actions: np.ndarray, space: gymnasium.spaces.Box) -> np.ndarray:
    """The actions as an array of the space's type; ``ValueError`` if they are of another shape."""
    actions = np.asarray(actions, space.dtype)
    if actions.shape != space.shape:
        raise ValueError(f"expected actions of shape {space.shape}, not {actions.shape}")
    return actions
