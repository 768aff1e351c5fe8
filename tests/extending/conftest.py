"""Demonstrations in files, and programs where this package is installed."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from psec_jax.data.readers import READERS
from psec_jax.envs.families import FAMILIES

# What importing this package registers is known in its own tests alone.
TABLES = (FAMILIES, READERS, gymnasium.registry)
before = [set(table) for table in TABLES]
from extending import dataset, environment  # noqa: E402

ADDED = [
    {name: table.pop(name) for name in set(table) - known}
    for table, known in zip(TABLES, before, strict=True)
]

HERE = Path(__file__).parent
CONF = HERE / "conf"
SMALL = ("scale=smoke", "progress=false", "seeds=[0]", "evaluation.episodes=1")


@pytest.fixture(scope="package", autouse=True)
def registered():
    for table, added in zip(TABLES, ADDED, strict=True):
        table.update(added)
    yield
    for table, added in zip(TABLES, ADDED, strict=True):
        for name in added:
            del table[name]


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
