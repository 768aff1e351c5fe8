"""A policy whose skills are mixed by weights that follow from the state."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from psec_jax import agents
from psec_jax.composition.levels import LEVELS, check_level
from psec_jax.networks import ConstantWeights
from psec_jax.policies import Policy, act


@struct.dataclass
class ComposedPolicy:
    """π₀ and k skills under a context network (or constant weights), at one level.

    Weights are computed once for an observation and held through the denoising steps. ``base``
    carries the bank at the parameter level; at the others ``parts`` are the k policies that are
    mixed with it, or without it where ``base_enters`` is False (see ``composition.levels``).
    """

    base: Policy
    parts: tuple[Policy, ...]
    context_params: Any
    context: nn.Module = struct.field(pytree_node=False)
    level: str = struct.field(pytree_node=False)
    names: tuple[str, ...] = struct.field(pytree_node=False)
    base_enters: bool = struct.field(pytree_node=False, default=True)

    @classmethod
    def create(
        cls,
        policy: Policy,
        context: nn.Module,
        level: str,
        key: jax.Array,
        base_enters: bool = True,
    ) -> "ComposedPolicy":
        """The bank of ``policy`` at any level, under a fresh context network.

        At the noise and action levels each skill, merged into π₀, is one of the mixed policies.
        Raises ``ValueError`` if the policy carries no bank, the level does not fit, or the
        context network's width is not the bank's.
        """
        bank = policy.bank
        if bank is None:
            raise ValueError("there is nothing to compose: the policy carries no bank of skills")
        if level == "parameter":
            if not base_enters:
                raise ValueError(
                    "at level 'parameter' π₀'s kernels always enter; base_enters=False is for "
                    "levels 'noise' and 'action'"
                )
            return cls._start(policy, (), context, level, bank.names, key, True)
        alone = np.eye(bank.size, dtype=np.float32)
        parts = tuple(policy.merged(weights) for weights in alone)
        base = dataclasses.replace(policy, bank=None)
        return cls._start(base, parts, context, level, bank.names, key, base_enters)

    @classmethod
    def of_policies(
        cls,
        base: Policy,
        parts: Sequence[Policy],
        context: nn.Module,
        level: str,
        key: jax.Array,
        names: Sequence[str] | None = None,
        base_enters: bool = True,
    ) -> "ComposedPolicy":
        """Policies that share no parameters, mixed at the noise or action level.

        Each normalizes observations by its own statistics; weights follow from observations
        normalized by those of ``base``.
        """
        if level == "parameter":
            raise ValueError("separate policies share no kernels; use level 'noise' or 'action'")
        names = tuple(f"policy-{i}" for i in range(len(parts))) if names is None else tuple(names)
        if len(names) != len(parts):
            raise ValueError(f"{len(names)} names {list(names)} for {len(parts)} policies")
        return cls._start(base, tuple(parts), context, level, names, key, base_enters)

    @classmethod
    def _start(cls, base, parts, context, level, names, key, base_enters):
        check_level(level, (base, *parts))
        sizes = {(p.observation_size, p.action_size) for p in (base, *parts)}
        if len(sizes) > 1:
            raise ValueError(
                f"policies of different (observation, action) sizes cannot be mixed: "
                f"{sorted(sizes)}"
            )
        example = jnp.zeros((1, base.observation_size))
        params = context.init(key, example).get("params", {})
        composed = cls(base, parts, params, context, level, names, base_enters)
        shape = jax.eval_shape(composed.weights, example).shape
        if shape != (1, len(names)):
            raise ValueError(
                f"the context network gives weights of shape {shape} for one observation, but "
                f"there are {len(names)} skill(s) to mix: {list(names)}"
            )
        return composed

    @property
    def observation_size(self) -> int:
        return self.base.observation_size

    @property
    def action_size(self) -> int:
        return self.base.action_size

    def weights(
        self, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch skill"]:
        """α(s) for raw observations."""
        normalized = self.base.statistics.normalize(observations)
        return self.context.apply({"params": self.context_params}, normalized)

    def act(
        self, key: jax.Array, observations: Array, weights: Array | None = None
    ) -> Float[Array, "batch action"]:
        """Actions for a batch of observations; given ``weights`` replace the context network's."""
        return act(self, key, observations, weights)

    def sample(self, key: jax.Array, observations: Array, weights: Array | None = None) -> Array:
        if weights is None:
            weights = self.weights(observations)
        elif jnp.shape(weights)[-1:] != (len(self.names),):
            raise ValueError(
                f"weights of shape {jnp.shape(weights)} do not fit {len(self.names)} skill(s) "
                f"{list(self.names)}; expected ({len(self.names)},) or "
                f"(batch, {len(self.names)})"
            )
        return LEVELS[self.level].sample(self, key, observations, weights)

    def loss(self, batch: dict[str, Array], key: jax.Array) -> Float[Array, "batch"]:
        """The level's loss of each sample, as a function of the context parameters."""
        weights = self.weights(batch["observations"])
        return LEVELS[self.level].loss(self, batch, key, weights)

    def with_context(self, context_params: Any) -> "ComposedPolicy":
        return dataclasses.replace(self, context_params=context_params)

    def with_fixed(self, weights: Array) -> "ComposedPolicy":
        """The same mixture under given constant ``weights`` (k,)."""
        if jnp.shape(weights) != (len(self.names),):
            raise ValueError(
                f"fixed weights must have shape ({len(self.names)},) for {list(self.names)}, not "
                f"{jnp.shape(weights)}"
            )
        params = {"weights": jnp.asarray(weights, jnp.float32)}
        context = ConstantWeights(len(self.names))
        return dataclasses.replace(self, context=context, context_params=params)

    def save(self, path: str | Path, /, **provenance: Any) -> None:
        """Store this mixture in a new folder ``path``, as ``psec_jax.agents.save`` does."""
        agents.save(self, path, **provenance)
