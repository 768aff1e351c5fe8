"""A setting of your own: goal shift, one skill for a new goal.

    python -m extending.setting source.dataset=east.hdf5 target.dataset=north.hdf5 scale=smoke

It resumes, sweeps and records as the settings of ``experiments`` do. Its configuration is the YAML
file beside it, whose groups are those beside it and those of the project.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig

import psec_jax as psec
from experiments import checks, stages
from experiments.config import Setting
from experiments.launching import command, launch
from experiments.recording import Recorder
from experiments.settings import Task
from experiments.simulators import Simulators
from psec_jax.report.tables import returns_table

COLUMN = "target"


@dataclass(kw_only=True)
class GoalShift(Setting):
    """What the YAML file says beyond what every setting's does."""

    metrics: ClassVar[tuple[str, ...]] = ("return",)

    source: Task
    target: Task


@dataclass(frozen=True, eq=False)
class Run(stages.Run):
    """Seeds that are trained together; ``data`` are those of the source and of the target."""

    config: GoalShift
    setting = "goal_shift"

    @functools.cached_property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Around π₀."""
        return self.libraries_of(self.clone("pretrain", self.data["source"], self.config.pretrain))

    @functools.cached_property
    def expanded(self) -> list[psec.SkillLibrary]:
        """The libraries, with a skill for the target."""
        how = self.fitting(self.config.skill, "skill")
        data, adapter = self.data["target"], self.config.adapter
        skills = psec.learn_skill(self.bases, data, adapter=adapter, **how)
        self.keep("goal", skills, self.config.target.dataset)
        return self.libraries


def zero_shot(run: Run) -> list:
    return run.bases


def skill(run: Run) -> list:
    return [library.base.with_bank(library.bank()) for library in run.expanded]


def composed(run: Run, level: str, context: bool = True) -> list:
    composer = run.config.composer_at(level, skills=1, context=context)
    how = run.fitting(run.config.mixing(context), f"compose {level} {context}")
    return psec.compose(run.expanded, run.data["target"], composer=composer, **how)


METHODS = {
    "zero_shot": stages.Method("π₀", zero_shot, "pretrain"),
    "skill": stages.Method("Skill", skill, "skill"),
    **stages.mixtures(composed),
}


def run(config: GoalShift, out: Path, recorder: Recorder) -> None:
    with Simulators(config.at_once * min(50, config.evaluation.episodes)) as simulators:
        vector = simulators.of(config.target.environment)
        data = {
            "source": checks.load(config.source.dataset, config.data.source_trajectories),
            "target": checks.load(config.target.dataset),
        }
        checks.check_alike(data, vector)
        for seeds in stages.unfinished(config, recorder, [COLUMN]):
            this = Run(config, data, seeds, out, recorder, simulators)
            this.measure(METHODS, COLUMN, config.target.environment)
    rows = [(name, METHODS[name].label) for name in config.methods]
    table = returns_table(recorder.summaries("return"), rows, [COLUMN], digits=1)
    recorder.text("table.md", table)


def check(config: GoalShift) -> None:
    checks.check(config, METHODS, [COLUMN])


@command
def main(config: DictConfig) -> float:
    return launch(config, GoalShift, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from extending import setting

    setting.main()
