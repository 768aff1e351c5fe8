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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from psec_jax.backbones import Batch
from psec_jax.policies import Policy
from psec_jax.settings import is_frozen_dataclass, plain_settings
from psec_jax.skills.weights import Weights


class Mixture(Protocol):
    """What is mixed: π₀ (with its bank where deltas are mixed) and the other policies."""

    @property
    def base(self) -> Policy: ...

    @property
    def parts(self) -> tuple[Policy, ...]: ...


class Level(Protocol):
    """Where skills are mixed, and by what loss weights are trained there: a frozen dataclass.

    Where ``mixes_policies`` is True each skill, merged into π₀, is one of the mixture's ``parts``,
    and weights are (k,) or (batch, k). Where it is False π₀ carries the bank, and they are
    whatever ``skills.weights`` has.
    """

    mixes_policies: ClassVar[bool]

    def check(self, policies: Sequence[Policy]) -> None:
        """Raise ``ValueError`` if these, π₀ first, cannot be mixed at this level."""

    def loss(
        self, mixture: Mixture, batch: Batch, key: jax.Array, weights: Weights
    ) -> Float[Array, "batch"]:
        """What the weights are trained by, for each sample."""
        ...

    def sample(
        self, mixture: Mixture, key: jax.Array, observations: Array, weights: Weights
    ) -> Float[Array, "batch action"]:
        """Actions of the mixture in raw observations."""
        ...


@dataclass(frozen=True)
class ParameterLevel:
    """The bank's deltas are mixed within π₀'s network (PSEC)."""

    mixes_policies: ClassVar[bool] = False

    def check(self, policies: Sequence[Policy]) -> None:
        pass

    def loss(self, mixture, batch, key, weights):
        return mixture.base.loss(batch, key, weights)

    def sample(self, mixture, key, observations, weights):
        return mixture.base.sample(key, observations, weights)


@dataclass(frozen=True)
class NoiseLevel:
    """What the policies' networks predict is mixed at each step of sampling (NSEC).

    ``trained_by`` ``denoising`` is the backbone's loss of the mixed prediction; ``actions`` is
    ‖a − a*‖² of the actions that the mixture samples, as in the published code.
    """

    base_enters: bool = True
    trained_by: Literal["denoising", "actions"] = "denoising"

    mixes_policies: ClassVar[bool] = True

    def __post_init__(self):
        if self.trained_by not in ("denoising", "actions"):
            raise ValueError(
                f"trained_by {self.trained_by!r} is unknown; use 'denoising' or 'actions'"
            )

    def check(self, policies: Sequence[Policy]) -> None:
        processes = [getattr(policy.backbone, "noise_process", None) for policy in policies]
        if None in processes:
            kind = type(policies[processes.index(None)].backbone).__name__
            raise ValueError(
                "level 'noise' mixes noise predictions, which only a diffusion backbone makes; "
                f"use 'parameter' or 'action', or give {kind} a noise_process "
                "(psec_jax.backbones) if what its network predicts can be mixed"
            )
        if any(process != processes[0] for process in processes):
            raise ValueError(
                "level 'noise' needs one noise schedule, but the policies have "
                f"{sorted(set(map(str, processes)))}"
            )

    def loss(self, mixture, batch, key, weights):
        observations, actions = batch["observations"], batch["actions"]
        if self.trained_by == "actions":
            return squared_error(self.sample(mixture, key, observations, weights), batch)
        predict = self._predict(mixture, observations, weights)
        return mixture.base.backbone.loss(predict, observations, actions, key)

    def sample(self, mixture, key, observations, weights):
        predict = self._predict(mixture, observations, weights)
        return mixture.base.backbone.sample(predict, key, observations)

    def _predict(self, mixture, raw_observations, weights):
        def denoise(policy: Policy, noisy: tuple[Array, ...]) -> Array:
            return policy.predict()(*noisy, policy.statistics.normalize(raw_observations))

        def predict(*inputs: Array) -> Array:
            def of(_, policy):
                return denoise(policy, inputs[:-1])

            return _mixed(mixture, of, weights, self.base_enters)

        return predict


@dataclass(frozen=True)
class ActionLevel:
    """The policies' actions are mixed (ASEC); the weights are trained by ‖a − a*‖²."""

    base_enters: bool = True

    mixes_policies: ClassVar[bool] = True

    def check(self, policies: Sequence[Policy]) -> None:
        pass

    def loss(self, mixture, batch, key, weights):
        return squared_error(self.sample(mixture, key, batch["observations"], weights), batch)

    def sample(self, mixture, key, observations, weights):
        keys = jax.random.split(key, len(mixture.parts) + 1)

        def of(index, policy):
            return policy.sample(keys[index], observations)

        return _mixed(mixture, of, weights, self.base_enters)


LEVELS: dict[str, Level] = {
    "parameter": ParameterLevel(),
    "noise": NoiseLevel(),
    "action": ActionLevel(),
}


def level_of(level: Level | str) -> Level:
    """A level by its name, or as it is; raises ``ValueError`` for an unknown name and
    ``TypeError`` for what is no level, naming what it lacks."""
    if isinstance(level, str):
        if level not in LEVELS:
            raise ValueError(f"level {level!r} is unknown; expected one of {list(LEVELS)}")
        return LEVELS[level]
    kind, needed = type(level).__name__, ("mixes_policies", "check", "loss", "sample")
    if lacking := [name for name in needed if not hasattr(level, name)]:
        raise TypeError(
            f"{kind} is no level: it lacks {lacking}; a level has {needed}, or is one of the "
            f"names {list(LEVELS)}"
        )
    if not is_frozen_dataclass(type(level)):
        raise TypeError(
            f"the level {kind} must be a frozen dataclass, so that it can be compiled into "
            "programs and stored; decorate it with @dataclass(frozen=True)"
        )
    return plain_settings(level)


def blend(
    base: Float[Array, "batch dim"],
    parts: Float[Array, "part batch dim"],
    weights: Float[Array, "batch part"] | Float[Array, "part"],
) -> Float[Array, "batch dim"]:
    """Mix what π₀ gave and what each of the other policies gave."""
    weights = jnp.broadcast_to(weights, (base.shape[0], parts.shape[0]))
    return base + jnp.einsum("bk,kbd->bd", weights, parts - base)


def squared_error(actions: Array, batch: Batch) -> Float[Array, "batch"]:
    """‖a − a*‖² of each sample, with the actions a* of the data."""
    return jnp.sum(jnp.square(actions - batch["actions"]), axis=-1)


def _mixed(
    mixture: Mixture, of: Callable[[int, Policy], Array], weights: Array, base_enters: bool
) -> Array:
    """``of(0, π₀)`` and ``of(i, part i)``, mixed; π₀ is not asked where it does not enter."""
    parts = jnp.stack([of(index, part) for index, part in enumerate(mixture.parts, start=1)])
    base = of(0, mixture.base) if base_enters else jnp.zeros_like(parts[0])
    return blend(base, parts, weights)
