"""A mixture of skills at fixed weights as one skill, and a skill as the closest of a rank.

    Σ_i w_i s_i B_i A_i = [B_1 … B_k] [w_1 s_1 A_1; …; w_k s_k A_k],

so skills of ranks n_i are one of rank Σ n_i, at scale 1, whether their weights are one for all
layers or one for each layer and block of outputs (columns of A_i).
"""

import dataclasses
import re
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from psec_jax.composition.levels import ParameterLevel
from psec_jax.errors import BaseMismatch
from psec_jax.fingerprints import fingerprint
from psec_jax.settings import integer_of
from psec_jax.skills.bank import Adapter, Bank, Skill
from psec_jax.skills.deltas import Delta, Full, LowRank
from psec_jax.skills.weights import Weights, per_skill


def folded_agent(agent: Any, layers: Mapping[str, tuple[int, int]]) -> Skill:
    """The one skill that a mixture at fixed weights is; ``layers`` are those of its base.

    ``agent`` is a policy with a bank, at weight 1, or a composed policy at the parameter level
    with constant weights. Raises ``ValueError`` for any other.
    """
    kind, level = type(agent).__name__, getattr(agent, "level", ParameterLevel())
    policy = getattr(agent, "base", agent)
    bank = getattr(policy, "bank", None)
    if not isinstance(level, ParameterLevel):
        raise ValueError(
            f"a mixture at {level} is no skill: only deltas add up to one; compose at level "
            "'parameter'"
        )
    if bank is None:
        raise ValueError(
            f"{kind} is no skill and no mixture of skills; expected a Skill, a policy with a "
            "bank, or a ComposedPolicy with constant weights"
        )
    weights = None
    if policy is not agent:
        if not agent.has_fixed_weights:
            raise ValueError(
                f"the weights of this mixture come from {type(agent.context).__name__} and depend "
                "on the state, so it is no skill; save it whole (agent.save), or fix its weights "
                "first: agent.with_fixed(weights)"
            )
        weights = agent.weights(np.zeros((1, agent.observation_size), np.float32))
    if (actual := fingerprint(policy)) != bank.base:
        raise BaseMismatch(f"the bank {list(bank.names)}", bank.base, "its policy", actual)
    return folded(bank, weights, layers)


def folded(bank: Bank, weights: Weights, layers: Mapping[str, tuple[int, int]]) -> Skill:
    """The skills of ``bank`` at fixed ``weights`` as one: low-rank where all are.

    Its provenance records the ``mixture``: each skill's mean weight over layers and blocks.
    """
    gains = cast(Mapping[str, Array], bank.gains(weights))
    low_rank = {
        path: group[0]
        for path, group in bank.layers.items()
        if len(group) == 1 and isinstance(group[0], LowRank)
    }
    if len(low_rank) == len(bank.layers):
        rank = max(sum(delta.ranks) for delta in low_rank.values())
        deltas = {
            path: _padded(np.asarray(d.down), np.asarray(d.scaled_up(gains[path])), rank)
            for path, d in low_rank.items()
        }
        adapter = Adapter(rank=rank, scale=1.0, targets=_targets(bank.layers, layers))
    else:
        deltas = {
            path: Full(reduce(add, (d.kernel(gains[path]) for d in group))[None], (1,))
            for path, group in bank.layers.items()
        }
        adapter = Adapter(kind="full", scale=1.0, targets=_targets(bank.layers, layers))
    means = np.ones(bank.size) if weights is None else np.asarray(per_skill(weights))
    mixture = dict(zip(bank.names, means.tolist(), strict=True))
    return Skill(deltas, adapter, bank.base, {"mixture": mixture})


def refactored(skill: Skill, rank: int) -> Skill:
    """The low-rank skill of ``rank`` closest to ``skill``, by truncated SVD of each layer's delta.

    Its provenance records the ``relative_error``: what is left of the deltas, all layers together,
    in the Frobenius norm.
    """
    integer_of("rank", rank)
    deltas, lost, total = {}, 0.0, 0.0
    for path, delta in skill.deltas.items():
        kernel = skill.adapter.scale * _kernel(delta)
        left, values, right = np.linalg.svd(kernel, full_matrices=False)
        roots = np.sqrt(values[:rank])
        down, up = left[:, :rank] * roots, roots[:, None] * right[:rank]
        deltas[path] = _padded(down, up, rank)
        lost, total = lost + np.sum(values[rank:] ** 2), total + np.sum(values**2)
    error = float(np.sqrt(lost / total)) if total else 0.0
    adapter = dataclasses.replace(skill.adapter, kind="low_rank", rank=rank, scale=1.0)
    provenance = {**skill.provenance, "relative_error": error}
    return dataclasses.replace(skill, deltas=deltas, adapter=adapter, provenance=provenance)


def _padded(down: np.ndarray, up: np.ndarray, rank: int) -> LowRank:
    """With columns of zeros: the layers of one skill have one rank."""
    missing = rank - down.shape[1]
    down, up = np.pad(down, ((0, 0), (0, missing))), np.pad(up, ((0, missing), (0, 0)))
    return LowRank(jnp.asarray(down, jnp.float32), jnp.asarray(up, jnp.float32), (rank,))


def _kernel(delta: Delta) -> np.ndarray:
    """In double precision, without any scale."""
    if isinstance(delta, Full):
        return np.asarray(delta.kernels[0], np.float64)
    return np.asarray(delta.down, np.float64) @ np.asarray(delta.up, np.float64)


def _targets(chosen: Mapping, layers: Mapping) -> str:
    """The usual targets where they name just these layers, else one pattern of their paths."""
    usual = Adapter().targets
    if {path for path in layers if re.fullmatch(usual, path)} == set(chosen):
        return usual
    return "|".join(re.escape(path) for path in sorted(chosen))
