"""What skills cost at acting time."""

import jax
import numpy as np

from benchmarks.cases import composed, paper_policy, random_data
from benchmarks.timing import best_seconds


def composition(batch: int, repeats: int) -> dict:
    """The cost of k skills mixed by a context network, relative to none, for ten walkers, for a
    batch, and for fixed weights merged into the kernels."""
    base, data, key = paper_policy(), random_data(), jax.random.key(0)
    section: dict = {}
    bare = {}
    for rows in (10, batch):
        observations = data.observations[:rows]
        bare[rows] = best_seconds(lambda o=observations: base.act(key, o), repeats, 50)
    for count in (1, 2, 4, 8, 16, 32):
        agent = composed(base, count)
        entry = {}
        for rows in (10, batch):
            observations = data.observations[:rows]
            seconds = best_seconds(lambda o=observations, a=agent: a.act(key, o), repeats, 50)
            entry[f"{rows}_at_once"] = round(seconds / bare[rows], 3)
        merged = agent.base.merged(np.full(count, 1 / count))
        observations = data.observations[:10]
        seconds = best_seconds(lambda o=observations, a=merged: a.act(key, o), repeats, 50)
        entry["10_at_once_merged"] = round(seconds / bare[10], 3)
        section[f"k={count}"] = entry
    section["k=32 over k=1"] = {
        name: round(section["k=32"][name] / section["k=1"][name], 2) for name in section["k=1"]
    }
    return section
