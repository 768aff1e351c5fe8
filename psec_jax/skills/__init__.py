"""Skills: deltas and banks, their injection into networks, and the library on disk."""

from psec_jax.skills.bank import Adapter, Bank, Skill
from psec_jax.skills.injection import inject, merge
from psec_jax.skills.layers import dense_layers

__all__ = ["Adapter", "Bank", "Skill", "dense_layers", "inject", "merge"]
