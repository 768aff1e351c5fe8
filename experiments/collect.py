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
from omegaconf import DictConfig

from experiments import behavior
from experiments.config import parse
from experiments.launching import command, in_sweep
from experiments.status import Status, alone_in
from psec_jax.data.demonstrations import roll_out
from psec_jax.data.recipes import Part, Recipe
from psec_jax.data.registry import local_folder
from psec_jax.envs.ids import parse as parse_id
from psec_jax.report import figures
from psec_jax.settings import integer_of
from psec_jax.storage import check_name, expanded


@dataclass
class PolicyPlan:
    """What a training with this cost weight has learned after so many environment steps, or a
    driver of MetaDrive with these settings."""

    steps: int = 0
    cost_weight: float = 0.0
    driver: dict[str, Any] | None = None

    def __post_init__(self):
        if self.driver is None:
            integer_of("steps", self.steps)


@dataclass
class DatasetPlan:
    about: str
    parts: list[Part]

    def __post_init__(self):
        if min((part.trajectories for part in self.parts), default=0) < 1:
            raise ValueError("parts needs at least one, each of at least one trajectory")


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


@dataclass(kw_only=True)
class Collect:
    name: str
    environment: str
    # Becomes part of every name.
    shift: Shift
    # Not needed where every policy is a driver.
    training: behavior.Training | None = None
    policies: dict[str, PolicyPlan] = field(default_factory=dict)
    datasets: dict[str, DatasetPlan] = field(default_factory=dict)
    # Episodes by which a policy's return and cost are measured.
    episodes: int
    # How much of all steps and trajectories is done.
    share: float
    # The folder for policies and recipes; the user's own where null.
    folder: str | None

    def __post_init__(self):
        parse_id(self.full_id)
        for key in (*self.policies, *self.datasets):
            check_name(f"{self.full_name}-{key}", "policy or dataset")
        if not self.policies:
            raise ValueError(
                "policies needs at least one entry, such as policies.good.steps=400_000"
            )
        # A recipe refuses bad drivers.
        Recipe("", self.full_id, (), Path(), drivers=self.drivers)
        if self.trained and self.training is None:
            raise ValueError("policies without a driver need training; see conf/behavior")
        for key, plan in self.datasets.items():
            if unknown := sorted({part.policy for part in plan.parts} - set(self.policies)):
                raise ValueError(
                    f"datasets.{key} mixes {unknown}, but policies has {list(self.policies)}"
                )
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}")

    @property
    def trained(self) -> dict[str, PolicyPlan]:
        """The policies that are no drivers."""
        return {key: plan for key, plan in self.policies.items() if plan.driver is None}

    @property
    def drivers(self) -> dict[str, dict[str, Any]]:
        return {key: p.driver for key, p in self.policies.items() if p.driver is not None}

    @property
    def full_id(self) -> str:
        return "?".join(filter(None, (self.environment, "&".join(self.shift.factors))))

    @property
    def full_name(self) -> str:
        return "-".join((self.name, *(f.replace("=", "") for f in self.shift.factors)))

    @property
    def recipes(self) -> Path:
        """The folder for policies and recipes."""
        return expanded(self.folder) if self.folder else local_folder()

    @property
    def is_made(self) -> bool:
        """Whether every policy's and dataset's description is in the folder."""
        names = [f"{self.full_name}-{key}" for key in (*self.trained, *self.datasets)]
        return all((self.recipes / f"{name}.json").exists() for name in names)

    def shortened(self, count: int) -> int:
        """``share`` of so many steps or trajectories."""
        return max(1, round(self.share * count))


def run(config: Collect, out: Path, command: str) -> None:
    """Train, export and measure every policy, then describe and measure every dataset."""
    out.mkdir(parents=True, exist_ok=True)
    for weight in dict.fromkeys(plan.cost_weight for plan in config.trained.values()):
        learn(config, weight, out, command)
    stored = {key: f"{config.full_name}-{key}" for key in config.trained}
    for key, plan in config.datasets.items():
        name = f"{config.full_name}-{key}"
        parts = [
            replace(
                part,
                policy=stored.get(part.policy, part.policy),
                trajectories=config.shortened(part.trajectories),
            )
            for part in plan.parts
        ]
        recipe = Recipe(
            plan.about,
            config.full_id,
            tuple(parts),
            config.recipes,
            command=command,
            drivers=config.drivers,
        )
        data = roll_out(recipe, seed=0)
        recipe = recipe.measured(data)
        recipe.save(name)
        costs = data.cost_returns if recipe.has_costs else None
        figures.distribution(out / f"{name}.png", data.returns, costs, title=f"local/{name}")
        print(f"local/{name}: {recipe.trajectories} trajectories, {recipe.measure}", flush=True)


def learn(config: Collect, cost_weight: float, out: Path, command: str) -> None:
    """One training with this cost weight, and each policy that is taken from it."""
    training = config.training
    assert training is not None, "only drivers need no training"
    steps = {
        key: config.shortened(plan.steps)
        for key, plan in config.trained.items()
        if plan.cost_weight == cost_weight
    }
    checkpoints = out / f"training_cost_weight_{cost_weight:g}"

    def report(done: int) -> None:
        print(f"{config.full_name}, cost weight {cost_weight:g}: {done:,} steps", flush=True)

    for goal in sorted(set(steps.values())):
        behavior.train(config.full_id, training, goal, checkpoints, cost_weight, report)
    for key in steps:
        name = f"{config.full_name}-{key}"
        policy = behavior.trained_policy(checkpoints, steps[key])
        policy.save(config.recipes, name)
        parts = (Part(name, config.episodes),)
        recipe = Recipe(name, config.full_id, parts, config.recipes)
        recipe = recipe.measured(roll_out(recipe, seed=1))
        measures = ("return_mean", "return_std", "cost_mean", "cost_std")
        provenance = {
            "environment": config.full_id,
            "algorithm": training.algorithm,
            "environment_steps": steps[key],
            "cost_weight": cost_weight,
            **{measure: getattr(recipe, measure) for measure in measures},
            "rollouts": config.episodes,
            "command": command,
        }
        replace(policy, provenance=provenance).save(config.recipes, name)
        print(f"{name}: {recipe.measure}", flush=True)


@command
def main(config: DictConfig) -> float:
    """The number of datasets, as there is nothing to be optimized."""
    parsed = parse(config, Collect)
    hydra_config = HydraConfig.get()
    overrides = [each for each in hydra_config.overrides.task if not each.startswith("folder=")]
    line = " ".join(["python -m experiments.collect", *overrides])
    out = Path(hydra_config.runtime.output_dir)
    if in_sweep():
        with alone_in(out), Status.kept(out) as status:
            if status.state == "finished" and parsed.is_made:
                print(f"{parsed.full_name}: {', '.join(parsed.datasets)} are made already")
            else:
                run(parsed, out / parsed.full_name, line)
    else:
        run(parsed, out / parsed.full_name, line)
    return float(len(parsed.datasets))


if __name__ == "__main__":
    # By its module's name, as a launcher's processes import it.
    from experiments import collect

    collect.main()
