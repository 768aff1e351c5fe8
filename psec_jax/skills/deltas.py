"""Deltas: what skills add to the frozen kernels, laid side by side layer by layer.

Both kinds answer the same two questions, for gains ``g`` (weight times scale): (k, m) for k
skills and m equal blocks of the layer's outputs, or (..., k, m) with axes that go with those of
``x``. ``contribution(x, g)`` is what they add to a layer's output, ``kernel(g)`` what they add to
its kernel when the gains are fixed. One delta object holds the terms of one or of many skills.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from psec_jax import reprs


@struct.dataclass
class LowRank:
    """Low-rank terms ``g_i B_i A_i`` side by side along the rank axis.

    ``down`` holds the B_i, (d_in, Σ n_i); ``up`` the A_i, (Σ n_i, d_out); ``ranks[i]`` is n_i,
    the number of columns that skill i owns (0 where it leaves this layer alone).
    """

    down: Float[Array, "input rank"]
    up: Float[Array, "rank output"]
    ranks: tuple[int, ...] = struct.field(pytree_node=False)

    @reprs.brief
    def __repr__(self):
        yield f"down {self.down.shape}, up {self.up.shape}"
        yield f"ranks {self.ranks}"
        yield reprs.values(self)

    @property
    def owner(self) -> np.ndarray:
        """The skill that owns each column, (Σ n_i,)."""
        return np.repeat(np.arange(len(self.ranks)), self.ranks)

    @property
    def outputs(self) -> int:
        return self.up.shape[-1]

    def contribution(self, x: Array, gains: Array) -> Array:
        terms = x @ self.down
        if gains.shape[-1] == 1:
            return (terms * gains[..., self.owner, 0].astype(x.dtype)) @ self.up
        if gains.ndim == 2:
            return terms @ self.scaled_up(gains).astype(x.dtype)
        terms = terms[..., None] * gains[..., self.owner, :].astype(x.dtype)
        y = jnp.einsum("...rm,rmo->...mo", terms, _blocks(self.up, gains))
        return y.reshape(*y.shape[:-2], self.outputs)

    def kernel(self, gains: Float[Array, "skill block"]) -> Float[Array, "input output"]:
        return self.down @ self.scaled_up(gains)

    def scaled_up(self, gains: Float[Array, "skill block"]) -> Float[Array, "rank output"]:
        """``up`` with the gains in it."""
        return (_blocks(self.up, gains) * gains[self.owner, :, None]).reshape(self.up.shape)

    def select(self, skills: Sequence[int]) -> "LowRank":
        """The terms of these skills alone, in this order."""
        columns = np.concatenate([np.flatnonzero(self.owner == skill) for skill in skills])
        ranks = tuple(self.ranks[skill] for skill in skills)
        return LowRank(self.down[:, columns], self.up[columns], ranks)


@struct.dataclass
class Full:
    """Dense terms ``g_i ΔW_i``: ``kernels`` is (m, d_in, d_out), ``ranks[i]`` is 1 for the m
    skills that own one of them and 0 for the others."""

    kernels: Float[Array, "term input output"]
    ranks: tuple[int, ...] = struct.field(pytree_node=False)

    @reprs.brief
    def __repr__(self):
        yield f"kernels {self.kernels.shape}"
        yield f"ranks {self.ranks}"
        yield reprs.values(self)

    @property
    def owner(self) -> np.ndarray:
        """The skill that owns each kernel, (m,)."""
        return np.repeat(np.arange(len(self.ranks)), self.ranks)

    @property
    def outputs(self) -> int:
        return self.kernels.shape[-1]

    def contribution(self, x: Array, gains: Array) -> Array:
        gains = gains.astype(x.dtype)
        if gains.ndim == 2:
            return x @ self.kernel(gains)
        each, gains = jnp.einsum("...i,tio->...to", x, self.kernels), gains[..., self.owner, :]
        if gains.shape[-1] == 1:
            return jnp.einsum("...t,...to->...o", gains[..., 0], each)
        y = jnp.einsum("...tm,...tmo->...mo", gains, _blocks(each, gains))
        return y.reshape(*y.shape[:-2], self.outputs)

    def kernel(self, gains: Float[Array, "skill block"]) -> Float[Array, "input output"]:
        gains = gains[self.owner]
        if gains.shape[-1] == 1:
            return jnp.einsum("t,tio->io", gains[:, 0], self.kernels)
        y = jnp.einsum("tm,timo->imo", gains, _blocks(self.kernels, gains))
        return y.reshape(self.kernels.shape[1:])

    def select(self, skills: Sequence[int]) -> "Full":
        """The terms of these skills alone, in this order."""
        terms = np.concatenate([np.flatnonzero(self.owner == skill) for skill in skills])
        return Full(self.kernels[terms], tuple(self.ranks[skill] for skill in skills))


Delta = LowRank | Full


def fresh_low_rank(key: jax.Array, shape: tuple[int, int], rank: int) -> LowRank:
    """A low-rank delta that adds exactly zero: LeCun-normal beside the input, zero beside the
    output."""
    down = jax.nn.initializers.lecun_normal()(key, (shape[0], rank), jnp.float32)
    return LowRank(down, jnp.zeros((rank, shape[1]), jnp.float32), (rank,))


def fresh_full(key: jax.Array, shape: tuple[int, int]) -> Full:
    """A dense delta that adds exactly zero."""
    del key
    return Full(jnp.zeros((1, *shape), jnp.float32), (1,))


def bundled(deltas: Sequence[Delta | None]) -> tuple[Delta, ...]:
    """Lay one layer's deltas of k single skills side by side: at most one of each kind.

    ``deltas[i]`` is skill i's delta for the layer, or None where it has none.
    """
    groups = []
    low = [d for d in deltas if isinstance(d, LowRank)]
    if low:
        ranks = tuple(d.ranks[0] if isinstance(d, LowRank) else 0 for d in deltas)
        down = jnp.concatenate([d.down for d in low], axis=1)
        groups.append(LowRank(down, jnp.concatenate([d.up for d in low], axis=0), ranks))
    full = [d for d in deltas if isinstance(d, Full)]
    if full:
        ranks = tuple(int(isinstance(d, Full)) for d in deltas)
        groups.append(Full(jnp.concatenate([d.kernels for d in full], axis=0), ranks))
    return tuple(groups)


def _blocks(values: Array, gains: Array) -> Array:
    """The outputs, which are the last axis, as (m, outputs of a block)."""
    return values.reshape(*values.shape[:-1], gains.shape[-1], -1)
