"""Which trajectories are worth imitating where safety and reward both count."""

from dataclasses import dataclass

import numpy as np

from psec_jax.data.dataset import TransitionDataset


@dataclass(frozen=True)
class Selection:
    """The chosen ``data``, and how they were chosen: of ``trajectories`` in all, ``safe`` cost at
    most the limit, and ``chosen`` of these return at least ``return_at_least``."""

    data: TransitionDataset
    trajectories: int
    safe: int
    chosen: int
    return_at_least: float

    def __str__(self) -> str:
        return (
            f"{self.trajectories} trajectories, {self.safe} of them safe, {self.chosen} of these "
            f"chosen with a return of at least {self.return_at_least:.1f}"
        )


def safe_and_rewarding(
    data: TransitionDataset, cost_limit: float, return_quantile: float = 0.5
) -> Selection:
    """The trajectories whose cost is at most ``cost_limit``, and of these the ones whose return
    is at or above its ``return_quantile`` among them.

    Raises ``ValueError`` for data without costs, a limit that is not above 0, a quantile outside
    [0, 1), and where no trajectory is safe, saying how far the limit would have to go.
    """
    if not cost_limit > 0:
        raise ValueError(f"the cost limit must be above 0, not {cost_limit!r}")
    if not 0 <= return_quantile < 1:
        raise ValueError(f"return_quantile must be in [0, 1), not {return_quantile!r}")
    safe = data.cost_returns <= cost_limit
    if not safe.any():
        raise ValueError(
            f"none of {len(safe)} trajectories costs at most {cost_limit:g}: the least costs "
            f"{data.cost_returns.min():.6g}; raise the cost limit"
        )
    threshold = float(np.quantile(data.returns[safe], return_quantile))
    chosen = np.flatnonzero(safe & (data.returns >= threshold))
    return Selection(data.select(chosen), len(safe), int(safe.sum()), len(chosen), threshold)
