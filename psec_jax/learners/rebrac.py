"""ReBRAC (Tarasov et al., 2023): TD3 with a penalty of its own on the actor and on the critics.

Settings are those of the paper for D4RL's locomotion, and of its published code.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from psec_jax.acting import Actor
from psec_jax.learners.actors import Batch, Trained
from psec_jax.learners.critics import Critics, q_ensemble
from psec_jax.learners.objectives import Objective, Return, static
from psec_jax.learners.optimizer import AnyOptimizer, Optimizer, TrainState, descend, optimizer_of
from psec_jax.networks import Critic
from psec_jax.parameters import Params
from psec_jax.settings import integer_of, python_number

ADAM = Optimizer(1e-3, weight_decay=0.0, ema_rate=0.005, schedule="constant")


@struct.dataclass
class ReBRACState:
    """The averages are the target networks; ``step`` counts updates."""

    actor: TrainState
    q: TrainState
    step: Int[Array, ""]


@struct.dataclass
class ReBRAC:
    """Trains the ``trained`` part of a policy, and the Q functions that it maximizes.

    The policy should be deterministic; the paper's has three hidden layers of 256, and batches are
    of 1024. ``actor_penalty`` and ``critic_penalty`` are β₁ and β₂, which the paper tunes for each
    dataset: its code starts from 1, and has 0.05 and 0 for walker2d-medium-v2, 0.001 and 0.5 for
    halfcheetah-medium-v2. The actor and the target networks, which follow at the ``ema_rate`` of
    the optimizations (τ), move in every ``policy_every``-th update.
    """

    trained: Trained
    objective: Objective = Return()
    actor_penalty: float = static(1.0)
    critic_penalty: float = static(1.0)
    policy_noise: float = static(0.2)
    noise_clip: float = static(0.5)
    policy_every: int = static(2)
    actor_optimizer: AnyOptimizer = static(ADAM)
    critic_optimizer: AnyOptimizer = static(ADAM)
    network: Critic = static(Critic((256, 256, 256), layer_norm=True))
    ensemble: int = static(2)

    name = "rebrac"

    def __post_init__(self):
        for name in ("actor_optimizer", "critic_optimizer"):
            optimizer = optimizer_of(getattr(self, name), ADAM.ema_rate)
            object.__setattr__(self, name, optimizer)
        for name in ("actor_penalty", "critic_penalty", "policy_noise", "noise_clip"):
            object.__setattr__(self, name, python_number(getattr(self, name)))
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        for name in ("policy_every", "ensemble"):
            object.__setattr__(self, name, integer_of(name, getattr(self, name)))

    @property
    def columns(self) -> tuple[str, ...]:
        following = ("next_observations", "next_actions")
        return ("observations", "actions", *following, *self.objective.columns)

    def init(self, key: jax.Array, example: Batch) -> ReBRACState:
        actor_key, q_key = jax.random.split(key)
        q = q_ensemble(self.network, q_key, example, self.ensemble)
        return ReBRACState(
            TrainState.start(self.trained.init(actor_key), self.actor_optimizer),
            TrainState.start(q, self.critic_optimizer),
            jnp.zeros((), jnp.int32),
        )

    def update(
        self, state: ReBRACState, batch: Batch, key: jax.Array
    ) -> tuple[ReBRACState, dict[str, Array]]:
        target_key, actor_key = jax.random.split(key)
        target = self.target(state, batch, target_key)
        q, critic_metrics = descend(
            lambda params: self.critic_loss(self.critics(params), batch, target),
            state.q,
            self.critic_optimizer,
        )

        def actor_loss(params):
            return self.actor_loss(
                self.trained.at(params), self.critics(q.params), batch, actor_key
            )

        def move():
            actor, metrics = descend(actor_loss, state.actor, self.actor_optimizer)
            return actor, q.average, metrics["loss"]

        def wait():
            return state.actor, state.q.average, actor_loss(state.actor.params)

        step = state.step + 1
        actor, average, loss = jax.lax.cond(step % self.policy_every == 0, move, wait)
        metrics = {"critic_loss": critic_metrics["loss"], "actor_loss": loss}
        metrics |= {"loss": metrics["critic_loss"] + loss, "target": target.mean()}
        return ReBRACState(actor, replace(q, average=average), step), metrics

    def target(self, state: ReBRACState, batch: Batch, key: jax.Array) -> Float[Array, "batch"]:
        """r + γ (min Q̄(s′, a′) − β₂ ‖a′ − â′‖²), with a′ = π̄(s′) + clipped noise and â′ the action
        that the data took in s′; where they do not say, there is no penalty."""
        policy_key, noise_key = jax.random.split(key)
        observations = batch["next_observations"]
        actions = self.trained.at(state.actor.average).sample(policy_key, observations)
        noise = self.policy_noise * jax.random.normal(noise_key, actions.shape)
        actions = actions + jnp.clip(noise, -self.noise_clip, self.noise_clip)
        actions = jnp.clip(actions, -1, 1)
        taken = jnp.where(jnp.isnan(batch["next_actions"]), actions, batch["next_actions"])
        penalty = jnp.square(actions - taken).sum(axis=-1)
        critics = self.critics(state.q.average)
        following = critics.q(observations, actions) - critics.sign * self.critic_penalty * penalty
        return self.objective.target(batch, following)

    def critic_loss(
        self, critics: Critics, batch: Batch, target: Float[Array, "batch"]
    ) -> Float[Array, ""]:
        """Σ (Q(s, a) − target)² over the ensemble."""
        qs = critics.qs(batch["observations"], batch["actions"])
        return jnp.square(qs - target).mean(axis=1).sum()

    def actor_loss(
        self, policy: Actor, critics: Critics, batch: Batch, key: jax.Array
    ) -> Float[Array, ""]:
        """β₁ ‖π(s) − a‖² − λ min Q(s, π(s)), with λ = 1 / mean |Q|."""
        actions = policy.sample(key, batch["observations"])
        q = critics(batch["observations"], actions)
        scale = 1 / jax.lax.stop_gradient(jnp.abs(q).mean())
        penalty = jnp.square(actions - batch["actions"]).sum(axis=-1)
        return (self.actor_penalty * penalty - scale * q).mean()

    def critics(self, params: Params) -> Critics:
        statistics, better = self.trained.statistics, self.objective.greater_is_better
        return Critics(None, params, statistics, self.network, better)

    def result(self, state: ReBRACState) -> tuple[Any, Critics]:
        """What was trained, and Q by its target networks."""
        return self.trained.result(state.actor.params), self.critics(state.q.average)
