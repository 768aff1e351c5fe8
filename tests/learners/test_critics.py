"""Critics against exact dynamic programming.

An action here names the pair of a state and a choice, and an observation its state, so that
critics without hidden layers are tables.
"""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import (
    BestOf,
    GaussianBackbone,
    Optimizer,
    Policy,
    Statistics,
    TransitionDataset,
    unstack,
)
from psec_jax.learners import CriticLearner, Critics, FeasibleFirst
from psec_jax.learners.critics import expectile_loss
from psec_jax.learners.objectives import DiscountedCost, Feasibility, Return
from psec_jax.learners.optimizer import TrainState, Transformation
from psec_jax.networks import Critic, GaussianActor
from psec_jax.training import Training, fit

KEY = jax.random.key(3)
TABLE = Critic(hidden=())
GAMMA = 0.9


# The expectile


def expectile_of(values, counts, expectile):
    """m with τ E(x − m)⁺ = (1 − τ) E(m − x)⁺, by trying the mean of each split of the values."""
    order = np.argsort(values)
    values, counts = np.float64(values)[order], np.float64(counts)[order]
    for below in range(len(values)):
        weights = np.where(np.arange(len(values)) < below, 1 - expectile, expectile) * counts
        m = (weights * values).sum() / weights.sum()
        if m <= values[below]:
            break
    return m


@jax.jit
def minimizer(values, expectile):
    """Where the slope of the mean loss changes its sign."""
    slope = jax.grad(lambda m: expectile_loss(values - m, expectile).mean())

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        rising = slope(middle) > 0
        return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

    return jax.lax.fori_loop(0, 60, halve, (values.min(), values.max()))[1]


@given(arrays.arrays(np.float32, 7, elements=st.floats(-10, 10, width=32)), st.floats(0.02, 0.98))
def test_the_least_expectile_loss_is_at_the_expectile(values, expectile):
    found = minimizer(values, expectile)
    assert found == pytest.approx(expectile_of(values, np.ones(7), expectile), abs=1e-3)


@given(st.floats(-5, 5), st.floats(0.1, 5), st.floats(0.02, 0.98))
def test_of_two_values_the_expectile_is_their_mean_by_its_two_weights(low, gap, expectile):
    found = minimizer(jnp.array([low + gap, low]), expectile)
    assert found == pytest.approx(low + expectile * gap, abs=1e-3)


def test_the_expectile_is_the_mean_in_the_middle_and_the_extremes_at_the_ends():
    values = jnp.array([3.0, -1.0, 0.5, 0.25])
    for expectile, expected in ((0.5, 0.6875), (1 - 1e-5, 3.0), (1e-5, -1.0)):
        assert float(minimizer(values, expectile)) == pytest.approx(expected, abs=1e-3)


# Dynamic programming


@dataclasses.dataclass(frozen=True)
class World:
    """Rows of (state, choice, next state, signal, whether it ends), each seen ``counts`` times.

    The signal is a reward or a cost.
    """

    rows: np.ndarray
    counts: np.ndarray
    states: int
    choices: int

    @property
    def pairs(self):
        return (self.rows[:, 0] * self.choices + self.rows[:, 1]).astype(int)

    @property
    def following(self):
        return self.rows[:, 2].astype(int)

    def batch(self):
        rows = np.repeat(np.arange(len(self.rows)), self.counts)
        state, _, following, signal, ends = self.rows[rows].T
        return {
            "observations": one_hot(state, self.states),
            "actions": one_hot(self.pairs[rows], self.states * self.choices),
            "next_observations": one_hot(following, self.states),
            "rewards": jnp.asarray(signal, jnp.float32),
            "costs": jnp.asarray(signal, jnp.float32),
            "terminations": jnp.asarray(ends, bool),
            "truncations": jnp.asarray(ends == 0),
        }

    def solve(self, target, expectile):
        """V by iteration: Q is its targets' mean, V the expectile of Q over what was done."""
        values = np.zeros(self.states)
        for _ in range(200):
            targets = target(self.rows[:, 3], values[self.following], self.rows[:, 4])
            sums = np.bincount(self.pairs, self.counts * targets)
            q = sums / np.maximum(np.bincount(self.pairs, self.counts), 1)
            for state in range(self.states):
                own = self.rows[:, 0] == state
                values[state] = expectile_of(q[self.pairs[own]], self.counts[own], expectile)
        return values


def one_hot(numbers, size):
    return jnp.eye(size)[np.asarray(numbers, int)]


def chain(last_step_ends):
    """Four states in a row, a step forward that slips one time in three, and a step back that
    pays a little at once. The last step forward pays most, and ends the chain or stays there."""
    rows, counts = [], []
    for state in range(4):
        forward, back, last = min(state + 1, 3), max(state - 1, 0), state == 3
        rows += [(state, 0, forward, 2.0 * last, last and last_step_ends)]
        rows += [(state, 0, state, 0.0, False), (state, 1, back, 0.02, False)]
        counts += [2, 1, 3 + state]
    return World(np.array(rows, float), np.array(counts), 4, 2)


def discounted(signal, following, ends):
    return signal + GAMMA * np.where(ends, 0, following)


@functools.partial(jax.jit, static_argnames="updates")
def descend(learner, batch, updates):
    """Every update on all of the data."""

    def step(state, index):
        return learner.update(state, batch, jax.random.fold_in(KEY, index))

    start = learner.init(KEY, jax.tree.map(lambda a: a[:1], batch))
    return learner.result(jax.lax.scan(step, start, jnp.arange(updates))[0])


def tabular(objective, world, expectile, updates=3000):
    optimizer = Optimizer(learning_rate=0.05, weight_decay=0.0, ema_rate=0.1, steps=updates)
    statistics = Statistics.identity(world.states)
    learner = CriticLearner(statistics, objective, optimizer, expectile, TABLE)
    return descend(learner, world.batch(), updates)


def values_of(critics, world):
    return np.asarray(critics.value(jnp.eye(world.states)))


EXPECTILES = (0.5, 0.8, 0.99)


@pytest.fixture(scope="module")
def learned():
    """V in each state of the chain that ends, at each expectile."""
    world = chain(True)
    return {e: values_of(tabular(Return(GAMMA), world, e), world) for e in EXPECTILES}


@pytest.mark.parametrize("expectile", EXPECTILES)
def test_values_are_those_of_dynamic_programming(learned, expectile):
    expected = chain(True).solve(discounted, expectile)
    np.testing.assert_allclose(learned[expectile], expected, atol=0.01)


def test_half_way_the_values_are_those_of_the_behavior(learned):
    """(I − γ P)⁻¹ r with the behavior's own transitions and rewards."""
    world = chain(True)
    transitions, rewards, totals = np.zeros((4, 4)), np.zeros(4), np.zeros(4)
    for (state, _, following, signal, ends), count in zip(world.rows, world.counts, strict=True):
        state, following = int(state), int(following)
        transitions[state, following] += count * (1 - ends)
        rewards[state] += count * signal
        totals[state] += count
    transitions, rewards = transitions / totals[:, None], rewards / totals
    behavior = np.linalg.solve(np.eye(4) - GAMMA * transitions, rewards)
    np.testing.assert_allclose(learned[0.5], behavior, atol=0.01)


def test_values_rise_with_the_expectile_towards_the_best_of_what_was_done(learned):
    """Forward is best everywhere; its slips lower its worth, however great the expectile."""
    rising = np.stack([learned[expectile] for expectile in EXPECTILES])
    assert np.diff(rising, axis=0).min() > 0.02
    best = np.zeros(4)
    for _ in range(200):
        ahead = np.append(best[1:], 2.0 / GAMMA)
        best = GAMMA * (2 * ahead + best) / 3
    assert np.all(best - rising[0] > 0.3)
    assert np.abs(best - rising[-1]).max() < 0.05


def test_a_last_step_that_does_not_end_is_worth_what_it_leads_to(learned):
    """Every row of these data is truncated."""
    world = chain(False)
    values = values_of(tabular(Return(GAMMA), world, 0.8), world)
    np.testing.assert_allclose(values, world.solve(discounted, 0.8), atol=0.02)
    assert np.all(values > learned[0.8] + 0.5)


# Costs


@pytest.fixture(scope="module")
def batch(dataset):
    names = "observations", "actions", "next_observations", "rewards", "terminations"
    return dataset.columns(names)


def mirrored(params):
    """The same network with the opposite outputs."""
    return {**params, "value": jax.tree.map(jnp.negative, params["value"])}


def test_critics_of_costs_are_those_of_a_return_with_the_signs_changed(batch, statistics):
    """From networks with opposite outputs, as exactly as arithmetic is."""
    settings = Optimizer(steps=20, learning_rate=0.03, ema_rate=0.1, weight_decay=0.1)
    rewarded, paying = (
        CriticLearner(statistics, objective, settings, 0.8, Critic((8,)))
        for objective in (Return(GAMMA), DiscountedCost(GAMMA))
    )

    @functools.partial(jax.jit, static_argnames="turn")
    def both(batch, turn):
        state = rewarded.init(KEY, batch)
        mirror = state.replace(
            value=TrainState.start(turn(state.value.params), settings),
            q=TrainState.start(turn(state.q.params), settings),
        )
        costs = {**batch, "costs": -batch["rewards"]}
        del costs["rewards"]

        def step(states, _):
            one, other = states
            return (rewarded.update(one, batch, KEY)[0], paying.update(other, costs, KEY)[0]), None

        return jax.lax.scan(step, (state, mirror), length=10)[0]

    state, mirror = both(batch, mirrored)
    ours, theirs = rewarded.result(state), paying.result(mirror)
    seen, done = batch["observations"], batch["actions"]
    assert np.ptp(ours.value(seen)) > 0.1
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(theirs.value(seen), -ours.value(seen))
    close(theirs.qs(seen, done), -ours.qs(seen, done))
    close(theirs.q(seen, done), -ours.q(seen, done))
    close(theirs(seen, done), ours(seen, done))
    close(theirs.advantage(batch), ours.advantage(batch))


def brakes(length=6, fastest=3):
    """Places in a row before a wall, at speeds from 0 to ``fastest``. A choice of −1, 0 or 1
    changes the speed, which is then driven; into the wall is a violation, and ends."""
    rows = []
    for place, speed, choice in itertools.product(range(length), range(fastest + 1), range(3)):
        faster = np.clip(speed + choice - 1, 0, fastest)
        crash = place + faster >= length
        following = (place if crash else place + faster) * (fastest + 1) + faster
        rows.append((place * (fastest + 1) + speed, choice, following, crash, crash))
    return World(np.array(rows, float), np.ones(len(rows), int), length * (fastest + 1), 3)


def can_stop(length=6, fastest=3):
    """Braking at once from speed v takes (v − 1) + (v − 2) + … places."""
    places, speeds = np.divmod(np.arange(length * (fastest + 1)), fastest + 1)
    return places + speeds * (speeds - 1) // 2 < length


@pytest.fixture(scope="module")
def feasibility():
    return tabular(Feasibility(GAMMA, unsafe=1.0, safe=-1.0), brakes(), 0.99)


def test_feasible_states_are_those_from_which_every_violation_can_be_avoided(feasibility):
    def target(costs, following, ends):
        h = np.where(costs > 0, 1.0, -1.0)
        return np.where(ends, h, (1 - GAMMA) * h + GAMMA * np.maximum(h, following))

    world = brakes()
    values = values_of(feasibility, world)
    assert 0 < can_stop().sum() < world.states
    np.testing.assert_array_equal(values < 0, can_stop())
    np.testing.assert_allclose(values, world.solve(target, 1 - 0.99), atol=0.05)


def test_the_best_scores_of_feasibility_keep_out_of_the_wall(feasibility):
    """Greater is better of a scorer, also of costs."""
    world = brakes()
    choices = jnp.eye(world.states * 3).reshape(world.states, 3, -1)
    scores = jax.vmap(feasibility, (None, 1), 1)(jnp.eye(world.states), choices)
    chosen = world.rows.reshape(world.states, 3, -1)[
        np.arange(world.states), scores.argmax(axis=1)
    ]
    _, _, following, crash, _ = chosen[can_stop()].T
    assert not crash.any()
    assert can_stop()[following.astype(int)].all()


# What critics say


@pytest.fixture(scope="module", params=[True, False], ids=["return", "cost"])
def critics(request, statistics, batch):
    """Three random Qs of a return or a cost."""
    objective = Return() if request.param else DiscountedCost()
    learner = CriticLearner(statistics, objective, Optimizer(), 0.7, Critic((8,)), ensemble=3)
    return learner.result(jax.jit(learner.init)(KEY, batch))


def test_of_several_qs_the_most_pessimistic_counts(critics, batch):
    seen, done = batch["observations"], batch["actions"]
    qs = np.asarray(critics.qs(seen, done))
    assert qs.shape == (3, len(seen))
    assert np.abs(np.diff(qs, axis=0)).min(axis=1).min() > 0
    assert len(np.unique(qs.argmin(axis=0))) > 1
    better = critics.greater_is_better
    np.testing.assert_array_equal(
        critics.q(seen, done), (np.min if better else np.max)(qs, axis=0)
    )


def test_scores_and_advantages_are_greater_where_actions_are_better(critics, batch):
    seen, done = batch["observations"], batch["actions"]
    q, value = critics.q(seen, done), critics.value(seen)
    sign = 1 if critics.greater_is_better else -1
    np.testing.assert_array_equal(critics(seen, done), sign * q)
    np.testing.assert_allclose(critics.advantage(batch), sign * (q - value), atol=1e-6)


def test_critics_see_normalized_observations(critics, statistics, batch, close):
    seen, done = batch["observations"], batch["actions"]
    plain = critics.replace(statistics=Statistics.identity(5))
    shifted = statistics.normalize(seen)
    close(critics.value(seen), plain.value(shifted))
    close(critics.qs(seen, done), plain.qs(shifted, done))
    assert not np.allclose(critics.value(seen), plain.value(seen), atol=1e-3)


def test_a_critic_without_hidden_layers_is_linear_in_its_inputs_side_by_side():
    params = {"value": {"kernel": jnp.array([[1.0], [10.0], [100.0]]), "bias": jnp.array([0.5])}}
    one, two = jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.array([[3.0], [0.0]])
    np.testing.assert_allclose(TABLE.apply({"params": params}, one, two), [321.5, -9.5])


@pytest.mark.parametrize("better", [True, False])
def test_the_best_of_many_actions_is_the_one_that_critics_prefer(statistics, observations, better):
    """With Q the sum of the action's two numbers, a return wants it great and a cost small."""
    backbone = GaussianBackbone(2, GaussianActor(2, hidden=(8,)), deterministic=False)
    policy = Policy.create(backbone, statistics, KEY)
    kernel = jnp.zeros((1, 7, 1)).at[0, 5:].set(1.0)
    params = {"value": {"kernel": kernel, "bias": jnp.zeros((1, 1))}}
    critics = Critics(params, params, statistics, TABLE, better)
    candidates = np.stack([policy.act(k, observations) for k in jax.random.split(KEY, 16)])
    sums = candidates.sum(axis=-1)
    assert np.ptp(sums, axis=0).min() > 0.1
    best = BestOf(policy, critics, 16).act(KEY, observations)
    expected = sums.max(axis=0) if better else sums.min(axis=0)
    np.testing.assert_allclose(best.sum(axis=-1), expected, atol=1e-5)


scores = arrays.arrays(np.float32, 12, elements=st.floats(-(2**15), 2**15, width=32))


@given(scores, scores)
def test_among_feasible_actions_the_other_critic_chooses_and_else_the_most_feasible(safety, among):
    """An action here is its own number, by which the stand-ins for critics know its score."""
    numbers = jnp.arange(12)
    found = FeasibleFirst(lambda _, a: safety[a], lambda _, a: among[a])(numbers, numbers)
    feasible = np.flatnonzero(safety > 0)
    best = np.argmax(found)
    if len(feasible):
        assert best in feasible and among[best] == among[feasible].max()
    else:
        assert safety[best] == safety.max()
    ranks = [(s > 0, a if s > 0 else s) for s, a in zip(safety, among, strict=True)]
    in_order = sorted(range(12), key=ranks.__getitem__)
    assert (np.diff(np.asarray(found)[in_order]) >= 0).all()


# One update


@pytest.fixture(scope="module")
def one(statistics, batch):
    """A learner, the state it starts from, and its update on the whole batch."""
    settings = Optimizer(learning_rate=0.1, ema_rate=0.25, weight_decay=0.0)
    learner = CriticLearner(statistics, Return(GAMMA), settings, 0.8, Critic((8,)))
    return SimpleNamespace(
        learner=learner,
        start=jax.jit(learner.init)(KEY, batch),
        update=jax.jit(lambda state: learner.update(state, batch, KEY)),
    )


def shifted(tree, by=0.3):
    return jax.tree.map(lambda leaf: leaf + by, tree)


def test_target_networks_follow_by_their_rate(one):
    start = one.start
    start = start.replace(q=start.q.replace(average=shifted(start.q.average)))
    end, _ = one.update(start)
    for before, online, after in zip(
        *map(jax.tree.leaves, (start.q.average, end.q.params, end.q.average)), strict=True
    ):
        np.testing.assert_allclose(after, before + 0.25 * (online - before), atol=1e-6)
        assert np.abs(after - before).max() > 0.01


@pytest.mark.parametrize(("rate", "steps"), [(0.02, 2000), (0.05, 1500)])
def test_how_far_critics_look_ahead_follows_from_the_target_networks_rate(rate, steps):
    """One state that goes on for ever and rewards alike, with V and Q that are one number each."""
    zeros, no = np.zeros((8, 1)), np.zeros(8)
    data = TransitionDataset(zeros, zeros, no + 0.02, no, no, next_observations=zeros)
    optimizer = Optimizer(0.01, 0.0, rate, steps=steps, schedule="constant")
    objective = Return(discount=0.98)  # The value is 1.
    learner = CriticLearner(Statistics.identity(1), objective, optimizer, 0.5, Critic(()))
    state = fit(learner, data, key=KEY, training=Training(steps, 1))
    reached = float(learner.result(state).value(zeros)[0])
    assert reached == pytest.approx(1 - np.exp(-steps * rate * (1 - objective.discount)), abs=0.05)


def test_values_follow_the_target_networks_and_not_the_newest(one, same):
    start, end = one.start, one.update(one.start)[0]
    newer = start.replace(q=start.q.replace(params=shifted(start.q.params)))
    assert same(one.update(newer)[0].value, end.value)
    older = start.replace(q=start.q.replace(average=shifted(start.q.average)))
    assert not same(one.update(older)[0].value, end.value)


def test_qs_follow_the_values_after_their_move(one, batch):
    """By the gradient as the optimizer saw it: its first steps are as long whatever it is."""
    start, end = one.start, one.update(one.start)[0]
    following = one.learner.result(end).value(batch["next_observations"])
    target = Return(GAMMA).target(batch, following)
    critics = one.learner.result(start)

    @jax.jit
    @jax.grad
    def gradient(params):
        qs = critics.replace(q_params=params).qs(batch["observations"], batch["actions"])
        return jnp.square(qs - target).mean()

    moments = optax.tree_utils.tree_get(end.q.optimizer, "mu")
    expected = gradient(start.q.params)
    for found, slope in zip(*map(jax.tree.leaves, (moments, expected)), strict=True):
        np.testing.assert_allclose(found, 0.1 * slope, rtol=1e-3, atol=1e-6)


def test_what_has_been_learned_is_the_value_and_the_target_networks(one, same):
    state = one.update(one.start)[0]
    critics = one.learner.result(state)
    assert same(critics.value_params, state.value.params)
    assert same(critics.q_params, state.q.average)
    assert critics.greater_is_better


def test_the_metrics_are_the_losses_and_the_value(one, batch):
    end, metrics = one.update(one.start)
    u = np.asarray(one.learner.result(one.start).advantage(batch))
    expected = np.mean(np.where(u < 0, 0.2, 0.8) * np.square(u))
    assert float(metrics["value_loss"]) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(metrics["value_loss"] + metrics["q_loss"])
    following = one.learner.result(end).value(batch["next_observations"])
    assert float(metrics["value"]) == pytest.approx(float(following.mean()), rel=1e-4)


def test_critics_of_several_seeds_can_be_learned_at_once(statistics, batch, close):
    descent = Transformation(optax.sgd(0.01))
    learner = CriticLearner(statistics, Return(), descent, network=TABLE)

    def first(key):
        return learner.update(learner.init(key, batch), batch, key)[0].value.params

    keys = jax.random.split(KEY, 3)
    together, alone = jax.jit(jax.vmap(first))(keys), jax.jit(first)
    for one, key in zip(unstack(together), keys, strict=True):
        close(one, alone(key))
    kernel = together["value"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.parametrize("expectile", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_expectiles_outside_zero_to_one_are_refused(statistics, expectile):
    with pytest.raises(ValueError, match=rf"expectile must be in \(0, 1\), not {expectile}"):
        CriticLearner(statistics, Return(), Optimizer(), expectile)


# Networks


def test_input_norm_forgets_the_inputs_mean_and_scale():
    """And nothing else: without it the network tells the two apart."""
    inputs = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    moved = 3 * inputs + 7
    for norm in (True, False):
        network = Critic(hidden=(8,), input_norm=norm)
        params = network.init(KEY, inputs)
        assert ("norm" in params["params"]) == norm
        same = np.allclose(network.apply(params, inputs), network.apply(params, moved), atol=1e-4)
        assert same == norm


def test_the_value_may_have_a_network_of_its_own(dataset, statistics, close):
    """It is learned, and Q is then what it is without."""
    names = ("observations", "actions", "next_observations", "rewards", "terminations")
    batch = {name: jnp.asarray(column) for name, column in dataset.columns(names).items()}
    shared, own = Critic(hidden=(8,)), Critic(hidden=(8, 4), input_norm=True)
    states = {}
    for network in (shared, own):
        learner = CriticLearner(
            statistics,
            Return(),
            Optimizer(steps=5),
            network=shared,
            value_network=None if network is shared else own,
        )
        before = learner.init(KEY, batch)
        after, _ = learner.update(before, batch, KEY)
        states[network] = after
        params = after.value.params
        expected = network.apply({"params": params}, statistics.normalize(batch["observations"]))
        value = learner.result(after).value(batch["observations"])
        close(value, expected)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.value.params, params)
        assert min(jax.tree.leaves(moved)) > 0
    assert states[own].value.params.keys() == {"norm", "hidden_0", "hidden_1", "value"}
    assert states[shared].value.params.keys() == {"hidden_0", "value"}
    assert jax.tree.structure(states[own].q) == jax.tree.structure(states[shared].q)


@pytest.mark.parametrize("better", [True, False])
def test_the_slope_of_the_pessimistic_q_is_that_of_the_network_it_is_of(better):
    """Also where both say the same."""
    kernels = jnp.array([[[2.0]], [[-3.0]]])
    params = {"value": {"kernel": kernels, "bias": jnp.zeros((2, 1))}}
    critics = Critics(None, params, Statistics.identity(0), TABLE, better)
    actions = jnp.array([[0.5], [-0.5], [0.0]])
    slopes = jax.grad(lambda a: critics.q(jnp.zeros((3, 0)), a).sum())(actions)[:, 0]
    least, greatest = jnp.array([-3.0, 2.0]), jnp.array([2.0, -3.0])
    np.testing.assert_array_equal(slopes[:2], least if better else greatest)
    assert float(slopes[2]) in (2.0, -3.0)
