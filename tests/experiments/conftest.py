"""Data that several experiments' tests learn from."""

from pathlib import Path

import numpy as np
import pytest

import psec_jax as psec
from psec_jax.data.hdf5 import write_hdf5


@pytest.fixture(scope="session")
def ballrun(tmp_path_factory) -> Path:
    """Eight ballrun trajectories of two steps: costs 0, 1 and 2, returns that rise with cost."""
    generator = np.random.default_rng(0)
    costs = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [1, 1]], float)
    rewards = costs + np.linspace(0, 0.7, 8)[:, None]
    path = tmp_path_factory.mktemp("data") / "ballrun.hdf5"
    data = psec.TransitionDataset(
        observations=generator.normal(size=(16, 7)),
        actions=np.tanh(generator.normal(size=(16, 2))),
        rewards=rewards.ravel(),
        terminations=np.zeros(16, bool),
        truncations=np.arange(16) % 2 == 1,
        costs=costs.ravel(),
    )
    write_hdf5(path, data)
    return path
