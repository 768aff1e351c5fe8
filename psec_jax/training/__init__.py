"""The one training loop, where its states are kept, and where its metrics go."""

from psec_jax.training.checkpoints import Checkpoints, Interrupted
from psec_jax.training.fit import fit
from psec_jax.training.metrics import JsonLines, Writer
from psec_jax.training.processes import join_processes
from psec_jax.training.seeds import stack, unstack
from psec_jax.training.training import Training

__all__ = [
    "Checkpoints",
    "Interrupted",
    "JsonLines",
    "Training",
    "Writer",
    "fit",
    "join_processes",
    "stack",
    "unstack",
]
