"""Policies: a backbone, its parameters, the statistics of its observations, and its skills."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from psec_jax import agents, reprs
from psec_jax.acting import Actor, ComposedActor, Observations, Scorer, act
from psec_jax.backbones import Backbone, Batch, check_backbone
from psec_jax.errors import BaseMismatch
from psec_jax.fingerprints import backbone_to_dict, fingerprint, policy_tensors
from psec_jax.imports import is_ours
from psec_jax.parameters import Params, by_name
from psec_jax.settings import check_plain, integer_of, plain_settings, setting_names
from psec_jax.skills.bank import Bank
from psec_jax.skills.injection import inject, merge
from psec_jax.skills.layers import dense_layers
from psec_jax.skills.weights import Weights

__all__ = [
    "BestOf",
    "Policy",
    "Statistics",
    "act",
    "backbone_to_dict",
    "fingerprint",
    "policy_tensors",
]


@struct.dataclass
class Statistics:
    """The observation statistics that a policy normalizes with: mean and deviation, (obs,)."""

    mean: Float[Array, "observation"]
    std: Float[Array, "observation"]

    @classmethod
    def of(cls, observations: np.ndarray, floor: float = 1e-2) -> "Statistics":
        """From data (n, obs); deviations below ``floor`` are raised to it, so that a coordinate
        that hardly varies in the source data is not blown up in another task."""
        mean = np.mean(observations, axis=0, dtype=np.float64)
        std = np.maximum(np.std(observations, axis=0, dtype=np.float64), floor)
        return cls(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))

    @classmethod
    def identity(cls, size: int) -> "Statistics":
        return cls(jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32))

    def normalize(self, observations: Array) -> Array:
        return (observations - self.mean) / self.std

    @reprs.brief
    def __repr__(self):
        yield from reprs.stacked(self.mean, 1)
        yield f"observation {self.mean.shape[-1]}"
        yield reprs.values(self)


@struct.dataclass
class Policy:
    """A frozen policy, with or without a bank of skills.

    Observations go in as the environment gives them; actions come out in [−1, 1]. A pytree, so a
    policy may be an argument of any JAX transformation.
    """

    params: Params
    statistics: Statistics
    bank: Bank | None
    backbone: Backbone = struct.field(pytree_node=False)

    @classmethod
    def create(cls, backbone: Backbone, statistics: Statistics, key: jax.Array) -> "Policy":
        """A policy with fresh parameters.

        Warns once of kernels that no skill can adapt; raises ``ValueError`` naming a setting that
        cannot be stored, or a parameter that is not float32, and for a network that mixes the
        samples of a batch or needs more than its parameters.
        """
        check_backbone(backbone)
        backbone = plain_settings(backbone)
        _check_stored(backbone)
        statistics = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), statistics)
        example = _computed_in("float32", backbone.example(statistics.mean.shape[0]))
        params = _fresh_params(backbone.network, key, example)
        _check_float32(params, type(backbone.network).__name__)
        policy = cls(params, statistics, None, backbone)
        if not isinstance(key, jax.core.Tracer):  # Traced, only its shapes may be wanted.
            policy.dense_layers()
        return policy

    @reprs.brief
    def __repr__(self):
        yield from reprs.stacked(self.statistics.mean, 1)
        yield type(self.backbone).__name__
        yield f"observation {self.observation_size}, action {self.action_size}"
        yield reprs.parameters(self.params)
        if self.bank is not None:
            yield f"bank {reprs.listed(self.bank.names)} of {reprs.values(self.bank)}"
        yield reprs.fingerprint(self)

    @property
    def observation_size(self) -> int:
        return self.statistics.mean.shape[-1]

    @property
    def action_size(self) -> int:
        return self.backbone.action_size

    def act(
        self,
        key: jax.Array,
        observations: Observations,
        weights: Weights = None,
    ) -> Float[Array, "batch action"]:
        """Actions for a batch of observations, in one compiled call.

        ``weights`` mixes the bank's skills: (k,) or (batch, k), or by layer
        (``skills.weights``); None is weight 1 for each.
        """
        return act(self, key, observations, weights)

    def predict(
        self, weights: Weights = None, dropout: jax.Array | None = None
    ) -> Callable[..., Array]:
        """The network as a function of its inputs, with the bank mixed in by ``weights``.

        ``dropout`` is the random key that switches dropout on.
        """
        compute = getattr(self.backbone, "compute", "float32")
        params, bank = _computed_in(compute, (self.params, self.bank))
        network = inject(self.backbone.network, params, bank, weights, dropout)

        def predict(*inputs: Array) -> Array:
            return _computed_in("float32", network(*_computed_in(compute, inputs)))

        return predict

    def loss(
        self,
        batch: Batch,
        key: jax.Array,
        weights: Weights = None,
        dropout: jax.Array | None = None,
    ) -> Float[Array, "batch"]:
        """The backbone's imitation loss of each sample in ``batch``: observations, actions."""
        observations = self.statistics.normalize(batch["observations"])
        predict = self.predict(weights, dropout)
        return self.backbone.loss(predict, observations, batch["actions"], key)

    def sample(self, key: jax.Array, observations: Array, weights: Weights = None) -> Array:
        """``act`` without the edge check and compilation, for use inside other functions."""
        normalized = self.statistics.normalize(observations)
        return self.backbone.sample(self.predict(weights), key, normalized)

    def dense_layers(self) -> dict[str, tuple[int, int]]:
        """The path and kernel shape of every layer that a skill may adapt."""
        example = self.backbone.example(self.observation_size)
        return dense_layers(self.backbone.network, *example)

    def with_bank(self, bank: Bank | None) -> "Policy":
        """This policy carrying ``bank``; raises ``BaseMismatch`` for another base's skills, and
        ``ValueError`` for deltas of layers that carry none."""
        if bank is not None:
            base = fingerprint(self)
            if bank.base != base:
                raise BaseMismatch(f"the bank {list(bank.names)}", bank.base, "this policy", base)
            if wrong := sorted(bank.layers.keys() - self.dense_layers().keys()):
                raise ValueError(
                    f"the bank {list(bank.names)} adapts {wrong}, which carry no delta in this "
                    f"policy's network; it may adapt {sorted(self.dense_layers())}"
                )
        return dataclasses.replace(self, bank=bank)

    def merged(self, weights: Weights = None) -> "Policy":
        """A policy without a bank whose kernels include it at fixed ``weights``: (k,), or path →
        (k, m) by layer."""
        if self.bank is None:
            raise ValueError("this policy carries no skills to merge")
        return dataclasses.replace(self, params=merge(self.params, self.bank, weights), bank=None)

    def save(self, path: str | Path, /, **provenance: Any) -> None:
        """Store this policy in a new folder ``path``, as ``psec_jax.agents.save`` does."""
        agents.save(self, path, **provenance)


@struct.dataclass
class BestOf:
    """Best-of-N acting: of ``candidates`` samples, the one that ``scorer`` likes best.

    ``scorer(observations, actions) -> (batch,)`` must be a pytree: a ``flax.struct`` callable, or
    ``jax.tree_util.Partial`` around a function.
    """

    policy: Actor
    scorer: Scorer
    candidates: int = struct.field(pytree_node=False)

    def __post_init__(self):
        object.__setattr__(self, "candidates", integer_of("candidates", self.candidates))

    @reprs.brief
    def __repr__(self):
        yield f"{self.candidates} candidates of {type(self.policy).__name__}"
        yield f"observation {self.observation_size}, action {self.action_size}"
        yield f"scorer {type(self.scorer).__name__}"
        yield reprs.parameters(self)
        yield reprs.values(self)

    @property
    def observation_size(self) -> int:
        return self.policy.observation_size

    @property
    def action_size(self) -> int:
        return self.policy.action_size

    @property
    def names(self) -> tuple[str, ...]:
        """The skills of a composed policy."""
        return cast(ComposedActor, self.policy).names

    def weights(self, observations: Array) -> Weights:
        """α(s) of a composed policy."""
        return cast(ComposedActor, self.policy).weights(observations)

    def act(self, key: jax.Array, observations: Observations, weights: Weights = None) -> Array:
        return act(self, key, observations, weights)

    def sample(self, key: jax.Array, observations: Array, weights: Weights = None) -> Array:
        keys = jax.random.split(key, self.candidates)
        given = {} if weights is None else {"weights": weights}
        actions = jax.vmap(lambda k: self.policy.sample(k, observations, **given))(keys)
        scores = jax.vmap(self.scorer, (None, 0))(observations, actions)
        best = jnp.argmax(scores, axis=0)
        return jnp.take_along_axis(actions, best[None, :, None], axis=0)[0]

    def save(self, path: str | Path, /, **provenance: Any) -> None:
        """Store policy and scorer in a new folder ``path``, as ``psec_jax.agents.save`` does."""
        agents.save(self, path, **provenance)


@functools.partial(jax.jit, static_argnames="network")
def _fresh_params(network: nn.Module, key: jax.Array, example: tuple[Array, ...]) -> Params:
    return nn.unbox(network.init(key, *example)["params"])


def _check_stored(backbone: Backbone) -> None:
    """Ours are read from plain JSON; others are stored by their import path and settings."""
    kind = type(backbone).__name__
    parts = {kind: backbone, f"{kind}.network": backbone.network}
    for part_name, part in parts.items():
        for name in setting_names(part) if is_ours(type(part)) else ():
            if name != "network":
                check_plain(f"{part_name}.{name}", getattr(part, name))


def _check_float32(params: Params, network: str) -> None:
    for name, value in by_name(params).items():
        if value.dtype != jnp.float32:
            raise ValueError(
                f"parameter {name!r} of {network} is {value.dtype}, but parameters are float32: "
                "leave the layer's param_dtype at float32, and give self.param a dtype where "
                "jax_enable_x64 is set; the backbone's compute='bfloat16' computes in bfloat16"
            )


def _computed_in(kind: str, tree: Any) -> Any:
    cast = lambda a: a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a  # noqa: E731
    return jax.tree.map(cast, tree)
