"""Evaluating in environments of every kind that a user may hand over."""

from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from strolls import Stroll, length, outcome

from psec_jax import envs, evaluate
from psec_jax.evaluation import trace_weights

KEY = jax.random.key(3)
MODES = [*AutoresetMode, "Disabled", "SAME_STEP", None]


@struct.dataclass
class Turn:
    """Acts by −1 for three steps and then by 1."""

    observation_size: int = struct.field(pytree_node=False, default=3)
    action_size: int = struct.field(pytree_node=False, default=2)

    def sample(self, key, observations, weights=None):
        assert observations.dtype == jnp.float32
        sign = jnp.where(observations[:, 1:2] < 3, -1.0, 1.0)
        return jnp.broadcast_to(sign, (len(observations), self.action_size))

    def weights(self, observations):
        return observations[:, 1:]


def numbers(evaluation):
    return np.array([evaluation.returns, evaluation.lengths, evaluation.costs])


def alone(episodes, copies):
    """What each episode comes to by itself, with the seeds of so many copies."""
    seeds = []
    evaluate(Turn(), lambda: Stroll(seeds), episodes=episodes, key=KEY, parallel=copies)
    seeds = [seed for seed in seeds if seed != "closed"]
    assert len(set(seeds)) == episodes
    assert len({length(seed) for seed in seeds}) > 2
    return np.transpose([outcome(seed) for seed in seeds])


@pytest.mark.parametrize(("episodes", "copies"), [(4, 4), (7, 3), (9, 1), (3, 5)])
@pytest.mark.parametrize("mode", MODES)
def test_vector_environments_of_every_mode_give_the_episodes_alone(mode, episodes, copies):
    """More episodes than copies, fewer, and numbers that the copies do not divide, included."""
    first = mode if isinstance(mode, AutoresetMode) else AutoresetMode.NEXT_STEP
    first = {"Disabled": "Disabled", "SAME_STEP": "SameStep"}.get(mode, first)
    vector = SyncVectorEnv([Stroll] * copies, autoreset_mode=first)
    vector.metadata["autoreset_mode"] = mode
    if mode is None:
        del vector.metadata["autoreset_mode"]
    expected = alone(episodes, min(copies, episodes))
    for _ in range(2):
        found = numbers(evaluate(Turn(), vector, episodes=episodes, key=KEY))
        np.testing.assert_array_equal(found, expected)
    assert not vector.closed


@pytest.mark.parametrize(
    ("mode", "shared"), [("Disabled", True), ("SameStep", True), ("NextStep", False)]
)
def test_processes_give_the_episodes_alone(mode, shared):
    """Also without shared memory, where Gymnasium's reset themselves again after a reset."""
    vector = AsyncVectorEnv(
        [Stroll] * 2, autoreset_mode=mode, shared_memory=shared, context="spawn"
    )
    expected = alone(5, 2)
    for _ in range(2):
        found = numbers(evaluate(Turn(), vector, episodes=5, key=KEY))
        np.testing.assert_array_equal(found, expected)
    vector.close()


@pytest.mark.parametrize(
    "wrap",
    [
        gymnasium.wrappers.vector.RecordEpisodeStatistics,
        lambda vector: gymnasium.wrappers.vector.RescaleAction(
            vector, np.float32(-1), np.float32(1)
        ),
    ],
)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_wrapped_vector_environments_give_the_same(wrap, mode):
    """Also where actions have been scaled already."""
    wrapped = wrap(SyncVectorEnv([Stroll] * 3, autoreset_mode=mode))
    found = numbers(evaluate(Turn(), wrapped, episodes=7, key=KEY))
    np.testing.assert_array_equal(found, alone(7, 3))


def test_a_single_environment_plays_one_episode_after_another_and_stays_open():
    log = []
    env = gymnasium.wrappers.RecordEpisodeStatistics(Stroll(log))
    found = numbers(evaluate(Turn(), env, episodes=4, key=KEY))
    assert log == list(dict.fromkeys(log)) and len(log) == 4
    np.testing.assert_array_equal(found, np.transpose([outcome(seed) for seed in log]))
    np.testing.assert_array_equal(found, alone(4, 1))
    assert "closed" not in log


@pytest.mark.parametrize("make", [Stroll, lambda: SyncVectorEnv([Stroll] * 4), lambda: Stroll])
def test_policies_evaluated_at_once_share_an_environment(make):
    env, keys = make(), jax.random.split(KEY, 3)
    one = partial(evaluate, Turn(), env, episodes=2)
    for key, found in zip(keys, one(key=keys), strict=True):
        np.testing.assert_array_equal(numbers(found), numbers(one(key=key)))


def test_a_class_is_a_function_that_makes_environments():
    found = numbers(evaluate(Turn(), Stroll, episodes=6, key=KEY))
    np.testing.assert_array_equal(found, alone(6, 6))


def test_what_a_function_made_is_closed_even_where_an_episode_fails():
    class Falls(Stroll):
        def step(self, action):
            raise OSError("fell off the table")

    log, own = [], []
    with pytest.raises(OSError, match="fell off the table"):
        evaluate(Turn(), lambda: Falls(log), episodes=3, key=KEY)
    assert log.count("closed") == 3
    with pytest.raises(OSError, match="fell off the table"):
        evaluate(Turn(), Falls(own), episodes=3, key=KEY)
    assert "closed" not in own


def test_ids_of_gymnasium_are_its_environments_with_actions_scaled_to_their_bounds():
    """A pendulum under its full torque, whose bounds are ±2."""

    @struct.dataclass
    class Full(Turn):
        action_size: int = struct.field(pytree_node=False, default=1)

        def sample(self, key, observations, weights=None):
            return jnp.ones((len(observations), 1))

    seeds = []

    class Seeds(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return self.env.reset(seed=seed, options=options)

    env = Seeds(gymnasium.make("Pendulum-v1"))
    single = evaluate(Full(), env, episodes=2, key=KEY)
    returns = []
    for seed in seeds:
        env.env.reset(seed=seed)
        steps = [env.step(np.float32([2.0])) for _ in range(200)]
        assert steps[-1][3]
        returns.append(sum(step[1] for step in steps))
    np.testing.assert_allclose(single.returns, returns, rtol=1e-12)
    vector = SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 2)
    at_once = evaluate(Full(), "Pendulum-v1", episodes=2, key=KEY)
    np.testing.assert_array_equal(
        evaluate(Full(), vector, episodes=2, key=KEY).returns, at_once.returns
    )
    np.testing.assert_array_equal(at_once.lengths, [200, 200])


class Copies(VectorEnv):
    """Two copies that are one array: they take one seed, and rewards and costs are columns."""

    num_envs = 2
    single_observation_space = observation_space = Box(-1, 1, (3,))
    single_action_space = Box(-2, 2, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.draw = 0, self.np_random.random()
        return np.zeros((2, 3)), {}

    def step(self, actions):
        self.steps += 1
        over = np.full((2, 1), self.steps == 3)
        costs = {"cost": np.full((2, 1), self.draw)}
        return np.zeros((2, 3)), actions[:, :1], over, np.zeros((2, 1), bool), costs


def test_vector_environments_that_are_not_made_of_single_ones():
    one, again, other = (
        evaluate(Turn(), Copies(), episodes=4, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.returns, [-6.0] * 4)
    np.testing.assert_array_equal(one.costs, again.costs)
    assert len({*one.costs, *other.costs}) == 4


@pytest.mark.parametrize("make", [Stroll, lambda: SyncVectorEnv([Stroll] * 2), lambda: Stroll])
def test_an_episode_that_does_not_end_is_an_error_and_one_that_just_does_is_none(make):
    longest = int(max(alone(5, 2)[1].max(), alone(5, 1)[1].max(), alone(5, 5)[1].max()))
    evaluate(Turn(), make(), episodes=5, key=KEY, max_steps=longest)
    with pytest.raises(RuntimeError, match=r"has not ended after 1 steps.*TimeLimit"):
        evaluate(Turn(), make(), episodes=5, key=KEY, max_steps=1)
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1, not 0"):
        evaluate(Turn(), make(), episodes=5, key=KEY, max_steps=0)


@pytest.mark.parametrize("thing", [None, 3, [Stroll()], gymnasium.spec("Pendulum-v1")])
def test_what_is_no_environment_is_refused(thing):
    message = r"is no environment; expected an id, a gymnasium\.Env, .*VectorEnv, or a function"
    with pytest.raises(TypeError, match=message):
        evaluate(Turn(), thing, episodes=1, key=KEY)


def test_a_closed_vector_environment_is_refused():
    vector = SyncVectorEnv([Stroll])
    vector.close()
    with pytest.raises(ValueError, match="has been closed; make it again"):
        evaluate(Turn(), vector, episodes=1, key=KEY)


@pytest.mark.parametrize("make", [Stroll, lambda: SyncVectorEnv([Stroll] * 2), lambda: Stroll])
def test_an_environment_of_another_size_is_refused(make):
    with pytest.raises(ValueError, match=r"sizes \(3, 2\), but the policy was made for \(4, 2\)"):
        evaluate(Turn(4), make(), episodes=1, key=KEY)


class Seen(Stroll):
    """With pictures, or with what ``render`` returns where there are none."""

    def __init__(self, picture):
        super().__init__()
        self.picture = picture

    def render(self):
        return self.picture and np.full((2, 2, 3), self.steps, np.uint8)


def test_weights_and_pictures_are_traced_in_own_environments():
    for make in (Seen(True), lambda: Seen(True), SyncVectorEnv([lambda: Seen(True)] * 2)):
        trace = trace_weights(Turn(), make, key=KEY, picture_every=1)
        steps = np.arange(len(trace.rewards))
        assert len(steps) > 1
        np.testing.assert_array_equal(trace.weights[:, 0], steps)
        np.testing.assert_array_equal(trace.costs, 10 * (steps + 1))
        assert [picture[0, 0, 0] for _, picture in trace.pictures] == list(steps + 1)
    with pytest.raises(RuntimeError, match="has not ended after 1 steps"):
        trace_weights(Turn(), Stroll(), key=jax.random.key(0), max_steps=1)


def test_where_rendering_gives_no_picture_that_is_said():
    with pytest.raises(ValueError, match=r"gave no picture; make it with render_mode='rgb_array'"):
        trace_weights(Turn(), Seen(None), key=KEY, picture_every=1)


def test_vector_environments_of_this_package_need_no_adapting():
    vector = envs.make(Stroll, 2)
    assert envs.adapt(vector) is vector
