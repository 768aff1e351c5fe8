"""Multi-objective, safe control: a reward and a safety skill on one policy (paper, section 5.1).

    python -m experiments.multi_objective task=metadrive/easymean cost_limit=10

π₀ is cloned from all data, safe and not. Each skill is learned from the same data by the advantage
of its own critic; a context network mixes them, trained on the trajectories that are both safe
and rewarding. Of several sampled actions the safest is acted.
"""

import functools
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

import psec_jax as psec
from experiments import checks, offline_rl
from experiments.checks import check_alike, check_purpose, load, naming
from experiments.config import ConfigError
from experiments.launching import command, launch
from experiments.offline_rl import Critics
from experiments.recording import Recorder
from experiments.settings import MultiObjective
from experiments.simulators import Simulators
from experiments.stages import Method, by_seed, mixtures, unfinished
from psec_jax.data.registry import local_datasets
from psec_jax.data.selection import Selection, safe_and_rewarding
from psec_jax.envs import copies_at_once, known_ids
from psec_jax.evaluation import Evaluation
from psec_jax.report import figures, published
from psec_jax.report.results import safety_summaries
from psec_jax.report.tables import safety_table


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
        guided = set(config.methods) - {"bc", "bc_safe"}
        mixes = guided - {"fisor", *config.skills}
        name, context_dataset = dataset_name(config), config.context_dataset
        data = load(name)
        if config.timeouts_terminal:
            data = data.truncations_as_terminations()
        check_purpose(config, data)
        with naming(f"dataset {name}"):
            choose = partial(safe_and_rewarding, data, config.cost_limit)
            safe = choose(return_quantile=0.0) if "bc_safe" in config.methods else None
            best = choose(config.return_quantile) if mixes and not context_dataset else None
            if guided:
                for objective in config.objectives.values():
                    data.columns(objective.columns)
        if mixes and context_dataset:
            return cls(data, safe, best, load(context_dataset))
        return cls(data, safe, best, None if best is None else best.data)


@dataclass(frozen=True, eq=False)
class Run(offline_rl.Run):
    """Seeds of one configuration, and what several methods build on, made once."""

    config: MultiObjective
    setting = "multi_objective"

    @functools.cached_property
    def libraries(self) -> list[psec.SkillLibrary]:
        """Around π₀, by behavior cloning of all data."""
        return self.libraries_of(self.clone("pretrain", self.data.all, self.config.pretrain))

    @functools.cached_property
    def critics(self) -> list[Critics]:
        """Those of the skills, which are put into the libraries."""
        weights = self.config.skills
        return self.learn_skills("skills", self.data.all, weights, dataset_name(self.config))

    @property
    def source(self) -> tuple[psec.TransitionDataset, str]:
        return self.data.all, dataset_name(self.config)

    def measurements(self, evaluations: list[Evaluation]) -> dict[str, list[Evaluation]]:
        return {"return": evaluations, "cost": evaluations}


def bc(run: Run) -> list:
    """π₀: cloning of all data."""
    return run.bases


def bc_safe(run: Run) -> list:
    """Cloning of the safe trajectories."""
    return run.clone("bc_safe", run.data.safe.data, run.config.scratch)


def fisor(run: Run) -> list:
    """One policy whose samples are weighed by feasibility and, where feasible, by reward."""
    fresh = run.fresh("fisor", run.data.all)
    return run.best_of(*run.improve("fisor", run.data.all, fresh, run.config.fisor))


def single_skill(run: Run, name: str) -> list:
    """π₀ with one skill at weight 1, without any choice among samples."""
    run.critics  # noqa: B018  (puts the skills into the libraries)
    return run.with_skill(name)


def composed(run: Run, level: str, context: bool = True, home: bool = False) -> list:
    """π₀ and all skills, mixed by weights that are trained on the safe and rewarding data; or with
    ``home`` π₀ alone where its own reward says that things have gone wrong."""
    critics, config = run.critics, run.config
    names = list(config.skills)
    anchor = [config.anchor[name] for name in names] if config.anchor else None
    anchoring = {"anchor": anchor, "anchor_strength": config.anchor_strength}
    agents = psec.compose(
        run.libraries,
        run.data.mixing,
        skills=names,
        composer=config.composer_at(level, len(names), context, **anchoring),
        **run.fitting(config.mixing(context), f"compose {level}{'' if context else ' fixed'}"),
    )
    agents = by_seed(agents)
    return run.best_of(run.gone_home(agents) if home else agents, critics)


METHODS = {
    "bc": Method("BC", bc, "pretrain"),
    "bc_safe": Method("BC-safe", bc_safe),
    "fisor": Method("FISOR", fisor),
    **mixtures(composed),
}


def methods(config: MultiObjective) -> dict[str, Method]:
    """Every row, each skill's alone among them."""
    return METHODS | {
        name: Method(f"{name.capitalize()} skill", partial(single_skill, name=name), "skill")
        for name in config.skills
    }


def run(config: MultiObjective, out: Path, recorder: Recorder) -> None:
    """Every method with every seed, then the table and the figures."""
    task, episodes = config.task, config.at_once * config.evaluation.episodes
    with Simulators(copies_at_once(task, episodes)) as simulators:
        vector, data = simulators.of(task), Data.chosen(config)
        parts = {dataset_name(config): data.all, "the context network's data": data.mixing}
        check_alike({name: part for name, part in parts.items() if part is not None}, vector)
        if data.best is not None:
            print(f"context network: {data.best}", flush=True)
            counts = {"safe": data.best.safe, "chosen": data.best.chosen}
            recorder.text("selection.json", json.dumps(counts) + "\n")
        for seeds in unfinished(config, recorder, [task]):
            this = Run(config, data, seeds, out, recorder, simulators)
            this.measure(methods(config), task, task)
    report(config, recorder)


def report(config: MultiObjective, recorder: Recorder) -> None:
    """Normalized reward and cost in the paper's layout, and each method in their plane."""
    known = methods(config)
    rows = [(name, known[name].label) for name in config.methods]
    parts = []
    for limit in (config.cost_limit, *config.other_limits):
        cells = safety_summaries(recorder.measurements(), limit)
        one = next(iter(cells.values()))[0]
        parts += [
            f"Normalized reward / normalized cost at limit {limit:g} (at most 1 is safe: bold; * "
            f"marks the best safe reward), means and 95 % bootstrap intervals over {one.episodes} "
            f"episodes ({one.seeds} seed(s)).\n",
            safety_table(cells, rows, [config.task], intervals=True),
        ]
        contents = (cells, rows, config.task)
        recorder.figure(f"plane_{limit:g}.png", figures.plane, *contents, title=config.task)
    paper = published.multi_objective([config.task])
    parts += ["As the paper reports, on DSRL's data:\n", paper]
    recorder.text("table.md", "\n".join(parts))


def dataset_name(config: MultiObjective) -> str:
    """The name that ``config.dataset`` stands for."""
    if config.dataset == "dsrl":
        return f"dsrl/{config.task.partition('/')[2]}"
    if config.dataset == "local":
        return f"local/{config.task.removeprefix('bullet/').replace('/', '-')}-mixed"
    return config.dataset


def check(config: MultiObjective) -> None:
    """Refuse what the schema alone cannot: unknown tasks, data and methods."""
    skills, critics = config.skills, config.objectives
    if clashes := sorted(set(skills) & set(METHODS)):
        raise ConfigError(f"skills {clashes} are called as methods are; choose other names")
    checks.check(config, methods(config), [config.task])
    tasks = [known for known in known_ids() if known.startswith(("bullet/", "metadrive/"))]
    if config.task not in tasks:
        raise ConfigError(f"task {config.task!r} is unknown; expected one of {', '.join(tasks)}")
    name = dataset_name(config)
    if config.dataset == "local" and name not in local_datasets():
        raise ConfigError(
            f"there is no {name}: use dataset=dsrl, or make one with python -m experiments.collect"
        )
    if config.anchor and set(config.anchor) != set(skills):
        raise ConfigError(f"anchor {dict(config.anchor)} must name each of {list(skills)}")
    needed = {config.fisor.reward, config.fisor.safety}
    if "fisor" in config.methods and not needed <= set(critics):
        raise ConfigError(f"fisor needs the critics {sorted(needed)}")


@command
def main(config: DictConfig) -> float:
    return launch(config, MultiObjective, check, run)


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import multi_objective

    multi_objective.main()
