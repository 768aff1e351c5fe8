"""What the adapters make of environments that answer in their own ways."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv

from psec_jax import envs
from psec_jax.envs.in_process import adapted_copies


class Answers(gymnasium.Env):
    """Answers a step by what it is given."""

    observation_space = Box(-1, 1, (3,))
    action_space = Box(-1, 1, (1,))

    def __init__(self, observation=(0, 0, 0), reward=0.0, ends=(False, False), info=None):
        self.answer = observation, reward, *ends, info or {}
        self.closed = False

    def reset(self, *, seed=None, options=None):
        return np.zeros(3), {"cost": 7.0, "other": "word"}

    def step(self, action):
        return self.answer

    def close(self):
        self.closed = True


def step(env):
    vector = envs.adapt(env)
    _, infos = vector.reset(seed=[0])
    assert infos == {}
    return vector.step(np.zeros((1, 1)))


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float32(2), np.ones(1) * 2, np.full((1, 1), 2), jnp.float32(2)]
)
def test_rewards_and_costs_are_numbers_of_any_kind(number):
    _, rewards, *_, infos = step(Answers(reward=number, info={"cost": number, "other": "word"}))
    assert (rewards.dtype, infos["cost"].dtype) == (np.float64, np.float64)
    assert (rewards, infos["cost"]) == (2, 2)
    assert "other" not in infos


@pytest.mark.parametrize("true", [True, 1, np.True_, np.array([True]), jnp.array(True)])
def test_ends_are_booleans_of_any_kind(true):
    _, _, terminations, truncations, _ = step(Answers(ends=(true, False)))
    assert (terminations.tolist(), truncations.tolist()) == ([True], [False])
    _, _, terminations, truncations, _ = step(Answers(ends=(False, true)))
    assert (terminations.tolist(), truncations.tolist()) == ([False], [True])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"reward": np.zeros(2)}, r"a reward of shape \(2,\); expected one number"),
        ({"info": {"cost": np.zeros(2)}}, r"a cost of shape \(2,\); expected one number"),
        ({"observation": np.zeros(1)}, r"observation of shape \(1,\); expected \(3,\)"),
        ({"observation": np.zeros((3, 1))}, r"observation of shape \(3, 1\); expected \(3,\)"),
        ({"ends": (False,)}, r"4 values from step; expected \(observation, reward, terminated,"),
        ({"ends": (0.0, False, False)}, r"6 values from step; .*costs in info\['cost'\]"),
    ],
)
def test_answers_of_another_form_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        step(Answers(**answer))


def test_a_reset_of_another_form_is_refused():
    class Old(Answers):
        def reset(self, **_):
            return np.zeros(3)

    with pytest.raises(
        ValueError, match=r"returned ndarray from reset; expected \(observation, i"
    ):
        step(Old())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((np.zeros((2, 4)), np.zeros(2), *np.zeros((2, 2)), {}), r"\(2, 4\); expected \(2, 3\)"),
        ((np.zeros((2, 3)), np.zeros((2, 2)), *np.zeros((2, 2)), {}), r"rewards of shape \(2, 2"),
        ((np.zeros((2, 3)), np.zeros(2), *np.zeros((2, 1)), {}), r"terminations of shape \(1,\)"),
        ((np.zeros((2, 3)), np.zeros(2), *np.zeros((2, 2)), [{}, {}]), "DictInfoToList"),
    ],
)
def test_vector_environments_that_answer_otherwise_are_refused(answer, message):
    class Odd(SyncVectorEnv):
        def step(self, actions):
            return answer

    vector = envs.adapt(Odd([Answers] * 2))
    vector.reset(seed=[0, 1])
    with pytest.raises(ValueError, match=message):
        vector.step(np.zeros((2, 1)))


@pytest.mark.parametrize("made", [None, 3, SyncVectorEnv([Answers])])
def test_functions_that_make_no_single_environment_are_refused(made):
    with pytest.raises(TypeError, match=r"the factory made .*; expected a gymnasium\.Env each"):
        envs.make(lambda: made, 1)


def test_a_function_that_makes_the_same_environment_twice_is_refused():
    env = Answers()
    for again in (lambda: env, lambda: gymnasium.wrappers.TimeLimit(env, 3)):
        with pytest.raises(ValueError, match="more than once; expected a new one each time"):
            envs.make(again, 2)
    assert not env.closed


def test_a_function_that_makes_different_ones_is_refused():
    made = []

    def make():
        made.append(Answers())
        made[-1].observation_space = Box(-1, 1, (len(made),))
        return made[-1]

    with pytest.raises(ValueError, match=r"different sizes, \[\(\(1,\), \(1,\)\), \(\(2,\), \(1"):
        envs.make(make, 2)
    assert all(env.closed for env in made)


def test_copies_made_before_one_that_cannot_be_are_closed():
    made = []

    def make():
        if len(made) == 2:
            raise OSError("no third robot")
        made.append(Answers())
        return made[-1]

    with pytest.raises(OSError, match="no third robot"):
        adapted_copies(make, 3)
    assert [env.closed for env in made] == [True, True]


def test_an_environment_whose_spaces_are_refused_is_closed_where_it_was_made_here():
    class Flat(Answers):
        observation_space = Box(-1, 1, (2, 2))

    env = Flat()
    with pytest.raises(ValueError, match="FlattenObservation"):
        envs.make(lambda: env, 1)
    assert env.closed
    env.closed = False
    with pytest.raises(ValueError, match="FlattenObservation"):
        envs.adapt(env)
    assert not env.closed
