"""What the stages of a run have in common."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium.vector import VectorEnv

import psec_jax as psec
from experiments.config import ConfigError, Setting, Stage
from experiments.recording import Recorder
from psec_jax import (
    Policy,
    Skill,
    SkillLibrary,
    TransitionDataset,
    agents,
    concatenate,
    load_dataset,
    storage,
)
from psec_jax.errors import BrokenFile
from psec_jax.evaluation import Evaluation
from psec_jax.training.processes import leads, meet
from psec_jax.training.seeds import named_key


def run_seeds(
    config: Setting, run: Callable[[list[int]], None], finished: Callable[[int], bool]
) -> None:
    """``run(seeds)`` for the seeds that are not ``finished``, together or one by one.

    Together all are run or none, for what they train together is also saved together.
    """
    left = [seed for seed in config.seeds if not finished(seed)]
    if left and config.side_by_side:
        run(config.seeds)
    else:
        for seed in left:
            run([seed])


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
    if leads() and not path.exists():
        SkillLibrary.create(path, base)
    meet()
    return SkillLibrary.open(path)


@dataclass(frozen=True)
class Stages:
    """Seeds of one configuration that are trained together.

    What the stages make are lists, one entry a seed. Subclasses hold what several methods build
    on, made once.
    """

    config: Setting
    seeds: list[int]
    out: Path
    recorder: Recorder

    def measured(self, method: str, task: str, metric: str) -> bool:
        """Whether no seed needs to run ``method`` any more."""
        return all(self.recorder.has(method, task, seed, metric) for seed in self.seeds)

    def key(self, name: str) -> jax.Array:
        """The random keys of the stage called ``name``, (seed,)."""
        return named_key(jnp.stack([jax.random.key(seed) for seed in self.seeds]), name)

    def training(self, stage: Stage, label: str, **more: Any) -> psec.Training:
        """How the verb under ``label`` trains: the stage's numbers and the run's records."""
        return stage.training(
            label=[f"{label} (seed {seed})" for seed in self.seeds],
            progress=self.config.progress,
            writer=self.recorder.writer,
            checkpoints=self.recorder.checkpoints,
            **more,
        )

    def fitting(self, stage: Stage, label: str, **more: Any) -> dict[str, Any]:
        """The key and the training of a verb."""
        return {"key": self.key(label), "training": self.training(stage, label, **more)}

    def libraries_of(self, bases: Sequence[Policy]) -> list[SkillLibrary]:
        """Each seed's library, begun around its base where there is none."""
        return [
            library_of(base, self.out / f"seed_{seed}" / "library")
            for seed, base in zip(self.seeds, bases, strict=True)
        ]

    def keep(
        self, libraries: Sequence[SkillLibrary], name: str, skills: Sequence[Skill], dataset: str
    ) -> None:
        """Put each seed's skill into its library, unless an interrupted run did."""
        for library, skill, seed in zip(libraries, skills, self.seeds, strict=True):
            if leads() and name not in library.names():
                library.add(name, skill, dataset=dataset, seed=seed)
        meet()

    def evaluate(self, agents: Sequence[Any], vector: VectorEnv, name: str) -> list[Evaluation]:
        """Each seed's agent, with the keys of the stage called ``name``."""
        episodes = self.config.evaluation.episodes
        return psec.evaluate(list(agents), vector, episodes=episodes, key=self.key(name))

    def leave(self, trained: Sequence[Any], name: str, **provenance: Any) -> None:
        """Store each seed's agent as ``seed_N/agents/<name>``.

        One that is there already, as after an interruption, stays if it is the same.
        """
        if not leads():
            return
        for seed, agent in zip(self.seeds, trained, strict=True):
            path = self.out / f"seed_{seed}" / "agents" / storage.check_name(name, "agent")
            if not agents.is_saved(agent, path):
                if path.exists():
                    shutil.rmtree(path)
                agent.save(path, seed=seed, **provenance)

    def record(self, evaluations: Sequence[Evaluation], **where: Any) -> None:
        """See ``Recorder.evaluation``."""
        for seed, evaluation in zip(self.seeds, evaluations, strict=True):
            self.recorder.evaluation(seed=seed, evaluation=evaluation, **where)
