"""What the configuration of every setting says. Its fields are the library's own classes.

Hydra composes the YAML files; ``parse`` makes of them what is run, before anything is computed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import psec_jax as psec
from experiments.schema import ConfigError, Later, build
from psec_jax.backbones import Backbone
from psec_jax.command_line import import_modules
from psec_jax.composition import Level
from psec_jax.composition.going_home import switch_of
from psec_jax.settings import integer_of


@dataclass
class Data:
    source_trajectories: int


@dataclass
class EvaluationPlan:
    episodes: int

    def __post_init__(self):
        integer_of("episodes", self.episodes)


@dataclass
class Logger:
    """What is null is as W&B's own variable says, such as WANDB_PROJECT; ``wandb_options``."""

    kind: Literal["local", "wandb"]
    mode: Literal["online", "offline", "disabled"] | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] | None = None


@dataclass
class Optimize:
    """Which measurement a job returns to a sweeper, as its mean over seeds. Null is the last
    method, the setting's own metric, the mean over all columns."""

    method: str | None = None
    metric: str | None = None
    task: str | None = None


@dataclass
class Home:
    """How the rows ``<row>_home`` go home (``psec_jax.homing``)."""

    training: psec.Training
    # 0: by π₀'s reward; else by its value, the average reward of about 1 / (1 − discount) steps.
    discount: float
    # The shares of the usual reward between which skills take over from π₀.
    low: float
    high: float

    def __post_init__(self):
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be at least 0 and below 1, not {self.discount}")
        switch_of((self.low, self.high))


@dataclass(kw_only=True)
class Setting:
    """What every setting's configuration says."""

    backbone: Later[Backbone]
    adapter: psec.Adapter
    composer: Later[psec.Composer]
    # Where skills are mixed: parameter, noise and action.
    levels: dict[str, Level]
    pretrain: psec.Training
    skill: psec.Training
    scratch: psec.Training
    context: psec.Training
    constants: psec.Training
    home: Home
    # What the networks see: normalized by the first data's statistics, or raw.
    observations: Literal["normalized", "raw"]
    observation_floor: float
    data: Data
    evaluation: EvaluationPlan
    logger: Logger
    # Modules that are imported first, such as those that register readers or environments.
    imports: list[str]
    methods: list[str]
    seeds: list[int]
    progress: bool
    # Train all seeds in one program.
    side_by_side: bool
    # Go on with what the output folder holds; else it must hold no run.
    resume: bool
    checkpoint: Later[psec.Checkpoints]
    optimize: Optimize
    # What is measured of each method; the first is the setting's own.
    metrics: ClassVar[tuple[str, ...]]

    def statistics(self, data: psec.TransitionDataset) -> psec.Statistics:
        """What a policy that is trained on ``data`` normalizes observations with."""
        if self.observations == "raw":
            return psec.Statistics.identity(data.observation_size)
        return psec.Statistics.of(data.observations, self.observation_floor)

    def composer_at(
        self, level: str, skills: int, context: bool = True, **more: Any
    ) -> psec.Composer:
        """For so many skills, with weights by a context network or constant ones."""
        composer = self.composer(skills=skills)
        weights = composer.weights if context else "constant"
        return replace(composer, weights=weights, level=self.levels[level], **more)

    def mixing(self, context: bool = True) -> psec.Training:
        """How weights are trained: a context network's, or constants."""
        return self.context if context else self.constants

    @property
    def at_once(self) -> int:
        """How many seeds are trained and evaluated at once."""
        return len(self.seeds) if self.side_by_side else 1

    def check(self, methods: Iterable[str], columns: Iterable[str]) -> None:
        """Refuse what cannot be built, unknown methods, bad seeds, nothing to do, and a
        measurement that is not made."""
        self.checkpoint(folder=".")
        if unknown := sorted(set(self.methods) - set(methods)):
            raise ConfigError(f"methods {unknown} are unknown; expected some of {list(methods)}")
        if not self.methods or not self.seeds:
            raise ConfigError("methods and seeds each need at least one entry")
        for seed in self.seeds:
            check_seed("seeds", seed)
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds {self.seeds} name a seed twice")
        if not self.observation_floor > 0:
            raise ConfigError(f"observation_floor must be above 0, not {self.observation_floor}")
        measured = {"method": self.methods, "metric": self.metrics, "task": list(columns)}
        for name, choices in measured.items():
            chosen = getattr(self.optimize, name)
            if chosen is not None and chosen not in choices:
                raise ConfigError(
                    f"optimize.{name} {chosen!r} is not measured here; use one of {list(choices)}"
                )


def parse(config: DictConfig, schema: type) -> Any:
    """The configuration as ``schema``, after what ``imports`` names was imported; raises
    ``ConfigError`` for a wrong key, type or value."""
    import_modules(config.get("imports", ()), "imports")
    try:
        return build(schema, OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None)
        message = str(error).splitlines()[0]
        raise ConfigError(f"configuration key {where!r}: {message}") from None


def check_seed(key: str, seed: int) -> None:
    """Beyond 32 bits JAX takes two seeds for one, and NumPy knows no negative ones."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"{key} must be from 0 to 2**32 - 1 = 4294967295, not {seed}")
