"""An environment without a simulator, in a file that processes can import without JAX."""

import gymnasium
import numpy as np


class Stroll(gymnasium.Env):
    """Takes ``seed % 7 + 1`` steps: an even seed is terminated, an odd one truncated.

    Observations are (seed, steps so far, 0); a step is worth its number and the two executed
    actions, which lie in [0, 1] and [−3, 5], and costs ten times its number. It must be reset
    before it is stepped and after its end.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(np.float32([0, -3]), np.float32([1, 5]))

    def __init__(self, log=None):
        self.log = [] if log is None else log
        self.over = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = int(self.np_random.integers(1000)) if seed is None else seed
        if seed is not None:
            self.log.append(seed)
        self.steps, self.over = 0, False
        return self.observe(), {}

    def step(self, action):
        assert not self.over, "stepped past its end"
        assert self.action_space.contains(action), action
        self.steps += 1
        self.over = self.steps == self.seed % 7 + 1
        even = self.seed % 2 == 0
        reward = self.steps + float(action.sum())
        ends = self.over and even, self.over and not even
        return self.observe(), reward, *ends, {"cost": 10.0 * self.steps}

    def observe(self):
        return np.array([self.seed % 100, self.steps, 0.0])

    def close(self):
        self.log.append("closed")


def length(seed):
    return seed % 7 + 1


def outcome(seed):
    """Return, length and cost under the policy that acts by −1 for three steps and then by 1."""
    steps = np.arange(1, length(seed) + 1)
    return (steps + np.where(steps <= 3, 0 - 3, 1 + 5)).sum(), len(steps), 10 * steps.sum()
