"""What the stages of one seed of a run have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from gymnasium.vector import VectorEnv

from experiments.config import ConfigError, Setting
from experiments.recording import Recorder
from psec_jax import Policy, Skill, SkillLibrary, TransitionDataset, concatenate, load_dataset
from psec_jax.errors import BrokenFile
from psec_jax.training.seeds import named_key, side_by_side


def each_seed(
    config: Setting, run: Callable[[int], None], finished: Callable[[int], bool]
) -> None:
    """``run(seed)`` for each seed that is not ``finished``.

    Side by side all are run or none, for what they learn together is also saved together.
    """
    left = [seed for seed in config.seeds if not finished(seed)]
    if left and config.side_by_side:
        side_by_side(run, config.seeds)
    else:
        for seed in left:
            run(seed)


def load(name: str, trajectories: int | None = None) -> TransitionDataset:
    """The dataset ``name``; raises ``ConfigError`` or ``BrokenFile`` where it cannot be had."""
    try:
        return load_dataset(name, trajectories)
    except BrokenFile:
        raise
    except ValueError as error:
        raise ConfigError(f"dataset {name}: {error}") from None


def check_alike(parts: Mapping[str, Any], vector: VectorEnv) -> None:
    """Raises ``ConfigError`` unless the datasets and policies ``parts`` are of the robot in
    ``vector``."""
    spaces = vector.single_observation_space, vector.single_action_space
    sizes = {"the environment": tuple(space.shape[-1] for space in spaces)}
    sizes |= {name: (part.observation_size, part.action_size) for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ConfigError(
            f"(observation, action) sizes differ: {found}; use data of the same robot"
        )


def check_joined(datasets: Sequence[TransitionDataset]) -> None:
    """Raises ``ConfigError`` where ``datasets`` cannot become one."""
    try:
        concatenate([data.take(1) for data in datasets])
    except ValueError as error:
        raise ConfigError(f"data that are trained on together: {error}") from None


def library_of(base: Policy, path: Path) -> SkillLibrary:
    """The library at ``path``, begun around ``base`` where there is none."""
    return SkillLibrary.open(path) if path.exists() else SkillLibrary.create(path, base)


def keep(library: SkillLibrary, name: str, skill: Skill, dataset: str, seed: int) -> None:
    """Put ``skill`` into the library, unless an interrupted run did."""
    if name not in library.names():
        library.add(name, skill, dataset=dataset, seed=seed)


@dataclass(frozen=True)
class Stages:
    """One seed of one configuration; subclasses hold what several methods build on, made once."""

    config: Setting
    seed: int
    out: Path
    recorder: Recorder

    def measured(self, method: str, task: str, metric: str) -> bool:
        """Whether this seed, and those side by side with it, need not run ``method`` any more."""
        seeds = self.config.seeds if self.config.side_by_side else [self.seed]
        return all(self.recorder.has(method, task, seed, metric) for seed in seeds)

    def key(self, name: str) -> jax.Array:
        """The random key of the stage called ``name``."""
        return named_key(jax.random.key(self.seed), name)

    def fitting(self, label: str) -> dict[str, Any]:
        """What every call of a verb takes here."""
        return {
            "key": self.key(label),
            "label": f"{label} (seed {self.seed})",
            "progress": self.config.progress,
            **self.recorder.fit_options,
        }
