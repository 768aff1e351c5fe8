"""What the configurations of the three settings say, in the library's own classes."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np

import psec_jax as psec
from experiments.config import Data, EvaluationPlan, Setting
from experiments.schema import ConfigError, Later
from psec_jax.backbones import Backbone
from psec_jax.data.references import find_reference
from psec_jax.evaluation import scores
from psec_jax.learners.objectives import Objective
from psec_jax.learners.weights import FisorWeights, Weigh
from psec_jax.settings import integer_of
from psec_jax.training.learner import Learner


@dataclass
class Task:
    dataset: str
    environment: str


@dataclass
class Column:
    name: str
    target: str
    skills: list[str]


@dataclass
class Chain:
    source: str
    tasks: dict[str, Task]
    columns: list[Column]

    def __post_init__(self):
        if not self.columns:
            raise ValueError("columns needs at least one entry")
        referenced = {self.source} | {t for c in self.columns for t in (c.target, *c.skills)}
        if unknown := sorted(referenced - set(self.tasks)):
            raise ValueError(f"tasks {unknown} are not in tasks, which has {list(self.tasks)}")
        if "base" in self.tasks:
            raise ValueError("tasks has a task 'base', which is π₀'s own name; rename it")


@dataclass
class ContinualData(Data):
    target_trajectories: int
    replayed_trajectories: int

    def __post_init__(self):
        if self.replayed_trajectories > self.source_trajectories:
            raise ValueError(
                f"replayed_trajectories {self.replayed_trajectories} are more than "
                f"source_trajectories, {self.source_trajectories}"
            )


@dataclass
class ContinualEvaluation(EvaluationPlan):
    curve_every: int
    best: bool

    def __post_init__(self):
        super().__post_init__()
        if self.best and not self.curve_every:
            raise ValueError("best needs curve_every, which finds the best")


@dataclass(kw_only=True)
class Continual(Setting):
    metrics: ClassVar[tuple[str, ...]] = ("return",)

    chain: Chain
    dense_adapter: psec.Adapter
    data: ContinualData
    evaluation: ContinualEvaluation
    base: str | None


@dataclass
class BestOf:
    """Acting by the best of so many samples, as a critic sees them; 1 acts without critics."""

    critic: str
    candidates: int
    # Of the samples that ``critic`` calls feasible the best by this one.
    among_feasible: str | None = None

    def __post_init__(self):
        integer_of("candidates", self.candidates)


@dataclass(kw_only=True)
class OfflineRL(Setting):
    """A setting with critics."""

    guidance: psec.Guidance
    best_of: BestOf
    # Nothing comes after a timeout either.
    timeouts_terminal: bool

    def __post_init__(self):
        if self.guidance.objectives is None:
            raise ValueError("guidance.objectives is missing; name what each critic values")

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """What each critic values."""
        return self.guidance.objectives or {}

    def check(self, methods: Iterable[str], columns: Iterable[str]) -> None:
        super().check(methods, columns)
        critics, chosen = self.objectives, self.best_of
        for key in ("critic", "among_feasible"):
            name = getattr(chosen, key)
            if name is not None and name not in critics:
                raise ConfigError(
                    f"best_of.{key} {name!r} is no critic; expected one of {list(critics)}"
                )
        feasibility = isinstance(critics[chosen.critic], psec.objectives.Feasibility)
        if chosen.among_feasible is not None and not feasibility:
            raise ConfigError(
                "best_of.among_feasible needs best_of.critic to be one of feasibility, not "
                f"{chosen.critic!r}"
            )
        for name, weigh in self.guidance.weights_of("target").items():
            if (critic := getattr(weigh, "critic", chosen.critic)) not in critics:
                raise ConfigError(
                    f"{name} is weighed by critic {critic!r}, but there are {list(critics)}"
                )


@dataclass
class Robot:
    """A robot's own environment, and data of the same robot with shifted dynamics."""

    name: str
    environment: str
    # By what scores are normalized: D4RL's dataset with these returns, or the returns that score 0
    # and 100.
    reference: str | tuple[float, float]
    target: str
    # Shift → dataset.
    shifts: dict[str, str]

    def __post_init__(self):
        self.score(0.0)

    def score(self, returns: np.ndarray | float) -> np.ndarray:
        """Normalized returns: 0 is random and 100 an expert."""
        if isinstance(self.reference, str):
            return scores.d4rl_score(self.reference, returns)
        random, expert = self.reference
        if not random < expert:
            raise ValueError(f"reference must rise from random to expert, not {self.reference}")
        return 100 * (np.asarray(returns, np.float64) - random) / (expert - random)


@dataclass
class Target:
    dataset: str
    # How many trajectories of a dataset that is made here, before the fraction is taken.
    trajectories: int | None
    fraction: float
    # What the fraction is of.
    by: Literal["trajectory", "transition"]

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {self.fraction}")


@dataclass
class Baseline:
    """An algorithm that shares nothing with PSEC, as its own code has it.

    The setting fills the learner's ``trained`` with all parameters of a fresh policy, and what was
    trained is the first of its ``result(state)``.
    """

    label: str
    learner: Later[Learner]
    backbone: Later[Backbone]
    batch_size: int
    # By which observations are normalized; null: they stay as they are.
    observation_floor: float | None = None

    def __post_init__(self):
        integer_of("batch_size", self.batch_size)

    def statistics(self, data: psec.TransitionDataset) -> psec.Statistics:
        if self.observation_floor is None:
            return psec.Statistics.identity(data.observation_size)
        return psec.Statistics.of(data.observations, self.observation_floor)


@dataclass(kw_only=True)
class DynamicsShift(OfflineRL):
    metrics: ClassVar[tuple[str, ...]] = ("score", "return")

    robot: Robot
    # Shifts that sources have, such as gravity or gravity+friction: π₀ comes from the first.
    shift: str
    target: Target
    baselines: dict[str, Baseline]

    @property
    def weigh(self) -> Weigh | None:
        """What the target's samples are weighed by."""
        return cast(Weigh | None, self.guidance.weights)

    @property
    def shifts(self) -> list[str]:
        return self.shift.split("+")

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.guidance.weights, Mapping):
            raise ValueError("guidance.weights must be those of one skill, the target's")
        if unknown := [shift for shift in self.shifts if shift not in self.robot.shifts]:
            raise ValueError(
                f"shift {self.shift!r} names {unknown}, which {self.robot.name} has no data of; "
                f"expected one or more of {list(self.robot.shifts)}, joined by +"
            )
        if len(set(self.shifts)) < len(self.shifts):
            raise ValueError(f"shift {self.shift!r} names a source twice")


@dataclass(kw_only=True)
class MultiObjective(OfflineRL):
    metrics: ClassVar[tuple[str, ...]] = ("return", "cost")

    task: str
    dataset: str
    cost_limit: float
    other_limits: list[float]
    return_quantile: float
    # What the context network is trained on; null: the safe and rewarding trajectories.
    context_dataset: str | None
    fisor: FisorWeights
    anchor: dict[str, float] | None
    anchor_strength: float

    @property
    def skills(self) -> dict[str, Weigh | None]:
        """What each skill's samples are weighed by."""
        return self.guidance.weights_of("skill")

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.guidance.weights, Mapping) or not self.guidance.weights:
            raise ValueError("guidance.weights must name at least one skill")
        for limit in (self.cost_limit, *self.other_limits):
            if not limit > 0:
                raise ValueError(f"cost limits must be above 0, not {limit!r}")
        if not 0 <= self.return_quantile < 1:
            raise ValueError(f"return_quantile must be in [0, 1), not {self.return_quantile}")
        # What DSRL calls a task means its environment.
        with suppress(ValueError):
            reference = find_reference(f"dsrl/{self.task.removeprefix('dsrl/')}")
            self.task = reference.environment or self.task
