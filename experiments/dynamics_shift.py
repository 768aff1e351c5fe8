"""Dynamics shift: a policy of a robot with other dynamics, reused where target data are few
(paper, section 5.3).

    python -m experiments.dynamics_shift robot=walker2d shift=gravity target.fraction=0.05

π₀ is cloned from plenty of data of the shifted robot; a LoRA skill is learnt by offline RL on a
little data of the robot as it is, and a context network mixes both. Where there are several
sources, π₀ comes from the first, and each other brings a skill of its own to the mixture.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from omegaconf import DictConfig

import psec_jax as psec
from experiments.config import ConfigError, DynamicsShift, Stage, check_choice
from experiments.launching import command, launch
from experiments.recording import Recorder
from experiments.simulators import Simulators
from experiments.stages import (
    Stages,
    check_alike,
    check_joined,
    each_seed,
    keep,
    library_of,
    load,
)
from psec_jax.backbones import Backbone
from psec_jax.evaluation import scores
from psec_jax.report import figures, published
from psec_jax.report.tables import published_table, returns_table


@dataclass(frozen=True)
class Data:
    """What all seeds are trained on: plenty of data of the robot with each shift, and those of the
    robot as it is, of which each seed has a share."""

    sources: dict[str, psec.TransitionDataset]
    target: psec.TransitionDataset

    @classmethod
    def opened(cls, config: DynamicsShift) -> "Data":
        """Raises ``ConfigError`` where a dataset cannot be had."""
        count = config.data.source_trajectories
        sources = {shift: load(config.robot.shifts[shift], count) for shift in config.shifts}
        target = load(config.target.dataset, config.target.trajectories)
        if not config.critics.timeouts_terminal:
            return cls(sources, target)
        ended = {shift: data.truncations_as_terminations() for shift, data in sources.items()}
        return cls(ended, target.truncations_as_terminations())


@dataclass(frozen=True)
class Seed(Stages):
    """One seed of one configuration, and what several methods build on, made once."""

    config: DynamicsShift
    data: Data

    @property
    def sources(self) -> dict[str, psec.TransitionDataset]:
        return self.data.sources

    @functools.cached_property
    def target(self) -> psec.TransitionDataset:
        """A random share of the target's data, another for each seed."""
        target = self.config.target
        return self.data.target.fraction(target.fraction, self.seed, target.by)

    @functools.cached_property
    def library(self) -> psec.SkillLibrary:
        """Around π₀, by behaviour cloning on the first source."""
        source = next(iter(self.sources.values()))
        base = self.clone("pretrain", source, self.config.pretrain)
        return library_of(base, self.out / "library")

    @functools.cached_property
    def critics(self) -> Mapping[str, psec.Critics]:
        """Those of the target's skill, which is put into the library beside those of further
        sources."""
        base, adapter = self.library.base, self.config.adapter.build("low_rank")
        options = {"adapter": adapter, **self.config.skill.options()}
        for shift, data in list(self.sources.items())[1:]:
            learnt = psec.learn_skill(base, data, **options, **self.fitting(f"skill {shift}"))
            keep(self.library, shift, learnt, self.config.robot.shifts[shift], self.seed)
        skills, critics = psec.learn_skills(
            base,
            self.target,
            skills={"target": self.config.critics.weigh()},
            **options,
            **self.criticising(self.target),
            **self.fitting("skill target"),
        )
        dataset = self.config.target.dataset
        keep(self.library, "target", skills["target"], dataset, self.seed)
        return critics

    def clone(self, label: str, data: psec.TransitionDataset, stage: Stage) -> psec.Policy:
        """Behaviour cloning into a fresh policy."""
        return psec.pretrain(
            data,
            backbone=self.config.backbone.build(data.action_size),
            statistics=self.statistics(data),
            **stage.options(),
            **self.fitting(label),
        )

    def statistics(self, data: psec.TransitionDataset) -> psec.Statistics:
        return self.config.statistics(data, self.config.observation_floor)

    def criticising(self, data: psec.TransitionDataset) -> dict[str, Any]:
        """What every verb takes that learns critics."""
        objective = psec.Return.scaled_to(data, discount=self.config.critics.discount)
        return {"objectives": {"return": objective}, **self.config.critics.options()}

    def choosing(self, policy: Any, critics: Mapping[str, psec.Critics]) -> Any:
        """``policy`` acting by the best of some samples."""
        candidates = self.config.critics.candidates
        return policy if candidates == 1 else psec.BestOf(policy, critics["return"], candidates)

    def improved(
        self, label: str, data: psec.TransitionDataset, policy: psec.Policy
    ) -> tuple[psec.Policy, Mapping[str, psec.Critics]]:
        """Offline RL on all parameters of ``policy``."""
        return psec.improve(
            policy,
            data,
            weigh=self.config.critics.weigh(),
            **self.config.scratch.options(),
            **self.criticising(data),
            **self.fitting(label),
        )

    def fresh(
        self, label: str, data: psec.TransitionDataset, backbone: Backbone | None = None
    ) -> psec.Policy:
        """An untrained policy, of the configured backbone where None is given."""
        if backbone is None:
            backbone = self.config.backbone.build(data.action_size)
        return psec.Policy.create(backbone, self.statistics(data), self.key(f"create {label}"))


def zero_shot(run: Seed) -> Any:
    """π₀ as it is."""
    return run.library.base


def bc(run: Seed) -> Any:
    """Cloning of the target's data alone."""
    return run.clone("bc", run.target, run.config.scratch)


def iql(run: Seed) -> Any:
    """IQL with its Gaussian actor on the target's data alone."""
    backbone = psec.GaussianBackbone(run.target.action_size)
    policy, _ = run.improved("iql", run.target, run.fresh("iql", run.target, backbone))
    return policy


def scratch(run: Seed) -> Any:
    """Offline RL on the target's data alone, with the policy class of PSEC."""
    return run.choosing(*run.improved("scratch", run.target, run.fresh("scratch", run.target)))


def joint(run: Seed) -> Any:
    """Offline RL on source and target data together."""
    both = psec.concatenate([*run.sources.values(), run.target])
    return run.choosing(*run.improved("joint", both, run.fresh("joint", both)))


def finetune(run: Seed) -> Any:
    """Offline RL on the target's data, from π₀ on, with nothing frozen."""
    return run.choosing(*run.improved("finetune", run.target, run.library.base))


def skill(run: Seed) -> Any:
    """The target's skill on π₀ at weight 1."""
    critics, library = run.critics, run.library
    return run.choosing(library.base.with_bank(library.bank(["target"])), critics)


def composed(run: Seed, level: str = "parameter", context: bool = True) -> Any:
    """π₀ and all skills, mixed by weights that are learnt on the target's data."""
    critics = run.critics
    agent = psec.compose(
        run.library,
        run.target,
        critics=critics,
        weigh=run.config.critics.weigh(),
        **run.config.mixing(len(run.library.names()), level, context),
        **run.fitting(f"compose {level}{'' if context else ' fixed'}"),
    )
    return run.choosing(agent, critics)


def elsewhere(run: Seed, algorithm: str) -> Any:
    """An algorithm of d3rlpy's on the target's data alone."""
    from experiments import d3rlpy

    return d3rlpy.train(algorithm, run.target, steps=run.config.scratch.steps, seed=run.seed)


METHODS: dict[str, tuple[str, Callable[[Seed], Any]]] = {
    "zero_shot": ("π₀, zero-shot", zero_shot),
    "bc": ("BC", bc),
    "iql": ("IQL", iql),
    "cql": ("CQL", partial(elsewhere, algorithm="cql")),
    "td3bc": ("TD3+BC", partial(elsewhere, algorithm="td3bc")),
    "scratch": ("Scratch", scratch),
    "joint": ("Joint training", joint),
    "finetune": ("Fine-tuning", finetune),
    "skill": ("Skill, not composed", skill),
    "asec": ("ASEC", partial(composed, level="action")),
    "nsec": ("NSEC", partial(composed, level="noise")),
    "psec": ("PSEC", composed),
    "psec_fixed": ("PSEC w/o context", partial(composed, context=False)),
}


def run(config: DynamicsShift, out: Path, recorder: Recorder) -> None:
    """Every method with every seed, then the table and the bars."""
    column = column_name(config)

    def finished(seed: int) -> bool:
        return recorder.has("demonstrations", column, seed, "demonstrations")

    with Simulators(config.at_once * min(50, config.evaluation.episodes)) as simulators:
        # Before anything is trained: a simulator may be missing, or data unfit.
        vector = simulators.of(config.robot.environment)
        data = Data.opened(config)
        check_alike({**data.sources, "the target": data.target}, vector)
        if "joint" in config.methods:
            check_joined([*data.sources.values(), data.target])
        each_seed(
            config,
            lambda seed: run_seed(
                Seed(config, seed, out / f"seed_{seed}", recorder, data), column, vector
            ),
            finished,
        )
    report(config, out, recorder)


def run_seed(this: Seed, column: str, vector: VectorEnv) -> None:
    config = this.config
    record = partial(
        this.recorder.evaluation, setting="dynamics_shift", task=column, seed=this.seed
    )
    for method in config.methods:
        if this.measured(method, column, "score"):
            continue
        evaluation = psec.evaluate(
            METHODS[method][1](this),
            vector,
            episodes=config.evaluation.episodes,
            key=this.key("evaluate"),
        )
        steps = config.pretrain.steps if method == "zero_shot" else config.scratch.steps
        record(method=method, step=steps, evaluation=evaluation)
        score = psec.Evaluation(
            scores.d4rl_score(config.robot.reference, evaluation.returns), evaluation.lengths
        )
        record(method=method, step=steps, evaluation=score, metric="score")
    # Single transitions have no return of their own.
    shown = this.data.target if config.target.by == "transition" else this.target
    this.recorder.demonstrations(shown, setting="dynamics_shift", task=column, seed=this.seed)


def report(config: DynamicsShift, out: Path, recorder: Recorder) -> None:
    """Normalised scores in the paper's layout, the paper's own numbers, and the bars."""
    rows = [(name, METHODS[name][0]) for name in config.methods]
    columns = [column_name(config)]
    summaries = recorder.summaries("score")
    one = next(iter(summaries.values()))
    parts = [
        "Normalised score (0 random, 100 expert): mean and 95 % bootstrap interval over "
        f"{one.episodes} episodes ({one.seeds} seed(s)).\n",
        returns_table(summaries, rows, columns, digits=1),
    ]
    references = {
        column: float(scores.d4rl_score(config.robot.reference, data.mean))
        for (_, column), data in recorder.summaries("demonstrations").items()
    }
    if references:
        parts.append(f"The target's data themselves: {references[columns[0]]:.1f}.\n")
    paper = published.dynamics_shift(columns)
    if reported := published_table(paper, published.DYNAMICS_SHIFT_ROWS, columns):
        parts.append("As the paper reports, read off its bars, on D4RL's data:\n\n" + reported)
    recorder.text("table.md", "\n".join(parts))
    figure = out / "scores.png"
    figures.bars(figure, summaries, rows, columns, paper, references, ylabel="normalised score")
    recorder.figure(figure)


def column_name(config: DynamicsShift) -> str:
    """Robot, data and shift: ``walker2d medium, gravity``."""
    dataset = Path(config.target.dataset.partition("/")[2] or config.target.dataset).name
    kind = dataset.removeprefix(f"{config.robot.name}-").removesuffix("-v2")
    return f"{config.robot.name} {kind}, {config.shift}"


def check(config: DynamicsShift) -> None:
    """Refuse what the schema alone cannot: unknown methods and shifts, impossible shares."""
    config.check(METHODS, [column_name(config)])
    if unknown := [shift for shift in config.shifts if shift not in config.robot.shifts]:
        raise ConfigError(
            f"shift {config.shift!r} names {unknown}, which {config.robot.name} has no data of; "
            f"expected one or more of {list(config.robot.shifts)}, joined by +"
        )
    if len(set(config.shifts)) < len(config.shifts):
        raise ConfigError(f"shift {config.shift!r} names a source twice")
    if not config.observation_floor > 0:
        raise ConfigError(f"observation_floor must be above 0, not {config.observation_floor}")
    check_choice("target.by", config.target.by, ("trajectory", "transition"))
    if not 0 < config.target.fraction <= 1:
        raise ConfigError(f"target.fraction must be in (0, 1], not {config.target.fraction}")
    if "nsec" in config.methods and config.backbone.kind != "diffusion":
        raise ConfigError("nsec mixes noise predictions, which only backbone=diffusion makes")
    if {"cql", "td3bc"} & set(config.methods):
        from experiments import d3rlpy

        try:
            d3rlpy.check_installed()
        except RuntimeError as error:
            raise ConfigError(f"methods cql and td3bc: {error}") from None


@command
def main(config: DictConfig) -> float:
    return launch(config, DynamicsShift, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import dynamics_shift

    dynamics_shift.main()
