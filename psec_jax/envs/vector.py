"""What is common to vector environments whatever steps their copies."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

# Makes one environment, a new one each time.
Factory = Callable[[], gymnasium.Env]
Seeds = int | Sequence[int | None] | None


class EpisodeVectorEnv(VectorEnv):
    """Copies that each play one episode from a reset to its end, and then stay where they are.

    It answers as Gymnasium's vector environments without autoreset do, but for what is over: the
    steps of a copy whose episode has ended do nothing, reward nothing and take no time. A copy
    that ``options["reset_mask"]`` (copies,) leaves out of a reset stays as it was; one that was
    never reset counts as over. Observations are float32 vectors.
    """

    single_observation_space: Box
    single_action_space: Box
    observation_space: Box
    action_space: Box

    def __init__(self, num_envs: int, observations: gymnasium.Space, actions: gymnasium.Space):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = cast(Box, observations)
        self.single_action_space = cast(Box, actions)
        self.observation_space = cast(Box, batch_space(observations, num_envs))
        self.action_space = cast(Box, batch_space(actions, num_envs))
        self._over = np.ones(num_envs, bool)
        self._observations = np.zeros(self.observation_space.shape, np.float32)

    @abstractmethod
    def reset_copies(self, seeds: dict[int, int | None], options: dict | None) -> dict:
        """Of the copies with these indices: (observation, info)."""

    @abstractmethod
    def step_copies(self, actions: dict[int, np.ndarray]) -> dict:
        """Of the copies with these indices: (observation, reward, terminated, truncated, info)."""

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        seeds = one_seed_each(seed, self.num_envs)
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, bool))
        chosen = np.flatnonzero(mask).tolist()
        observations, infos = self._observations.copy(), {}
        answers = self.reset_copies({i: seeds[i] for i in chosen}, options or None)
        for index, (observation, info) in answers.items():
            observations[index] = observation
            infos = self._add_info(infos, info, index)
        self._over[chosen] = False
        # Copies that are over cost nothing, where the reset told of costs.
        self._still = {"cost": np.zeros(self.num_envs)} if "cost" in infos else {}
        self._observations = observations
        return observations, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = checked_actions(actions, self.action_space)
        observations, rewards = self._observations.copy(), np.zeros(self.num_envs)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        infos = copy.deepcopy(self._still)
        answers = self.step_copies({i: actions[i] for i in np.flatnonzero(~self._over).tolist()})
        for index, answer in answers.items():
            observations[index], rewards[index] = answer[:2]
            terminations[index], truncations[index], info = answer[2:]
            if info:
                infos = self._add_info(infos, info, index)
        self._over |= terminations | truncations
        self._observations = observations
        return observations, rewards, terminations, truncations, infos


def one_seed_each(seed: Seeds, num_envs: int) -> Sequence[int | None]:
    """One seed for each copy: those given, ``seed``, ``seed + 1`` and so on, or none."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return range(int(seed), int(seed) + num_envs)
    if len(seed) != num_envs:
        raise ValueError(f"expected {num_envs} seeds, one for each copy, not {len(seed)}")
    return [None if one is None else int(one) for one in seed]


def checked_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """The actions as an array of the space's type; ``ValueError`` if they are of another shape."""
    actions = np.asarray(actions, space.dtype)
    if actions.shape != space.shape:
        raise ValueError(f"expected actions of shape {space.shape}, not {actions.shape}")
    return actions
