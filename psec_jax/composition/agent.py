"""A policy whose skills are mixed by weights that follow from the state."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from psec_jax import agents, reprs
from psec_jax.acting import Observations, act
from psec_jax.backbones import Batch
from psec_jax.composition.levels import Level, level_of
from psec_jax.networks import ByLayer, ConstantWeights
from psec_jax.parameters import Params
from psec_jax.policies import Policy
from psec_jax.skills.weights import Weights, check_shared, is_fixed, samples


@struct.dataclass
class ComposedPolicy:
    """π₀ and k skills under a context network (or constant weights), at one level.

    Weights are computed once for an observation and held through the denoising steps. ``base``
    carries the bank at the parameter level; at the others ``parts`` are the k policies that are
    mixed with it (see ``composition.levels``).
    """

    base: Policy
    parts: tuple[Policy, ...]
    context_params: Params
    context: nn.Module = struct.field(pytree_node=False)
    level: Level = struct.field(pytree_node=False)
    names: tuple[str, ...] = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls, policy: Policy, context: nn.Module, level: Level | str, key: jax.Array
    ) -> "ComposedPolicy":
        """The bank of ``policy`` at any level, or its name, under a fresh context network.

        Where the level mixes policies, each skill, merged into π₀, is one of them. Raises
        ``ValueError`` if the policy carries no bank, the level does not fit, or the weights that
        the context gives do not.
        """
        level, bank = level_of(level), policy.bank
        if bank is None:
            raise ValueError("there is nothing to compose: the policy carries no bank of skills")
        if not level.mixes_policies:
            return cls._start(policy, (), context, level, bank.names, key)
        alone = np.eye(bank.size, dtype=np.float32)
        parts = tuple(policy.merged(weights) for weights in alone)
        base = dataclasses.replace(policy, bank=None)
        return cls._start(base, parts, context, level, bank.names, key)

    @classmethod
    def of_policies(
        cls,
        base: Policy,
        parts: Sequence[Policy],
        context: nn.Module,
        level: Level | str,
        key: jax.Array,
        names: Sequence[str] | None = None,
    ) -> "ComposedPolicy":
        """Policies that share no parameters, at a level that mixes policies.

        Each normalizes observations by its own statistics; weights follow from observations
        normalized by those of ``base``.
        """
        level = level_of(level)
        if not level.mixes_policies:
            raise ValueError("separate policies share no kernels; use level 'noise' or 'action'")
        names = tuple(f"policy-{i}" for i in range(len(parts))) if names is None else tuple(names)
        if len(names) != len(parts):
            raise ValueError(f"{len(names)} names {list(names)} for {len(parts)} policies")
        return cls._start(base, tuple(parts), context, level, names, key)

    @classmethod
    def _start(cls, base, parts, context, level, names, key):
        level.check((base, *parts))
        sizes = {(p.observation_size, p.action_size) for p in (base, *parts)}
        if len(sizes) > 1:
            raise ValueError(
                f"policies of different (observation, action) sizes cannot be mixed: "
                f"{sorted(sizes)}"
            )
        params = context.init(key, jnp.zeros((1, base.observation_size))).get("params", {})
        composed = cls(base, parts, params, context, level, names)
        composed._check_context()
        return composed

    @reprs.brief
    def __repr__(self):
        yield from reprs.stacked(self.base.statistics.mean, 1)
        yield f"{self.level!r} of {reprs.listed(self.names)}"
        yield f"weights by {type(self.context).__name__}"
        yield f"observation {self.observation_size}, action {self.action_size}"
        yield reprs.parameters(self)
        yield f"base of {reprs.fingerprint(self.base)}"
        yield reprs.values(self)

    @property
    def observation_size(self) -> int:
        return self.base.observation_size

    @property
    def action_size(self) -> int:
        return self.base.action_size

    @property
    def has_fixed_weights(self) -> bool:
        """Whether the weights are the same in every state."""
        return is_fixed(self._example_weights())

    def weights(self, observations: Float[Array, "batch observation"]) -> Weights:
        """α(s) for raw observations, as the context gives them: (batch, skill) from a context
        network, without the batch axis where they are constant, by layer from ``ByLayer``."""
        normalized = self.base.statistics.normalize(observations)
        return cast(Weights, self.context.apply({"params": self.context_params}, normalized))

    def act(
        self, key: jax.Array, observations: Observations, weights: Weights = None
    ) -> Float[Array, "batch action"]:
        """Actions for a batch of observations; given ``weights`` replace the context network's."""
        return act(self, key, observations, weights)

    def sample(self, key: jax.Array, observations: Array, weights: Weights = None) -> Array:
        if weights is None:
            weights = self.weights(observations)
        else:
            self._check(weights)
        return self.level.sample(self, key, observations, weights)

    def loss(self, batch: Batch, key: jax.Array) -> Float[Array, "batch"]:
        """The level's loss of each sample, as a function of the context parameters."""
        weights = self.weights(batch["observations"])
        return self.level.loss(self, batch, key, weights)

    def with_context(self, context_params: Params) -> "ComposedPolicy":
        return dataclasses.replace(self, context_params=context_params)

    def with_fixed(self, weights: Array | Mapping[str, Array]) -> "ComposedPolicy":
        """The same mixture under given constant ``weights``: (k,), or path → (k, m) by layer."""
        self._check(weights)
        if not is_fixed(weights):
            raise ValueError(
                f"fixed weights must have shape ({len(self.names)},), or ({len(self.names)}, "
                f"blocks) by layer, for {list(self.names)}; these vary by sample or layer input"
            )
        context = ConstantWeights(len(self.names))
        if not isinstance(weights, Mapping):
            params = {"weights": jnp.asarray(weights, jnp.float32)}
            return dataclasses.replace(self, context=context, context_params=params)
        by_layer = ByLayer.of(context, {path: np.shape(w)[-1] for path, w in weights.items()})
        mixtures = jnp.concatenate([jnp.asarray(w, jnp.float32).T for w in weights.values()])
        params = {"source": {"weights": mixtures}}
        return dataclasses.replace(self, context=by_layer, context_params=params)

    def _example_weights(self) -> Weights:
        """In two states."""
        return self.weights(jnp.zeros((2, self.observation_size)))

    def _check_context(self) -> None:
        kind, weights = type(self.context).__name__, self._example_weights()
        try:
            self._check(weights)
        except ValueError as error:
            raise ValueError(f"the context {kind} does not fit: {error}") from None
        if (size := samples(weights)) not in (None, 2):
            raise ValueError(
                f"the context {kind} gives weights for {size} samples to 2 observations; expected "
                "one mixture for each, or weights without a batch axis"
            )

    def _check(self, weights: Weights) -> None:
        """Raise ``ValueError`` unless ``weights`` are such that the level can mix by."""
        if not self.level.mixes_policies and self.base.bank is not None:
            self.base.bank.gains(weights)
        elif callable(weights) or isinstance(weights, Mapping):
            given = "a function" if callable(weights) else "by layer"
            raise ValueError(
                f"{type(self.level).__name__} mixes whole policies, which have no layers in "
                f"common, and these weights are {given}; give ({len(self.names)},) or (batch, "
                f"{len(self.names)}), or use level 'parameter'"
            )
        elif weights is not None:
            check_shared(weights, self.names)

    def save(self, path: str | Path, /, **provenance: Any) -> None:
        """Store this mixture in a new folder ``path``, as ``psec_jax.agents.save`` does."""
        agents.save(self, path, **provenance)
