"""The three levels at which skills are mixed: parameters (PSEC), noise (NSEC), actions (ASEC).

At the parameter level the bank's deltas are mixed inside one network. At the other two whole
policies are: π₀ gives x₀, each other policy x_i, and the mixture of their noise predictions or
actions is

    x = x₀ + Σ_i w_i (x_i − x₀) = (1 − Σ_i w_i) x₀ + Σ_i w_i x_i,

the paper's Σ w_i x_i with π₀ among the policies and the weights summing to one. (How π₀ enters is
left open there.) So weights mean the same at every level: zero weights are π₀, a one-hot vector is
that skill as learned, and one context network fits all three. Where ``base_enters`` is False
they are the published code's x = Σ_i w_i x_i, free and without π₀.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from psec_jax.policies import Policy


class Mixture(Protocol):
    """What is mixed: π₀ (with its bank at the parameter level) and the other policies."""

    base: Policy
    parts: tuple[Policy, ...]
    base_enters: bool


@dataclass(frozen=True)
class Level:
    """``loss(mixture, batch, key, weights) -> (batch,)`` trains the weights;
    ``sample(mixture, key, observations, weights) -> (batch, action)`` acts with them."""

    loss: Callable[[Mixture, dict[str, Array], jax.Array, Array], Array]
    sample: Callable[[Mixture, jax.Array, Array, Array], Array]


def blend(
    base: Float[Array, "batch dim"],
    parts: Float[Array, "part batch dim"],
    weights: Float[Array, "batch part"] | Float[Array, "part"],
) -> Float[Array, "batch dim"]:
    """Mix what π₀ gave and what each of the other policies gave."""
    weights = jnp.broadcast_to(weights, (base.shape[0], parts.shape[0]))
    return base + jnp.einsum("bk,kbd->bd", weights, parts - base)


def _mixed(mixture: Mixture, of: Callable[[int, Policy], Array], weights: Array) -> Array:
    """``of(0, π₀)`` and ``of(i, part i)``, mixed; π₀ is not asked where it does not enter."""
    parts = jnp.stack([of(index, part) for index, part in enumerate(mixture.parts, start=1)])
    base = of(0, mixture.base) if mixture.base_enters else jnp.zeros_like(parts[0])
    return blend(base, parts, weights)


def squared_error(actions: Array, batch: dict[str, Array]) -> Float[Array, "batch"]:
    """‖a − a*‖² of each sample, with the actions a* of the data."""
    return jnp.sum(jnp.square(actions - batch["actions"]), axis=-1)


def _parameter_loss(mixture, batch, key, weights):
    return mixture.base.loss(batch, key, weights)


def _parameter_sample(mixture, key, observations, weights):
    return mixture.base.sample(key, observations, weights)


def _blended_noise(mixture, raw_observations, weights):
    def denoise(policy: Policy, noisy: tuple[Array, ...]) -> Array:
        return policy.predict()(*noisy, policy.statistics.normalize(raw_observations))

    def predict(*inputs: Array) -> Array:
        return _mixed(mixture, lambda _, policy: denoise(policy, inputs[:-1]), weights)

    return predict


def _noise_loss(mixture, batch, key, weights):
    observations = batch["observations"]
    predict = _blended_noise(mixture, observations, weights)
    return mixture.base.backbone.loss(predict, observations, batch["actions"], key)


def _noise_sample(mixture, key, observations, weights):
    predict = _blended_noise(mixture, observations, weights)
    return mixture.base.backbone.sample(predict, key, observations)


def _action_sample(mixture, key, observations, weights):
    keys = jax.random.split(key, len(mixture.parts) + 1)
    return _mixed(mixture, lambda i, policy: policy.sample(keys[i], observations), weights)


def _action_loss(mixture, batch, key, weights):
    sampled = _action_sample(mixture, key, batch["observations"], weights)
    return squared_error(sampled, batch)


LEVELS = {
    "parameter": Level(_parameter_loss, _parameter_sample),
    "noise": Level(_noise_loss, _noise_sample),
    "action": Level(_action_loss, _action_sample),
}


def check_level(level: str, policies: tuple[Policy, ...]) -> None:
    """Raise ``ValueError`` for an unknown level, or one that ``policies`` cannot be mixed at."""
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is unknown; expected one of {list(LEVELS)}")
    if level != "noise":
        return
    processes = [getattr(policy.backbone, "noise_process", None) for policy in policies]
    if None in processes:
        kind = type(policies[processes.index(None)].backbone).__name__
        raise ValueError(
            "level 'noise' mixes noise predictions, which only a diffusion backbone makes; use "
            f"'parameter' or 'action', or give {kind} a noise_process (psec_jax.backbones) if "
            "what its network predicts can be mixed"
        )
    if any(process != processes[0] for process in processes):
        raise ValueError(
            "level 'noise' needs one noise schedule, but the policies have "
            f"{sorted(set(map(str, processes)))}"
        )
