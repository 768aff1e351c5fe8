"""Continual policy shift: skills learnt one after another on a frozen policy (paper, section 5.2).

    python -m experiments.continual scale=demo seeds=[0,1,2]

π₀ is cloned from plenty of source demonstrations; each further task brings a few, from which one
LoRA skill is learnt; a context network then mixes π₀ and skills on the target's demonstrations.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import jax
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import psec_jax as psec
from experiments.config import Chain, ConfigError, Continual, parse
from experiments.recording import Recorder, start_recording
from psec_jax.evaluation import trace_weights
from psec_jax.report import figures, published
from psec_jax.report.tables import published_table, returns_table
from psec_jax.training.seeds import named_key


@dataclass(frozen=True)
class Method:
    """A row of the table: which skills it uses (kind of delta) and how it mixes them (level)."""

    label: str
    kind: str | None = None
    level: str | None = None
    context: bool = True


METHODS = {
    "zero_shot": Method("π₀, zero-shot"),
    "scratch": Method("Scratch"),
    "skill": Method("Skill, not composed", "low_rank"),
    "asec": Method("ASEC", "low_rank", "action"),
    "nsec": Method("NSEC", "low_rank", "noise"),
    "psec_mlp": Method("PSEC (MLP)", "full", "parameter"),
    "psec": Method("PSEC", "low_rank", "parameter"),
    "asec_fixed": Method("ASEC w/o context", "low_rank", "action", context=False),
    "nsec_fixed": Method("NSEC w/o context", "low_rank", "noise", context=False),
    "psec_mlp_fixed": Method("PSEC (MLP) w/o context", "full", "parameter", context=False),
    "psec_fixed": Method("PSEC w/o context", "low_rank", "parameter", context=False),
}


def run(config: Continual, out: Path, recorder: Recorder) -> None:
    """All seeds of one configuration, then the table and the figures."""
    for seed in config.seeds:
        run_seed(config, seed, out / f"seed_{seed}", recorder)
    report(config, out, recorder)


def run_seed(config: Continual, seed: int, out: Path, recorder: Recorder) -> None:
    chain, methods = config.chain, {name: METHODS[name] for name in config.methods}
    stage = partial(named_key, jax.random.key(seed))
    record = partial(recorder.evaluation, setting="continual", seed=seed)

    # Data: many source demonstrations, a few of each target.
    targets = tuple(dict.fromkeys(column.target for column in chain.columns))
    learnt = tuple(dict.fromkeys(name for column in chain.columns for name in column.skills))
    source = _demonstrations(chain, chain.source, config.data.source_trajectories)
    data = {
        task: _demonstrations(chain, task, config.data.target_trajectories)
        for task in dict.fromkeys(learnt + targets)
    }

    def evaluate(agent: Any, task: str) -> psec.Evaluation:
        environment = chain.tasks[task].environment
        return psec.evaluate(
            agent, environment, episodes=config.evaluation.episodes, key=stage(f"evaluate {task}")
        )

    def fitting(label: str, inspect: Callable | None = None) -> dict[str, Any]:
        """What every call of a verb takes here; with ``curve_every``, evaluates on the way."""
        options: dict[str, Any] = {"key": stage(label), "label": f"{label} (seed {seed})"}
        options |= {"writer": recorder.writer, "progress": config.progress}
        if inspect is not None and config.evaluation.curve_every:
            options |= {"every": config.evaluation.curve_every, "inspect": inspect}
        return options

    def curve(method: str, task: str, deploy: Callable[[Any], Any]) -> Callable:
        return lambda step, learnt: record(
            task=task,
            method=method,
            step=step,
            metric="learning_return",
            evaluation=evaluate(deploy(learnt), task),
        )

    # π₀ by behaviour cloning on the source.
    backbone = config.backbone.build(source.action_size)
    base = psec.pretrain(
        source, backbone=backbone, **config.pretrain.options(), **fitting("pretrain")
    )
    library = psec.SkillLibrary.create(out / "library", base)

    # Expansion: one skill a task, low-rank and dense, and policies from scratch to compare with.
    for kind in dict.fromkeys(m.kind for m in methods.values() if m.kind):
        for task in learnt:
            name = skill_name(task, kind)
            deploy = lambda skill: base.with_bank(psec.Bank.of({"skill": skill}))  # noqa: E731
            skill = psec.learn_skill(
                base,
                data[task],
                adapter=config.adapter.build(kind),
                **config.skill.options(),
                **fitting(f"skill {name}", curve(kind, task, deploy)),
            )
            library.add(name, skill, dataset=chain.tasks[task].dataset, seed=seed)
    scratch = {}
    if "scratch" in methods:
        for task in targets:
            scratch[task] = psec.pretrain(
                data[task],
                backbone=backbone,
                **config.scratch.options(),
                **fitting(f"scratch {task}", curve("scratch", task, lambda policy: policy)),
            )

    # Composition and evaluation, column by column.
    uncomposed = {}
    for column in chain.columns:
        target = column.target
        for name, method in methods.items():
            if method.level is None:
                if (name, target) not in uncomposed:
                    agent = {"zero_shot": base, "scratch": scratch.get(target)}.get(name)
                    if name == "skill":
                        agent = base.with_bank(library.bank([target]))
                    uncomposed[name, target] = evaluate(agent, target)
                evaluation = uncomposed[name, target]
            else:
                replay = config.composer.source_trajectories
                mixing = [data[target], source.take(replay)] if replay else [data[target]]
                agent = psec.compose(
                    library,
                    psec.concatenate(mixing),
                    skills=[skill_name(task, method.kind) for task in column.skills],
                    level=method.level,
                    context=method.context,
                    hidden=tuple(config.composer.hidden),
                    **config.context.options(),
                    **fitting(f"compose {name} {column.name}"),
                )
                evaluation = evaluate(agent, target)
                if name == "psec" and seed == config.seeds[0]:
                    trace(agent, column.name, chain.tasks[target].environment, stage, recorder)
            step = config.scratch.steps if name == "scratch" else config.skill.steps
            record(task=column.name, method=name, step=step, evaluation=evaluation)
    for task in targets:
        recorder.demonstrations(data[task], setting="continual", task=task, seed=seed)


def trace(agent, column: str, environment: str, stage: Callable, recorder: Recorder) -> None:
    """α(s) over one episode, as a figure and as numbers."""
    weights, rewards = trace_weights(agent, environment, key=stage("trace"))
    names = agent.policy.bank.names
    recorder.trace(f"weights_{slug(column)}", weights, rewards, names, title=f"PSEC, {column}")


def report(config: Continual, out: Path, recorder: Recorder) -> None:
    """The table in the paper's layout, the paper's own numbers, and the bars."""
    rows = [(name, METHODS[name].label) for name in config.methods]
    columns = [column.name for column in config.chain.columns]
    summaries = recorder.summaries("return")
    experts = recorder.summaries("demonstrations")
    references = {c.name: experts["demonstrations", c.target].mean for c in config.chain.columns}
    counts = next(iter(summaries.values()))
    parts = [
        "Return: mean and 95 % bootstrap interval over "
        f"{counts.episodes} episodes ({counts.seeds} seed(s)).\n",
        returns_table(summaries, rows, columns),
        "The demonstrations themselves: "
        + ", ".join(f"{column} {value:.0f}" for column, value in references.items())
        + ".\n",
        "As the paper reports:\n",
        published_table(published.CONTINUAL, rows, columns),
    ]
    recorder.text("table.md", "\n".join(parts))
    figure = out / "returns.png"
    figures.bars(figure, summaries, rows, columns, published.CONTINUAL, references)
    recorder.figure(figure)


def skill_name(task: str, kind: str) -> str:
    return task if kind == "low_rank" else f"{task}-full"


def slug(column: str) -> str:
    return column.replace("→", "_to_").replace("+", "_")


def check(config: Continual) -> None:
    """Refuse what the schema alone cannot: unknown methods, tasks, and impossible pairs."""
    chain = config.chain
    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ConfigError(f"methods {unknown} are unknown; expected some of {list(METHODS)}")
    if not config.methods or not config.seeds or not chain.columns:
        raise ConfigError("methods, seeds and chain.columns each need at least one entry")
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds {config.seeds} name a seed twice")
    named = {chain.source} | {t for c in chain.columns for t in (c.target, *c.skills)}
    if unknown := sorted(named - set(chain.tasks)):
        raise ConfigError(f"tasks {unknown} are not in chain.tasks, which has {list(chain.tasks)}")
    levels = {METHODS[name].level for name in config.methods}
    if "noise" in levels and config.backbone.kind != "diffusion":
        raise ConfigError(
            "nsec mixes noise predictions, which only backbone=diffusion makes; leave nsec out "
            "of methods"
        )
    if config.evaluation.episodes < 1:
        raise ConfigError(f"evaluation.episodes must be at least 1: {config.evaluation.episodes}")


def _demonstrations(chain: Chain, task: str, trajectories: int) -> psec.TransitionDataset:
    return psec.load_dataset(chain.tasks[task].dataset, trajectories)


@hydra.main(version_base="1.3", config_path="../conf", config_name="continual")
def main(config: DictConfig) -> None:
    try:
        parsed = parse(config, Continual)
        check(parsed)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    out = Path(HydraConfig.get().runtime.output_dir)
    resolved = OmegaConf.to_container(config, resolve=True)
    with start_recording(out, resolved, parsed.logger) as recorder:
        run(parsed, out, recorder)
    print((out / "table.md").read_text())
    print(f"figures    {', '.join(sorted(str(p) for p in out.glob('*.png')))}")
    print(f"libraries  {', '.join(str(p) for p in sorted(out.glob('seed_*/library')))}")
    print(f"results    {out / 'results.jsonl'}")


if __name__ == "__main__":
    main()
