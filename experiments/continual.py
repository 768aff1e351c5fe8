"""Continual policy shift: skills learned in turn on a frozen policy (paper, section 5.2).

    python -m experiments.continual scale=demo seeds=[0,1,2]

π₀ is cloned from plenty of source demonstrations; each further task brings a few, from which one
LoRA skill is learned; a context network then mixes π₀ and skills on the target's demonstrations.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import psec_jax as psec
from experiments import checks, stages
from experiments.checks import check_alike, check_joined, check_purpose, load, naming
from experiments.config import ConfigError
from experiments.launching import command, launch
from experiments.recording import Recorder
from experiments.settings import Column, Continual
from experiments.simulators import Simulators
from experiments.stages import Method, by_seed, mixture, unfinished
from psec_jax.report import figures, published
from psec_jax.report.tables import published_table, returns_table
from psec_jax.storage import check_name, expanded


@dataclass(frozen=True)
class Data:
    """What all seeds are trained on: many demonstrations of the source, a few of each task, and
    the base policies that are given."""

    source: psec.TransitionDataset
    tasks: dict[str, psec.TransitionDataset]
    bases: dict[int, psec.Policy]

    @classmethod
    def opened(cls, config: Continual, simulators: Simulators) -> "Data":
        """With the simulators; raises ``ConfigError`` where something is missing or unfit."""
        tasks, columns, sizes = config.chain.tasks, config.chain.columns, config.data
        environments = dict.fromkeys(tasks[column.target].environment for column in columns)
        vectors = [simulators.of(environment) for environment in environments]
        source = load(tasks[config.chain.source].dataset, sizes.source_trajectories)
        learned = dict.fromkeys(t for c in columns for t in (*c.skills, c.target))
        few = {t: load(tasks[t].dataset, sizes.target_trajectories) for t in learned}
        bases = given_bases(config)
        parts = {"the source": source, **few}
        for vector in vectors:
            check_alike({**parts, **{f"base {s}": base for s, base in bases.items()}}, vector)
        check_purpose(config, source)
        if sizes.replayed_trajectories:
            check_joined(parts.values())
        return cls(source, few, bases)


def given_bases(config: Continual) -> dict[int, psec.Policy]:
    """Seed → the base policy of another run's library, where ``base`` names such."""
    if config.base is None:
        return {}
    try:
        paths = {seed: expanded(config.base.format(seed=seed)) for seed in config.seeds}
        return {seed: psec.SkillLibrary.open(path).base for seed, path in paths.items()}
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(f"base {config.base!r}: {error}") from None


@dataclass(frozen=True, eq=False)
class Run(stages.Run):
    """Seeds of one configuration, and what several methods build on, made once."""

    config: Continual
    setting = "continual"

    @functools.cached_property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Around π₀, by behavior cloning of the source."""
        if given := self.data.bases:
            return self.libraries_of([given[seed] for seed in self.seeds])
        return self.libraries_of(self.clone("pretrain", self.data.source, self.config.pretrain))

    @functools.cached_property
    def scratch(self) -> dict[str, list[psec.Policy]]:
        """A policy from scratch for each task, which shares no parameters with π₀."""
        return {
            task: self.clone(
                f"scratch {task}", data, self.config.scratch, **self.curve("policies", task, list)
            )
            for task, data in self.data.tasks.items()
        }

    @functools.cached_property
    def low_rank(self) -> list[psec.SkillLibrary]:
        """The libraries, with a low-rank skill for each task."""
        return self.expanded("low_rank", self.config.adapter)

    @functools.cached_property
    def full(self) -> list[psec.SkillLibrary]:
        """The libraries, with a dense skill for each task."""
        return self.expanded("full", self.config.dense_adapter)

    @property
    def source(self) -> tuple[psec.TransitionDataset, str]:
        chain = self.config.chain
        return self.data.source, chain.tasks[chain.source].dataset

    def expanded(self, kind: str, adapter: psec.Adapter) -> list[psec.SkillLibrary]:
        bases = self.bases

        def alone(skills: list[psec.Skill]) -> list[psec.Policy]:
            banks = [psec.Bank.of({"skill": skill}) for skill in skills]
            return [base.with_bank(bank) for base, bank in zip(bases, banks, strict=True)]

        for task, data in self.data.tasks.items():
            how = self.fitting(
                self.config.skill, f"{kind} skill {task}", **self.curve(kind, task, alone)
            )
            skills = psec.learn_skill(bases, data, adapter=adapter, **how)
            self.keep(
                skill_name(task, kind), by_seed(skills), self.config.chain.tasks[task].dataset
            )
        return self.libraries

    def curve(self, method: str, task: str, deploy: Callable[[list], list]) -> dict[str, Any]:
        """How a training is evaluated on the way, where ``evaluation.curve_every`` asks for it."""
        plan, environment = self.config.evaluation, self.config.chain.tasks[task].environment
        where = {"task": task, "method": method, "metric": "learning_return"}

        def inspect(step: int, trained: list) -> list[float]:
            evaluations = self.evaluate(deploy(trained), environment, f"evaluate {task}")
            self.record(evaluations, step=step, **where)
            return [evaluation.mean for evaluation in evaluations]

        options = {"every": plan.curve_every, "inspect": inspect, "best": plan.best}
        return options if plan.curve_every else {}


def zero_shot(run: Run, column: Column) -> list:
    """π₀ as it is."""
    return run.bases


def scratch(run: Run, column: Column) -> list:
    """Cloning of the target's demonstrations alone."""
    return run.scratch[column.target]


def skill(run: Run, column: Column) -> list:
    """The target's skill on π₀ at weight 1."""
    run.low_rank  # noqa: B018  (puts the skills into the libraries)
    return run.with_skill(column.target)


def composed(
    run: Run,
    column: Column,
    name: str,
    parts: str,
    level: str,
    context: bool = True,
    home: bool = False,
) -> list:
    """π₀ and skills, or policies from scratch, mixed by weights that are trained on the target's
    demonstrations."""
    config, data = run.config, run.data.tasks[column.target]
    if replayed := config.data.replayed_trajectories:
        data = psec.concatenate([data, run.data.source.take(replayed)])
    if parts == "scratch":
        policies = {task: run.scratch[task] for task in column.skills}
        policies["base"] = run.bases
        seeds = zip(*policies.values(), strict=True)
        mixed = [dict(zip(policies, each, strict=True)) for each in seeds]
        names = column.skills
    else:
        mixed, names = getattr(run, parts), [skill_name(task, parts) for task in column.skills]
    label = f"compose {name}{'' if context else '_fixed'} {column.name}"
    agents = psec.compose(
        mixed,
        data,
        skills=names,
        composer=config.composer_at(level, len(names), context),
        **run.fitting(config.mixing(context), label),
    )
    return run.gone_home(by_seed(agents)) if home else by_seed(agents)


METHODS = {
    "zero_shot": Method("π₀, zero-shot", zero_shot, "pretrain"),
    "scratch": Method("Scratch", scratch),
    "skill": Method("Skill, not composed", skill, "skill"),
}
for _name, _label, _level, _parts in (
    ("asec", "ASEC", "action", "scratch"),
    ("nsec", "NSEC", "noise", "scratch"),
    ("asec_skills", "ASEC, PSEC's skills", "action", "low_rank"),
    ("nsec_skills", "NSEC, PSEC's skills", "noise", "low_rank"),
    ("psec_mlp", "PSEC (MLP)", "parameter", "full"),
    ("psec", "PSEC", "parameter", "low_rank"),
):
    METHODS |= mixture(_name, _label, _level, partial(composed, name=_name, parts=_parts))


def run(config: Continual, out: Path, recorder: Recorder) -> None:
    """Every method in every column with every seed, then the table and the figures."""
    columns, tasks = config.chain.columns, config.chain.tasks
    with Simulators(config.at_once * min(50, config.evaluation.episodes)) as simulators:
        data = Data.opened(config, simulators)
        for seeds in unfinished(config, recorder, [column.name for column in columns]):
            this = Run(config, data, seeds, out, recorder, simulators)
            for task in dict.fromkeys(column.target for column in columns):
                this.demonstrations([data.tasks[task]] * len(seeds), task)
            for column in columns:
                this.measure(
                    METHODS,
                    column.name,
                    tasks[column.target].environment,
                    column,
                    episodes=f"evaluate {column.target}",
                    suffix=slug(column.name),
                )
    report(config, recorder)


def report(config: Continual, recorder: Recorder) -> None:
    """The table in the paper's layout, the paper's own numbers, and the bars."""
    rows = [(name, METHODS[name].label) for name in config.methods]
    columns = [column.name for column in config.chain.columns]
    summaries = recorder.summaries("return")
    experts = recorder.summaries("demonstrations")
    references = {
        column.name: experts["demonstrations", column.target].mean
        for column in config.chain.columns
        if ("demonstrations", column.target) in experts
    }
    counts = next(iter(summaries.values()))
    parts = [
        "Return: mean and 95 % bootstrap interval over "
        f"{counts.episodes} episodes ({counts.seeds} seed(s)).\n",
        returns_table(summaries, rows, columns),
    ]
    if references:
        shown = ", ".join(f"{column} {value:.0f}" for column, value in references.items())
        parts.append(f"The demonstrations themselves: {shown}.\n")
    if {"asec", "nsec"} & set(config.methods):
        parts.append("ASEC and NSEC mix π₀ with policies trained from scratch.\n")
    if reported := published_table(published.CONTINUAL, rows, columns):
        parts.append("As the paper reports:\n\n" + reported)
    recorder.text("table.md", "\n".join(parts))
    shown = (summaries, rows, columns, published.CONTINUAL, references)
    recorder.figure("returns.png", figures.bars, *shown)


def skill_name(task: str, kind: str) -> str:
    return task if kind == "low_rank" else f"{task}-{kind}"


def slug(column: str) -> str:
    """A column's name as the end of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", column.replace("→", "_to_"))


def check(config: Continual) -> None:
    """Refuse what the schema alone cannot: unknown methods, columns that are one as files."""
    columns = [column.name for column in config.chain.columns]
    checks.check(config, METHODS, columns)
    files = [f"{name}-{slug(column)}" for name in config.methods for column in columns]
    with naming("chain.columns"):
        for name in files:
            check_name(name, "agent")
    if len(set(files)) < len(files):
        raise ConfigError(f"chain.columns have names that are one as files: {sorted(files)}")
    if config.evaluation.best and config.at_once > 1:
        raise ConfigError(
            "evaluation.best keeps the best state of one seed; use side_by_side=false, or one seed"
        )


@command
def main(config: DictConfig) -> float:
    return launch(config, Continual, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import continual

    continual.main()
