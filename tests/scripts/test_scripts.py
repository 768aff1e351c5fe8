"""The shell scripts: help, refusals, and every reproduction run through at the smallest scale."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["scale=smoke", "seeds=[0]", "progress=false", "evaluation.episodes=1"]
STUDIES = {
    "continual_table": ["methods=[scratch,psec]"],
    "sample_efficiency": ["data.target_trajectories=1,2", "methods=[scratch]"],
    "training_curves": ["evaluation.curve_every=10", "chain=walker_walk"],
    "rank_ablation": ["adapter.rank=2,4"],
    "context_ablation": ["methods=[psec_fixed,psec]"],
    "dynamics_shift": ["shift=gravity", "methods=[zero_shot]", "+target=local-medium"],
    "multi_objective": ["task=bullet/ballrun", "methods=[bc]"],
    "target_data": ["target.fraction=0.05,0.1", "methods=[scratch]"],
}


def call(*command, cwd=ROOT, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_every_reproduction_script_has_a_run_below():
    assert {p.stem for p in (ROOT / "scripts" / "reproduce").glob("*.sh")} == set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_a_reproduction_script_runs_through_and_leaves_its_figure_and_table(study, tmp_path):
    out = tmp_path / study
    script = ROOT / "scripts" / "reproduce" / f"{study}.sh"
    process = call(script, *SMALL, *STUDIES[study], OUT=str(out), DATA="local")
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    assert list(out.glob(f"{study}*.png")) and list(out.glob(f"{study}*.md"))


@pytest.mark.parametrize("script", ["demo.sh", "test.sh"])
def test_help_says_how_to_use_a_script_and_installs_nothing(script, tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    process = call("bash", tmp_path / "scripts" / script, "--help", cwd=tmp_path)
    assert process.returncode == 0
    assert process.stdout.startswith(f"usage: scripts/{script}")
    assert not list(tmp_path.glob(".venv*"))


@pytest.fixture
def clone(tmp_path) -> Path:
    """What the install needs, without a virtual environment."""
    for name in ("scripts", "psec_jax"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_an_old_python_is_refused_in_one_line(clone):
    old = clone / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    process = call("bash", "scripts/demo.sh", cwd=clone, PYTHON=str(old))
    assert process.returncode == 1
    assert process.stderr.strip().splitlines() == [
        f"error: Python 3.11 or newer is needed, and {old} is Python 3.9.1"
    ]


def test_an_unreachable_package_index_is_named_and_leaves_no_half_install(clone):
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
    }
    process = call("bash", "scripts/test.sh", cwd=clone, **nowhere)
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1].startswith("error: pip could not reach")
    assert not (clone / ".venv" / "installed").exists()
