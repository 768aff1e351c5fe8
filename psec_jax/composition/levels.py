"""The three levels at which skills are mixed: parameters (PSEC), noise (NSEC), actions (ASEC).

Weights mean the same at every level. With π₀ and k skills, the mixture of their k + 1 predictions
or actions x₀, x₁, …, x_k is

    x = x₀ + Σ_i w_i (x_i − x₀) = (1 − Σ_i w_i) x₀ + Σ_i w_i x_i,

the paper's Σ w_i x_i over π₀ and the skills with the weights summing to one. So zero weights are
π₀ and a one-hot vector is that skill as it was learnt, at all three levels alike, and one context
network fits them all. (The paper leaves open how π₀ enters at the noise and action levels.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from psec_jax.backbones import DiffusionBackbone
from psec_jax.policies import Policy


@dataclass(frozen=True)
class Level:
    """``loss(policy, batch, key, weights) -> (batch,)`` trains the weights;
    ``sample(policy, key, observations, weights) -> (batch, action)`` acts with them."""

    loss: Callable[[Policy, dict[str, Array], jax.Array, Array], Array]
    sample: Callable[[Policy, jax.Array, Array, Array], Array]


def blend(
    parts: Float[Array, "component batch dim"], weights: Float[Array, "batch skill"]
) -> Float[Array, "batch dim"]:
    """Mix what π₀ (first) and each skill gave."""
    base = parts[0]
    weights = jnp.broadcast_to(weights, (base.shape[0], parts.shape[0] - 1))
    return base + jnp.einsum("bk,kbd->bd", weights, parts[1:] - base)


def _alone(policy: Policy) -> Float[np.ndarray, "component skill"]:
    """Weights that leave π₀ alone, then each skill alone."""
    size = policy.bank.size
    return np.concatenate([np.zeros((1, size)), np.eye(size)]).astype(np.float32)


def _blended_noise(policy: Policy, weights: Array) -> Callable[..., Array]:
    def predict(*inputs: Array) -> Array:
        parts = jax.vmap(lambda alone: policy.predict(alone)(*inputs))(_alone(policy))
        return blend(parts, weights)

    return predict


def _noise_loss(policy, batch, key, weights):
    observations = policy.statistics.normalise(batch["observations"])
    predict = _blended_noise(policy, weights)
    return policy.backbone.loss(predict, observations, batch["actions"], key)


def _noise_sample(policy, key, observations, weights):
    normalised = policy.statistics.normalise(observations)
    return policy.backbone.sample(_blended_noise(policy, weights), key, normalised)


def _action_sample(policy, key, observations, weights):
    alone = _alone(policy)
    keys = jax.random.split(key, len(alone))
    parts = jax.vmap(lambda k, w: policy.sample(k, observations, w))(keys, alone)
    return blend(parts, weights)


def _action_loss(policy, batch, key, weights):
    mixed = _action_sample(policy, key, batch["observations"], weights)
    return jnp.sum(jnp.square(mixed - batch["actions"]), axis=-1)


LEVELS = {
    "parameter": Level(Policy.loss, Policy.sample),
    "noise": Level(_noise_loss, _noise_sample),
    "action": Level(_action_loss, _action_sample),
}


def check_level(level: str, policy: Policy) -> None:
    """Raise ``ValueError`` for an unknown level or one that the policy cannot be mixed at."""
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is unknown; expected one of {list(LEVELS)}")
    if policy.bank is None:
        raise ValueError("there is nothing to compose: the policy carries no bank of skills")
    if level == "noise" and not isinstance(policy.backbone, DiffusionBackbone):
        raise ValueError(
            "level 'noise' mixes noise predictions, which only a diffusion backbone makes; use "
            "'parameter' or 'action'"
        )
