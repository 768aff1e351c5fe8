"""Skills and banks of skills."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, UInt8

from psec_jax import reprs
from psec_jax.errors import BaseMismatch
from psec_jax.settings import integer_of, python_number
from psec_jax.skills.deltas import Delta, bundled, fresh_full, fresh_low_rank
from psec_jax.skills.weights import Weights, WeightsByLayer, by_layer


@dataclass(frozen=True)
class Adapter:
    """What shape a skill's deltas have.

    ``scale`` multiplies every delta; it is the paper's α (16 at rank 8), with no division by the
    rank, so PEFT's ``lora_alpha`` is ``scale * rank``. ``targets`` is a regular expression that a
    dense layer's whole path must match, e.g. ``block_.*``; the default leaves the time embedding
    of a denoiser alone.
    """

    kind: Literal["low_rank", "full"] = "low_rank"
    rank: int = 8
    scale: float = 16.0
    targets: str = r"(?!time/).*"

    def __post_init__(self):
        for name in ("kind", "targets"):
            object.__setattr__(self, name, python_number(getattr(self, name)))
        if self.kind not in ("low_rank", "full"):
            raise ValueError(f"adapter kind {self.kind!r} is unknown; use 'low_rank' or 'full'")
        object.__setattr__(self, "rank", integer_of("adapter rank", self.rank))
        scale = python_number(self.scale)
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not 0 < scale < float("inf"):
            raise ValueError(f"adapter scale must be above 0, not {scale!r}, and finite")
        object.__setattr__(self, "scale", float(scale))
        if not isinstance(self.targets, str):
            raise ValueError(f"adapter targets must be a string, not {self.targets!r}")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(
                f"adapter targets {self.targets!r} is not a regular expression: {error}"
            ) from None

    def fresh(self, key: jax.Array, layers: Mapping[str, tuple[int, int]]) -> dict[str, Delta]:
        """Deltas that add exactly zero to each of ``layers`` (path → kernel shape) that match."""
        chosen = {path: s for path, s in layers.items() if re.fullmatch(self.targets, path)}
        if not chosen:
            raise ValueError(
                f"adapter targets {self.targets!r} match none of the dense layers {sorted(layers)}"
            )
        deltas = {}
        for path, layer_key in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
            if self.kind == "low_rank":
                deltas[path] = fresh_low_rank(layer_key, chosen[path], self.rank)
            else:
                deltas[path] = fresh_full(layer_key, chosen[path])
        return deltas


@dataclass(frozen=True)
class Skill:
    """What has been learned on top of one base policy.

    ``deltas`` maps the path of each adapted dense layer to the skill's own delta; ``base`` is the
    fingerprint of the policy it belongs to; ``provenance`` is free-form JSON data.
    """

    deltas: Mapping[str, Delta]
    adapter: Adapter
    base: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @reprs.brief
    def __repr__(self):
        yield f"{self.adapter.kind} of {len(self.deltas)} layers"
        if self.adapter.kind == "low_rank":
            yield f"rank {self.adapter.rank}"
        yield f"scale {self.adapter.scale:g}"
        yield reprs.parameters(dict(self.deltas))
        yield f"base {reprs.short(self.base)}"
        yield reprs.values(dict(self.deltas))

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(dict(self.deltas)))


@struct.dataclass
class Bank:
    """k skills of one base policy, ready to be mixed by k weights at every dense layer."""

    layers: dict[str, tuple[Delta, ...]]
    scales: Float[Array, "skill"]
    # As letters' numbers: a program is compiled once for the banks of all base policies.
    letters: UInt8[Array, "letter"]
    names: tuple[str, ...] = struct.field(pytree_node=False)

    @reprs.brief
    def __repr__(self):
        yield from reprs.stacked(self.scales, 1)
        yield reprs.listed(self.names)
        yield f"{len(self.layers)} layers"
        yield reprs.parameters(self.layers)
        yield reprs.values(self)

    @property
    def base(self) -> str:
        """The fingerprint of the policy that the skills belong to."""
        return np.asarray(self.letters).tobytes().decode()

    @classmethod
    def of(cls, skills: Mapping[str, Skill]) -> "Bank":
        """Lay named skills side by side; raises ``BaseMismatch`` if their bases differ."""
        if not skills:
            raise ValueError("a bank needs at least one skill")
        bases = {name: skill.base for name, skill in skills.items()}
        first, base = next(iter(bases.items()))
        for name, other in bases.items():
            if other != base:
                raise BaseMismatch(f"skill {name!r}", other, f"the base of skill {first!r}", base)
        paths = dict.fromkeys(path for skill in skills.values() for path in skill.deltas)
        layers = {
            path: bundled([skill.deltas.get(path) for skill in skills.values()]) for path in paths
        }
        scales = jnp.array([skill.adapter.scale for skill in skills.values()], jnp.float32)
        letters = jnp.array(list(base.encode()), jnp.uint8)
        return cls(layers, scales, letters, tuple(skills))

    def select(self, names: Sequence[str]) -> "Bank":
        """The bank of these skills alone, in this order; raises ``KeyError`` for one that is not
        here."""
        if unknown := [name for name in names if name not in self.names]:
            raise KeyError(f"no skill {unknown[0]!r} in the bank; it has {list(self.names)}")
        if not names:
            raise ValueError("a bank needs at least one skill")
        chosen = [self.names.index(name) for name in names]
        layers = {
            path: tuple(d.select(chosen) for d in deltas if any(d.ranks[i] for i in chosen))
            for path, deltas in self.layers.items()
        }
        layers = {path: deltas for path, deltas in layers.items() if deltas}
        return Bank(layers, self.scales[np.array(chosen)], self.letters, tuple(names))

    @property
    def size(self) -> int:
        """The number of skills, k."""
        return len(self.names)

    @property
    def outputs(self) -> dict[str, int]:
        """How many outputs each adapted layer has, d_out by path."""
        return {path: deltas[0].outputs for path, deltas in self.layers.items()}

    def gains(self, weights: Weights) -> WeightsByLayer:
        """Weights times scales, (..., k, m) for each layer, or a function that gives them.

        Raises ``ValueError`` for weights that do not fit the bank (see ``skills.weights``).
        """
        weights, scales = by_layer(weights, self.names, self.outputs), self.scales[:, None]
        if callable(weights):
            return lambda path, x: weights(path, x) * scales
        return {path: w * scales for path, w in weights.items()}
