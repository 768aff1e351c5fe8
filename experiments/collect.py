"""Making datasets: behavior policies are trained, exported, measured and rolled out.

    python -m experiments.collect behavior=halfcheetah shift.gravity=2

A policy is what an online training on reward less a weight times cost has learned after so many
steps; a dataset is a mixture of policies. Both are put into a folder, from which
``psec.load_dataset("local/<name>")`` makes the data on first use. The same command goes on where
an earlier one was interrupted.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

from experiments import behavior
from experiments.config import ConfigError, check_choice, check_seed, parse
from experiments.launching import command, in_sweep
from experiments.status import Status, alone_in
from psec_jax.data.demonstrations import roll_out
from psec_jax.data.recipes import Part, Recipe
from psec_jax.data.registry import local_folder
from psec_jax.envs.ids import parse as parse_id
from psec_jax.report import figures
from psec_jax.storage import check_name, expanded


@dataclass
class PolicyPlan:
    """What a training with this cost weight has learned after so many environment steps, or a
    driver of MetaDrive with these settings."""

    steps: int = 0
    cost_weight: float = 0.0
    driver: dict[str, Any] | None = None


@dataclass
class DatasetPlan:
    about: str = MISSING
    parts: list[Part] = MISSING


@dataclass
class Shift:
    """Factors of a MuJoCo robot's dynamics."""

    gravity: float = 1.0
    friction: float = 1.0
    thigh: float = 1.0

    @property
    def factors(self) -> list[str]:
        """Those that change something, such as ``gravity=2``."""
        return [f"{name}={value:g}" for name, value in vars(self).items() if value != 1]


@dataclass
class Collect:
    name: str = MISSING
    environment: str = MISSING
    # Becomes part of every name.
    shift: Shift = field(default_factory=Shift)
    # Not needed where every policy is a driver.
    training: behavior.Training | None = None
    policies: dict[str, PolicyPlan] = field(default_factory=dict)
    datasets: dict[str, DatasetPlan] = field(default_factory=dict)
    # Episodes by which a policy's return and cost are measured.
    episodes: int = MISSING
    # How much of all steps and trajectories is done.
    share: float = MISSING
    # The folder for policies and recipes; the user's own where null.
    folder: str | None = None


def run(config: Collect, out: Path, command: str) -> None:
    """Train, export and measure every policy, then describe and measure every dataset."""
    folder = folder_of(config)
    out.mkdir(parents=True, exist_ok=True)
    drivers = drivers_of(config)
    for weight in dict.fromkeys(plan.cost_weight for plan in trained(config).values()):
        learn(config, weight, out, folder, command)
    for key, plan in config.datasets.items():
        stored = {policy: f"{full_name(config)}-{policy}" for policy in trained(config)}
        parts = [replace(p, policy=stored.get(p.policy, p.policy)) for p in plan.parts]
        recipe = Recipe(
            plan.about, full_id(config), tuple(parts), folder, command=command, drivers=drivers
        )
        data = roll_out(recipe, seed=0)
        recipe = recipe.measured(data)
        name = f"{full_name(config)}-{key}"
        recipe.save(name)
        costs = data.cost_returns if recipe.has_costs else None
        figures.distribution(out / f"{name}.png", data.returns, costs, title=f"local/{name}")
        print(f"local/{name}: {recipe.trajectories} trajectories, {recipe.measure}", flush=True)


def learn(config: Collect, weight: float, out: Path, folder: Path, command: str) -> None:
    """One training with this cost weight, and each policy that is wanted of it."""
    environment, name, training = full_id(config), full_name(config), config.training
    assert training is not None, "only drivers need no training"
    wanted = {
        key: plan.steps for key, plan in trained(config).items() if plan.cost_weight == weight
    }
    checkpoints = out / f"training_cost_weight_{weight:g}"

    def report(done: int) -> None:
        print(f"{name}, cost weight {weight:g}: {done:,} steps", flush=True)

    for steps in sorted(set(wanted.values())):
        behavior.train(environment, training, steps, checkpoints, weight, report)
    for key, steps in wanted.items():
        asset = f"{name}-{key}"
        policy = behavior.trained_policy(checkpoints, steps)
        policy.save(folder, asset)
        alone = Recipe(asset, environment, (Part(asset, config.episodes),), folder)
        alone = alone.measured(roll_out(alone, seed=1))
        measures = ("return_mean", "return_std", "cost_mean", "cost_std")
        facts = {
            "environment": environment,
            "algorithm": training.algorithm,
            "environment_steps": steps,
            "cost_weight": weight,
            **{measure: getattr(alone, measure) for measure in measures},
            "rollouts": config.episodes,
            "command": command,
        }
        replace(policy, facts=facts).save(folder, asset)
        print(f"{asset}: {alone.measure}", flush=True)


def trained(config: Collect) -> dict[str, PolicyPlan]:
    """The policies that are no drivers."""
    return {key: plan for key, plan in config.policies.items() if plan.driver is None}


def drivers_of(config: Collect) -> dict[str, dict[str, Any]]:
    return {key: p.driver for key, p in config.policies.items() if p.driver is not None}


def full_id(config: Collect) -> str:
    return "?".join(filter(None, (config.environment, "&".join(config.shift.factors))))


def full_name(config: Collect) -> str:
    return "-".join((config.name, *(factor.replace("=", "") for factor in config.shift.factors)))


def check(config: Collect) -> None:
    """Refuse what the schema alone cannot: bad names and ids, and parts of unknown policies."""
    parse_id(full_id(config))
    for key in (*config.policies, *config.datasets):
        check_name(f"{full_name(config)}-{key}", "policy or dataset")
    if not config.policies:
        raise ConfigError("policies needs at least one entry, such as policies.good.steps=400_000")
    # A recipe refuses bad drivers.
    Recipe("", full_id(config), (), Path(), drivers=drivers_of(config))
    if trained(config):
        if config.training is None:
            raise ConfigError("policies without a driver need training; see conf/behavior")
        check_seed("training.seed", config.training.seed)
        if config.training.every < 1 or min(plan.steps for plan in trained(config).values()) < 1:
            raise ConfigError("training.every and the steps of each policy must be at least 1")
        check_choice("training.algorithm", config.training.algorithm, tuple(behavior.ALGORITHMS))
    for key, plan in config.datasets.items():
        if unknown := sorted({part.policy for part in plan.parts} - set(config.policies)):
            raise ConfigError(
                f"datasets.{key} mixes {unknown}, but policies has {list(config.policies)}"
            )
        if min((part.trajectories for part in plan.parts), default=0) < 1:
            raise ConfigError(f"datasets.{key} needs parts of at least one trajectory each")


def shorten(config: Collect) -> None:
    """Do only ``config.share`` of all steps and trajectories."""
    if not 0 < config.share <= 1:
        raise ConfigError(f"share must be in (0, 1], not {config.share}")
    for policy in trained(config).values():
        policy.steps = max(1, round(config.share * policy.steps))
    for dataset in config.datasets.values():
        dataset.parts = [
            replace(part, trajectories=max(1, round(config.share * part.trajectories)))
            for part in dataset.parts
        ]


def folder_of(config: Collect) -> Path:
    return expanded(config.folder) if config.folder else local_folder()


def made(config: Collect) -> bool:
    """Whether every policy's and dataset's description is in the folder."""
    names = [f"{full_name(config)}-{key}" for key in (*trained(config), *config.datasets)]
    return all((folder_of(config) / f"{name}.json").exists() for name in names)


@command
def main(config: DictConfig) -> float:
    """The number of datasets, as there is nothing to be optimized."""
    try:
        parsed = parse(config, Collect)
        check(parsed)
        shorten(parsed)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    hydra_config = HydraConfig.get()
    overrides = [word for word in hydra_config.overrides.task if not word.startswith("folder=")]
    line = " ".join(["python -m experiments.collect", *overrides])
    out = Path(hydra_config.runtime.output_dir)
    if in_sweep():
        with alone_in(out), Status.kept(out) as status:
            if status.state == "finished" and made(parsed):
                print(f"{full_name(parsed)}: {', '.join(parsed.datasets)} are made already")
            else:
                run(parsed, out / full_name(parsed), line)
    else:
        run(parsed, out / full_name(parsed), line)
    return float(len(parsed.datasets))


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import collect

    collect.main()
