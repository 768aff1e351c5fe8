"""What the stages of the three settings have in common."""

import functools
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

import psec_jax as psec
from experiments.config import Setting
from experiments.recording import Recorder
from experiments.simulators import Simulators
from psec_jax import agents, storage
from psec_jax.acting import Actor, ComposedActor
from psec_jax.composition import ComposedPolicy
from psec_jax.evaluation import Evaluation, Trace, trace_weights
from psec_jax.training.processes import leads, meet
from psec_jax.training.seeds import for_each_seed, named_key

T = TypeVar("T")
# The rows whose weights are drawn over an episode, and the file's name.
TRACED = {"psec": "weights", "psec_home": "weights_home"}
# Of at most so many episodes the one in which an agent is at home longest.
EPISODES_TRACED = 6


class Method(NamedTuple):
    """A row of the table: its label, and of a run (and a column) each seed's agent."""

    label: str
    agents: Callable[..., list]
    # After whose steps it is measured.
    stage: str = "scratch"
    # At which it mixes, if it does.
    level: str | None = None


def mixture(
    name: str, label: str, level: str, composed: Callable[..., list], stage: str = "skill"
) -> dict[str, Method]:
    """Three rows: with a context network, ``<name>_fixed`` with constant weights, and
    ``<name>_home`` with these where π₀'s own reward says that all is well, and π₀ elsewhere."""
    agents = partial(composed, level=level)
    fixed, home = partial(agents, context=False), partial(agents, context=False, home=True)
    return {
        name: Method(label, agents, stage, level),
        f"{name}_fixed": Method(f"{label} w/o context", fixed, stage, level),
        f"{name}_home": Method(f"{label}, going home", home, stage, level),
    }


def mixtures(composed: Callable[..., list]) -> dict[str, Method]:
    """The rows of all three levels."""
    return {
        **mixture("asec", "ASEC", "action", composed),
        **mixture("nsec", "NSEC", "noise", composed),
        **mixture("psec", "PSEC", "parameter", composed),
    }


def by_seed(trained: T) -> list[T]:
    """What a verb returns for several seeds: a list, where its annotation has what is in it."""
    return cast(list[T], trained)


def unfinished(config: Setting, recorder: Recorder, columns: Iterable[str]) -> list[list[int]]:
    """The seeds that are not measured yet: all that are trained together, or one by one.

    Together all are run or none, for what they train together is also saved together.
    """
    remaining = [
        seed
        for seed in config.seeds
        if not measured(config, recorder, seed, config.methods, columns)
    ]
    return [config.seeds] if remaining and config.side_by_side else [[seed] for seed in remaining]


def measured(
    config: Setting,
    recorder: Recorder,
    seed: int,
    methods: Iterable[str],
    columns: Iterable[str],
) -> bool:
    """Whether these methods were in these columns."""
    cells = itertools.product(methods, columns, config.metrics)
    return all(recorder.has(method, column, seed, metric) for method, column, metric in cells)


@dataclass(frozen=True, eq=False)
class Run:
    """Seeds of one configuration that are trained together.

    What the stages make are lists, one entry a seed. Subclasses hold what several methods build
    on, made once.
    """

    config: Setting
    data: Any
    seeds: list[int]
    out: Path
    recorder: Recorder
    simulators: Simulators

    setting: ClassVar[str]

    @property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Each seed's library, around its π₀."""
        raise NotImplementedError

    def key(self, name: str) -> jax.Array:
        """The random keys of the stage called ``name``, (seed,)."""
        return named_key(jnp.stack([jax.random.key(seed) for seed in self.seeds]), name)

    def fitting(self, training: psec.Training, label: str, **more: Any) -> dict[str, Any]:
        """The key and the training of a verb: as configured, under ``label``, with the run's
        records."""
        training = replace(
            training,
            label=[f"{label} (seed {seed})" for seed in self.seeds],
            progress=self.config.progress,
            writer=self.recorder.writer,
            checkpoints=self.recorder.checkpoints,
            **more,
        )
        return {"key": self.key(label), "training": training}

    def clone(
        self, label: str, data: Any, training: psec.Training, **more: Any
    ) -> list[psec.Policy]:
        """Behavior cloning into a fresh policy, of the same data or of each seed's own."""
        each = for_each_seed(data, len(self.seeds), "data")
        policies = psec.pretrain(
            data,
            backbone=self.config.backbone(action_size=each[0].action_size),
            statistics=[self.config.statistics(part) for part in each],
            **self.fitting(training, label, **more),
        )
        return by_seed(policies)

    def libraries_of(self, bases: Sequence[psec.Policy]) -> list[psec.SkillLibrary]:
        """Each seed's library, begun around its base where there is none."""
        paths = [self.out / f"seed_{seed}" / "library" for seed in self.seeds]
        for path, base in zip(paths, bases, strict=True):
            if leads() and not path.exists():
                psec.SkillLibrary.create(path, base)
        meet()
        return [psec.SkillLibrary.open(path) for path in paths]

    def keep(self, name: str, skills: Sequence[psec.Skill], dataset: str) -> None:
        """Put each seed's skill into its library, unless an interrupted run did."""
        for library, skill, seed in zip(self.libraries, skills, self.seeds, strict=True):
            if leads() and name not in library.names():
                library.add(name, skill, dataset=dataset, seed=seed)
        meet()

    @property
    def source(self) -> tuple[psec.TransitionDataset, str]:
        """What π₀ is learned from, and its name."""
        raise NotImplementedError

    @functools.cached_property
    def purposes(self) -> list[psec.learners.Purpose]:
        """What each π₀ is for, which the libraries keep."""
        home, (data, dataset) = self.config.home, self.source
        options = self.fitting(home.training, "purpose")
        purposes = by_seed(psec.learn_purpose(self.bases, data, discount=home.discount, **options))
        for library, purpose, seed in zip(self.libraries, purposes, self.seeds, strict=True):
            if leads() and not library.has_purpose():
                library.add_purpose(purpose, dataset=dataset, seed=seed)
        meet()
        return purposes

    def gone_home(self, agents: Sequence[ComposedPolicy]) -> list[ComposedPolicy]:
        """π₀ in their place where its purpose says that things have gone wrong."""
        home = self.config.home
        return [
            psec.homing(agent, purpose, home.low, home.high)
            for agent, purpose in zip(agents, self.purposes, strict=True)
        ]

    @property
    def bases(self) -> list[psec.Policy]:
        return [library.base for library in self.libraries]

    def with_skill(self, name: str) -> list[psec.Policy]:
        """Each seed's π₀ with one skill at weight 1."""
        return [library.base.with_bank(library.bank([name])) for library in self.libraries]

    def measure(
        self,
        methods: Mapping[str, Method],
        task: str,
        environment: str,
        *column: Any,
        episodes: str = "evaluate",
        suffix: str = "",
    ) -> None:
        """Every method in one column of the table: trained, evaluated, stored and recorded.

        Methods are called with the run and ``column``. ``episodes`` names the keys of the
        evaluation, and ``suffix`` ends the names of files.
        """
        config = self.config
        for name in config.methods:
            if all(measured(config, self.recorder, seed, [name], [task]) for seed in self.seeds):
                continue
            trained = methods[name].agents(self, *column)
            evaluations = self.evaluate(trained, environment, episodes)
            if name in TRACED and self.seeds[0] == config.seeds[0]:
                file = f"{TRACED[name]}_{suffix}" if suffix else TRACED[name]
                self.trace(trained[0], environment, file, f"{methods[name].label}, {task}")
            self.leave(trained, f"{name}-{suffix}" if suffix else name, method=name, task=task)
            step = getattr(config, methods[name].stage).steps
            for metric, each in self.measurements(evaluations).items():
                self.record(each, task=task, method=name, step=step, metric=metric)

    def evaluate(self, agents: Sequence[Actor], environment: str, name: str) -> list[Evaluation]:
        """Each seed's agent, with the keys of the stage called ``name``."""
        vector, episodes = self.simulators.of(environment), self.config.evaluation.episodes
        return by_seed(psec.evaluate(list(agents), vector, episodes=episodes, key=self.key(name)))

    def measurements(self, evaluations: list[Evaluation]) -> dict[str, list[Evaluation]]:
        """Metric → what is recorded of each seed."""
        return {"return": evaluations}

    def record(self, evaluations: Sequence[Evaluation], **where: Any) -> None:
        """See ``Recorder.evaluation``."""
        for seed, evaluation in zip(self.seeds, evaluations, strict=True):
            self.recorder.evaluation(
                setting=self.setting, seed=seed, evaluation=evaluation, **where
            )

    def demonstrations(self, data: Sequence[psec.TransitionDataset], task: str) -> None:
        """Record the return of each seed's data themselves."""
        for seed, each in zip(self.seeds, data, strict=True):
            self.recorder.demonstrations(each, setting=self.setting, task=task, seed=seed)

    def trace(self, agent: ComposedActor, environment: str, file: str, title: str) -> None:
        """α(s) over one episode, as a figure and as numbers, with pictures where there are any; of
        an agent that goes home, over that of a few episodes in which it is there longest."""
        pictures = 10 if environment.startswith("metadrive/") else 0

        def traced(key: jax.Array) -> Trace:
            return trace_weights(agent, environment, key=key, picture_every=pictures)

        trace = traced(self.key("trace")[0])
        if trace.home_rewards is not None:
            count = min(EPISODES_TRACED, self.config.evaluation.episodes) - 1
            keys = jax.random.split(self.key("trace at home")[0], count)
            trace = max([trace, *map(traced, keys)], key=lambda each: each.steps_at_home)
        self.recorder.trace(file, trace, agent.names, title)

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
