"""Vector environments whose copies share this process, one stepped after another."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from psec_jax.envs.vector import EpisodeVectorEnv


class InProcessVectorEnv(EpisodeVectorEnv):
    """``num_envs`` copies of what ``factory`` makes, with less overhead than Gymnasium's
    ``SyncVectorEnv``: beside a fast robot that one takes a fifth of the time."""

    def __init__(self, factory: Callable[[], gymnasium.Env], num_envs: int):
        self.envs = [factory() for _ in range(num_envs)]
        first = self.envs[0]
        super().__init__(num_envs, first.observation_space, first.action_space)

    def reset_copies(self, seeds: dict[int, int | None], options: dict | None) -> dict:
        return {i: self.envs[i].reset(seed=one, options=options) for i, one in seeds.items()}

    def step_copies(self, actions: dict[int, np.ndarray]) -> dict:
        return {i: self.envs[i].step(action) for i, action in actions.items()}

    def close_extras(self, **_: Any) -> None:
        for env in self.envs:
            env.close()
