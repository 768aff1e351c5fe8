"""The one training loop, and where its metrics go."""

from psec_jax.training.fit import fit
from psec_jax.training.metrics import JsonLines, Writer

__all__ = ["JsonLines", "Writer", "fit"]
