"""What becomes of a job that fails, and what one returns that does not."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext

from experiments import collect, continual, dynamics_shift, multi_objective
from experiments.config import ConfigError, parse
from experiments.launching import keep_compiled_programs, with_home
from experiments.settings import Continual
from experiments.status import Status, alone_in
from experiments.sweeping import job_folder, states
from psec_jax.errors import BrokenFile, Diverged, NotSaved
from psec_jax.evaluation import Evaluation
from psec_jax.training import Interrupted

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "continual": continual,
    "dynamics_shift": dynamics_shift,
    "multi_objective": multi_objective,
}


class Callbacks:
    """None, for ``run_job``."""

    def on_job_start(self, **_): ...

    def on_job_end(self, **_): ...


def run_one(setting: str, out: Path, *overrides: str, mode: str = "MULTIRUN") -> JobReturn:
    """One job as Hydra runs it, in ``out/<its folder>``."""
    job_overrides = [*overrides, "scale=smoke", "progress=false"]
    hydra_overrides = [
        *job_overrides,
        f"hydra.sweep.dir={out}",
        f"hydra.run.dir={out}",
        f"hydra.mode={mode}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name=setting):
        config = compose(setting, hydra_overrides, return_hydra_config=True)
    single = mode == "RUN"
    return run_job(
        task_function=SETTINGS[setting].main,
        config=config,
        job_dir_key="hydra.run.dir" if single else "hydra.sweep.dir",
        job_subdir_key=None if single else "hydra.sweep.subdir",
        hydra_context=HydraContext(config_loader=None, callbacks=Callbacks()),
        configure_logging=False,
    )


def stand_in(values: dict[tuple[str, str, int, str], float]):
    """What stands for a runner's ``run``: (method, column, seed, metric) are measured so."""

    def run(config, out, recorder):
        for (method, task, seed, metric), value in values.items():
            evaluation = Evaluation(np.array([value]), np.array([1]), np.array([value]))
            recorder.evaluation(
                setting="x",
                task=task,
                method=method,
                seed=seed,
                step=1,
                metric=metric,
                evaluation=evaluation,
            )
        recorder.text("table.md", "| |")

    return run


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("no such thing"), True),
        (BrokenFile("x.hdf5 is missing"), True),
        (ImportError("pip install it"), True),
        (Diverged("walk: loss became nan"), True),
        (NotSaved("cannot save x"), True),
        (ZeroDivisionError("division by zero"), False),
        (MemoryError("too much"), False),
        (SystemExit("a library's own exit"), False),
    ],
)
def test_a_failing_job_is_recorded_and_returns_nan_and_a_single_run_ends_with_1(
    error, expected, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise error

    monkeypatch.setattr(continual, "run", fail)
    job = run_one("continual", tmp_path)
    assert job.status is JobStatus.COMPLETED and math.isnan(job.return_value)
    (folder,) = tmp_path.iterdir()
    status = Status.read(folder)
    assert status.state == "failed" and status.error == f"{type(error).__name__}: {error}"
    printed = capsys.readouterr().err
    assert f"error: {error} (in {folder})" in printed
    assert ("Traceback" in printed) is not expected

    with pytest.raises(BaseException) as raised:
        run_one("continual", tmp_path / "single", mode="RUN").return_value  # noqa: B018
    if expected:
        assert raised.type is SystemExit and raised.value.code == f"error: {error}"
    else:
        assert raised.value is error


def test_a_job_that_is_refused_before_it_begins_is_failed_too(tmp_path, monkeypatch):
    returned = run_one("continual", tmp_path, "adapter.rank=0").return_value
    (folder,) = tmp_path.iterdir()
    status = Status.read(folder)
    assert status.state == "failed" and "rank" in status.error and math.isnan(returned)
    # Whoever converts it, as Optuna's sweeper does, is told; it may come from another process.
    with pytest.raises(ValueError, match=r"the job failed: .*rank"):
        float(pickle.loads(pickle.dumps(returned)))


def test_a_job_that_another_process_is_at_work_on_keeps_that_ones_status(tmp_path, monkeypatch):
    monkeypatch.setattr(continual, "run", stand_in({}))
    overrides = ["seeds=[0]", "scale=smoke"]
    folder = tmp_path / job_folder([*overrides, "progress=false"])
    folder.mkdir()
    with alone_in(folder):
        assert math.isnan(run_one("continual", tmp_path, "seeds=[0]").return_value)
    assert Status.read(folder) is None


def test_an_interruption_still_ends_the_sweep_by_its_own_code(tmp_path, monkeypatch):
    def stop(*_):
        raise Interrupted

    monkeypatch.setattr(continual, "run", stop)
    with pytest.raises(Interrupted) as stopped:
        run_one("continual", tmp_path)
    assert stopped.value.code == 75
    (folder,) = tmp_path.iterdir()
    assert Status.read(folder).state == "interrupted"


def test_a_full_disk_leaves_room_to_say_so(tmp_path, small_disk, monkeypatch):
    disk, leave = small_disk(1)

    def fill(config, out, recorder):
        leave(0)
        recorder.text("table.md", "x" * 10_000)

    monkeypatch.setattr(continual, "run", fill)
    assert math.isnan(run_one("continual", disk / "sweep").return_value)
    (folder,) = (disk / "sweep").iterdir()
    status = Status.read(folder)
    assert status.state == "failed" and "No space left on device" in status.error


COLUMNS = {
    "continual": ["S→W", "S→R", "S+W→R"],
    "dynamics_shift": ["walker2d medium, gravity"],
    "multi_objective": ["bullet/carrun"],
}
METRICS = {
    "continual": ["return"],
    "dynamics_shift": ["score", "return"],
    "multi_objective": ["return", "cost"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_job_returns_the_measurement_that_is_to_be_optimized(setting, tmp_path, monkeypatch):
    """Also when it is only shown."""
    columns, metrics, seeds = COLUMNS[setting], METRICS[setting], (0, 1)
    methods = {"multi_objective": ("bc", "reward")}.get(setting, ("scratch", "psec"))
    keys = [(m, c, s, k) for m in methods for c in columns for s in seeds for k in metrics]
    values = {key: float(2**number) for number, key in enumerate(keys)}
    monkeypatch.setattr(SETTINGS[setting], "run", stand_in(values))
    overrides = [f"methods=[{','.join(methods)}]", "seeds=[0,1]"]

    def mean(method, metric, tasks=columns):
        return np.mean([values[method, task, seed, metric] for task in tasks for seed in seeds])

    def returned(*more):
        return run_one(setting, tmp_path, *overrides, *more).return_value

    for _ in range(2):
        assert returned() == mean(methods[1], metrics[0])
    assert returned(f"optimize.method={methods[0]}") == mean(methods[0], metrics[0])
    for metric in metrics:
        assert returned(f"optimize.metric={metric}") == mean(methods[1], metric)
    for column in columns:
        expected = mean(methods[1], metrics[0], [column])
        assert returned(f"optimize.task='{column}'") == expected
    # All of them are one job: what is returned is no other run.
    assert len(list(tmp_path.iterdir())) == 1


def start(*overrides: str, program: str = "continual", **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", f"experiments.{program}", *overrides],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_that_is_killed_outright_is_in_the_list_too(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    out = tmp_path / "sweep"
    overrides = [
        "scale=smoke",
        "methods=[zero_shot]",
        "chain=walker_walk",
        "pretrain.steps=100000000",
    ]
    # Of one, joblib would run the job in the sweep's own process.
    overrides += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start("-m", *overrides, f"hydra.sweep.dir={out}")
    try:
        while not any(path.read_text() for path in out.glob("*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.1)
        (path,) = out.glob("*/status.json")
        os.kill(json.loads(path.read_text())["process"], signal.SIGKILL)
        _, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 1
    lines = errors.splitlines()[-3:]
    assert lines[0] == "1 of 1 jobs are not done:"
    assert lines[1] == f"interrupted {path.parent}"


def test_a_sweep_with_one_job_twice_is_refused(tmp_path):
    out = tmp_path / "sweep"
    process = start("-m", "seeds=[0],[0]", "scale=smoke", f"hydra.sweep.dir={out}")
    _, errors = process.communicate()
    assert process.returncode == 1 and not out.exists()
    (line,) = errors.splitlines()
    assert line.startswith("error: the sweep has a job twice: scale=smoke_seeds=_0-")


def test_jobs_of_an_older_sweep_in_the_same_folder_are_not_counted(tmp_path):
    overrides = ["-m", "scale=smoke", "adapter.rank=0", f"hydra.sweep.dir={tmp_path}"]
    for seed in (0, 1):
        process = start(*overrides, f"seeds=[{seed}]")
        _, errors = process.communicate()
        assert process.returncode == 1
        assert errors.count("\nfailed ") == 1 and "1 of 1 jobs are not done:" in errors
    assert len(states(tmp_path)) == 2


def test_the_state_of_a_sweep_may_be_read_in_part(tmp_path):
    for index in range(3):
        with Status.kept(tmp_path):
            pass
        (tmp_path / str(index)).mkdir()
        (tmp_path / "status.json").rename(tmp_path / str(index) / "status.json")
    content = "hydra: {sweep: {subdir: x}, sweeper: {_target_: Other}}"
    (tmp_path / "multirun.yaml").write_text(content)
    command = [sys.executable, "-m", "experiments.sweeping", tmp_path]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, "")
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == f"{tmp_path}: 3 done"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("base=~/a/b", "base=HOME/a/b"),
        ("hydra.run.dir='~/a b'", "hydra.run.dir='HOME/a b'"),
        ('base="~/a"', 'base="HOME/a"'),
        ("base=~/a,~/b", "base=HOME/a,HOME/b"),
        ("x=[~/a,b]", "x=[HOME/a,b]"),
        ("~policies.poor", "~policies.poor"),
        ("base=a~/b", "base=a~/b"),
        ("base=/x/~/b", "base=/x/~/b"),
    ],
)
def test_a_value_may_begin_with_the_home(override, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/them")
    assert with_home(override) == expected.replace("HOME", "/home/them")


def test_configured_paths_may_begin_with_the_home(tmp_path, library, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("continual", ["base='~/library'", "scale=smoke"])
        collecting = compose("collect", ["folder='~/recipes'"])
    (base,) = continual.given_bases(parse(config, Continual)).values()
    assert base.observation_size == library.base.observation_size
    assert parse(collecting, collect.Collect).recipes == tmp_path / "recipes"
    process = start("adapter.rank=0", "hydra.run.dir=~/run", HOME=str(tmp_path))
    process.communicate()
    assert process.returncode == 1 and (tmp_path / "run").is_dir()


def test_compiled_programs_are_kept_at_home_unless_jax_was_told_another_place(
    tmp_path, monkeypatch
):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("PSEC_JAX_HOME", str(tmp_path))
    try:
        keep_compiled_programs()
        assert {name: getattr(jax.config, name) for name in names} == before
        jax.config.update(names[0], None)
        keep_compiled_programs()
        assert getattr(jax.config, names[0]) == str(tmp_path / "compiled")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
