"""ReBRAC against closed forms, and against the TD3 that it is without its penalties."""

import chain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import psec_jax as psec
from psec_jax.learners import TD3BC, AllParameters, ReBRAC, Transformation
from psec_jax.learners.objectives import Return
from psec_jax.networks import Critic

pytestmark = pytest.mark.slow

UPDATES = 1200
MOVING = psec.Optimizer(0.03, weight_decay=0.0, ema_rate=0.1, steps=UPDATES)


@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_the_critics_pay_for_what_the_data_did_otherwise(penalty):
    learner = ReBRAC(
        AllParameters(chain.policy()),
        Return(chain.GAMMA),
        critic_penalty=penalty,
        policy_noise=0.0,
        policy_every=1,
        **chain.settings(1500),
    )
    _, critics = chain.train(learner, chain.transitions(), 1500)
    found = critics(jnp.eye(3), jnp.zeros((3, 1)))
    np.testing.assert_allclose(found, chain.values(penalty), atol=0.01)
    assert np.abs(chain.values(penalty) - chain.values()).max() > 0.2


def test_where_the_next_action_is_unknown_there_is_no_penalty():
    """At a truncation, beyond which there is still a value."""
    batch = chain.transitions()
    unknown = {**batch, "next_actions": jnp.full_like(batch["next_actions"], jnp.nan)}
    learner = ReBRAC(AllParameters(chain.policy()), Return(chain.GAMMA), critic_penalty=1.0)
    free = ReBRAC(AllParameters(chain.policy()), Return(chain.GAMMA), critic_penalty=0.0)
    state = learner.init(chain.KEY, batch)
    expected = free.target(state, batch, chain.KEY)
    np.testing.assert_allclose(learner.target(state, unknown, chain.KEY), expected, rtol=1e-6)
    paying = learner.target(state, batch, chain.KEY) - expected
    assert paying[:6].max() < -1e-3
    np.testing.assert_array_equal(paying[6:], 0.0)


@pytest.mark.parametrize("penalty", [0.4, 2.0])
def test_the_actor_weighs_imitation_against_a_normalized_q(penalty):
    """With Q(s, a) = 10 + 2 a of a bandit and actions about 0, β (π − a)² − Q / mean |Q| is least
    where β π (10 + 2 π) = 1."""
    actions = jnp.linspace(-0.8, 0.8, 9)[:, None]
    batch = chain.transitions()
    batch |= {
        "observations": jnp.eye(3)[jnp.zeros(9, int)],
        "actions": actions,
        "rewards": 10 + 2 * actions[:, 0],
        "terminations": jnp.ones(9, bool),
    }
    learner = ReBRAC(
        AllParameters(chain.policy()),
        actor_penalty=penalty,
        policy_every=1,
        actor_optimizer=MOVING,
        critic_optimizer=MOVING,
        network=chain.LINEAR,
    )
    policy, _ = chain.train(learner, batch, UPDATES)
    expected = (-10 + np.sqrt(100 + 8 / penalty)) / 4
    assert float(policy.act(chain.KEY, np.eye(3))[0, 0]) == pytest.approx(expected, abs=0.01)


def test_without_penalties_it_is_td3(gaussian, dataset, close):
    """The critics' update is TD3's; the actor's loss is TD3+BC's without imitation, over α."""
    options = {"network": Critic((8,), layer_norm=True), "ensemble": 1}
    trained = AllParameters(gaussian)
    descent = Transformation(optax.sgd(0.01), ema_rate=0.1)
    options |= {"actor_optimizer": descent, "critic_optimizer": descent}
    td3 = TD3BC(trained, **options)
    rebrac = ReBRAC(trained, actor_penalty=0.0, critic_penalty=0.0, **options)
    batch = {n: jnp.asarray(a) for n, a in dataset.columns(rebrac.columns).items()}
    one, other = td3.init(chain.KEY, batch), rebrac.init(chain.KEY, batch)
    critics = td3.critics(one.q.params)
    imitation = jnp.square(gaussian.sample(chain.KEY, batch["observations"]) - batch["actions"])
    expected = (td3.actor_loss(gaussian, critics, batch, chain.KEY) - imitation.mean()) / td3.alpha
    found = rebrac.actor_loss(gaussian, critics, batch, chain.KEY)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    one, _ = jax.jit(td3.update)(one, batch, chain.KEY)
    other, _ = jax.jit(rebrac.update)(other, batch, chain.KEY)
    close(one.q, other.q)


def test_layers_of_a_critic_can_be_normalized():
    """LayerNorm after each hidden layer, so that the scale of the first does not matter."""
    network = Critic((8, 8), layer_norm=True)
    inputs = jax.random.normal(chain.KEY, (5, 3))
    params = network.init(chain.KEY, inputs)["params"]
    assert {"norm_0", "norm_1"} <= set(params)
    scaled = {**params, "hidden_0": jax.tree.map(lambda a: 10 * a, params["hidden_0"])}
    found = [network.apply({"params": p}, inputs) for p in (params, scaled)]
    np.testing.assert_allclose(*found, atol=1e-3)
    assert np.ptp(found[0]) > 0.1


def test_the_settings_are_those_of_the_paper(gaussian):
    learner = ReBRAC(AllParameters(gaussian))
    assert (learner.actor_penalty, learner.critic_penalty) == (1.0, 1.0)
    assert (learner.policy_noise, learner.noise_clip, learner.policy_every) == (0.2, 0.5, 2)
    for plan in (learner.actor_optimizer, learner.critic_optimizer):
        assert (plan.learning_rate, plan.ema_rate, plan.weight_decay) == (1e-3, 0.005, 0.0)
    assert learner.network == Critic((256, 256, 256), layer_norm=True)
