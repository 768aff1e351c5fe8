import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Text,
    Tuple,
)
from gymnasium.vector import SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import envs
from psec_jax.envs.spaces import ActionScaling, observation_box

TYPES = (np.float16, np.float32, np.float64, np.int8, np.uint8, np.int32)


class Simple(gymnasium.Env):
    """Returns its observation and keeps its last action."""

    def __init__(self, observations=None, actions=None):
        self.observation_space = observations or Box(-1, 1, (3,))
        self.action_space = actions or Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(self.observation_space.shape, self.observation_space.dtype), {}

    def step(self, action):
        self.action = action
        return self.reset()[0], 0.0, False, False, {}


@st.composite
def boxes(draw, kinds=TYPES):
    kind = draw(st.sampled_from(kinds))
    shape = draw(st.sampled_from([(3,), (1,), (2, 2), ()]))
    least, most = (-1e4, 1e4) if np.issubdtype(kind, np.floating) else (-100, 100)
    if kind == np.uint8:
        least = 0
    elements = st.floats(least, most).map(lambda x: kind(x))
    size = int(np.prod(shape))
    drawn = draw(st.lists(st.tuples(elements, elements), min_size=size, max_size=size))
    ends = np.sort(np.array(drawn, kind).reshape(*shape, 2))
    return Box(ends[..., 0], ends[..., 1], shape, kind)


actions = st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4)


@given(boxes())
def test_one_and_minus_one_are_the_bounds_exactly(box):
    scale = ActionScaling(box, "env")
    ones = np.ones(scale.space.shape, np.float32)
    np.testing.assert_array_equal(scale(ones), box.high)
    np.testing.assert_array_equal(scale(-ones), box.low)


@given(boxes(), actions)
def test_scaled_actions_are_in_the_space_and_follow_the_line_between_the_bounds(box, drawn):
    scale = ActionScaling(box, "env")
    action = np.float32(drawn)[: scale.space.shape[0]]
    scaled = scale(action)
    assert box.contains(scaled)
    low, high = box.low.astype(float), box.high.astype(float)
    line = low + (high - low) * (action.astype(float).reshape(box.shape) + 1) / 2
    if np.issubdtype(box.dtype, np.integer):
        assert (abs(scaled - line) <= 0.5 + 1e-4).all()
    else:
        digits = max(np.finfo(box.dtype).eps, np.finfo(np.float32).eps)
        assert (abs(scaled - line) <= 4 * digits * np.maximum(abs(low), abs(high))).all()


@given(boxes(), actions)
def test_copies_are_scaled_as_each_alone(box, drawn):
    scale = ActionScaling(box, "env")
    batch = np.float32(drawn)[:, None] * np.ones(scale.space.shape, np.float32)
    np.testing.assert_array_equal(scale(batch), [scale(action) for action in batch])


def test_a_box_of_ones_gets_the_actions_as_they_are():
    action = np.float32([0.1, -0.7])
    for kind in (np.float32, np.float64):
        scaled = ActionScaling(Box(-1, 1, (2,), kind), "env")(action)
        assert scaled.dtype == kind
        np.testing.assert_array_equal(scaled, action)


def test_actions_beyond_the_unit_box_are_clipped_where_they_are_scaled():
    scaled = ActionScaling(Box(np.float32([0, -3]), np.float32([1, 5])), "env")
    np.testing.assert_array_equal(scaled(np.float32([2, -7])), [1, -3])


UNBOUNDED = [
    ([-np.inf, -1], [np.inf, 1]),
    ([-1, 0], [1, np.inf]),
    ([-1, -np.inf], [1, 0]),
    ([-1, np.finfo(np.float32).min], [1, np.finfo(np.float32).max]),
    ([-1, -1e10], [1, 1e10]),
]


@pytest.mark.parametrize(
    "make",
    [
        lambda space: Simple(actions=space),
        lambda space: SyncVectorEnv([lambda: Simple(None, space)]),
    ],
)
@pytest.mark.parametrize(("low", "high"), UNBOUNDED)
def test_dimensions_without_bounds_are_refused_with_a_wrapper_that_gives_them_some(
    low, high, make
):
    """What the message says works when it is typed in."""
    env = make(Box(np.float32(low), np.float32(high)))
    with pytest.raises(ValueError, match=r"no finite bounds for [12] of the 2 dim") as error:
        envs.adapt(env)
    advice = str(error.value).partition("means: ")[2].partition(". ClipAction")[0]
    adapted = envs.adapt(eval(advice, {"gymnasium": gymnasium, "env": env}))
    adapted.reset(seed=[0])
    adapted.step(np.float32([[0.5, -1]]))
    first = env.envs[0] if isinstance(env, SyncVectorEnv) else env
    np.testing.assert_array_equal(first.action, [0.5, -1])


OTHERS = [
    Discrete(4),
    MultiDiscrete([2, 3]),
    MultiBinary(4),
    Dict(a=Box(-1, 1, (2,))),
    Tuple((Discrete(2), Box(-1, 1, (2,)))),
    Text(5),
    Sequence(Discrete(2)),
]


@pytest.mark.parametrize("space", OTHERS, ids=repr)
def test_actions_other_than_boxes_are_refused(space):
    with pytest.raises(ValueError) as error:
        ActionScaling(space, Simple())
    assert f"has actions {space}" in str(error.value)
    assert "gymnasium.wrappers.TransformAction" in str(error.value)


@pytest.mark.parametrize(
    "space", [*OTHERS, Box(0, 255, (8, 8, 3), np.uint8), Box(-1, 1, ())], ids=repr
)
def test_observations_other_than_vectors_are_refused_with_the_wrapper_that_makes_them(space):
    env = Simple(space)
    with pytest.raises(ValueError) as error:
        envs.adapt(env)
    assert f"has observations {space}" in str(error.value)
    if isinstance(space, Sequence):
        assert "gymnasium.wrappers.TransformObservation" in str(error.value)
    else:
        assert "gymnasium.wrappers.FlattenObservation makes one" in str(error.value)
        flat = gymnasium.wrappers.FlattenObservation(env).observation_space
        assert observation_box(flat, env).shape == flat.shape


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8])
def test_vectors_of_any_number_type_become_float32(kind):
    space = Box(0, 200, (3,), kind)
    for env in (Simple(space), SyncVectorEnv([lambda: Simple(space)] * 2)):
        vector = envs.adapt(env)
        assert vector.single_observation_space == Box(-np.inf, np.inf, (3,), np.float32)
        first = vector.reset(seed=[0] * vector.num_envs)[0]
        for observations in (first, vector.step(np.zeros(vector.action_space.shape))[0]):
            assert observations.dtype == np.float32
            np.testing.assert_array_equal(observations, np.ones((vector.num_envs, 3)))
