"""Continual policy shift: skills learned in turn on a frozen policy (paper, section 5.2).

    python -m experiments.continual scale=demo seeds=[0,1,2]

π₀ is cloned from plenty of source demonstrations; each further task brings a few, from which one
LoRA skill is learned; a context network then mixes π₀ and skills on the target's demonstrations.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import psec_jax as psec
from experiments.config import ConfigError, Continual, Stage
from experiments.launching import command, launch
from experiments.recording import Recorder
from experiments.simulators import Simulators
from experiments.stages import Stages, check_alike, check_joined, load, run_seeds
from psec_jax.evaluation import Evaluation, trace_weights
from psec_jax.report import figures, published
from psec_jax.report.tables import published_table, returns_table
from psec_jax.storage import check_name, expanded


@dataclass(frozen=True)
class Method:
    """A row of the table: what is learned for each task, and at which level it is mixed with π₀.

    ``parts`` are ``low_rank`` or ``full`` skills, or ``policies`` from scratch, which share no
    parameters with π₀ and can be mixed only by their noise predictions or actions.
    """

    label: str
    parts: str | None = None
    level: str | None = None
    context: bool = True


COMPOSED = {
    "asec": Method("ASEC", "policies", "action"),
    "nsec": Method("NSEC", "policies", "noise"),
    "asec_skills": Method("ASEC, PSEC's skills", "low_rank", "action"),
    "nsec_skills": Method("NSEC, PSEC's skills", "low_rank", "noise"),
    "psec_mlp": Method("PSEC (MLP)", "full", "parameter"),
    "psec": Method("PSEC", "low_rank", "parameter"),
}
METHODS = {
    "zero_shot": Method("π₀, zero-shot"),
    "scratch": Method("Scratch", "policies"),
    "skill": Method("Skill, not composed", "low_rank"),
    **COMPOSED,
    **{
        f"{name}_fixed": replace(method, label=f"{method.label} w/o context", context=False)
        for name, method in COMPOSED.items()
    },
}


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
        if config.composer.source_trajectories:
            check_joined(list(parts.values()))
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


def run(config: Continual, out: Path, recorder: Recorder) -> None:
    """All seeds of one configuration, then the table and the figures."""
    with Simulators(config.at_once * min(50, config.evaluation.episodes)) as simulators:
        data = Data.opened(config, simulators)
        run_seeds(
            config,
            lambda seeds: train(Stages(config, seeds, out, recorder), data, simulators),
            lambda seed: finished(config, seed, recorder),
        )
    report(config, recorder)


def finished(config: Continual, seed: int, recorder: Recorder) -> bool:
    """Whether every method was measured in every column."""
    return all(
        recorder.has(method, column.name, seed, "return")
        for method in config.methods
        for column in config.chain.columns
    )


def train(this: Stages, opened: Data, simulators: Simulators) -> None:
    """Pretraining, expansion, composition and evaluation of all these seeds."""
    config, chain, seeds = this.config, this.config.chain, this.seeds
    methods = {name: METHODS[name] for name in config.methods}
    source, data = opened.source, opened.tasks
    record = partial(this.record, setting="continual")

    def evaluate(agents: list, task: str) -> list[Evaluation]:
        vector = simulators.of(chain.tasks[task].environment)
        return this.evaluate(agents, vector, f"evaluate {task}")

    def fitting(
        stage: Stage, label: str, curve_of: str, task: str, deploy: Callable
    ) -> dict[str, Any]:
        """As ``this.fitting``; with ``curve_every``, evaluates on the way."""

        def inspect(step: int, trained: list) -> list[float]:
            found = evaluate(deploy(trained), task)
            where = {"task": task, "method": curve_of, "step": step, "metric": "learning_return"}
            record(found, **where)
            return [evaluation.mean for evaluation in found]

        curve = {"every": config.evaluation.curve_every, "inspect": inspect}
        curve |= {"best": config.evaluation.best}
        return this.fitting(stage, label, **(curve if curve["every"] else {}))

    for task in dict.fromkeys(column.target for column in chain.columns):
        for seed in seeds:
            this.recorder.demonstrations(data[task], setting="continual", task=task, seed=seed)

    # π₀ by behavior cloning on the source.
    backbone = config.backbone.build(source.action_size)
    bases = (
        [opened.bases[seed] for seed in seeds]
        if opened.bases
        else psec.pretrain(
            source,
            backbone=backbone,
            statistics=config.statistics(source),
            **this.fitting(config.pretrain, "pretrain"),
        )
    )
    libraries = this.libraries_of(bases)
    bases = [library.base for library in libraries]

    # Expansion: one skill a task, low-rank or dense, and policies from scratch to compare with.
    scratch: dict[str, list[psec.Policy]] = {}
    for parts in dict.fromkeys(method.parts for method in methods.values() if method.parts):
        for task in data:
            if parts == "policies":
                scratch[task] = psec.pretrain(
                    data[task],
                    backbone=backbone,
                    statistics=config.statistics(data[task]),
                    **fitting(config.scratch, f"scratch {task}", parts, task, list),
                )
                continue
            label, deploy = f"{parts} skill {task}", partial(alone, bases)
            skills = psec.learn_skill(
                bases,
                data[task],
                adapter=config.adapter.build(parts),
                **fitting(config.skill, label, parts, task, deploy),
            )
            this.keep(libraries, skill_name(task, parts), skills, chain.tasks[task].dataset)

    # Composition on the target's data, and evaluation, column by column.
    evaluations: dict[tuple[str, str], list[Evaluation]] = {}
    for column in chain.columns:
        target = column.target
        replay = config.composer.source_trajectories
        mixing = psec.concatenate([data[target], source.take(replay)]) if replay else data[target]
        for name, method in methods.items():
            if name == "zero_shot":
                agents = bases
            elif name == "scratch":
                agents = scratch[target]
            elif name == "skill":
                agents = alone(bases, [library.get(target) for library in libraries])
            else:
                given, skills = libraries, [skill_name(t, method.parts) for t in column.skills]
                if method.parts == "policies":
                    given, skills = with_base(bases, scratch), column.skills
                agents = psec.compose(
                    given,
                    mixing,
                    skills=skills,
                    composer=config.composer.build(len(skills), method.level, method.context),
                    **this.fitting(config.mixing(method.context), f"compose {name} {column.name}"),
                )
            seen = (name, target if method.level is None else column.name)
            if seen not in evaluations:
                evaluations[seen] = evaluate(agents, target)
            if name == "psec" and seeds[0] == config.seeds[0]:
                trace(agents[0], column.name, chain.tasks[target].environment, this)
            where = {"task": column.name, "method": name}
            this.leave(agents, agent_name(name, column.name), **where)
            step = config.scratch.steps if method.parts == "policies" else config.skill.steps
            record(evaluations[seen], step=step, **where)


def alone(bases: list[psec.Policy], skills: list[psec.Skill]) -> list[psec.Policy]:
    """Each π₀ with its skill at weight 1."""
    return [
        base.with_bank(psec.Bank.of({"skill": skill}))
        for base, skill in zip(bases, skills, strict=True)
    ]


def with_base(
    bases: list[psec.Policy], scratch: dict[str, list[psec.Policy]]
) -> list[dict[str, psec.Policy]]:
    """Each π₀ among the policies from scratch, as ``compose`` takes them."""
    return [
        {**{task: policies[index] for task, policies in scratch.items()}, "base": base}
        for index, base in enumerate(bases)
    ]


def trace(agent: Any, column: str, environment: str, this: Stages) -> None:
    """α(s) over one episode of the first seed, as a figure and as numbers."""
    found = trace_weights(agent, environment, key=this.key("trace")[0])
    this.recorder.trace(f"weights_{slug(column)}", found, agent.names, title=f"PSEC, {column}")


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


def skill_name(task: str, parts: str) -> str:
    return task if parts == "low_rank" else f"{task}-{parts}"


def agent_name(method: str, column: str) -> str:
    return f"{method}-{slug(column)}"


def slug(column: str) -> str:
    """A column's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", column.replace("→", "_to_"))


def check(config: Continual) -> None:
    """Refuse what the schema alone cannot: unknown methods, tasks, and impossible pairs."""
    chain = config.chain
    config.check(METHODS, [column.name for column in chain.columns])
    if not chain.columns:
        raise ConfigError("chain.columns needs at least one entry")
    named = {chain.source} | {t for c in chain.columns for t in (c.target, *c.skills)}
    if unknown := sorted(named - set(chain.tasks)):
        raise ConfigError(f"tasks {unknown} are not in chain.tasks, which has {list(chain.tasks)}")
    if "base" in chain.tasks:
        raise ConfigError("chain.tasks has a task 'base', which is π₀'s own name; rename it")
    if config.composer.source_trajectories > config.data.source_trajectories:
        raise ConfigError(
            f"composer.source_trajectories {config.composer.source_trajectories} are more than "
            f"data.source_trajectories, {config.data.source_trajectories}"
        )
    files = [agent_name(name, column.name) for name in config.methods for column in chain.columns]
    for name in files:
        try:
            check_name(name, "agent")
        except ValueError as error:
            raise ConfigError(f"chain.columns: {error}") from None
    if len(set(files)) < len(files):
        raise ConfigError(f"chain.columns have names that are one as files: {sorted(files)}")
    if config.evaluation.best and not config.evaluation.curve_every:
        raise ConfigError("evaluation.best needs evaluation.curve_every, which finds the best")
    if config.evaluation.best and config.at_once > 1:
        raise ConfigError(
            "evaluation.best keeps the best state of one seed; use side_by_side=false, or one seed"
        )
    levels = {METHODS[name].level for name in config.methods}
    if "noise" in levels and config.backbone.kind != "diffusion":
        raise ConfigError(
            "nsec mixes noise predictions, which only backbone=diffusion makes; leave nsec out "
            "of methods"
        )


@command
def main(config: DictConfig) -> float:
    return launch(config, Continual, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import continual

    continual.main()
