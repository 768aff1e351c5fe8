"""Dynamics shift: a policy of a robot with other dynamics, reused where target data are few
(paper, section 5.3).

    python -m experiments.dynamics_shift robot=walker2d shift=gravity target.fraction=0.05

π₀ is cloned from plenty of data of the shifted robot; a LoRA skill is learned by offline RL on a
little data of the robot as it is, and a context network mixes both. Where there are several
sources, π₀ comes from the first, and each other brings a skill of its own to the mixture.
"""

import functools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

import psec_jax as psec
from experiments import checks, offline_rl
from experiments.checks import check_alike, check_joined, check_purpose, load
from experiments.launching import command, launch
from experiments.offline_rl import Critics
from experiments.recording import Recorder
from experiments.settings import DynamicsShift
from experiments.simulators import Simulators
from experiments.stages import Method, by_seed, mixtures, unfinished
from psec_jax.evaluation import Evaluation
from psec_jax.learners import AllParameters
from psec_jax.report import figures, published
from psec_jax.report.tables import published_table, returns_table
from psec_jax.training import fit


@dataclass(frozen=True)
class Data:
    """What all seeds are trained on: plenty of data of the robot with each shift, and those of the
    robot as it is, of which each seed has a share."""

    sources: dict[str, psec.TransitionDataset]
    target: psec.TransitionDataset

    @classmethod
    def opened(cls, config: DynamicsShift, simulators: Simulators) -> "Data":
        """With the simulator; raises ``ConfigError`` where something is missing or unfit."""
        vector, count = simulators.of(config.robot.environment), config.data.source_trajectories
        sources = {shift: load(config.robot.shifts[shift], count) for shift in config.shifts}
        target = load(config.target.dataset, config.target.trajectories)
        check_alike({**sources, "the target": target}, vector)
        check_purpose(config, next(iter(sources.values())))
        if "joint" in config.methods:
            check_joined([*sources.values(), target])
        return cls(sources, target)


@dataclass(frozen=True, eq=False)
class Run(offline_rl.Run):
    """Seeds of one configuration, and what several methods build on, made once."""

    config: DynamicsShift
    setting = "dynamics_shift"

    @functools.cached_property
    def shares(self) -> list[psec.TransitionDataset]:
        """A random share of the target's data, another for each seed."""
        target = self.config.target
        return [self.data.target.fraction(target.fraction, s, target.by) for s in self.seeds]

    @functools.cached_property
    def sources(self) -> dict[str, psec.TransitionDataset]:
        return {shift: self.seen(data) for shift, data in self.data.sources.items()}

    @functools.cached_property
    def targets(self) -> list[psec.TransitionDataset]:
        return [self.seen(share) for share in self.shares]

    @functools.cached_property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Around π₀, by behavior cloning on the first source."""
        return self.libraries_of(self.clone("pretrain", self.source[0], self.config.pretrain))

    @functools.cached_property
    def critics(self) -> list[Critics]:
        """Those of the target's skill, which is put into the library beside those of further
        sources."""
        for shift, data in list(self.sources.items())[1:]:
            options = self.fitting(self.config.skill, f"skill {shift}")
            skills = psec.learn_skill(self.bases, data, adapter=self.config.adapter, **options)
            self.keep(shift, by_seed(skills), self.config.robot.shifts[shift])
        weights = {"target": self.config.weigh}
        dataset = self.config.target.dataset
        return self.learn_skills("skill target", self.targets, weights, dataset)

    @property
    def source(self) -> tuple[psec.TransitionDataset, str]:
        shift, data = next(iter(self.sources.items()))
        return data, self.config.robot.shifts[shift]

    def measurements(self, evaluations: list[Evaluation]) -> dict[str, list[Evaluation]]:
        score = self.config.robot.score
        normalized = [Evaluation(score(each.returns), each.lengths) for each in evaluations]
        return {"return": evaluations, "score": normalized}

    def learned(self, label: str, data: list, policies: list[psec.Policy]) -> list:
        """Offline RL from these policies on, which then act by the best of some samples."""
        return self.best_of(*self.improve(label, data, policies, self.config.weigh))


def zero_shot(run: Run) -> list:
    """π₀ as it is."""
    return run.bases


def bc(run: Run) -> list:
    """Cloning of the target's data alone."""
    return run.clone("bc", run.targets, run.config.scratch)


def iql(run: Run) -> list:
    """IQL with its Gaussian actor on the target's data alone."""
    fresh = run.fresh("iql", run.targets, psec.GaussianBackbone(run.data.target.action_size))
    policies, _ = run.improve("iql", run.targets, fresh, run.config.weigh)
    return policies


def baseline(run: Run, name: str) -> list:
    """An algorithm of others on the target's data alone, whose rewards, timeouts and observations
    are as in its own code."""
    plan = run.config.baselines[name]
    backbone = plan.backbone(action_size=run.data.target.action_size)
    fresh = [
        psec.Policy.create(backbone, plan.statistics(share), key)
        for share, key in zip(run.shares, run.key(f"create {name}"), strict=True)
    ]
    learners = [plan.learner(trained=AllParameters(policy)) for policy in fresh]
    training = replace(run.config.scratch, batch_size=plan.batch_size, optimizer=None)
    states = fit(learners, run.shares, **run.fitting(training, name))
    return [learner.result(state)[0] for learner, state in zip(learners, states, strict=True)]


def scratch(run: Run) -> list:
    """Offline RL on the target's data alone, with the policy class of PSEC."""
    return run.learned("scratch", run.targets, run.fresh("scratch", run.targets))


def joint(run: Run) -> list:
    """Offline RL on source and target data together."""
    both = [psec.concatenate([*run.sources.values(), target]) for target in run.targets]
    return run.learned("joint", both, run.fresh("joint", both))


def finetune(run: Run) -> list:
    """Offline RL on the target's data, from π₀ on, with nothing frozen."""
    return run.learned("finetune", run.targets, run.bases)


def skill(run: Run) -> list:
    """The target's skill on π₀ at weight 1."""
    critics = run.critics
    return run.best_of(run.with_skill("target"), critics)


def composed(run: Run, level: str = "parameter", context: bool = True, home: bool = False) -> list:
    """π₀ and all skills, mixed by weights that are trained on the target's data; or with ``home``
    π₀ alone where its own reward says that things have gone wrong."""
    config, critics = run.config, run.critics
    count, weigh = len(run.libraries[0].names()), config.weigh
    agents = psec.compose(
        run.libraries,
        run.targets,
        composer=[
            config.composer_at(level, count, context, critics=own, weigh=weigh) for own in critics
        ],
        **run.fitting(config.mixing(context), f"compose {level}{'' if context else ' fixed'}"),
    )
    agents = by_seed(agents)
    return run.best_of(run.gone_home(agents) if home else agents, critics)


METHODS = {
    "zero_shot": Method("π₀, zero-shot", zero_shot, "pretrain"),
    "bc": Method("BC", bc),
    "iql": Method("IQL", iql),
    "scratch": Method("Scratch", scratch),
    "joint": Method("Joint training", joint),
    "finetune": Method("Fine-tuning", finetune),
    "skill": Method("Skill, not composed", skill, "skill"),
    **mixtures(composed),
}


def methods(config: DynamicsShift) -> dict[str, Method]:
    """Every row, each baseline's among them."""
    rows = config.baselines.items()
    return METHODS | {n: Method(plan.label, partial(baseline, name=n)) for n, plan in rows}


def run(config: DynamicsShift, out: Path, recorder: Recorder) -> None:
    """Every method with every seed, then the table and the bars."""
    column = column_name(config)
    with Simulators(config.at_once * min(50, config.evaluation.episodes)) as simulators:
        data = Data.opened(config, simulators)
        for seeds in unfinished(config, recorder, [column]):
            this = Run(config, data, seeds, out, recorder, simulators)
            # Single transitions have no return of their own.
            whole = [data.target] * len(seeds)
            this.demonstrations(this.shares if config.target.by == "trajectory" else whole, column)
            this.measure(methods(config), column, config.robot.environment)
    report(config, recorder)


def report(config: DynamicsShift, recorder: Recorder) -> None:
    """Normalized scores in the paper's layout, the paper's own numbers, and the bars."""
    known = methods(config)
    rows = [(name, known[name].label) for name in config.methods]
    columns = [column_name(config)]
    summaries = recorder.summaries("score")
    one = next(iter(summaries.values()))
    parts = [
        "Normalized score (0 random, 100 expert): mean and 95 % bootstrap interval over "
        f"{one.episodes} episodes ({one.seeds} seed(s)).\n",
        returns_table(summaries, rows, columns, digits=1),
    ]
    references = {
        column: float(config.robot.score(data.mean))
        for (_, column), data in recorder.summaries("demonstrations").items()
    }
    if references:
        parts.append(f"The target's data themselves: {references[columns[0]]:.1f}.\n")
    paper = published.dynamics_shift(columns)
    if reported := published_table(paper, published.DYNAMICS_SHIFT_ROWS, columns):
        parts.append("As the paper reports, read off its bars, on D4RL's data:\n\n" + reported)
    recorder.text("table.md", "\n".join(parts))
    contents = (summaries, rows, columns, paper, references)
    recorder.figure("scores.png", figures.bars, *contents, ylabel="normalized score")


def column_name(config: DynamicsShift) -> str:
    """Robot, data and shift: ``walker2d medium, gravity``."""
    dataset = Path(config.target.dataset.partition("/")[2] or config.target.dataset).name
    kind = dataset.removeprefix(f"{config.robot.name}-").removesuffix("-v2")
    return f"{config.robot.name} {kind}, {config.shift}"


def check(config: DynamicsShift) -> None:
    """Refuse what the schema alone cannot: unknown methods, and baselines that cannot be built."""
    checks.check(config, methods(config), [column_name(config)])
    for plan in config.baselines.values():
        plan.learner(trained=None)
        plan.backbone(action_size=1)


@command
def main(config: DictConfig) -> float:
    return launch(config, DynamicsShift, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import dynamics_shift

    dynamics_shift.main()
