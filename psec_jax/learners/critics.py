"""Critics learned within the data: implicit Q-learning (IQL) and its mirror image for costs."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from psec_jax import agents, reprs
from psec_jax.backbones import Batch
from psec_jax.learners.objectives import Objective
from psec_jax.learners.optimizer import AnyOptimizer, TrainState, descend, optimizer_of
from psec_jax.networks import Critic
from psec_jax.parameters import Params
from psec_jax.policies import Statistics
from psec_jax.settings import python_number

# The target networks', where an optimizer has none of its own.
TARGET_RATE = 0.005

Observations = Float[Array, "batch observation"]
Actions = Float[Array, "batch action"]


@struct.dataclass
class Critics:
    """Frozen V and Q of one objective, on raw observations and actions.

    ``network`` computes both, unless V has its own ``value_network``; ``value_params`` are None
    where the algorithm has no V (TD3+BC, CQL, ReBRAC). Called on observations and actions it says
    how good they are, greater being better whatever the objective, so it is a scorer for best-of-N
    acting.
    """

    value_params: Params | None
    q_params: Params
    statistics: Statistics
    network: Critic = struct.field(pytree_node=False)
    greater_is_better: bool = struct.field(pytree_node=False)
    value_network: Critic | None = struct.field(pytree_node=False, default=None)

    @reprs.brief
    def __repr__(self):
        yield from reprs.stacked(self.statistics.mean, 1)
        yield "Q" if self.value_params is None else "V and Q"
        yield f"{'greater' if self.greater_is_better else 'less'} is better"
        yield f"observation {self.statistics.mean.shape[-1]}"
        yield reprs.parameters((self.value_params, self.q_params))
        yield reprs.values(self)

    def __call__(
        self,
        observations: Observations,
        actions: Actions,
    ) -> Float[Array, "batch"]:
        return self.sign * self.q(observations, actions)

    @property
    def sign(self) -> int:
        return 1 if self.greater_is_better else -1

    def value(self, observations: Observations) -> Float[Array, "batch"]:
        """V(s); raises ``ValueError`` where there is only Q."""
        if self.value_params is None:
            raise ValueError(
                "these critics have no V(s), and so no advantage: they are an actor-critic's, "
                "such as TD3+BC's; train IQL's with improve, learn_skills or CriticLearner"
            )
        network = self.network if self.value_network is None else self.value_network
        normalized = self.statistics.normalize(observations)
        return cast(Array, network.apply({"params": self.value_params}, normalized))

    def qs(
        self,
        observations: Observations,
        actions: Actions,
    ) -> Float[Array, "ensemble batch"]:
        """Q(s, a) by each of the ensemble."""
        normalized = self.statistics.normalize(observations)

        def q(params: Params) -> Array:
            return cast(Array, self.network.apply({"params": params}, normalized, actions))

        return jax.vmap(q)(self.q_params)

    def q(
        self,
        observations: Observations,
        actions: Actions,
    ) -> Float[Array, "batch"]:
        """The most pessimistic Q(s, a): the least of a return, the greatest of a cost."""
        qs = self.qs(observations, actions)
        # Taken by its place: the gradient of a minimum looks for the element that equals it, and
        # finds none (0 / 0) where XLA computes the elements twice, rounded in two ways.
        place = jnp.argmin(self.sign * qs, axis=0)
        return jnp.take_along_axis(qs, place[None], axis=0)[0]

    def advantage(self, batch: Batch) -> Float[Array, "batch"]:
        """How much better than V(s) each action of the batch is: Q − V of a return, V − Q of a
        cost."""
        observations = batch["observations"]
        q, value = self.q(observations, batch["actions"]), self.value(observations)
        return self.sign * (q - value)

    def save(self, path: str | Path, /, **provenance: Any) -> None:
        """Store these critics in a new folder ``path``, as ``psec_jax.agents.save`` does."""
        agents.save(self, path, **provenance)


@struct.dataclass
class FeasibleFirst:
    """A scorer for best-of-N acting: of the feasible actions, Q_h(s, a) < 0, the best by
    ``among``; where none is feasible, the one with the least Q_h."""

    safety: Critics
    among: Critics

    @reprs.brief
    def __repr__(self):
        yield f"safety by {reprs.values(self.safety)}"
        yield f"among the feasible by {reprs.values(self.among)}"

    def __call__(self, observations: Observations, actions: Actions) -> Float[Array, "batch"]:
        margin = self.safety(observations, actions)
        # Below whatever a critic says, in the order of the margin.
        infeasible = 1e30 * (jnp.minimum(margin, 0.0) - 1)
        return jnp.where(margin > 0, self.among(observations, actions), infeasible)


@struct.dataclass
class CriticState:
    value: TrainState
    # The average of its parameters is the target network.
    q: TrainState


@struct.dataclass
class CriticLearner:
    """Double Q with target networks, and V by expectile regression (IQL; Kostrikov et al., 2022).

    V(s) goes to the ``expectile`` of the pessimistic target Q over the actions in the data, on
    the side that the objective calls better: 0.5 is the behavior's own value, towards 1 that of
    the best action seen. Q(s, a) goes to the objective's target with V(s'). ``ema_rate`` of the
    optimizer is the target networks' rate. V has Q's ``network`` unless it is given its own:
    PSEC's published code has ``value_network=Critic(input_norm=True)``.

    How far critics look ahead is bounded by the target networks: where every step rewards alike,
    n updates come to 1 − exp(−n · ema_rate · (1 − γ)) of the value. That is 12 % in 2500 updates
    at a rate of 0.005 and γ = 0.99, and 92 % in 50,000.
    """

    statistics: Statistics
    objective: Objective
    optimizer: AnyOptimizer = struct.field(pytree_node=False)
    expectile: float = struct.field(pytree_node=False, default=0.7)
    network: Critic = struct.field(pytree_node=False, default=Critic())
    ensemble: int = struct.field(pytree_node=False, default=2)
    value_network: Critic | None = struct.field(pytree_node=False, default=None)

    name = "critics"

    def __post_init__(self):
        object.__setattr__(self, "optimizer", optimizer_of(self.optimizer, TARGET_RATE))
        object.__setattr__(self, "expectile", python_number(self.expectile))
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be in (0, 1), not {self.expectile!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("observations", "actions", "next_observations", *self.objective.columns)

    def init(self, key: jax.Array, example: Batch) -> CriticState:
        value_key, q_key = jax.random.split(key)
        value_network = self.network if self.value_network is None else self.value_network
        value = value_network.init(value_key, example["observations"])["params"]
        q = q_ensemble(self.network, q_key, example, self.ensemble)
        return CriticState(
            TrainState.start(value, self.optimizer), TrainState.start(q, self.optimizer)
        )

    def update(
        self, state: CriticState, batch: Batch, key: jax.Array
    ) -> tuple[CriticState, dict[str, Array]]:
        del key
        observations, actions = batch["observations"], batch["actions"]
        critics = self.result(state)
        reached = critics.sign * critics.q(observations, actions)

        def value_loss(params):
            value = replace(critics, value_params=params).value(observations)
            return expectile_loss(reached - critics.sign * value, self.expectile).mean()

        value, value_metrics = descend(value_loss, state.value, self.optimizer)
        following = replace(critics, value_params=value.params).value(batch["next_observations"])
        target = self.objective.target(batch, following)

        def q_loss(params):
            qs = replace(critics, q_params=params).qs(observations, actions)
            return jnp.square(qs - target).mean()

        q, q_metrics = descend(q_loss, state.q, self.optimizer)
        metrics = {"value_loss": value_metrics["loss"], "q_loss": q_metrics["loss"]}
        metrics |= {"loss": value_metrics["loss"] + q_metrics["loss"], "value": following.mean()}
        return CriticState(value, q), metrics

    def result(self, state: CriticState) -> Critics:
        """V, and Q by its target networks."""
        return Critics(
            state.value.params,
            state.q.average,
            self.statistics,
            self.network,
            self.objective.greater_is_better,
            self.value_network,
        )


def q_ensemble(network: Critic, key: jax.Array, example: Batch, size: int) -> Params:
    """Fresh parameters of ``size`` Q networks, along a first axis, as ``Critics`` takes them."""
    inputs = example["observations"], example["actions"]
    return jax.vmap(lambda k: network.init(k, *inputs)["params"])(jax.random.split(key, size))


def expectile_loss(difference: Float[Array, "batch"], expectile: float) -> Float[Array, "batch"]:
    """|τ − 1[u < 0]| u²: the minimizer over m of E L(x − m) is the τ-expectile of x."""
    return jnp.where(difference < 0, 1 - expectile, expectile) * jnp.square(difference)
