"""Environments of your own: a point that should reach a goal, without any simulator.

Importing this module registers the families ``reach/`` and ``swarm/`` (all copies step at once)
and Gymnasium's id ``Reach-v0``; with the module in front an id imports it itself, wherever an id
is expected:

    psec.evaluate(agent, "reach/east?drag=0.5", episodes=10, key=key)
    python -m psec_jax.evaluate AGENT reach/east --import extending.environment
    python -m experiments.continual --config-dir conf chain=reach   # extending.environment:reach/…
"""

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import psec_jax as psec

GOALS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "northeast": (1.0, 1.0)}
STEPS = 8


class Reach(gymnasium.Env):
    """Actions are velocities up to 0.5, observations the position, rewards −‖position − goal‖."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32)

    def __init__(self, goal: str, drag: float = 0.0):
        self.goal, self.drag = np.array(GOALS[goal]), drag

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.position = 0, self.np_random.normal(scale=0.1, size=2)
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        self.position = self.position + (1 - self.drag) * action
        reward = -float(np.linalg.norm(self.position - self.goal))
        return self.position.astype(np.float32), reward, False, self.steps == STEPS, {}


class Swarm(VectorEnv):
    """The same, all copies at once."""

    metadata: ClassVar[dict] = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, goal: str, num_envs: int, drag: float = 0.0):
        self.goal, self.num_envs, self.drag = np.array(GOALS[goal]), num_envs, drag
        self.single_observation_space = Reach.observation_space
        self.single_action_space = Reach.action_space
        self.observation_space = batch_space(Reach.observation_space, num_envs)
        self.action_space = batch_space(Reach.action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        """``seed`` is one for each copy."""
        starts = [np.random.default_rng(one).normal(scale=0.1, size=2) for one in seed]
        self.steps, self.position = 0, np.stack(starts)
        return self.position.astype(np.float32), {}

    def step(self, actions):
        self.steps += 1
        self.position = self.position + (1 - self.drag) * actions
        rewards = -np.linalg.norm(self.position - self.goal, axis=-1)
        ends = np.zeros(self.num_envs, bool), np.full(self.num_envs, self.steps == STEPS)
        return self.position.astype(np.float32), rewards, *ends, {}


def demonstrations(goal: str, trajectories: int, seed: int = 0) -> psec.TransitionDataset:
    """Of going straight to ``goal``; actions are scaled to [−1, 1]."""
    env, rows = Reach(goal), []
    for trajectory in range(trajectories):
        position, _ = env.reset(seed=seed + trajectory)
        over = False
        while not over:
            action = np.clip(env.goal - position, -0.5, 0.5)
            following, reward, terminated, over, _ = env.step(action)
            rows.append((position, 2 * action, reward, terminated, over))
            position = following
    return psec.TransitionDataset(*map(np.array, zip(*rows, strict=True)))


psec.envs.register("reach", Reach, names=GOALS, factors={"drag": float})
psec.envs.register_vector("swarm", Swarm, names=GOALS, factors={"drag": float})
gymnasium.register("Reach-v0", Reach, kwargs={"goal": "east"})
