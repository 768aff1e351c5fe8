import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from psec_jax.envs.in_process import InProcessVectorEnv
from psec_jax.evaluation import rollout


class Counter(gymnasium.Env):
    """Ends after ``seed % 7 + 1`` steps: an even seed by termination, an odd one by truncation.

    Observations are (seed, steps so far); the reward of each step is the number of that step.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    seed = 0

    def reset(self, *, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        self.steps = 0
        return np.array([self.seed, 0.0]), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.seed % 7 + 1
        observation = np.array([self.seed, self.steps], float)
        even = self.seed % 2 == 0
        return observation, float(self.steps), over and even, over and not even, {}


def play(seeds, num_envs, copy=False, autoreset=AutoresetMode.NEXT_STEP):
    envs = SyncVectorEnv([Counter] * num_envs, copy=copy, autoreset_mode=autoreset)
    steps = rollout(envs, lambda observations: observations[:, :1] * 0, seeds)
    return list(itertools.islice(steps, 50))


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("autoreset", list(AutoresetMode))
def test_each_environment_is_active_for_one_episode(copy, autoreset):
    seeds = [3, 0, 13, 6]
    lengths = [4, 1, 7, 7]
    steps = play(seeds, 4, copy, autoreset)
    active = np.array([step.active for step in steps])
    np.testing.assert_array_equal(active, np.arange(7)[:, None] < lengths)
    for index, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
        own = steps[:length]
        np.testing.assert_array_equal(
            [step.observations[index] for step in own], [[seed, t] for t in range(length)]
        )
        np.testing.assert_array_equal([s.rewards[index] for s in own], np.arange(length) + 1)
        last = np.arange(length) == length - 1
        np.testing.assert_array_equal([s.terminations[index] for s in own], last & (seed % 2 == 0))
        np.testing.assert_array_equal([s.truncations[index] for s in own], last & (seed % 2 == 1))


def test_environments_without_a_seed_are_never_active():
    steps = play([0, 1], 5)
    assert len(steps) == 2
    assert not np.any([step.active[2:] for step in steps])


def test_actions_follow_from_the_observations_of_the_same_step():
    seen = []

    def act(observations):
        seen.append(np.array(observations))
        return -np.tanh(observations[:, 1:])

    steps = list(rollout(SyncVectorEnv([Counter], copy=False), act, [5]))
    assert len(steps) == 6
    for step, observations in zip(steps, seen, strict=True):
        np.testing.assert_array_equal(step.observations, observations)
        np.testing.assert_array_equal(step.actions, -np.tanh(observations[:, 1:]))


class Toll(Counter):
    """Its cost is ten times the number of the step; a reset has none."""

    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {"cost": 10.0 * self.steps}


@pytest.mark.parametrize("autoreset", list(AutoresetMode))
def test_costs_are_those_of_the_step_that_the_last_of_an_episode_included(autoreset):
    """Also where the other environments have been reset already, or have ended long ago."""
    envs = SyncVectorEnv([Toll] * 3, autoreset_mode=autoreset)
    steps = list(rollout(envs, lambda observations: observations[:, :1] * 0, [3, 0, 13]))
    assert len(steps) == 7
    for number, step in enumerate(steps, start=1):
        assert step.costs.dtype == np.float64
        np.testing.assert_array_equal(step.costs[step.active], 10.0 * number)


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        (
            {"cost": np.ones((2, 2))},
            r"cost'\] has shape \(2, 2\); expected one number for each of 2",
        ),
        ({"final_info": np.array([{"cost": 1.0}, None])}, "final_info.*type ndarray.*Gymnasium 1"),
    ],
)
def test_costs_that_cannot_be_read_are_refused(infos, message):
    class Odd(SyncVectorEnv):
        def step(self, actions):
            return *super().step(actions)[:4], infos

    with pytest.raises(ValueError, match=message):
        list(rollout(Odd([Counter] * 2), lambda observations: observations[:, :1] * 0, [3, 0]))


def test_an_autoreset_mode_that_nobody_knows_is_refused():
    envs = SyncVectorEnv([Counter])
    envs.metadata["autoreset_mode"] = "sometimes"
    with pytest.raises(ValueError, match=r"'sometimes'.*'NextStep', 'SameStep', 'Disabled'"):
        next(rollout(envs, lambda observations: observations[:, :1] * 0, [3]))


def test_costs_are_zero_where_the_simulator_has_none():
    for step in play([3, 0], 3):
        np.testing.assert_array_equal(step.costs, [0.0, 0.0, 0.0])


@pytest.mark.parametrize("seeds", [[3, 4], [3, None, 4], [None, None, 5]])
def test_copies_without_a_seed_are_not_stepped(seeds):
    envs = InProcessVectorEnv(Counter, 4)
    for _ in range(2):
        steps = list(rollout(envs, lambda observations: observations[:, :1] * 0, seeds))
        lengths = [0 if seed is None else seed % 7 + 1 for seed in [*seeds, None, None][:4]]
        assert [sum(step.active[i] for step in steps) for i in range(4)] == lengths
        taken = [getattr(env, "steps", 0) for env in envs.envs]
        assert taken == lengths
