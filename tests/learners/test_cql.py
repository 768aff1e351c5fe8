"""CQL: its density, its conservative loss, its target, and what it makes of actions unseen."""

import chain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import psec_jax as psec
from psec_jax.learners import CQL, AllParameters, Critics, Deltas
from psec_jax.learners.cql import sampled
from psec_jax.learners.objectives import Return
from psec_jax.networks import Critic, GaussianActor

pytestmark = pytest.mark.slow

KEY = jax.random.key(8)


@pytest.fixture(scope="module")
def wide():
    """A policy with some spread, on the chain's observations."""
    network = GaussianActor(1, hidden=(4,))
    return psec.Policy.create(
        psec.GaussianBackbone(1, network), psec.Statistics.identity(3), jax.random.key(1)
    )


def linear(intercept, slope, size=1):
    kernel = jnp.zeros((size, 4, 1)).at[:, 3].set(slope)
    params = {"value": {"kernel": kernel, "bias": jnp.full((size, 1), intercept)}}
    return Critics(None, params, psec.Statistics.identity(3), chain.LINEAR, True)


def test_densities_are_those_of_the_policys_own_loss(gaussian, observations):
    actions, log_density = sampled(gaussian, KEY, observations)
    batch = {"observations": observations, "actions": actions}
    np.testing.assert_allclose(log_density, -gaussian.loss(batch, KEY), rtol=1e-3, atol=1e-3)
    assert not np.allclose(actions, gaussian.act(KEY, observations), atol=1e-2)


def test_the_conservative_loss_is_the_integral_less_the_data(wide):
    """log ∫ exp(b + w a) da over [−1, 1] is b + log(2 sinh(w) / w)."""
    learner = CQL(AllParameters(wide), samples=4000, ensemble=1, network=chain.LINEAR)
    batch = jax.tree.map(lambda a: a[:4], chain.transitions())
    unseen = learner.unseen_actions(wide, batch, KEY)
    for intercept, slope in ((0.0, 0.01), (5.0, 0.01), (1.0, 3.0)):
        loss = learner.conservative_loss(linear(intercept, slope), batch, *unseen)
        expected = np.log(2 * np.sinh(slope) / slope) - slope * batch["actions"][:, 0]
        np.testing.assert_allclose(loss[0], expected, atol=0.2)


def test_without_its_conservative_loss_it_is_sac(wide):
    batch = chain.transitions()
    options = {"network": Critic((8,)), "entropy_backup": True}
    learner = CQL(AllParameters(wide), Return(chain.GAMMA), alpha=0.0, **options)
    state = learner.init(KEY, batch)
    state = state.replace(log_temperature=state.log_temperature.replace(params=jnp.log(0.7)))
    actions, log_density = sampled(wide, KEY, batch["next_observations"])
    q = learner.critics(state.q.average).qs(batch["next_observations"], actions).min(axis=0)
    going_on = 1.0 - batch["terminations"]
    soft = batch["rewards"] + chain.GAMMA * going_on * (q - 0.7 * log_density)
    target = learner.target(state, batch, KEY)
    np.testing.assert_allclose(target, soft, rtol=1e-4, atol=1e-5)
    # The published code leaves the entropy out of the target.
    plain = CQL(AllParameters(wide), Return(chain.GAMMA), network=Critic((8,)))
    hard = batch["rewards"] + chain.GAMMA * going_on * q
    np.testing.assert_allclose(plain.target(state, batch, KEY), hard, rtol=1e-4, atol=1e-5)
    unseen = learner.unseen_actions(wide, batch, KEY)
    critics = learner.critics(state.q.params)
    qs = critics.qs(batch["observations"], batch["actions"])
    loss = learner.critic_loss(critics, batch, target, *unseen)
    expected = np.square(qs - target).mean(axis=1).sum()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    # And the actor's is temperature · log π − Q, of its own actions.
    actions, log_density = sampled(wide, KEY, batch["observations"])
    q = critics.qs(batch["observations"], actions).min(axis=0)
    expected = (0.7 * log_density - q).mean()
    assert float(learner.actor_loss(wide, state, batch, KEY)) == pytest.approx(
        float(expected), rel=1e-4
    )


def test_actions_that_were_never_seen_are_worth_less_than_those_that_were():
    """One state, rewards of 1 whatever is done, and actions near −0.5 only."""
    actions = jnp.linspace(-0.6, -0.4, 32)[:, None]
    observations = jnp.ones((32, 1))
    batch = {
        "observations": observations,
        "actions": actions,
        "next_observations": observations,
        "rewards": jnp.ones(32),
        "terminations": jnp.ones(32, bool),
    }
    network = GaussianActor(1, hidden=(8,))
    base = psec.Policy.create(psec.GaussianBackbone(1, network), psec.Statistics.identity(1), KEY)
    moving = psec.Optimizer(0.01, weight_decay=0.0, ema_rate=0.1, schedule="constant")
    plans = {"actor_optimizer": moving, "critic_optimizer": moving}
    gaps = {}
    for alpha in (0.0, 5.0):
        learner = CQL(AllParameters(base), alpha=alpha, network=Critic((32,)), **plans)
        policy, critics = chain.train(learner, batch, 400)
        q = [float(critics(jnp.ones((1, 1)), jnp.full((1, 1), a))[0]) for a in (-0.5, 0.5)]
        gaps[alpha] = q[0] - q[1]
        if alpha == 0:
            assert q[0] == pytest.approx(1, abs=0.1)
        else:
            # Its actor goes where the data are.
            assert abs(float(policy.act(KEY, np.ones((1, 1)))[0, 0]) + 0.5) < 0.3
    assert gaps[5.0] > 1
    assert gaps[5.0] > gaps[0.0] + 1


@pytest.mark.parametrize(("entropy", "rises"), [(50.0, True), (-50.0, False), (None, True)])
def test_the_temperature_rises_where_the_entropy_is_too_small(entropy, rises):
    """The chain's policy has an entropy of about −14, less than minus its size."""
    learner = CQL(AllParameters(chain.policy()), target_entropy=entropy, network=Critic((8,)))
    batch = chain.transitions()
    state, metrics = jax.jit(learner.update)(learner.init(KEY, batch), batch, KEY)
    assert (float(state.log_temperature.params) > 0) == rises
    assert float(metrics["temperature"]) == pytest.approx(np.exp(state.log_temperature.params))


def test_a_policy_without_densities_is_refused(diffusion, dataset):
    learner = CQL(Deltas(diffusion, psec.Adapter(rank=2)))
    with pytest.raises(
        ValueError, match=r"CQL needs the density .* not one with DiffusionBackbone"
    ):
        learner.init(KEY, dataset.columns(learner.columns))


def test_the_settings_are_those_of_the_published_code(gaussian):
    learner = CQL(AllParameters(gaussian))
    assert (learner.alpha, learner.samples, learner.entropy_backup) == (5.0, 10, False)
    assert learner.actor_optimizer.learning_rate == 1e-4
    assert learner.critic_optimizer.learning_rate == 3e-4
    assert learner.critic_optimizer.ema_rate == 0.005
    assert learner.network.hidden == (256, 256, 256)
