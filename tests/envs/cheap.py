"""An environment that needs no simulator, for processes that load this file alone."""

import os
import sys

import gymnasium
import numpy as np


class Cheap(gymnasium.Env):
    """Episodes of seed-dependent length; observations (seed, steps), reward the sum of actions.

    It fails in the way that ``failure`` names when an action reaches 1.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, costs: bool = True, failure: str = ""):
        if failure == "at birth":
            raise FileNotFoundError("no road here")
        if failure == "exit":
            os._exit(3)
        self.costs, self.failure = costs, failure
        self.seed = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = self.np_random.integers(100) if seed is None else seed
        self.steps = 0
        return self.observe(), {"cost": 0.0} if self.costs else {}

    def step(self, action):
        if (action == 1).any():
            raise ZeroDivisionError("the road ends")
        self.steps += 1
        over = self.steps == self.seed % 5 + 2
        odd = self.seed % 2 == 1
        info = {"cost": 0.5 * self.steps} if self.costs else {}
        return self.observe(), float(action.sum()), over and odd, over and not odd, info

    def render(self):
        return np.full((2, 2, 3), self.steps, np.uint8)

    def observe(self):
        return np.array([self.seed, self.steps], np.float32)


class Modules(Cheap):
    """Its reward is the number of modules of JAX and of this project in its process."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        found = [name for name in sys.modules if name.partition(".")[0] in ("jax", "psec_jax")]
        return observation, float(len(found)), *rest
