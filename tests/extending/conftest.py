"""Demonstrations in files, and one run of a setting that is all configured from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The run's agents are made of the classes of all of these.
from extending import backbone, composition_method, dataset, environment  # noqa: F401

HERE = Path(__file__).parent
CONF = HERE / "conf"
SMALL = ("scale=smoke", "progress=false", "seeds=[0]", "evaluation.episodes=1")


@pytest.fixture(scope="session")
def python():
    """``python(*arguments)`` runs Python where this package is installed, and gives what it
    prints; ``code`` is the exit code that is expected."""

    def run(*arguments, code: int = 0) -> str:
        paths = map(str, (HERE.parents[1], HERE.parent))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """Goal → a CSV file of demonstrations."""
    folder = tmp_path_factory.mktemp("demonstrations")
    paths = {goal: folder / f"{goal}.csv" for goal in ("east", "north")}
    for goal, path in paths.items():
        dataset.write_csv(path, environment.demonstrations(goal, 4))
    return paths


@pytest.fixture(scope="session")
def finished(python, files, tmp_path_factory) -> Path:
    """A run of continual: its backbone, composer, environments and reader are this package's."""
    out = tmp_path_factory.mktemp("continual") / "run"
    choices = ("chain=reach", "backbone=flow", "composer=prototypes")
    words = [f"chain.tasks.{goal}.dataset={path}" for goal, path in files.items()]
    python(
        *("-m", "experiments.continual", "--config-dir", CONF, *SMALL, *choices, *words),
        *("methods=[nsec_skills,asec_skills,psec]", "imports=[extending.dataset]"),
        *("data.target_trajectories=2", "adapter.targets='.*'", f"hydra.run.dir={out}"),
    )
    return out
