"""What every environment that shares this process looks like from outside."""

from typing import Any

import gymnasium
import numpy as np


class Adapter(gymnasium.Wrapper):
    """Observations (n,) float32, actions in [−1, 1], and of the infos at most the cost.

    −1 and 1 become the simulator's own bounds exactly. With ``costs`` every info, that of a reset
    included, has ``cost`` as a float; without, infos are empty.
    """

    def __init__(self, env: gymnasium.Env, costs: bool = False):
        super().__init__(env)
        bounds = env.action_space
        self._low, self._high = bounds.low / 2, bounds.high / 2
        self._scaled = bool((bounds.low != -1).any() or (bounds.high != 1).any())
        self._costs = costs
        size = int(np.prod(env.observation_space.shape))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, bounds.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, _ = self.env.reset(seed=seed, options=options)
        return np.asarray(observation, np.float32), {"cost": 0.0} if self._costs else {}

    def step(self, action: np.ndarray):
        if self._scaled:
            action = self._low * (1 - action) + self._high * (1 + action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        kept = {"cost": float(info["cost"])} if self._costs else {}
        return np.asarray(observation, np.float32), reward, terminated, truncated, kept
