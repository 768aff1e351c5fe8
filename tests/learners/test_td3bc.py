"""TD3+BC against closed forms."""

import chain
import jax.numpy as jnp
import numpy as np
import pytest

import psec_jax as psec
from psec_jax.learners import TD3BC, AllParameters
from psec_jax.learners.objectives import Return

UPDATES = 1200
MOVING = psec.Optimizer(0.03, weight_decay=0.0, ema_rate=0.1, steps=UPDATES)
SETTINGS = {
    "actor_optimizer": MOVING,
    "critic_optimizer": MOVING,
    "network": chain.LINEAR,
    "policy_every": 1,
}


def act(alpha, batch):
    learner = TD3BC(AllParameters(chain.policy()), Return(chain.GAMMA), alpha=alpha, **SETTINGS)
    policy, _ = chain.train(learner, batch, UPDATES)
    return np.asarray(policy.act(chain.KEY, np.eye(3))[:, 0])


def test_without_critics_it_is_behavior_cloning():
    """(π(s) − a)² is least at the mean action of each state."""
    batch = chain.transitions()
    actions = batch["actions"] + jnp.repeat(jnp.array([-0.3, 0.0, 0.1]), 3)[:, None]
    expected = np.asarray(actions).reshape(3, 3).mean(axis=1)
    np.testing.assert_allclose(act(0.0, {**batch, "actions": actions}), expected, atol=0.01)


@pytest.mark.parametrize("alpha", [0.5, 2.5])
def test_q_is_weighed_by_alpha_over_its_mean(alpha):
    """With Q(s, a) = 10 + 2 a of a bandit and actions about 0, (π − a)² − α Q / mean |Q| is least
    where π (10 + 2 π) = α."""
    actions = jnp.linspace(-0.8, 0.8, 9)[:, None]
    batch = chain.transitions()
    batch |= {
        "observations": jnp.eye(3)[jnp.zeros(9, int)],
        "actions": actions,
        "rewards": 10 + 2 * actions[:, 0],
        "terminations": jnp.ones(9, bool),
    }
    expected = (-10 + np.sqrt(100 + 8 * alpha)) / 4
    assert act(alpha, batch)[0] == pytest.approx(expected, abs=0.01)


def test_the_settings_are_those_of_the_paper(gaussian):
    learner = TD3BC(AllParameters(gaussian))
    assert (learner.alpha, learner.policy_noise, learner.noise_clip) == (2.5, 0.2, 0.5)
    assert (learner.policy_every, learner.ensemble, learner.objective.discount) == (2, 2, 0.99)
    for plan in (learner.actor_optimizer, learner.critic_optimizer):
        assert (plan.learning_rate, plan.ema_rate, plan.weight_decay) == (3e-4, 0.005, 0.0)
        assert plan.schedule == "constant"
    assert learner.network.hidden == (256, 256) and not learner.network.layer_norm
