"""Three states in a row, 0 → 1 → 2 → the end, whose Q is linear in the action, so that a critic
without hidden layers holds it exactly."""

import jax
import jax.numpy as jnp
import numpy as np

import psec_jax as psec
from psec_jax.networks import Critic, GaussianActor

KEY = jax.random.key(9)
GAMMA = 0.9
SLOPE = 0.5
STATE_REWARDS = np.array([1.0, 0.0, -0.5])
# What the policy does in each state, and the data in the next state.
POLICY = np.array([0.2, -0.4, 0.6])
TAKEN = np.array([0.3, -0.5, np.nan])
LINEAR = Critic(())


def values(penalty: float = 0.0) -> np.ndarray:
    """Q(s, a) − SLOPE · a of the policy in each state, with ReBRAC's penalty on what follows."""
    found = np.zeros(3)
    for state in (2, 1, 0):
        following = 0.0
        if state < 2:
            distance = np.square(POLICY[state + 1] - TAKEN[state])
            following = found[state + 1] + SLOPE * POLICY[state + 1] - penalty * distance
        found[state] = STATE_REWARDS[state] + GAMMA * following
    return found


def transitions() -> dict[str, jax.Array]:
    """Three actions in each state."""
    states = np.repeat(np.arange(3), 3)
    actions = np.tile([-0.5, 0.3, 0.7], 3)
    batch = {
        "observations": np.eye(3)[states],
        "actions": actions[:, None],
        "rewards": STATE_REWARDS[states] + SLOPE * actions,
        "next_observations": np.eye(3)[np.minimum(states + 1, 2)],
        "next_actions": TAKEN[states][:, None],
    }
    batch = {name: jnp.asarray(values, jnp.float32) for name, values in batch.items()}
    return {**batch, "terminations": jnp.asarray(states == 2)}


def policy() -> psec.Policy:
    """Does ``POLICY``, nearly without spread."""
    network = GaussianActor(1, hidden=(), log_std_bounds=(-20.0, -15.0))
    found = psec.Policy.create(psec.GaussianBackbone(1, network), psec.Statistics.identity(3), KEY)
    mean = {"kernel": jnp.arctanh(jnp.asarray(POLICY, jnp.float32))[:, None], "bias": jnp.zeros(1)}
    return found.replace(params={**found.params, "mean": mean})


def settings(updates: int) -> dict:
    """Critics that are trained, and an actor that stays where it is."""
    still = psec.Optimizer(1e-12, weight_decay=0.0, steps=updates)
    moving = psec.Optimizer(0.05, weight_decay=0.0, ema_rate=0.1, steps=updates)
    return {"actor_optimizer": still, "critic_optimizer": moving, "network": LINEAR}


def train(learner, batch, updates: int):
    """The result of so many updates on the whole batch."""

    @jax.jit
    def run(learner, batch):
        def step(state, index):
            return learner.update(state, batch, jax.random.fold_in(KEY, index))

        state = learner.init(KEY, batch)
        return jax.lax.scan(step, state, jnp.arange(updates))[0]

    return learner.result(run(learner, batch))
