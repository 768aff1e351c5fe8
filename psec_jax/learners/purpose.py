"""What a policy is for: a model of its own task's reward, learned from its own data."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from psec_jax import agents, reprs
from psec_jax.backbones import Batch
from psec_jax.data.dataset import TransitionDataset
from psec_jax.learners.optimizer import AnyOptimizer, TrainState, descend
from psec_jax.networks import Critic
from psec_jax.parameters import Params
from psec_jax.policies import Statistics

BINS = 10


@struct.dataclass
class Purpose:
    """r̂(s), the reward that a policy's own task gives in raw observations, or its value.

    ``usual`` is the median of what it was learned from: the level at which all is well.
    """

    params: Params
    usual: Float[Array, ""]
    statistics: Statistics
    network: Critic = struct.field(pytree_node=False)

    @reprs.brief
    def __repr__(self):
        yield from reprs.stacked(self.statistics.mean, 1)
        yield f"observation {self.statistics.mean.shape[-1]}"
        yield reprs.parameters(self.params)
        yield reprs.values(self)

    def reward(self, observations: Float[Array, "batch observation"]) -> Float[Array, "batch"]:
        normalized = self.statistics.normalize(observations)
        return cast(Array, self.network.apply({"params": self.params}, normalized))

    def save(self, path: str | Path, /, **provenance: Any) -> None:
        """Store this purpose in a new folder ``path``, as ``psec_jax.agents.save`` does."""
        agents.save(self, path, **provenance)


@struct.dataclass
class PurposeLearner:
    """Regression of the reward on the state, where each level of reward counts alike.

    A policy that masters its task rarely sees what goes wrong, and that is what the model is for:
    so a sample's squared error is weighed by how rare its reward is, in ``len(weights)`` equal
    ranges from the least reward of the data to the greatest.
    """

    statistics: Statistics
    edges: Float[Array, "inner"]
    weights: Float[Array, "bin"]
    usual: Float[Array, ""]
    optimizer: AnyOptimizer = struct.field(pytree_node=False)
    network: Critic = struct.field(pytree_node=False, default=Critic())

    name = "purpose"
    columns = ("observations", "rewards")

    @classmethod
    def of(
        cls, data: TransitionDataset, statistics: Statistics, optimizer: AnyOptimizer
    ) -> "PurposeLearner":
        """Raises ``ValueError`` where the data have no rewards, the same everywhere, or a usual
        one that is not positive."""
        rewards = data.columns(["rewards"])["rewards"]
        if np.ptp(rewards) == 0:
            raise ValueError(
                f"the reward is {rewards[0]:g} in all of these data, which say nothing of what "
                "their policy is for; use data in which it varies"
            )
        usual = np.median(rewards)
        if not usual > 0:
            raise ValueError(
                f"the usual reward of these data is {usual:g}, of which no share can be taken; "
                "shift the rewards so that a state in which all is well has a positive one"
            )
        edges = np.linspace(rewards.min(), rewards.max(), BINS + 1)[1:-1]
        counts = np.bincount(np.digitize(rewards, edges), minlength=BINS)
        filled = counts > 0
        weights = np.where(filled, len(rewards) / (filled.sum() * np.maximum(counts, 1)), 0.0)
        return cls(
            statistics,
            jnp.asarray(edges, jnp.float32),
            jnp.asarray(weights, jnp.float32),
            jnp.asarray(usual, jnp.float32),
            optimizer,
        )

    def init(self, key: jax.Array, example: Batch) -> TrainState:
        params = self.network.init(key, example["observations"])["params"]
        return TrainState.start(params, self.optimizer)

    def update(
        self, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, Array]]:
        del key
        weights = self.weights[jnp.digitize(batch["rewards"], self.edges)]

        def loss(params):
            model = Purpose(params, self.usual, self.statistics, self.network)
            errors = model.reward(batch["observations"]) - batch["rewards"]
            return jnp.mean(weights * jnp.square(errors))

        return descend(loss, state, self.optimizer)

    def result(self, state: TrainState) -> Purpose:
        """With the averaged parameters."""
        return Purpose(state.average, self.usual, self.statistics, self.network)


def rewards_ahead(data: TransitionDataset, discount: float) -> TransitionDataset:
    """``data`` with the average reward from here on, (1 − γ) Σ γᵗ rₜ, in place of each reward.

    After a termination rewards are 0; where a trajectory was merely cut off, its last reward goes
    on. Raises ``ValueError`` unless γ, the ``discount``, is in [0, 1).
    """
    if not 0 <= discount < 1:
        raise ValueError(f"the discount must be at least 0 and below 1, not {discount!r}")
    rewards = data.columns(["rewards"])["rewards"].astype(np.float64)
    ahead, following = np.empty_like(rewards), 0.0
    last = np.zeros(len(rewards), bool)
    last[data.ends - 1] = True
    for index in reversed(range(len(rewards))):
        if last[index]:
            following = 0.0 if data.terminations[index] else rewards[index]
        following = (1 - discount) * rewards[index] + discount * following
        ahead[index] = following
    return dataclasses.replace(data, rewards=ahead)
