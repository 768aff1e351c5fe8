"""A reader of your own: trajectories in a CSV file, a row a transition.

Importing this module registers it; a path that ends in .csv then works wherever a dataset is
expected:

    data = psec.load_dataset("walks.csv", trajectories=10)
    python -m experiments.continual imports=[extending.dataset] chain.tasks.walk.dataset=walks.csv

The columns are o0, o1, …, a0, a1, … (scaled to [−1, 1]), reward, terminated and truncated.
"""

from pathlib import Path

import numpy as np

import psec_jax as psec
from psec_jax.data import register_reader


def read_csv(path: Path) -> psec.TransitionDataset:
    table = np.genfromtxt(path, delimiter=",", names=True)

    def columns(letter: str) -> np.ndarray:
        names = [name for name in table.dtype.names if name[0] == letter and name[1:].isdigit()]
        return np.stack([table[name] for name in names], axis=-1)

    ends = table["terminated"] > 0, table["truncated"] > 0
    return psec.TransitionDataset(columns("o"), columns("a"), table["reward"], *ends)


def write_csv(path: Path, data: psec.TransitionDataset) -> None:
    parts = {"o": data.observations, "a": data.actions}
    names = [f"{letter}{i}" for letter, part in parts.items() for i in range(part.shape[-1])]
    ends = data.rewards, data.terminations, data.truncations
    table = np.column_stack([*parts.values(), *ends])
    header = ",".join([*names, "reward", "terminated", "truncated"])
    np.savetxt(path, table, "%.9g", ",", header=header, comments="")


register_reader(".csv", read_csv)
