"""An offline-RL baseline of your own: AWAC (Nair et al., 2020), as a learner.

In Python:

    learner = AWAC(psec.learners.AllParameters(policy))
    state = psec.training.fit(learner, data, key=key, training=psec.Training(10_000))
    policy, critics = learner.result(state)

As a row of the dynamics-shift table, by configuration alone:

    python -m experiments.dynamics_shift methods=[awac,psec] \\
        '+baselines.awac={label: AWAC, learner: {kind: extending.baseline.AWAC}, batch_size: 256,
          backbone: {kind: gaussian, network: {kind: gaussian_actor}, deterministic: false}}'

A row's learner has a field ``trained``, which the setting fills with all parameters of a fresh
policy, and what was trained is the first of its ``result(state)``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from psec_jax import networks, objectives, weights
from psec_jax.learners import (
    Critics,
    Optimizer,
    Trained,
    TrainState,
    descend,
    imitation,
    q_ensemble,
)

static = objectives.static


@struct.dataclass
class AWAC:
    """Imitates each action by exp(advantage / ``temperature``), at most ``clip``; the advantage is
    Q's over the policy's own action, and Q is learned by temporal differences."""

    trained: Trained
    objective: objectives.Objective = objectives.Return()
    temperature: float = static(1.0)
    clip: float = static(20.0)
    optimizer: Optimizer = static(Optimizer(3e-4, ema_rate=0.005, schedule="constant"))
    network: networks.Critic = static(networks.Critic())

    name = "awac"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("observations", "actions", "next_observations", *self.objective.columns)

    def init(self, key: jax.Array, example: dict[str, Array]) -> dict[str, TrainState]:
        actor_key, q_key = jax.random.split(key)
        params = {
            "actor": self.trained.init(actor_key),
            "q": q_ensemble(self.network, q_key, example, 2),
        }
        return {name: TrainState.start(each, self.optimizer) for name, each in params.items()}

    def update(self, state, batch, key):
        following_key, own_key, loss_key = jax.random.split(key, 3)
        observations, later = batch["observations"], batch["next_observations"]
        policy = self.trained.at(state["actor"].params)
        following = self.critics(state["q"].average).q(later, policy.sample(following_key, later))
        target = self.objective.target(batch, following)

        def error(params):
            qs = self.critics(params).qs(observations, batch["actions"])
            return jnp.square(qs - target).mean(axis=1).sum()

        q, critic_metrics = descend(error, state["q"], self.optimizer)
        better = self.critics(q.params)
        advantage = better(observations, batch["actions"])
        advantage -= better(observations, policy.sample(own_key, observations))
        weight = weights.exponential(advantage, 1 / self.temperature, self.clip)

        def loss(params):
            return (weight * imitation(self.trained.at(params), batch, {}, loss_key)).mean()

        actor, metrics = descend(loss, state["actor"], self.optimizer)
        metrics |= {"critic_loss": critic_metrics["loss"], "weight": weight.mean()}
        return {"actor": actor, "q": q}, metrics

    def critics(self, params: Any) -> Critics:
        better = self.objective.greater_is_better
        return Critics(None, params, self.trained.statistics, self.network, better)

    def result(self, state: dict[str, TrainState]) -> tuple[Any, Critics]:
        return self.trained.result(state["actor"].params), self.critics(state["q"].average)
