"""Scores by which returns and costs of different tasks compare, as D4RL and DSRL define them."""

import numpy as np

from psec_jax.data.references import find_reference


def d4rl_score(dataset: str, returns: np.ndarray | float) -> np.ndarray:
    """100 · (R − R_random) / (R_expert − R_random), element by element.

    ``dataset`` is a D4RL name such as ``walker2d-medium-v2``. Raises ``ValueError`` for an unknown
    name, and for one without reference returns.
    """
    return 100 * _between(_reference(dataset, "d4rl"), returns)


def dsrl_reward(task: str, returns: np.ndarray | float) -> np.ndarray:
    """(R − R_min) / (R_max − R_min), with the least and greatest return in the task's data."""
    return _between(_reference(task, "dsrl"), returns)


def dsrl_cost(costs: np.ndarray | float, limit: float) -> np.ndarray:
    """(C + ε) / (limit + ε), where ε is 1 for the limit 0 and else 0; at most 1 is safe."""
    if not limit >= 0:
        raise ValueError(f"the cost limit must be at least 0, not {limit!r}")
    epsilon = 1.0 if limit == 0 else 0.0
    return (np.asarray(costs, np.float64) + epsilon) / (limit + epsilon)


def _reference(name: str, family: str) -> tuple[float, float]:
    """The returns that are 0 and 1."""
    reference = find_reference(name)
    if reference.family != family:
        raise ValueError(f"{reference.name} is not one of {family}'s datasets")
    if reference.low_return is None or reference.high_return is None:
        raise ValueError(f"{reference.name} has no reference returns, so no score")
    return reference.low_return, reference.high_return


def _between(ends: tuple[float, float], returns: np.ndarray | float) -> np.ndarray:
    low, high = ends
    return (np.asarray(returns, np.float64) - low) / (high - low)
