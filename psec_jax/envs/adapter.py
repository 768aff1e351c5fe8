"""What every environment that shares this process looks like from outside."""

from typing import Any

import gymnasium
import numpy as np

from psec_jax.envs.spaces import ActionScaling, observation_box


class Adapter(gymnasium.Wrapper):
    """Observations (n,) float32, actions in [−1, 1], and of the infos at most the cost.

    Costs are floats, in the infos of the steps that have one; with ``costs`` also in that of a
    reset, where it is 0. Raises ``ValueError`` for spaces that a policy cannot be given, and where
    the environment answers otherwise than Gymnasium's environments and its own spaces do.
    """

    def __init__(self, env: gymnasium.Env, costs: bool = False):
        super().__init__(env)
        self._scaling = ActionScaling(env.action_space, env)
        self._costs = costs
        self.observation_space = observation_box(env.observation_space, env)
        self.action_space = self._scaling.space
        self._shape = self.observation_space.shape

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        answer = self.env.reset(seed=seed, options=options)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(
                f"{self.env} returned {type(answer).__name__} from reset; expected (observation, "
                "info) as of Gymnasium's environments"
            )
        return self._observation(answer[0]), {"cost": 0.0} if self._costs else {}

    def step(self, action: np.ndarray):
        answer = self.env.step(self._scaling(action))
        if len(answer) != 5:
            raise ValueError(
                f"{self.env} returned {len(answer)} values from step; expected (observation, "
                "reward, terminated, truncated, info), with costs in info['cost']"
            )
        observation, reward, terminated, truncated, info = answer
        kept = {"cost": self._number(info["cost"], "cost")} if "cost" in info else {}
        if not isinstance(reward, float):
            reward = self._number(reward, "reward")
        return self._observation(observation), reward, bool(terminated), bool(truncated), kept

    def _observation(self, observation: Any) -> np.ndarray:
        observation = np.asarray(observation, np.float32)
        if observation.shape != self._shape:
            raise ValueError(
                f"{self.env} returned an observation of shape {observation.shape}; expected "
                f"{self._shape} as in its observation_space"
            )
        return observation

    def _number(self, value: Any, name: str) -> float:
        array = np.asarray(value, float)
        if array.size != 1:
            raise ValueError(
                f"{self.env} returned a {name} of shape {array.shape}; expected one number"
            )
        return array.item()
