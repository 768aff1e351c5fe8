"""The page of local datasets: docs/datasets.md and a picture of each, from the data themselves.

    python scripts/datasets_page.py [START ...]

Only of datasets whose names start so, where any are given. Makes every one of them that is not
cached yet, which takes minutes.
"""

import sys
import time
from pathlib import Path

import psec_jax as psec
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.data.recipes import Recipe
from psec_jax.data.registry import local_datasets, local_folder
from psec_jax.report import figures

DOCS = Path(__file__).parents[1] / "docs"
INTRODUCTION = """\
# Local datasets

Data that need no download: small trained policies come with the package and are rolled out on
first use, then cached under `$PSEC_JAX_HOME`. `psec.load_dataset(name, trajectories=n, seed=s)`
makes any number of trajectories; the same two give the same bytes. They stand in for D4RL's and
DSRL's data where those cannot be had, and are weaker: compare their returns with the tables of
`python -m psec_jax.data list`.

Two cores made 100,000 transitions of a MuJoCo robot in 11 to 19 seconds and of Bullet's agents in
46 to 142, with other work beside them. MetaDrive's take seven to ten minutes, as its traffic of a
dozen cars is simulated in Python; the page's command prints the seconds of each that is new.

`scripts/local_datasets.sh` trains and measures all policies but the walker's anew (hours
on two cores), and `python scripts/datasets_page.py` writes this page. A new robot:
`python -m experiments.collect name=mine environment=… behavior=halfcheetah`, which needs the
extra `collect` (`pip install -e '.[collect]'`, after a CPU build of torch where there is no GPU).
"""


def entry(name: str, recipe: Recipe) -> str:
    started = time.perf_counter()
    data = psec.load_dataset(name)
    seconds = time.perf_counter() - started
    print(f"{name}: {len(data):,} transitions in {seconds:.0f} s", flush=True)
    costs = data.cost_returns if recipe.has_costs else None
    slug = name.removeprefix("local/")
    figures.distribution(DOCS / "datasets" / f"{slug}.png", data.returns, costs, title=name)
    summary = data.summary()
    lines = [
        f"## `{name}`\n",
        f"{recipe.about[0].upper()}{recipe.about[1:]}, in `{recipe.environment}`. "
        f"{summary['transitions']:,} transitions in {summary['trajectories']} trajectories.\n",
        "| | min | quarter | median | three quarters | max | mean |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for quantity in ("return", "cost"):
        if quantity in summary:
            numbers = " | ".join(f"{value:.1f}" for value in summary[quantity].values())
            lines.append(f"| {quantity} | {numbers} |")
    lines += ["", "| policy | trajectories | noise | what it is |", "| --- | --- | --- | --- |"]
    for part in recipe.parts:
        description = describe_policy(recipe, part.policy)
        lines.append(f"| {part.policy} | {part.trajectories} | {part.noise:g} | {description} |")
    lines.append(f"\n![{name}](datasets/{slug}.png)\n")
    if recipe.command:
        lines.append(f"Made by `{recipe.command}`.\n")
    return "\n".join(lines)


def describe_policy(recipe: Recipe, policy: str) -> str:
    """A policy's own return and cost and how it was trained, or a driver's settings."""
    if policy in recipe.drivers:
        return ", ".join(f"{name} {value}" for name, value in recipe.drivers[policy].items())
    provenance = BehaviorPolicy.load(recipe.folder, policy).provenance
    measure = f"return {provenance['return_mean']:.1f} ± {provenance['return_std']:.1f}"
    if provenance.get("cost_mean") is not None:
        measure += f", cost {provenance['cost_mean']:.1f} ± {provenance['cost_std']:.1f}"
    return (
        f"{provenance['algorithm'].upper()}, {provenance['environment_steps']:,} steps: {measure}"
    )


def introduction() -> str:
    """With the very command that wrote the page."""
    command = " ".join(["python scripts/datasets_page.py", *sys.argv[1:]])
    return INTRODUCTION.replace("python scripts/datasets_page.py", command)


def main() -> None:
    (DOCS / "datasets").mkdir(parents=True, exist_ok=True)
    starts = tuple(f"local/{start}" for start in sys.argv[1:] or [""])
    known = {
        name: recipe
        for name, recipe in local_datasets().items()
        if recipe.folder != local_folder() and name.startswith(starts)
    }
    entries = [entry(name, recipe) for name, recipe in known.items()]
    (DOCS / "datasets.md").write_text("\n".join([introduction(), *entries]))


if __name__ == "__main__":
    main()
