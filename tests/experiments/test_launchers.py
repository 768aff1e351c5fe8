"""Sweeps on other engines, and the studies that they run."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import continual, dynamics_shift, multi_objective
from experiments.config import parse
from experiments.settings import Continual, DynamicsShift, MultiObjective
from experiments.sweeping import job_folder, planned
from psec_jax.envs import known_ids

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "continual": (Continual, continual.check),
    "dynamics_shift": (DynamicsShift, dynamics_shift.check),
    "multi_objective": (MultiObjective, multi_objective.check),
}
PACKAGES = {
    "submitit": "hydra_plugins.hydra_submitit_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray_cluster": "hydra_plugins.hydra_ray_launcher",
}
# Study → its setting, and what it sweeps.
STUDIES = {
    "rank": ("continual", {"adapter.rank": ["4", "8", "16", "32", "64"]}),
    "demonstrations": ("continual", {"data.target_trajectories": ["10", "30", "50", "100"]}),
    "context": ("continual", {"seeds": ["[0]", "[1]", "[2]"]}),
    "curves": ("continual", {"seeds": ["[0]", "[1]", "[2]"]}),
    "continual": ("continual", {"seeds": ["[0]", "[1]", "[2]", "[3]", "[4]"]}),
    "target_data": ("dynamics_shift", {"target.fraction": ["0.01", "0.02", "0.05", "0.1", "0.5"]}),
    "dynamics_shift": (
        "dynamics_shift",
        {
            "robot": ["halfcheetah", "walker2d"],
            "shift": ["friction", "thigh", "gravity"],
            "+target": ["medium", "medium-replay", "medium-expert"],
        },
    ),
    "multi_objective": (
        "multi_objective",
        {"task": [task for task in known_ids() if task.startswith(("bullet/", "metadrive/"))]},
    ),
}


@pytest.fixture
def composed():
    """``composed(setting, *words)``: the whole configuration, Hydra's own with it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda setting, *words: compose(setting, list(words), return_hydra_config=True)


def test_every_study_is_below():
    assert {path.stem for path in (ROOT / "conf" / "study").glob("*.yaml")} == set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_plans_its_jobs_and_they_can_be_run(study, composed, tmp_path):
    setting, swept = STUDIES[study]
    common = [f"+study={study}", "scale=smoke"]
    OmegaConf.save(composed(setting, *common), tmp_path / "multirun.yaml")
    overrides = [[f"{key}={value}" for value in values] for key, values in swept.items()]
    jobs = [[*job, *common] for job in itertools.product(*overrides)]
    assert sorted(planned(tmp_path)) == sorted(job_folder(job) for job in jobs)
    schema, check = SETTINGS[setting]
    for job in (jobs[0], jobs[-1]):
        config = composed(setting, *job)
        check(
            parse(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), schema)
        )


def test_what_is_said_beside_a_study_holds(composed, tmp_path):
    config = composed("continual", "+study=rank")
    config.hydra.overrides.task = ["+study=rank", "adapter.rank=2,3", "chain=walker"]
    OmegaConf.save(config, tmp_path / "multirun.yaml")
    jobs = [[f"adapter.rank={rank}", "+study=rank", "chain=walker"] for rank in (2, 3)]
    assert planned(tmp_path) == [job_folder(job) for job in jobs]
    assert len(composed("continual", *jobs[0]).chain.columns) == 3


def test_each_robot_of_a_study_has_its_own_target(composed):
    for robot in ("halfcheetah", "walker2d"):
        overrides = [f"robot={robot}", "+target=medium-replay", "+study=dynamics_shift"]
        assert composed("dynamics_shift", *overrides).target.dataset == f"{robot}-medium-replay-v2"
        local = composed("dynamics_shift", f"robot={robot}", "+target=local-medium-good")
        assert local.target.dataset == f"local/{robot}-medium-good"


@pytest.mark.parametrize("launcher", PACKAGES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_launchers_preset_is_what_the_launcher_takes(launcher, setting, composed):
    pytest.importorskip(PACKAGES[launcher])
    config = composed(setting, f"hydra/launcher={launcher}", "hydra.sweep.dir=there")
    assert hydra.utils.instantiate(config.hydra.launcher) is not None
    if launcher != "ray_cluster":
        assert config.hydra.launcher.submitit_folder == "there/.submitit/%j"


@pytest.mark.parametrize("launcher", PACKAGES)
def test_a_missing_launcher_is_named_in_one_line(launcher, tmp_path):
    arguments = ["x", "--multirun", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}"]
    program = (
        f"import runpy, sys; sys.argv = {arguments}; sys.modules[{PACKAGES[launcher]!r}] = None; "
        "runpy.run_module('experiments.continual', run_name='__main__', alter_sys=True)"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    extra = "ray" if launcher == "ray_cluster" else "submitit"
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("error: this launcher is not installed: pip install")
    assert f"'.[{extra}]'" in line


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A folder of commands that stand for SLURM's: jobs do nothing but end with $CODE."""
    commands = {
        "sbatch": "echo Submitted batch job 7",
        "srun": "exit $CODE",
        "scontrol": f'echo "$@" >>{tmp_path}/scontrol.log',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("array", [True, False])
def test_slurm_queues_again_only_the_job_that_asks_for_it(array, slurm, composed, monkeypatch):
    pytest.importorskip(PACKAGES["slurm"])
    monkeypatch.setattr("submitit.Job.results", lambda _: [None])
    config = composed("continual", "hydra/launcher=slurm", f"hydra.sweep.dir={slurm}/sweep")
    launcher = hydra.utils.instantiate(config.hydra.launcher)
    launcher.config = config
    launcher.launch([["seeds=[0]"], ["seeds=[1]"]] if array else [["seeds=[0]"]], 0)
    (script,) = (slurm / "sweep" / ".submitit").rglob("*submission.sh")
    words = script.read_text()
    assert "#SBATCH --requeue\n" in words and "#SBATCH --signal=TERM@180\n" in words

    # SLURM gives one task of an array the number of the whole array.
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"} if array else {}
    for code in (0, 1, 75):
        assert not (slurm / "scontrol.log").exists()
        environment = {**os.environ, "SLURM_JOB_ID": "7", "CODE": str(code), **task}
        assert subprocess.run(["bash", script], env=environment).returncode == code
    assert (slurm / "scontrol.log").read_text() == f"requeue {'7_1' if array else '7'}\n"
