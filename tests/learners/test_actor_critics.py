"""What TD3+BC, CQL and ReBRAC have in common; ``test_td3bc`` and others have each one's own."""

import dataclasses
import functools

import chain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import psec_jax as psec
from psec_jax.learners import (
    CQL,
    TD3BC,
    AllParameters,
    ContextParameters,
    Deltas,
    ReBRAC,
    Transformation,
)
from psec_jax.learners.objectives import DiscountedCost, Return
from psec_jax.networks import ConstantWeights, Critic
from psec_jax.training import Training, fit

pytestmark = pytest.mark.slow

KEY = jax.random.key(6)
ALGORITHMS = {"td3bc": TD3BC, "cql": CQL, "rebrac": ReBRAC}
SMALL = Critic((8,))
FEW = psec.Optimizer(0.01, weight_decay=0.0, ema_rate=0.1, schedule="constant")
DESCENT = Transformation(optax.sgd(0.01), ema_rate=0.1)
QUICK = {"network": SMALL, "actor_optimizer": FEW, "critic_optimizer": FEW}
# With these each is policy evaluation.
PLAIN = {
    "td3bc": {"policy_noise": 0.0, "policy_every": 1},
    "cql": {"alpha": 0.0, "samples": 1},
    "rebrac": {"policy_noise": 0.0, "policy_every": 1, "critic_penalty": 0.0},
}

each = pytest.mark.parametrize("name", ALGORITHMS)


def learn(learner, data, steps=6, **given):
    training = Training(steps, 16, chunk=3)
    return fit(learner, data, key=KEY, training=training, **given)


@each
def test_values_are_those_of_dynamic_programming(name):
    trained = AllParameters(chain.policy())
    learner = ALGORITHMS[name](trained, Return(chain.GAMMA), **PLAIN[name], **chain.settings(1500))
    policy, critics = chain.train(learner, chain.transitions(), 1500)
    np.testing.assert_allclose(policy.act(KEY, np.eye(3))[:, 0], chain.POLICY, atol=1e-4)
    for action in (-0.9, 0.0, 0.8):
        found = critics(jnp.eye(3), jnp.full((3, 1), action))
        np.testing.assert_allclose(found, chain.values() + chain.SLOPE * action, atol=0.01)


@each
def test_a_cost_is_made_small_as_a_return_is_made_great(name, gaussian, dataset):
    """Costs that are minus the rewards make the same actor, and Q of the other sign."""
    mirrored = dataclasses.replace(dataset, costs=-dataset.rewards)
    columns = (*ALGORITHMS[name](AllParameters(gaussian)).columns, "costs")
    batch = {n: jnp.asarray(a) for n, a in mirrored.columns(columns).items()}

    def negated(params):
        return {**params, "value": jax.tree.map(jnp.negative, params["value"])}

    @functools.partial(jax.jit, static_argnames="costly")
    def two_updates(costly):
        objective = DiscountedCost() if costly else Return()
        learner = ALGORITHMS[name](AllParameters(gaussian), objective, **QUICK)
        state = learner.init(KEY, batch)
        if costly:
            q = negated(state.q.params)
            state = state.replace(q=state.q.replace(params=q, average=q))
        for index in (1, 2):
            state, _ = learner.update(state, batch, jax.random.fold_in(KEY, index))
        return learner.result(state)

    (one, good), (other, bad) = two_updates(costly=False), two_updates(costly=True)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    where = dataset.observations[:8], dataset.actions[:8]
    np.testing.assert_allclose(good.q(*where), -bad.q(*where), atol=1e-3)


@each
def test_training_a_skill_leaves_its_base_as_it_is(name, gaussian, dataset, same):
    before = jax.device_get(gaussian)
    learner = ALGORITHMS[name](Deltas(gaussian, psec.Adapter(rank=2)), **QUICK)
    skill, critics = learner.result(learn(learner, dataset))
    assert same(gaussian, before)
    assert skill.base == psec.policies.fingerprint(gaussian)
    carrying = gaussian.with_bank(psec.Bank.of({"skill": skill}))
    moved = carrying.act(KEY, dataset.observations) - gaussian.act(KEY, dataset.observations)
    assert np.abs(moved).max() > 1e-3
    chosen = psec.BestOf(carrying, critics, 4).act(KEY, dataset.observations)
    assert chosen.shape == dataset.actions.shape


@pytest.mark.parametrize("name", ["td3bc", "rebrac"])
def test_the_weights_of_a_mixture_can_be_trained(name, gaussian, make_bank, dataset, same):
    mixed = gaussian.with_bank(make_bank(gaussian))
    composed = psec.composition.ComposedPolicy.create(mixed, ConstantWeights(3), "parameter", KEY)
    learner = ALGORITHMS[name](ContextParameters(composed), **QUICK)
    found, _ = learner.result(learn(learner, dataset))
    assert same(found.base, composed.base)
    assert np.abs(found.context_params["weights"] - composed.context_params["weights"]).min() > 0


@each
def test_training_that_was_interrupted_equals_training_that_was_not(name, gaussian, dataset, same):
    learner = ALGORITHMS[name](AllParameters(gaussian), **QUICK)
    half = learn(learner, dataset, 3)
    whole = learn(learner, dataset, 6)
    assert not same(half, whole)
    assert same(learn(learner, dataset, 6, state=half, start=3), whole)


@each
def test_seeds_can_be_trained_at_once(name, gaussian, dataset, close):
    plans = {"actor_optimizer": DESCENT, "critic_optimizer": DESCENT}
    learner = ALGORITHMS[name](AllParameters(gaussian), network=SMALL, **plans)
    batch = {n: jnp.asarray(a[:16]) for n, a in dataset.columns(learner.columns).items()}

    @jax.jit
    def run(key):
        state = learner.init(key, batch)
        for index in (1, 2, 3):
            state, _ = learner.update(state, batch, jax.random.fold_in(key, index))
        return state

    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(run))(keys)
    for index in range(3):
        close(psec.unstack(together)[index], run(keys[index]))


@pytest.mark.parametrize("name", ["td3bc", "rebrac"])
def test_the_actor_and_the_targets_move_every_so_many_updates(name, gaussian, dataset, same):
    learner = ALGORITHMS[name](AllParameters(gaussian), policy_every=3, **QUICK)
    batch = {n: jnp.asarray(a[:16]) for n, a in dataset.columns(learner.columns).items()}
    update = jax.jit(learner.update)
    state = jax.jit(learner.init)(KEY, batch)
    moved = []
    for index in range(6):
        after, _ = update(state, batch, jax.random.fold_in(KEY, index))
        assert not same(after.q.params, state.q.params)
        stays = [
            same(after.actor.params, state.actor.params),
            same(after.actor.average, state.actor.average),
            same(after.q.average, state.q.average),
        ]
        assert len(set(stays)) == 1
        moved.append(not stays[0])
        state = after
    assert moved == [False, False, True] * 2


@pytest.mark.parametrize("name", ["td3bc", "rebrac"])
def test_target_actions_are_smoothed_by_clipped_noise(name):
    """Q̄(s, a) = a, so that a target shows the action that it was computed for."""
    learner = ALGORITHMS[name](
        AllParameters(chain.policy()),
        Return(chain.GAMMA),
        policy_noise=5.0,
        noise_clip=0.3,
        network=chain.LINEAR,
        **({"critic_penalty": 0.0} if name == "rebrac" else {}),
    )
    one = jax.tree.map(lambda a: a[:1], chain.transitions())
    batch = jax.tree.map(lambda a: jnp.repeat(a, 500, axis=0), one)
    state = learner.init(KEY, batch)
    kernel = jnp.array([[0.0], [0.0], [0.0], [1.0]])
    q = {"value": {"kernel": jnp.stack([kernel] * 2), "bias": jnp.zeros((2, 1))}}
    state = state.replace(q=state.q.replace(average=q))
    target = learner.target(state, batch, KEY)
    actions = np.asarray((target - batch["rewards"]) / chain.GAMMA)
    # From state 0 to state 1. Nearly all of the noise is beyond its bounds.
    low, high = chain.POLICY[1] - 0.3, chain.POLICY[1] + 0.3
    assert actions.min() == pytest.approx(low, abs=1e-4)
    assert actions.max() == pytest.approx(high, abs=1e-4)
    assert np.mean(np.abs(actions - low) < 1e-3) > 0.3
    assert np.mean(np.abs(actions - high) < 1e-3) > 0.3
    # And actions stay actions.
    wide = dataclasses.replace(learner, noise_clip=3.0).target(state, batch, KEY)
    actions = np.asarray((wide - batch["rewards"]) / chain.GAMMA)
    assert actions.min() == pytest.approx(-1, abs=1e-4)
    assert actions.max() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TD3BC, {"alpha": -1.0}, "alpha must be at least 0, not -1.0"),
        (TD3BC, {"policy_noise": float("nan")}, "policy_noise must be at least 0, not nan"),
        (TD3BC, {"policy_every": 0}, "policy_every must be an integer of at least 1, not 0"),
        (ReBRAC, {"actor_penalty": -0.1}, "actor_penalty must be at least 0, not -0.1"),
        (ReBRAC, {"critic_penalty": -0.1}, "critic_penalty must be at least 0, not -0.1"),
        (ReBRAC, {"ensemble": 0}, "ensemble must be an integer of at least 1, not 0"),
        (CQL, {"alpha": -1.0}, "alpha must be at least 0, not -1.0"),
        (CQL, {"samples": 0}, "samples must be an integer of at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(gaussian, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(AllParameters(gaussian), **settings)
