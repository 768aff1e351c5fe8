"""Acting: what an agent is to whoever evaluates it, and the one compiled call in which it acts."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from psec_jax.parameters import classes
from psec_jax.skills.weights import Weights, samples

# As an environment gives them.
Observations = Float[Array, "batch observation"] | Float[np.ndarray, "batch observation"]


class Actor(Protocol):
    """What acts, a pytree: ``Policy``, ``ComposedPolicy``, ``BestOf``, or one of your own."""

    @property
    def observation_size(self) -> int: ...

    @property
    def action_size(self) -> int: ...

    def sample(
        self, key: jax.Array, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch action"]:
        """Actions in [−1, 1] for observations as the environment gives them."""
        ...


class ComposedActor(Actor, Protocol):
    """An actor that mixes the skills ``names`` by weights of the state."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def weights(self, observations: Float[Array, "batch observation"]) -> Weights: ...


class Scorer(Protocol):
    """Says how good actions are, greater being better; a pytree, such as ``Critics``."""

    def __call__(
        self,
        observations: Float[Array, "batch observation"],
        actions: Float[Array, "batch action"],
        /,
    ) -> Float[Array, "batch"]: ...


def act(
    policy: Actor, key: jax.Array, observations: Observations, weights: Weights = None
) -> Float[Array, "batch action"]:
    """``policy.sample`` compiled, behind a check of the shapes that enter.

    ``policy.sample`` must take ``weights`` too. Raises ``ValueError`` unless ``observations`` is
    (batch, observation_size) and ``weights``, where they are by sample, are for as many samples.
    """
    shape = np.shape(observations)
    if len(shape) != 2 or shape[1] != policy.observation_size:
        raise ValueError(
            f"observations of shape {shape} do not fit a policy of {policy.observation_size} "
            f"observation dimensions; expected (batch, {policy.observation_size})"
        )
    if (size := samples(weights)) not in (None, shape[0]):
        raise ValueError(
            f"weights for {size} samples do not fit a batch of {shape[0]} observations"
        )
    if callable(weights) and jax.tree_util.all_leaves([weights]):
        weights = jax.tree_util.Partial(weights)
    return _act(policy, key, observations, weights, kind=classes((policy, weights)))


@functools.partial(jax.jit, static_argnames="kind")
def _act(policy, key, observations, weights, kind):
    del kind
    return policy.sample(key, jnp.asarray(observations, jnp.float32), weights)
