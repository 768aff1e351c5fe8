"""Sweeps of every setting, and on every launcher, each with a job that fails."""

import json
import os
import pickle
import runpy
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

import psec_jax as psec
from experiments.sweeping import planned, states
from psec_jax.data.hdf5 import write_hdf5

ROOT = Path(__file__).parents[2]
PROGRAMS = ("continual", "dynamics_shift", "multi_objective", "collect")
# Launcher → its package, and the settings that are swept on it.
LAUNCHERS = {
    "basic": ("hydra", ("continual", "dynamics_shift", "multi_objective")),
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ("continual",)),
    "submitit": ("hydra_plugins.hydra_submitit_launcher", ("dynamics_shift",)),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", ("multi_objective",)),
    "ray_cluster": ("hydra_plugins.hydra_ray_launcher", ("multi_objective",)),
}
SMALL = ["scale=smoke", "seeds=[0]", "evaluation.episodes=1", "progress=false"]
# One process for all, as each would need seconds to begin. Every module is ``__main__``, as with
# ``python -m``.
DRIVER = """
import contextlib, io, json, runpy, sys
codes, printed = [], []
_, said, file = sys.argv
for module, *overrides in json.loads(said):
    sys.argv = ["x", *overrides]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
            codes.append(0)
        except SystemExit as error:
            codes.append(error.code)
    printed.append(out.getvalue())
with open(file, "w") as written:
    json.dump([codes, printed], written)
"""


def write_data(path: Path, observation: int, action: int, costs: bool = True) -> Path:
    """Twelve random trajectories of four steps."""
    generator = np.random.default_rng(0)
    ends = np.arange(48) % 4 == 3
    data = psec.TransitionDataset(
        observations=generator.normal(size=(48, observation)),
        actions=np.tanh(generator.normal(size=(48, action))),
        rewards=generator.normal(size=48),
        terminations=np.zeros(48, bool),
        truncations=ends,
        costs=np.zeros(48) if costs else None,
    )
    write_hdf5(path, data)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Setting → a file that its robots have."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"continual": (24, 6), "dynamics_shift": (17, 6), "multi_objective": (7, 2)}
    return {name: write_data(folder / f"{name}.hdf5", *size) for name, size in sizes.items()}


def overrides(setting: str, file: Path, *choices: Path) -> list[str]:
    """Of the smallest sweep over ``choices`` of a dataset."""
    swept = ",".join(map(str, choices))
    return [
        *SMALL,
        *{
            "continual": [
                "methods=[scratch]",
                "chain=walker_walk",
                f"chain.tasks.stand.dataset={file}",
                f"chain.tasks.walk.dataset={swept}",
            ],
            "dynamics_shift": [
                "methods=[bc]",
                f"robot.shifts.gravity={file}",
                f"target.dataset={swept}",
                "target.fraction=1",
            ],
            "multi_objective": ["methods=[bc]", "task=bullet/ballrun", f"dataset={swept}"],
        }[setting],
    ]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> None:
    """Commands that stand for SLURM's: the jobs of an array run at once on this machine."""
    task = "SLURM_JOB_ID=$$$i SLURM_ARRAY_JOB_ID=$$ SLURM_ARRAY_TASK_ID=$i SLURM_NTASKS=1"
    commands = {
        "sbatch": f"""
            for script; do :; done
            for i in $(sed -n 's/^#SBATCH --array=\\(.*\\)-\\([0-9]*\\).*/\\1 \\2/p' $script); do
              {task} SLURM_PROCID=0 SLURM_LOCALID=0 bash $script </dev/null >$script.$i 2>&1 &
            done
            echo Submitted batch job $$""",
        "srun": """
            while :; do
              case $1 in --output|--error) shift 2;; -*) shift;; *) break;; esac
            done
            exec "$@" """,
        "scontrol": "exit 1",
        "sacct": "echo 'JobID|State'",
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def run(*commands: list[str]) -> tuple[list[int], list[str], str]:
    """Each command's exit code and what it printed, and all that was written to stderr."""
    with tempfile.NamedTemporaryFile() as file:
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(commands), file.name],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        return *json.load(file), process.stderr


def sweep(programs: dict[str, list[str]]) -> tuple[list[int], str]:
    """Each program's exit code, and all that was written to stderr."""
    codes, _, errors = run(*([name, "-m", *overrides] for name, overrides in programs.items()))
    return codes, errors


def trained(out: Path) -> bool:
    """Whether anything was, in the run in ``out``."""
    metrics = out / "metrics.jsonl"
    return (metrics.exists() and bool(metrics.read_text())) or any(out.glob("checkpoints/*"))


def written(folder: Path) -> dict[Path, int]:
    """The files of jobs, and when they were written."""
    names = ("status.json", "results.jsonl", "metrics.jsonl", "table.md")
    return {p: p.stat().st_mtime_ns for name in names for p in folder.glob(f"*/*/{name}")}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_failing_job_ends_no_sweep_and_the_same_command_runs_only_that_again(
    launcher, data, tmp_path, request
):
    package, settings = LAUNCHERS[launcher]
    pytest.importorskip(package)
    if launcher == "slurm":
        request.getfixturevalue("stand_ins")
    out, later = tmp_path / "out", tmp_path / "later"
    later.mkdir()
    files = {setting: data[setting] for setting in settings}
    programs = {
        setting: [
            *overrides(setting, file, later / file.name, file),
            f"hydra/launcher={launcher}",
            f"hydra.sweep.dir={out / setting}",
        ]
        for setting, file in files.items()
    }
    codes, errors = sweep(programs)
    assert codes == [1] * len(files), errors[-3000:]
    for setting, file in files.items():
        found = states(out / setting)
        assert sorted(found) == sorted(planned(out / setting))
        assert sorted(state for state, _ in found.values()) == ["done", "failed"]
        ((name, why),) = ((n, error) for n, (state, error) in found.items() if state == "failed")
        assert f"{later / file.name} is missing" in why
        assert not trained(out / setting / name)
        said = [line for line in errors.splitlines() if f"{out}/{setting}/" in line]
        assert f"failed      {out / setting / name}  {why}" in said

    before = {p: when for p, when in written(out).items() if (p.parent / "table.md").exists()}
    assert len(before) == 4 * len(files)
    for file in files.values():
        (later / file.name).write_bytes(file.read_bytes())
    codes, errors = sweep(programs)
    assert codes == [0] * len(files), errors[-3000:]
    for setting in files:
        assert [state for state, _ in states(out / setting).values()] == ["done", "done"]
    after = written(out)
    assert len(after) == 8 * len(files) and {p: after[p] for p in before} == before


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_launcher_is_given_is_found_by_its_name(program):
    """Pickled by value it would take the module's classes with it, some of which hold a lock."""
    main = import_module(f"experiments.{program}").main
    assert pickle.loads(pickle.dumps(main)) is main
    told = []
    name = f"experiments.{program}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["x"])
        patch.setattr(
            "hydra.main", lambda **options: lambda job: lambda: told.append((options, job))
        )
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    ((options, job),) = told
    assert job is main and job.__module__ == name
    assert options["config_name"] == program and options["config_path"] == str(ROOT / "conf")


@pytest.mark.parametrize("program", PROGRAMS)
def test_hydras_own_options_and_names_stay(program):
    options = (["--help"], ["--cfg", "job"], ["--cfg", "hydra"])
    codes, printed, errors = run(*([program, *option] for option in options))
    assert codes == [0, 0, 0], errors
    assert printed[0].startswith(f"{program} is powered by Hydra.")
    assert "hydra" not in yaml.safe_load(printed[1])
    job = yaml.safe_load(printed[2])["hydra"]["job"]
    assert (job["name"], job["config_name"]) == (program, program)


def test_datasets_are_collected_by_a_sweep_and_not_twice(tmp_path):
    pytest.importorskip("sbx", reason="training behavior policies needs the extra 'collect'")
    pytest.importorskip(LAUNCHERS["joblib"][0])
    others = [f"~policies.{name}" for name in ("balanced", "careful", "poor")]
    options = ["budget=smoke", "behavior=carrun", "~datasets.mixed", *others, "share=0.005,0"]
    options += [f"folder='{tmp_path}/shelf'", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    when = []
    for _ in range(2):
        codes, errors = sweep({"collect": [*options, "hydra/launcher=joblib"]})
        assert codes == [1], errors[-3000:]
        found = sorted(states(tmp_path / "sweep").values())
        assert found == [("done", ""), ("failed", "ConfigError: share must be in (0, 1], not 0.0")]
        when.append((tmp_path / "shelf" / "carrun-reckless.json").stat().st_mtime_ns)
    assert when[0] == when[1]
