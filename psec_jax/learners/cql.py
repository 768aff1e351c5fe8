"""CQL (Kumar et al., 2020): SAC whose Q functions are pushed down where there are no data.

Settings are the published code's for D4RL, without its Lagrange multiplier and early cloning.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from psec_jax.backbones import GaussianBackbone
from psec_jax.learners.actors import Batch, Trained
from psec_jax.learners.critics import Critics, q_ensemble
from psec_jax.learners.objectives import Objective, Return, static
from psec_jax.learners.optimizer import AnyOptimizer, Optimizer, TrainState, descend, optimizer_of
from psec_jax.networks import Critic
from psec_jax.parameters import Params
from psec_jax.policies import Policy
from psec_jax.settings import integer_of, python_number

ACTOR_ADAM = Optimizer(1e-4, weight_decay=0.0, ema_rate=0.005, schedule="constant")
CRITIC_ADAM = Optimizer(3e-4, weight_decay=0.0, ema_rate=0.005, schedule="constant")


@struct.dataclass
class CQLState:
    """Q's average is the target network."""

    actor: TrainState
    q: TrainState
    log_temperature: TrainState


@struct.dataclass
class CQL:
    """CQL(H): trains the ``trained`` part of a Gaussian policy, and conservative Q functions.

    ``alpha`` weighs the conservative loss, 5 or 10 in the paper; 0 is SAC. Its integral is
    estimated from ``samples`` actions drawn uniformly, from π(s), and from π(s′) each. The target
    holds the policy's entropy with ``entropy_backup`` only. The temperature keeps the entropy at
    ``target_entropy``, minus the number of an action's components where None. The paper's actor
    has three hidden layers of 256 and its batches are of 256.
    """

    trained: Trained
    objective: Objective = Return()
    alpha: float = static(5.0)
    samples: int = static(10)
    entropy_backup: bool = static(False)
    target_entropy: float | None = static(None)
    actor_optimizer: AnyOptimizer = static(ACTOR_ADAM)
    critic_optimizer: AnyOptimizer = static(CRITIC_ADAM)
    network: Critic = static(Critic((256, 256, 256)))
    ensemble: int = static(2)

    name = "cql"

    def __post_init__(self):
        for name in ("actor_optimizer", "critic_optimizer"):
            optimizer = optimizer_of(getattr(self, name), CRITIC_ADAM.ema_rate)
            object.__setattr__(self, name, optimizer)
        object.__setattr__(self, "alpha", python_number(self.alpha))
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be at least 0, not {self.alpha!r}")
        for name in ("samples", "ensemble"):
            object.__setattr__(self, name, integer_of(name, getattr(self, name)))

    @property
    def columns(self) -> tuple[str, ...]:
        return ("observations", "actions", "next_observations", *self.objective.columns)

    def init(self, key: jax.Array, example: Batch) -> CQLState:
        """Raises ``ValueError`` for a policy whose actions have no density in closed form."""
        actor_key, q_key = jax.random.split(key)
        params = self.trained.init(actor_key)
        backbone = getattr(self.trained.at(params), "backbone", None)
        if not isinstance(backbone, GaussianBackbone):
            raise ValueError(
                "CQL needs the density of actions, which a policy with a GaussianBackbone gives, "
                f"not one with {type(backbone).__name__}"
            )
        q = q_ensemble(self.network, q_key, example, self.ensemble)
        return CQLState(
            TrainState.start(params, self.actor_optimizer),
            TrainState.start(q, self.critic_optimizer),
            TrainState.start(jnp.zeros(()), self.actor_optimizer),
        )

    def update(
        self, state: CQLState, batch: Batch, key: jax.Array
    ) -> tuple[CQLState, dict[str, Array]]:
        target_key, unseen_key, actor_key = jax.random.split(key, 3)
        target = self.target(state, batch, target_key)
        unseen = self.unseen_actions(self.policy(state.actor.params), batch, unseen_key)

        def critic_loss(params):
            return self.critic_loss(self.critics(params), batch, target, *unseen)

        def actor_loss(params):
            return self.actor_loss(self.policy(params), state, batch, actor_key)

        def temperature_loss(params):
            return self.temperature_loss(params, state, batch, actor_key)

        plan = self.actor_optimizer
        q, critic_metrics = descend(critic_loss, state.q, self.critic_optimizer)
        actor, actor_metrics = descend(actor_loss, state.actor, plan)
        log_temperature, _ = descend(temperature_loss, state.log_temperature, plan)
        metrics = {"critic_loss": critic_metrics["loss"], "actor_loss": actor_metrics["loss"]}
        metrics |= {
            "loss": critic_metrics["loss"] + actor_metrics["loss"],
            "target": target.mean(),
        }
        metrics |= {"temperature": jnp.exp(log_temperature.params)}
        return CQLState(actor, q, log_temperature), metrics

    def target(self, state: CQLState, batch: Batch, key: jax.Array) -> Float[Array, "batch"]:
        """r + γ min Q̄(s′, a′) with a′ from π(s′), less its temperature · log π(a′|s′) with
        ``entropy_backup``."""
        observations = batch["next_observations"]
        actions, log_density = sampled(self.policy(state.actor.params), key, observations)
        critics = self.critics(state.q.average)
        following = critics.q(observations, actions)
        if self.entropy_backup:
            temperature = jnp.exp(state.log_temperature.params)
            following = following - critics.sign * temperature * log_density
        return self.objective.target(batch, following)

    def unseen_actions(
        self, policy: Policy, batch: Batch, key: jax.Array
    ) -> tuple[Float[Array, "sample batch action"], Float[Array, "sample batch"]]:
        """Uniform actions, actions of π(s), and actions of π(s′), with their log-densities."""
        keys = jax.random.split(key, 3)
        shape = (self.samples, *batch["actions"].shape)
        uniform = jax.random.uniform(keys[0], shape, minval=-1.0, maxval=1.0)
        drawn = [(uniform, jnp.full(shape[:2], -shape[-1] * jnp.log(2.0)))]
        for name, k in (("observations", keys[1]), ("next_observations", keys[2])):
            many = jax.random.split(k, self.samples)
            drawn.append(jax.vmap(sampled, (None, 0, None))(policy, many, batch[name]))
        actions, log_densities = zip(*drawn, strict=True)
        return jnp.concatenate(actions), jnp.concatenate(log_densities)

    def conservative_loss(
        self,
        critics: Critics,
        batch: Batch,
        actions: Float[Array, "sample batch action"],
        log_densities: Float[Array, "sample batch"],
    ) -> Float[Array, "ensemble batch"]:
        """log ∫ exp Q(s, a) da − Q(s, a of the data), the integral by importance sampling."""
        observations = batch["observations"]
        unseen = jax.vmap(critics.qs, (None, 0), 1)(observations, actions)
        seen = critics.qs(observations, batch["actions"])
        exponents = critics.sign * unseen - log_densities - jnp.log(len(actions))
        return jax.nn.logsumexp(exponents, axis=1) - critics.sign * seen

    def critic_loss(
        self,
        critics: Critics,
        batch: Batch,
        target: Float[Array, "batch"],
        actions: Float[Array, "sample batch action"],
        log_densities: Float[Array, "sample batch"],
    ) -> Float[Array, ""]:
        """Σ (Q(s, a) − target)² + α · conservative loss, over the ensemble."""
        qs = critics.qs(batch["observations"], batch["actions"])
        conservative = self.conservative_loss(critics, batch, actions, log_densities)
        return (jnp.square(qs - target) + self.alpha * conservative).mean(axis=1).sum()

    def actor_loss(
        self, policy: Policy, state: CQLState, batch: Batch, key: jax.Array
    ) -> Float[Array, ""]:
        """temperature · log π(a|s) − min Q(s, a), with a from π(s)."""
        actions, log_density = sampled(policy, key, batch["observations"])
        q = self.critics(state.q.params)(batch["observations"], actions)
        return (jnp.exp(state.log_temperature.params) * log_density - q).mean()

    def temperature_loss(
        self, log_temperature: Float[Array, ""], state: CQLState, batch: Batch, key: jax.Array
    ) -> Float[Array, ""]:
        """−log temperature · (log π(a|s) + target entropy), with a from π(s)."""
        _, log_density = sampled(self.policy(state.actor.params), key, batch["observations"])
        size, aim = batch["actions"].shape[-1], self.target_entropy
        return -log_temperature * (log_density + (-size if aim is None else aim)).mean()

    def policy(self, params: Params) -> Policy:
        """The Gaussian policy that ``init`` has made sure of."""
        return cast(Policy, self.trained.at(params))

    def critics(self, params: Params) -> Critics:
        statistics, better = self.trained.statistics, self.objective.greater_is_better
        return Critics(None, params, statistics, self.network, better)

    def result(self, state: CQLState) -> tuple[Any, Critics]:
        """What was trained, and Q by its target networks."""
        return self.trained.result(state.actor.params), self.critics(state.q.average)


def sampled(
    policy: Policy, key: jax.Array, observations: Float[Array, "batch observation"]
) -> tuple[Float[Array, "batch action"], Float[Array, "batch"]]:
    """Actions of a tanh-Gaussian policy, deterministic or not, and their log-densities."""
    mean, log_std = policy.predict()(policy.statistics.normalize(observations))
    noise = jax.random.normal(key, mean.shape)
    before = mean + jnp.exp(log_std) * noise
    # log(1 − tanh²(x)) without cancellation where |x| is large.
    log_slope = 2 * (jnp.log(2.0) - before - jax.nn.softplus(-2 * before))
    log_density = jax.scipy.stats.norm.logpdf(noise) - log_std - log_slope
    return jnp.tanh(before), log_density.sum(axis=-1)
