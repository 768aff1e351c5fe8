"""Tiny policies, data and skills; none of them is changed by any test."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Most of the tests' time is compiling tiny programs, which is thrice as fast without optimizing
# them; JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the programs as users run them.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()

# What one test compiled is read by those after it, and by the programs that they start. Each
# pytest process has a folder of its own, as JAX writes these files piece by piece.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Tests that run beside each other do not take each other's cores.
if hasattr(os, "sched_setaffinity") and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if count <= len(cores):
        os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: count])

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

from psec_jax import (
    Adapter,
    Bank,
    DiffusionBackbone,
    GaussianBackbone,
    Policy,
    Skill,
    SkillLibrary,
    Statistics,
    TransitionDataset,
)
from psec_jax.networks import Denoiser, GaussianActor
from psec_jax.policies import fingerprint

OBSERVATION, ACTION, BATCH = 5, 2, 4

HERE = Path(__file__).parent
# The fast tier: the core's laws that no test marked slow states. All tests elsewhere are slow.
CORE = {
    "composition",
    "learners",
    "skills",
    "training",
    "test_backbones.py",
    "test_diffusion.py",
    "test_policies.py",
}
# Where the long files are: begun first, as one that begins last keeps the other cores waiting.
LONG = {"experiments", "scripts", "skills", "training"}


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="only the core's laws")


def pytest_collection_modifyitems(config, items):
    places = {item: item.path.relative_to(HERE).parts[0] for item in items}
    items.sort(key=lambda item: places[item] not in LONG)
    for item, place in places.items():
        if place not in CORE:
            item.add_marker("slow")
    if config.getoption("fast"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


settings.register_profile(
    "quick",
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("quick")


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go():
    """Each compiled program takes some of the 65,530 memory maps that Linux grants a process."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def denoiser():
    return Denoiser(features=16, blocks=1, time_features=8, time_hidden=8, dropout=0.0)


@pytest.fixture(scope="session")
def statistics():
    mean = jnp.linspace(-1.0, 1.0, OBSERVATION)
    return Statistics(mean, jnp.linspace(0.5, 2.0, OBSERVATION))


@pytest.fixture(scope="session")
def diffusion(denoiser, statistics):
    return create(DiffusionBackbone(ACTION, denoiser), statistics)


@pytest.fixture(scope="session")
def gaussian(statistics):
    backbone = GaussianBackbone(ACTION, GaussianActor(ACTION, hidden=(8, 8)))
    return create(backbone, statistics)


def create(backbone, statistics):
    return jax.jit(Policy.create, static_argnums=0)(backbone, statistics, jax.random.key(0))


@pytest.fixture(scope="session", params=["diffusion", "gaussian"])
def policy(request):
    """A policy of each backbone in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def observations():
    return np.random.default_rng(0).normal(size=(BATCH, OBSERVATION)).astype(np.float32)


@pytest.fixture(scope="session")
def dataset():
    """60 transitions in three trajectories of 20; the actions follow from the observations."""
    generator = np.random.default_rng(1)
    observations = generator.normal(size=(60, OBSERVATION))
    mixing = generator.normal(size=(OBSERVATION, ACTION)) / 3
    ends = np.isin(np.arange(60), (19, 39)), np.arange(60) == 59
    actions, rewards = np.tanh(observations @ mixing), generator.normal(size=60)
    return TransitionDataset(observations, actions, rewards, *ends)


@pytest.fixture(scope="session")
def make_skill():
    """``make_skill(policy, seed, **adapter)``: a skill whose deltas are all random, none zero."""

    def make(policy: Policy, seed: int = 0, size: float = 0.02, **adapter) -> Skill:
        adapter = Adapter(**{"rank": 2, **adapter})
        layers = policy.dense_layers()
        shapes = jax.eval_shape(lambda key: adapter.fresh(key, layers), jax.random.key(0))
        generator = np.random.default_rng(seed)
        std = size if adapter.kind == "full" else size**0.5
        deltas = jax.tree.map(
            lambda leaf: jnp.asarray(std * generator.normal(size=leaf.shape), leaf.dtype), shapes
        )
        return Skill(deltas, adapter, fingerprint(policy), {"dataset": f"number-{seed}"})

    return make


@pytest.fixture(scope="session")
def make_bank(make_skill):
    """Three skills of different ranks, kinds and layers, or those that ``adapters`` describe."""
    mixed = (
        {"rank": 1, "scale": 2.0},
        {"rank": 3, "scale": 1.0, "targets": "(in|out|hidden_0|mean)"},
        {"kind": "full", "scale": 2.0, "targets": "(block_0/.*|hidden_1|mean|out)"},
    )

    def make(policy: Policy, adapters=mixed) -> Bank:
        return Bank.of({f"skill-{i}": make_skill(policy, i, **a) for i, a in enumerate(adapters)})

    return make


@pytest.fixture
def library(tmp_path, diffusion, make_skill):
    """A library of one low-rank and one full skill, with nothing else in its parent folder."""
    library = SkillLibrary.create(tmp_path / "library", diffusion)
    library.add("walk", make_skill(diffusion, 1, rank=3))
    library.add("run", make_skill(diffusion, 2, kind="full", targets="(in|out)"))
    return library


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(megabytes)``: a disk of its own, and ``leave(bytes)``, which fills it up to
    them."""
    disk = tmp_path / "disk"

    def make(megabytes: int):
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root can make a small disk")

        def leave(room: int) -> None:
            (disk / "filler").unlink(missing_ok=True)
            (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - room))

        return disk, leave

    yield make
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session")
def same():
    """Whether two pytrees are equal bit for bit."""

    def same(one, other) -> bool:
        assert jax.tree.structure(one) == jax.tree.structure(other)
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)

    return same


@pytest.fixture(scope="session")
def close():
    """Asserts that two pytrees are equal to float tolerance: a thousand roundings of the greatest
    number of each leaf.

    What was trained with Adam is not: it divides by the size of a gradient, and so moves a
    parameter as far by a rounding as by a slope. Plain descent does not.
    """

    def rounding(leaf) -> float:
        kind = jnp.result_type(leaf)
        return float(jnp.finfo(kind).eps) if jnp.issubdtype(kind, jnp.floating) else 0.0

    def check(one, other) -> None:
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            tolerance = 1000 * max(rounding(a), rounding(b)) * np.abs(b).max()
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)

    return check


@pytest.fixture(scope="session")
def tree_of():
    """Every path under a folder with its bytes (None for a folder)."""

    def tree(folder):
        return {
            str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in sorted(folder.rglob("*"))
        }

    return tree
