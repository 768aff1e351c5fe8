import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import Optimizer
from psec_jax.learners.optimizer import TrainState, descend

SLOPE = jnp.array([2.0, -0.5, 30.0])


def walk(optimizer, updates, slopes=None):
    """The parameters and averages after each update down constant or given slopes."""
    state = TrainState.start(jnp.array([1.0, -1.0, 0.5]), optimizer)
    states = [state]
    for index in range(updates):
        slope = SLOPE if slopes is None else slopes[index]
        state, metrics = descend(lambda p, s=slope: jnp.sum(s * p), state, optimizer)
        np.testing.assert_allclose(metrics["loss"], jnp.sum(slope * states[-1].params), rtol=1e-5)
        states.append(state)
    return states


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_down_a_constant_slope_each_step_is_the_learning_rate_on_a_half_cosine(steps):
    optimizer = Optimizer(steps=steps, learning_rate=0.1, weight_decay=0.0)
    params = np.array([state.params for state in walk(optimizer, steps + 1)])
    rates = 0.05 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    rates = np.append(rates, 0.0)
    np.testing.assert_allclose(
        np.diff(params, axis=0), -rates[:, None] * np.sign(SLOPE), atol=2e-6
    )
    np.testing.assert_allclose(
        params[0] - params[-1], 0.1 * (steps + 1) / 2 * np.sign(SLOPE), rtol=1e-4
    )


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_no_parameter_moves_further_than_the_reach(steps, schedule):
    """Down a constant slope Adam goes just as far."""
    optimizer = Optimizer(0.1, weight_decay=0.0, steps=steps, schedule=schedule)
    start, *_, end = walk(optimizer, steps)
    moved = np.asarray(start.params - end.params)
    np.testing.assert_allclose(moved, optimizer.reach * np.sign(SLOPE), rtol=1e-4)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"schedule 'step' is unknown; expected one of \['cosine"):
        Optimizer(schedule="step")


@given(rate=st.floats(0.01, 1.0))
def test_the_average_is_the_exponential_moving_average_of_the_parameters(rate):
    steps = 5
    states = walk(Optimizer(steps=steps, learning_rate=0.1, ema_rate=rate), steps)
    start, *params = (np.asarray(state.params, np.float64) for state in states)
    expected = (1 - rate) ** steps * start
    for index, value in enumerate(params, 1):
        expected = expected + rate * (1 - rate) ** (steps - index) * value
    np.testing.assert_allclose(states[-1].average, expected, rtol=1e-4, atol=1e-5)


def test_without_a_slope_weights_decay():
    optimizer = Optimizer(steps=1000, learning_rate=0.1, weight_decay=0.5)
    start, end = walk(optimizer, 1, [jnp.zeros(3)])
    np.testing.assert_allclose(end.params, (1 - 0.1 * 0.5) * start.params, rtol=1e-6)


def test_clipping_makes_the_size_of_a_steep_slope_irrelevant():
    def end(clip, size):
        slopes = [size * SLOPE, jnp.array([0.1, 0.2, -0.1]), SLOPE[::-1]]
        return walk(Optimizer(steps=100, learning_rate=0.1, clip=clip), 3, slopes)[-1].params

    np.testing.assert_allclose(end(1.0, 10.0), end(1.0, 1000.0), rtol=1e-5)
    assert not np.allclose(end(None, 10.0), end(None, 1000.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"ema_rate": 0.0}, r"ema_rate must be in \(0, 1\], not 0"),
        ({"ema_rate": 1.5}, r"ema_rate must be in \(0, 1\], not 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Optimizer(**{"steps": 10, **settings})


def test_updates_can_be_mapped_over_seeds():
    optimizer = Optimizer(steps=10, learning_rate=0.1)
    starts = jax.random.normal(jax.random.key(0), (3, 4))

    def descend_from(start):
        state = TrainState.start(start, optimizer)
        return descend(lambda p: jnp.sum(jnp.cos(p)), state, optimizer)[0].params

    together = jax.vmap(descend_from)(starts)
    for start, end in zip(starts, together, strict=True):
        np.testing.assert_allclose(end, descend_from(start), rtol=1e-5)
        assert not np.any(end == start)
