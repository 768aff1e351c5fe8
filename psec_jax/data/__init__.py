"""Offline datasets: the type, the registry of names, and demonstrations that come along."""

from psec_jax.data.dataset import TransitionDataset, concatenate
from psec_jax.data.readers import read_file, register_reader
from psec_jax.data.registry import load_dataset
from psec_jax.data.selection import safe_and_rewarding

__all__ = [
    "TransitionDataset",
    "concatenate",
    "load_dataset",
    "read_file",
    "register_reader",
    "safe_and_rewarding",
]
