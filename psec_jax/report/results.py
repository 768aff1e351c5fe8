"""Measurements as JSON lines: one row each, appended the moment it is made."""

import json
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from psec_jax import storage
from psec_jax.errors import BrokenFile
from psec_jax.evaluation import scores
from psec_jax.evaluation.statistics import Summary, summarize


@dataclass(frozen=True)
class Measurement:
    """One number, what it measures, and where it is a mean, the values behind it."""

    setting: str
    task: str
    method: str
    seed: int
    metric: str
    value: float
    step: int
    values: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        setting: str,
        task: str,
        method: str,
        seed: int,
        metric: str,
        step: int,
        values: Float[np.ndarray, "episode"],
    ) -> "Measurement":
        """The mean of ``values``, with each of them."""
        each = tuple(float(value) for value in values)
        return cls(setting, task, method, seed, metric, float(np.mean(values)), step, each)


def append(path: Path, row: Measurement) -> None:
    with storage.saving(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read(paths: Iterable[Path]) -> list[Measurement]:
    """The rows of one or more results files, in order."""
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
            try:
                record = json.loads(line)
                record["values"] = tuple(float(value) for value in record["values"])
                record |= {"value": float(record["value"]), "seed": operator.index(record["seed"])}
                record["step"] = operator.index(record["step"])
                rows.append(Measurement(**record))
            except (ValueError, TypeError, KeyError) as error:
                raise BrokenFile(f"{path}, line {number} is no measurement: {error!r}") from None
    return rows


def summaries(
    rows: Iterable[Measurement],
    metric: str = "return",
    score: Callable[[str, np.ndarray], np.ndarray] = lambda task, values: values,
) -> dict[tuple[str, str], Summary]:
    """(method, task) → the summary over seeds of its last step's ``metric``.

    ``score(task, values)`` makes of the values what is summarized.
    """
    latest: dict[tuple[str, str], dict[int, Measurement]] = {}
    for row in rows:
        if row.metric == metric:
            seeds = latest.setdefault((row.method, row.task), {})
            if row.seed not in seeds or row.step >= seeds[row.seed].step:
                seeds[row.seed] = row
    return {
        (method, task): summarize(
            [score(task, np.array(row.values or [row.value])) for row in seeds.values()]
        )
        for (method, task), seeds in latest.items()
    }


def safety_summaries(
    rows: Sequence[Measurement], limit: float
) -> dict[tuple[str, str], tuple[Summary, Summary]]:
    """(method, task) → the summaries of normalized reward and of cost, normalized by ``limit``."""

    def reward(task: str, returns: np.ndarray) -> np.ndarray:
        return scores.dsrl_reward(f"dsrl/{task.partition('/')[2]}", returns)

    returns = summaries(rows, "return", reward)
    costs = summaries(rows, "cost", lambda _, values: scores.dsrl_cost(values, limit))
    return {cell: (returns[cell], costs[cell]) for cell in costs}
