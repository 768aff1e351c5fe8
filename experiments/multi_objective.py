"""Multi-objective, safe control: a reward and a safety skill on one policy (paper, section 5.1).

    python -m experiments.multi_objective task=metadrive/easymean cost_limit=10

π₀ is cloned from all data, safe and not. Each skill is learned from the same data by the advantage
of its own critic; a context network mixes them, trained on the trajectories that are both safe
and rewarding. Of several sampled actions the safest is acted.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from omegaconf import DictConfig

import psec_jax as psec
from experiments.config import ConfigError, MultiObjective, Stage
from experiments.launching import command, launch
from experiments.recording import Recorder
from experiments.simulators import Simulators
from experiments.stages import Stages, check_alike, run_seeds
from psec_jax.data.registry import local_datasets
from psec_jax.data.selection import Selection, safe_and_rewarding
from psec_jax.envs import known_ids
from psec_jax.evaluation import scores, trace_weights
from psec_jax.learners import Critics
from psec_jax.report import figures, published, results
from psec_jax.report.results import Measurement
from psec_jax.report.tables import Cells, safety_table

SETTING = "multi_objective"


@dataclass(frozen=True)
class Data:
    """What all seeds learn from: every trajectory, safe and not, and where a method needs them
    those within the cost limit, those both safe and rewarding, and what the context network is
    trained on: these, or a dataset of its own."""

    all: psec.TransitionDataset
    safe: Selection | None
    best: Selection | None
    mixing: psec.TransitionDataset | None

    @classmethod
    def chosen(cls, config: MultiObjective) -> "Data":
        """Raises ``ConfigError`` where the dataset lacks what a method needs."""
        chosen = set(config.methods)
        guided = chosen - {"bc", "bc_safe"}
        mixes = guided - {"fisor", *config.objectives.skills}
        own = config.context_dataset
        with _naming(dataset_name(config)):
            data = psec.load_dataset(dataset_name(config))
            if config.objectives.timeouts_terminal:
                data = data.truncations_as_terminations()
            choose = partial(safe_and_rewarding, data, config.cost_limit)
            safe = choose(return_quantile=0.0) if "bc_safe" in chosen else None
            best = choose(config.return_quantile) if mixes and not own else None
            if guided:
                for objective in config.objectives.build().objectives.values():
                    data.columns(objective.columns)
        mixing = None if best is None else best.data
        if mixes and own:
            with _naming(own):
                mixing = psec.load_dataset(own)
        return cls(data, safe, best, mixing)


@contextmanager
def _naming(dataset: str) -> Iterator[None]:
    """Raises ``ConfigError`` with the name of a dataset that cannot be used."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"dataset {dataset}: {error}") from None


@dataclass(frozen=True)
class Run(Stages):
    """Seeds of one configuration, and what several methods build on, made once."""

    config: MultiObjective
    data: Data

    @functools.cached_property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Around π₀, by behavior cloning of all data."""
        return self.libraries_of(self.clone("pretrain", self.data.all, self.config.pretrain))

    @property
    def bases(self) -> list[psec.Policy]:
        return [library.base for library in self.libraries]

    @functools.cached_property
    def critics(self) -> list[Mapping[str, Critics]]:
        """Those of the skills, which are put into the library."""
        objectives = self.config.objectives
        skills, critics = psec.learn_skills(
            self.bases,
            self.data.all,
            adapter=self.config.adapter.build("low_rank"),
            guidance=objectives.build(data=self.data.all),
            **self.fitting(self.config.skill, "skills"),
        )
        for name in objectives.skills:
            trained = [own[name] for own in skills]
            self.keep(self.libraries, name, trained, dataset_name(self.config))
        return critics

    def clone(self, label: str, data: psec.TransitionDataset, stage: Stage) -> list[psec.Policy]:
        """Behavior cloning into a fresh policy."""
        return psec.pretrain(
            data,
            backbone=self.config.backbone.build(data.action_size),
            statistics=self.config.statistics(data),
            **self.fitting(stage, label),
        )

    def choosing(self, policies: list, critics: list[Mapping[str, Critics]]) -> list:
        """Each policy acting by the best of some samples."""
        objectives = self.config.objectives
        if objectives.candidates == 1:
            return policies
        return [
            psec.BestOf(policy, objectives.scorer(own), objectives.candidates)
            for policy, own in zip(policies, critics, strict=True)
        ]


def bc(run: Run) -> list:
    """π₀: cloning of all data."""
    return run.bases


def bc_safe(run: Run) -> list:
    """Cloning of the safe trajectories."""
    return run.clone("bc_safe", run.data.safe.data, run.config.scratch)


def fisor(run: Run) -> list:
    """One policy whose samples are weighed by feasibility and, where feasible, by reward."""
    data, config = run.data.all, run.config
    backbone, statistics = config.backbone.build(data.action_size), config.statistics(data)
    policies, critics = psec.improve(
        [psec.Policy.create(backbone, statistics, key) for key in run.key("create fisor")],
        data,
        guidance=config.objectives.build(config.objectives.fisor.build(), data),
        **run.fitting(config.scratch, "fisor"),
    )
    return run.choosing(policies, critics)


def alone(run: Run, name: str) -> list:
    """π₀ with one skill at weight 1, without any choice among samples."""
    run.critics  # noqa: B018  (puts the skills into the library)
    return [library.base.with_bank(library.bank([name])) for library in run.libraries]


def composed(run: Run, level: str = "parameter", context: bool = True) -> list:
    """π₀ and all skills, mixed by weights that are trained on the safe and rewarding data."""
    critics, config = run.critics, run.config
    names = list(config.objectives.skills)
    anchor = [config.anchor[name] for name in names] if config.anchor else None
    strength = config.anchor_strength
    agents = psec.compose(
        run.libraries,
        run.data.mixing,
        skills=names,
        composer=config.composer.build(
            len(names), level, context, anchor=anchor, anchor_strength=strength
        ),
        **run.fitting(config.mixing(context), f"compose {level}{'' if context else ' fixed'}"),
    )
    return run.choosing(agents, critics)


METHODS: dict[str, tuple[str, Callable[[Run], list]]] = {
    "bc": ("BC", bc),
    "bc_safe": ("BC-safe", bc_safe),
    "fisor": ("FISOR", fisor),
    "asec": ("ASEC", partial(composed, level="action")),
    "asec_fixed": ("ASEC w/o context", partial(composed, level="action", context=False)),
    "nsec": ("NSEC", partial(composed, level="noise")),
    "nsec_fixed": ("NSEC w/o context", partial(composed, level="noise", context=False)),
    "psec": ("PSEC", composed),
    "psec_fixed": ("PSEC w/o context", partial(composed, context=False)),
}


def methods(config: MultiObjective) -> dict[str, tuple[str, Callable[[Run], list]]]:
    """Every method, each skill alone among them."""
    skills = {
        name: (f"{name.capitalize()} skill", partial(alone, name=name))
        for name in config.objectives.skills
    }
    return {**METHODS, **skills}


def run(config: MultiObjective, out: Path, recorder: Recorder) -> None:
    """Every method with every seed, then the table and the figures."""
    task, episodes = config.task, config.at_once * config.evaluation.episodes
    with Simulators(psec.envs.copies_at_once(task, episodes)) as simulators:
        # Before anything is trained: a simulator may be missing, or data unfit.
        vector = simulators.of(task)
        data = Data.chosen(config)
        parts = {dataset_name(config): data.all, "the context network's data": data.mixing}
        check_alike({name: part for name, part in parts.items() if part is not None}, vector)
        if data.best is not None:
            print(f"context network: {data.best}", flush=True)
            facts = {"safe": data.best.safe, "chosen": data.best.chosen}
            recorder.text("selection.json", json.dumps(facts) + "\n")
        run_seeds(
            config,
            lambda seeds: train(Run(config, seeds, out, recorder, data), vector),
            lambda seed: all(recorder.has(m, task, seed, "cost") for m in config.methods),
        )
    report(config, recorder)


def train(this: Run, vector: VectorEnv) -> None:
    """Every method, trained and evaluated."""
    config, known = this.config, methods(this.config)
    record = partial(this.record, setting=SETTING, task=config.task)
    for method in config.methods:
        if this.measured(method, config.task, "cost"):
            continue
        agents = known[method][1](this)
        evaluations = this.evaluate(agents, vector, "evaluate")
        if method == "psec" and this.seeds[0] == config.seeds[0]:
            trace(agents[0], this)
        this.leave(agents, method, method=method, task=config.task)
        stage = config.pretrain if method == "bc" else config.scratch
        record(evaluations, method=method, step=stage.steps)
        record(evaluations, method=method, step=stage.steps, metric="cost")


def trace(agent: Any, this: Run) -> None:
    """α(s) over one episode of the first seed, as a figure and as numbers, with pictures where
    there are any."""
    task = this.config.task
    pictures = 10 if task.startswith("metadrive/") else 0
    found = trace_weights(agent, task, key=this.key("trace")[0], picture_every=pictures)
    this.recorder.trace("weights", found, agent.names, title=f"PSEC, {task}")


def report(config: MultiObjective, recorder: Recorder) -> None:
    """Normalized reward and cost in the paper's layout, and each method in their plane."""
    known = methods(config)
    rows = [(name, known[name][0]) for name in config.methods]
    parts = []
    for limit in (config.cost_limit, *config.other_limits):
        cells = score_cells(recorder.measurements(), limit)
        one = next(iter(cells.values()))[0]
        parts += [
            f"Normalized reward / normalized cost at limit {limit:g} (at most 1 is safe: bold; * "
            f"marks the best safe reward), means and 95 % bootstrap intervals over {one.episodes} "
            f"episodes ({one.seeds} seed(s)).\n",
            safety_table(cells, rows, [config.task], intervals=True),
        ]
        shown = (cells, rows, config.task)
        recorder.figure(f"plane_{limit:g}.png", figures.plane, *shown, title=config.task)
    paper = published.multi_objective([config.task])
    parts += ["As the paper reports, on DSRL's data:\n", paper]
    recorder.text("table.md", "\n".join(parts))


def score_cells(rows: Iterable[Measurement], limit: float) -> Cells:
    """(method, task) → the summaries of normalized reward and of normalized cost."""
    rows = list(rows)
    returns = results.summaries(
        rows, "return", lambda task, values: scores.dsrl_reward(dsrl_name(task), values)
    )
    costs = results.summaries(rows, "cost", lambda _, values: scores.dsrl_cost(values, limit))
    return {cell: (returns[cell], costs[cell]) for cell in costs}


def dsrl_name(task: str) -> str:
    """What DSRL calls the task of an environment's id."""
    return f"dsrl/{task.partition('/')[2]}"


def dataset_name(config: MultiObjective) -> str:
    """The name that ``config.dataset`` stands for."""
    if config.dataset == "dsrl":
        return dsrl_name(config.task)
    if config.dataset == "local":
        return f"local/{config.task.removeprefix('bullet/').replace('/', '-')}-mixed"
    return config.dataset


def check(config: MultiObjective) -> None:
    """Refuse what the schema alone cannot: unknown tasks, data and methods, bad limits."""
    config.check(methods(config), [config.task])
    tasks = [known for known in known_ids() if known.startswith(("bullet/", "metadrive/"))]
    if config.task not in tasks:
        raise ConfigError(f"task {config.task!r} is unknown; expected one of {', '.join(tasks)}")
    name = dataset_name(config)
    if config.dataset == "local" and name not in local_datasets():
        raise ConfigError(
            f"there is no {name}: use dataset=dsrl, or make one with python -m experiments.collect"
        )
    for limit in (config.cost_limit, *config.other_limits):
        if not limit > 0:
            raise ConfigError(f"cost limits must be above 0, not {limit!r}")
    skills = config.objectives.skills
    if config.anchor and set(config.anchor) != set(skills):
        raise ConfigError(f"anchor {dict(config.anchor)} must name each of {list(skills)}")
    if taken := sorted(set(skills) & set(METHODS)):
        raise ConfigError(f"skills {taken} are called as methods are; choose other names")
    needed = {"return", "feasibility"}
    if "fisor" in config.methods and not needed <= set(config.objectives.critics):
        raise ConfigError("fisor needs the critics return and feasibility")
    if not 0 <= config.return_quantile < 1:
        raise ConfigError(f"return_quantile must be in [0, 1), not {config.return_quantile}")
    if config.backbone.kind != "diffusion" and {"nsec", "nsec_fixed"} & set(config.methods):
        raise ConfigError("nsec mixes noise predictions, which only backbone=diffusion makes")


@command
def main(config: DictConfig) -> float:
    return launch(config, MultiObjective, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import multi_objective

    multi_objective.main()
