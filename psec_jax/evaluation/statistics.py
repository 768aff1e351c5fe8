"""Summaries of returns over episodes and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """The mean over all episodes of all seeds, their deviation, and a 95 % interval."""

    mean: float
    std: float
    low: float
    high: float
    episodes: int
    seeds: int


def summarize(returns: Sequence[np.ndarray], resamples: int = 2000) -> Summary:
    """Summarize the returns of each seed, (episodes,) apiece.

    The interval is a percentile bootstrap that resamples seeds (where there are several) and
    then episodes within each, so it covers both kinds of chance. Returns here are often bimodal,
    which a standard error would hide.
    """
    groups = [np.asarray(group, float) for group in returns]
    pooled = np.concatenate(groups)
    generator = np.random.default_rng(0)
    means = np.empty(resamples)
    for index in range(resamples):
        chosen = generator.integers(len(groups), size=len(groups))
        drawn = [generator.choice(groups[i], len(groups[i])) for i in chosen]
        means[index] = np.concatenate(drawn).mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return Summary(
        pooled.mean().item(),
        pooled.std().item(),
        low.item(),
        high.item(),
        len(pooled),
        len(groups),
    )
