"""Dynamics shift: a policy of a robot with other dynamics, reused where target data are few
(paper, section 5.3).

    python -m experiments.dynamics_shift robot=walker2d shift=gravity target.fraction=0.05

π₀ is cloned from plenty of data of the shifted robot; a LoRA skill is learned by offline RL on a
little data of the robot as it is, and a context network mixes both. Where there are several
sources, π₀ comes from the first, and each other brings a skill of its own to the mixture.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from experiments.stages import Stages, check_alike, check_joined, load, run_seeds
from psec_jax.backbones import Backbone
from psec_jax.evaluation import Evaluation, scores
from psec_jax.learners import Critics
from psec_jax.learners.objectives import Return
from psec_jax.report import figures, published
from psec_jax.report.tables import published_table, returns_table
from psec_jax.training import fit
from psec_jax.training.seeds import for_each_seed


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
        return cls(sources, load(config.target.dataset, config.target.trajectories))


@dataclass(frozen=True)
class Run(Stages):
    """Seeds of one configuration, and what several methods build on, made once."""

    config: DynamicsShift
    data: Data

    @functools.cached_property
    def sources(self) -> dict[str, psec.TransitionDataset]:
        return {shift: self.as_critics_see(data) for shift, data in self.data.sources.items()}

    @functools.cached_property
    def targets(self) -> list[psec.TransitionDataset]:
        return [self.as_critics_see(share) for share in self.shares]

    @functools.cached_property
    def shares(self) -> list[psec.TransitionDataset]:
        """A random share of the target's data, another for each seed."""
        target = self.config.target
        return [self.data.target.fraction(target.fraction, s, target.by) for s in self.seeds]

    def as_critics_see(self, data: psec.TransitionDataset) -> psec.TransitionDataset:
        terminal = self.config.critics.timeouts_terminal
        return data.truncations_as_terminations() if terminal else data

    @functools.cached_property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Around π₀, by behavior cloning on the first source."""
        source = next(iter(self.sources.values()))
        return self.libraries_of(self.clone("pretrain", source, self.config.pretrain))

    @property
    def bases(self) -> list[psec.Policy]:
        return [library.base for library in self.libraries]

    @functools.cached_property
    def critics(self) -> list[Mapping[str, Critics]]:
        """Those of the target's skill, which is put into the library beside those of further
        sources."""
        bases, adapter = self.bases, self.config.adapter.build("low_rank")
        stage = self.config.skill
        for shift, data in list(self.sources.items())[1:]:
            how = self.fitting(stage, f"skill {shift}")
            trained = psec.learn_skill(bases, data, adapter=adapter, **how)
            self.keep(self.libraries, shift, trained, self.config.robot.shifts[shift])
        skills, critics = psec.learn_skills(
            bases,
            self.targets,
            adapter=adapter,
            guidance=self.guidance(self.targets, {"target": self.config.critics.weigh()}),
            **self.fitting(stage, "skill target"),
        )
        dataset = self.config.target.dataset
        self.keep(self.libraries, "target", [skill["target"] for skill in skills], dataset)
        return critics

    def clone(self, label: str, data: Any, stage: Stage) -> list[psec.Policy]:
        """Behavior cloning into a fresh policy, of the same data or of a list's own."""
        each = for_each_seed(data, len(self.seeds), "data")
        return psec.pretrain(
            each,
            backbone=self.config.backbone.build(each[0].action_size),
            statistics=[self.statistics(own) for own in each],
            **self.fitting(stage, label),
        )

    def statistics(self, data: psec.TransitionDataset) -> psec.Statistics:
        return self.config.statistics(data, self.config.observation_floor)

    def guidance(
        self, data: list[psec.TransitionDataset], weights: Any = None
    ) -> list[psec.Guidance]:
        """By critics of the return, with rewards scaled to each seed's data."""
        critics = self.config.critics
        objectives = [Return.scaled_to(own, discount=critics.discount) for own in data]
        return [critics.build(objective, weights) for objective in objectives]

    def choosing(self, policies: list, critics: list[Mapping[str, Critics]]) -> list:
        """Each policy acting by the best of some samples."""
        candidates = self.config.critics.candidates
        if candidates == 1:
            return policies
        return [
            psec.BestOf(policy, own["return"], candidates)
            for policy, own in zip(policies, critics, strict=True)
        ]

    def improved(
        self, label: str, data: list[psec.TransitionDataset], policies: list[psec.Policy]
    ) -> tuple[list[psec.Policy], list[Mapping[str, Critics]]]:
        """Offline RL on all parameters of each policy."""
        return psec.improve(
            policies,
            data,
            guidance=self.guidance(data),
            **self.fitting(self.config.scratch, label),
        )

    def fresh(
        self, label: str, data: list[psec.TransitionDataset], backbone: Backbone | None = None
    ) -> list[psec.Policy]:
        """Untrained policies, of the configured backbone where None is given."""
        if backbone is None:
            backbone = self.config.backbone.build(data[0].action_size)
        return [
            psec.Policy.create(backbone, self.statistics(own), key)
            for own, key in zip(data, self.key(f"create {label}"), strict=True)
        ]


def zero_shot(run: Run) -> list:
    """π₀ as it is."""
    return run.bases


def bc(run: Run) -> list:
    """Cloning of the target's data alone."""
    return run.clone("bc", run.targets, run.config.scratch)


def iql(run: Run) -> list:
    """IQL with its Gaussian actor on the target's data alone."""
    backbone = psec.GaussianBackbone(run.data.target.action_size)
    policies, _ = run.improved("iql", run.targets, run.fresh("iql", run.targets, backbone))
    return policies


def baseline(run: Run, name: str) -> list:
    """The actor of TD3+BC, CQL or ReBRAC, on the target's data alone, whose rewards, timeouts and
    observations are as in the baseline's own code."""
    plan = getattr(run.config.baselines, name)
    discount = run.config.critics.discount
    backbone = plan.backbone(run.data.target.action_size)
    learners = [
        plan.build(psec.Policy.create(backbone, plan.statistics(share), key), Return(discount))
        for share, key in zip(run.shares, run.key(f"create {name}"), strict=True)
    ]
    training = replace(
        run.training(run.config.scratch, name), batch_size=plan.batch_size, optimizer=None
    )
    states = fit(learners, run.shares, key=run.key(name), training=training)
    return [own.result(state)[0] for own, state in zip(learners, states, strict=True)]


def scratch(run: Run) -> list:
    """Offline RL on the target's data alone, with the policy class of PSEC."""
    fresh = run.fresh("scratch", run.targets)
    return run.choosing(*run.improved("scratch", run.targets, fresh))


def joint(run: Run) -> list:
    """Offline RL on source and target data together."""
    both = [psec.concatenate([*run.sources.values(), target]) for target in run.targets]
    return run.choosing(*run.improved("joint", both, run.fresh("joint", both)))


def finetune(run: Run) -> list:
    """Offline RL on the target's data, from π₀ on, with nothing frozen."""
    return run.choosing(*run.improved("finetune", run.targets, run.bases))


def skill(run: Run) -> list:
    """The target's skill on π₀ at weight 1."""
    critics = run.critics
    policies = [lib.base.with_bank(lib.bank(["target"])) for lib in run.libraries]
    return run.choosing(policies, critics)


def composed(run: Run, level: str = "parameter", context: bool = True) -> list:
    """π₀ and all skills, mixed by weights that are trained on the target's data."""
    critics = run.critics
    count, weigh = len(run.libraries[0].names()), run.config.critics.weigh()
    build = partial(run.config.composer.build, count, level, context, weigh=weigh)
    agents = psec.compose(
        run.libraries,
        run.targets,
        composer=[build(critics=own) for own in critics],
        **run.fitting(run.config.mixing(context), f"compose {level}{'' if context else ' fixed'}"),
    )
    return run.choosing(agents, critics)


METHODS: dict[str, tuple[str, Callable[[Run], list]]] = {
    "zero_shot": ("π₀, zero-shot", zero_shot),
    "bc": ("BC", bc),
    "iql": ("IQL", iql),
    "cql": ("CQL", partial(baseline, name="cql")),
    "td3bc": ("TD3+BC", partial(baseline, name="td3bc")),
    "rebrac": ("ReBRAC", partial(baseline, name="rebrac")),
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
        run_seeds(
            config,
            lambda seeds: train(Run(config, seeds, out, recorder, data), column, vector),
            finished,
        )
    report(config, recorder)


def train(this: Run, column: str, vector: VectorEnv) -> None:
    """Every method, trained and evaluated."""
    config = this.config
    record = partial(this.record, setting="dynamics_shift", task=column)
    for method in config.methods:
        if this.measured(method, column, "score"):
            continue
        agents = METHODS[method][1](this)
        evaluations = this.evaluate(agents, vector, "evaluate")
        this.leave(agents, method, method=method, task=column)
        steps = config.pretrain.steps if method == "zero_shot" else config.scratch.steps
        record(evaluations, method=method, step=steps)
        normalized = [
            Evaluation(scores.d4rl_score(config.robot.reference, e.returns), e.lengths)
            for e in evaluations
        ]
        record(normalized, method=method, step=steps, metric="score")
    for seed, share in zip(this.seeds, this.shares, strict=True):
        # Single transitions have no return of their own.
        shown = this.data.target if config.target.by == "transition" else share
        this.recorder.demonstrations(shown, setting="dynamics_shift", task=column, seed=seed)


def report(config: DynamicsShift, recorder: Recorder) -> None:
    """Normalized scores in the paper's layout, the paper's own numbers, and the bars."""
    rows = [(name, METHODS[name][0]) for name in config.methods]
    columns = [column_name(config)]
    summaries = recorder.summaries("score")
    one = next(iter(summaries.values()))
    parts = [
        "Normalized score (0 random, 100 expert): mean and 95 % bootstrap interval over "
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
    shown = (summaries, rows, columns, paper, references)
    recorder.figure("scores.png", figures.bars, *shown, ylabel="normalized score")


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


@command
def main(config: DictConfig) -> float:
    return launch(config, DynamicsShift, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import dynamics_shift

    dynamics_shift.main()
