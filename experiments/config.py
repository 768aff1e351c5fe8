"""What a configuration must look like, and how it becomes the library's objects.

Hydra composes the YAML files; the dataclasses here are the schema that the result is checked
against before anything is computed.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.baselines import Baselines
from experiments.guidance import IqlPlan, Objectives
from psec_jax import (
    Adapter,
    Composer,
    DiffusionBackbone,
    GaussianBackbone,
    Optimizer,
    Statistics,
    Training,
    TransitionDataset,
)
from psec_jax.backbones import Backbone
from psec_jax.composition import ActionLevel, NoiseLevel, ParameterLevel
from psec_jax.data.references import find_reference
from psec_jax.networks import ContextNetwork, Denoiser, GaussianActor, activation
from psec_jax.networks.context import STARTS


class ConfigError(ValueError):
    """A configuration that cannot be run."""


@dataclass
class Diffusion:
    kind: str = "diffusion"
    features: int = MISSING
    blocks: int = MISSING
    expansion: int = MISSING
    activation: str = MISSING
    dropout: float = MISSING
    schedule: str = MISSING
    diffusion_steps: int = MISSING
    sampler: str = MISSING
    sampling_steps: int | None = None
    compute: str = "float32"
    noise: str = "posterior"

    def build(self, action_size: int) -> Backbone:
        activation(self.activation)
        network = Denoiser(
            self.features, self.blocks, self.expansion, self.activation, self.dropout
        )
        return DiffusionBackbone(
            action_size,
            network,
            self.schedule,
            self.diffusion_steps,
            self.sampler,
            self.sampling_steps,
            self.compute,
            self.noise,
        )


@dataclass
class DenoiserSize:
    """What a scale says of the denoiser, whichever backbone is chosen."""

    features: int = MISSING
    blocks: int = MISSING
    dropout: float = MISSING
    noise: str = MISSING


@dataclass
class Gaussian:
    kind: str = "gaussian"
    hidden: list[int] = MISSING
    activation: str = MISSING
    deterministic: bool = MISSING
    compute: str = "float32"

    def build(self, action_size: int) -> Backbone:
        activation(self.activation)
        network = GaussianActor(action_size, tuple(self.hidden), self.activation)
        return GaussianBackbone(action_size, network, self.deterministic, self.compute)


BACKBONES = {"diffusion": Diffusion, "gaussian": Gaussian}


@dataclass
class AdapterPlan:
    rank: int = MISSING
    scale: float = MISSING
    full_scale: float = MISSING
    targets: str = MISSING

    def build(self, kind: str) -> Adapter:
        scale = self.full_scale if kind == "full" else self.scale
        return Adapter(kind, self.rank, scale, self.targets)


@dataclass
class ComposerPlan:
    """How skills are mixed; see ``psec_jax.Composer``."""

    hidden: list[int] = MISSING
    # Where the context network starts: the even mixture, or π₀.
    start: str = MISSING
    # Whether π₀ enters the mixture of noise predictions or actions.
    base_enters: bool = MISSING
    # What mixes noise predictions is trained by: their own loss, or that of the sampled actions.
    noise_loss: str = MISSING

    def build(self, skills: int, level: str, context: bool = True, **more: Any) -> Composer:
        """For so many skills."""
        network = ContextNetwork(skills, tuple(self.hidden), self.start)
        levels = {
            "parameter": ParameterLevel(),
            "noise": NoiseLevel(self.base_enters, self.noise_loss),
            "action": ActionLevel(self.base_enters),
        }
        return Composer(network if context else "constant", levels[level], **more)

    def check(self) -> None:
        check_choice("composer.start", self.start, tuple(STARTS))
        check_choice("composer.noise_loss", self.noise_loss, ("denoising", "actions"))


@dataclass
class Stage:
    """How one learner is trained."""

    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    ema_rate: float = MISSING
    weight_decay: float = 1e-4
    schedule: str = "cosine"

    def training(self, **beside: Any) -> Training:
        """With what happens ``beside`` the updates."""
        optimizer = Optimizer(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            ema_rate=self.ema_rate,
            schedule=self.schedule,
        )
        return Training(self.steps, self.batch_size, optimizer, **beside)


@dataclass
class Data:
    source_trajectories: int = MISSING


@dataclass
class EvaluationPlan:
    episodes: int = MISSING


@dataclass
class Logger:
    """What is null is as W&B's own variable says, such as WANDB_PROJECT; ``wandb_options``."""

    kind: str = MISSING
    mode: str | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] | None = None

    def __post_init__(self):
        if self.kind not in ("local", "wandb", MISSING):
            raise ConfigError(f"logger.kind {self.kind!r} is unknown; use local or wandb")
        if self.mode not in (None, "online", "offline", "disabled"):
            raise ConfigError(
                f"logger.mode {self.mode!r} is unknown; use online, offline or disabled"
            )


@dataclass
class CheckpointPlan:
    """See ``psec_jax.training.Checkpoints``."""

    every: int = 5000
    keep: int = 2

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"checkpoint.{name} must be at least 1, not {value}")


@dataclass
class Task:
    dataset: str = MISSING
    environment: str = MISSING


@dataclass
class Column:
    name: str = MISSING
    target: str = MISSING
    skills: list[str] = MISSING


@dataclass
class Chain:
    source: str = MISSING
    tasks: dict[str, Task] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)


@dataclass
class Optimize:
    """Which measurement a job returns to a sweeper, as its mean over seeds. Null is the last
    method, the setting's own metric, the mean over all columns."""

    method: str | None = None
    metric: str | None = None
    task: str | None = None


@dataclass
class Setting:
    """What every setting's configuration says."""

    backbone: Any = MISSING
    denoiser: DenoiserSize = field(default_factory=DenoiserSize)
    adapter: AdapterPlan = field(default_factory=AdapterPlan)
    composer: ComposerPlan = field(default_factory=ComposerPlan)
    data: Data = field(default_factory=Data)
    pretrain: Stage = field(default_factory=Stage)
    skill: Stage = field(default_factory=Stage)
    scratch: Stage = field(default_factory=Stage)
    context: Stage = field(default_factory=Stage)
    constants: Stage = field(default_factory=Stage)
    # What the networks see: normalized by the first data's statistics, or raw.
    observations: str = "normalized"
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    logger: Logger = field(default_factory=Logger)
    methods: list[str] = MISSING
    seeds: list[int] = MISSING
    progress: bool = MISSING
    # Train all seeds in one program.
    side_by_side: bool = True
    # Go on with what the output folder holds; else it must hold no run.
    resume: bool = True
    checkpoint: CheckpointPlan = field(default_factory=CheckpointPlan)
    optimize: Optimize = field(default_factory=Optimize)
    # What is measured of each method; the first is the setting's own.
    metrics: ClassVar[tuple[str, ...]] = ()

    def statistics(self, data: TransitionDataset, floor: float = 1e-2) -> Statistics:
        """What a policy that is trained on ``data`` normalizes observations with."""
        if self.observations == "raw":
            return Statistics.identity(data.observation_size)
        return Statistics.of(data.observations, floor)

    def mixing(self, context: bool = True) -> Stage:
        """How weights are trained: a context network's, or constants."""
        return self.context if context else self.constants

    @property
    def at_once(self) -> int:
        """How many seeds are trained and evaluated at once."""
        return len(self.seeds) if self.side_by_side else 1

    def check(self, known: Iterable[str], columns: Iterable[str]) -> None:
        """Refuse unknown methods, bad seeds, nothing to do, and a measurement that is not made."""
        if unknown := sorted(set(self.methods) - set(known)):
            raise ConfigError(f"methods {unknown} are unknown; expected some of {list(known)}")
        if not self.methods or not self.seeds:
            raise ConfigError("methods and seeds each need at least one entry")
        check_choice("observations", self.observations, ("normalized", "raw"))
        for seed in self.seeds:
            check_seed("seeds", seed)
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds {self.seeds} name a seed twice")
        if self.evaluation.episodes < 1:
            raise ConfigError(
                f"evaluation.episodes must be at least 1: {self.evaluation.episodes}"
            )
        made = {"method": self.methods, "metric": self.metrics, "task": list(columns)}
        for name, choices in made.items():
            chosen = getattr(self.optimize, name)
            if chosen is not None and chosen not in choices:
                raise ConfigError(
                    f"optimize.{name} {chosen!r} is not measured here; use one of {list(choices)}"
                )


def check_seed(key: str, seed: int) -> None:
    """Beyond 32 bits JAX takes two seeds for one, and NumPy knows no negative ones."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"{key} must be from 0 to 2**32 - 1 = 4294967295, not {seed}")


@dataclass
class ContinualData(Data):
    target_trajectories: int = MISSING


@dataclass
class ContinualComposer(ComposerPlan):
    source_trajectories: int = MISSING


@dataclass
class ContinualEvaluation(EvaluationPlan):
    curve_every: int = MISSING
    best: bool = MISSING


@dataclass
class Continual(Setting):
    metrics: ClassVar[tuple[str, ...]] = ("return",)

    chain: Chain = field(default_factory=Chain)
    composer: ContinualComposer = field(default_factory=ContinualComposer)
    data: ContinualData = field(default_factory=ContinualData)
    evaluation: ContinualEvaluation = field(default_factory=ContinualEvaluation)
    base: str | None = None


@dataclass
class Robot:
    """A robot's own environment, and data of the same robot with shifted dynamics."""

    name: str = MISSING
    environment: str = MISSING
    # D4RL's dataset by whose reference returns scores are normalized.
    reference: str = MISSING
    target: str = MISSING
    # Shift → dataset.
    shifts: dict[str, str] = field(default_factory=dict)


@dataclass
class Target:
    dataset: str = MISSING
    # How many trajectories of a dataset that is made here, before the fraction is taken.
    trajectories: int | None = None
    fraction: float = MISSING
    # What the fraction is of: trajectory or transition.
    by: str = "trajectory"


@dataclass
class DynamicsShift(Setting):
    metrics: ClassVar[tuple[str, ...]] = ("score", "return")

    robot: Robot = field(default_factory=Robot)
    # Shifts that sources have, such as gravity or gravity+friction: π₀ comes from the first.
    shift: str = MISSING
    target: Target = field(default_factory=Target)
    observation_floor: float = MISSING
    critics: IqlPlan = field(default_factory=IqlPlan)
    baselines: Baselines = field(default_factory=Baselines)

    @property
    def shifts(self) -> list[str]:
        return self.shift.split("+")


@dataclass
class MultiObjective(Setting):
    metrics: ClassVar[tuple[str, ...]] = ("return", "cost")

    task: str = MISSING
    dataset: str = MISSING
    cost_limit: float = MISSING
    other_limits: list[float] = field(default_factory=list)
    return_quantile: float = MISSING
    # What the context network is trained on; null: the safe and rewarding trajectories.
    context_dataset: str | None = None
    objectives: Objectives = field(default_factory=Objectives)
    anchor: dict[str, float] | None = None
    anchor_strength: float = 1.0

    def __post_init__(self):
        # What DSRL calls a task means its environment.
        with suppress(ValueError):
            reference = find_reference(f"dsrl/{self.task.removeprefix('dsrl/')}")
            self.task = reference.environment or self.task


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} {value!r} is unknown; use {' or '.join(choices)}")


def parse(config: DictConfig, schema: type) -> Any:
    """The configuration as ``schema``; raises ``ConfigError`` for a wrong key, type or value."""
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), config)
        if "backbone" in typed:
            kind = config.backbone.get("kind")
            if kind not in BACKBONES:
                known = " or ".join(BACKBONES)
                raise ConfigError(f"backbone.kind {kind!r} is unknown; use {known}")
            chosen = OmegaConf.structured(BACKBONES[kind])
            typed.backbone = OmegaConf.merge(chosen, config.backbone)
        parsed = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None)
        message = str(error).splitlines()[0]
        raise ConfigError(f"configuration key {where!r}: {message}") from None
    _build_all(parsed)
    return parsed


def _build_all(config: Any) -> None:
    """Make everything the configuration describes once, so that bad values are met early."""
    try:
        if hasattr(config, "backbone"):
            config.backbone.build(action_size=1)
        if hasattr(config, "adapter"):
            for kind in ("low_rank", "full"):
                config.adapter.build(kind)
        for entry in dataclasses.fields(config):
            stage = getattr(config, entry.name)
            if isinstance(stage, IqlPlan | Objectives | ComposerPlan | Baselines):
                stage.check()
            elif isinstance(stage, Stage):
                try:
                    stage.training()
                except ValueError as error:
                    raise ValueError(f"{entry.name}.{error}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"configuration: {error}") from None
