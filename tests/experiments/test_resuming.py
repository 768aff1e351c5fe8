"""Runs that were interrupted, and sweeps that were: they go on and come to the same end."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from experiments import continual, dynamics_shift, multi_objective
from experiments.config import parse
from experiments.recording import Recorder
from experiments.settings import Continual, DynamicsShift, MultiObjective
from experiments.status import Status, alone_in
from experiments.sweeping import job_folder, states
from psec_jax.training import Checkpoints, Interrupted

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "continual": (continual, Continual, ("chain=walker_walk", "evaluation.curve_every=10")),
    "dynamics_shift": (dynamics_shift, DynamicsShift, ("best_of.candidates=2",)),
    "multi_objective": (multi_objective, MultiObjective, ("task=bullet/ballrun", "cost_limit=1")),
}
SMALL = ("scale=smoke", "chain=walker_walk", "evaluation.episodes=1", "progress=false")


def contents(out: Path) -> dict[str, bytes]:
    patterns = ("*.jsonl", "table.md", "*.csv", "seed_*/library/**/*", "seed_*/agents/**/*")
    files = {path for pattern in patterns for path in out.glob(pattern) if path.is_file()}
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.parametrize("setting", SETTINGS)
def test_seeds_side_by_side_stopped_within_each_stage_come_to_the_same_end(
    setting, tmp_path, monkeypatch, ballrun
):
    """Each start is stopped in the first fit that has anything left to learn."""
    runner, schema, overrides = SETTINGS[setting]
    overrides = [
        "scale=smoke",
        "methods=[psec]",
        "seeds=[0,1]",
        "evaluation.episodes=1",
        *overrides,
    ]
    if setting == "multi_objective":
        overrides.append(f"dataset={ballrun}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = parse(compose(setting, [*overrides, "progress=false"]), schema)
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    runner.run(config, undisturbed, Recorder(undisturbed))
    stops = []
    whole = Checkpoints.of

    def stopping(self, label, like):
        self.stopping = label not in stops
        stops.append(label)
        return whole(self, label, like)

    monkeypatch.setattr(Checkpoints, "of", stopping)
    for _ in range(20):
        try:
            runner.run(config, stopped, Recorder(stopped))
            break
        except Interrupted:
            continue
    assert len(set(stops)) == 3 and all("seed 0" in stop and "seed 1" in stop for stop in stops)
    assert contents(stopped) == contents(undisturbed)


def start(*overrides: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.continual", *overrides, *SMALL]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_signal_saves_ends_with_75_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    process = start(
        *("methods=[zero_shot]", "seeds=[3]", f"hydra.run.dir={out}"),
        # Of which only the signal saves one, however late it comes.
        *("pretrain.steps=1000000000", "checkpoint.every=1000000000"),
    )
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.1)
    assert Status.read(out).state == "running"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75
    assert "SIGTERM: saving at the end of this chunk of updates" in errors
    assert "resume it by: python -m experiments.continual 'methods=" in errors
    assert f"hydra.run.dir={out}" in errors
    assert Status.read(out).state == "interrupted"
    (states_of_fit,) = (out / "checkpoints").iterdir()
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert [int(path.name) for path in states_of_fit.iterdir()] == [last]


# Kills itself when the second job is to draw its figure.
KILLED = """
import os, runpy, signal
from psec_jax.report import figures
draw, drawn = figures.bars, []
def bars(*arguments):
    drawn.append(draw(*arguments))
    if len(drawn) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
figures.bars = bars
runpy.run_module("experiments.continual", run_name="__main__", alter_sys=True)
"""


def sweep(out: Path) -> list[str]:
    return ["--multirun", f"hydra.sweep.dir={out}", "methods=[scratch]", "skill.steps=1,2,3"]


def test_a_sweep_that_was_killed_goes_on_with_what_is_not_finished(tmp_path):
    out = tmp_path / "sweep"
    # A job of a sweep waits for no other process.
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *sweep(out), *SMALL],
        cwd=ROOT,
        env={**os.environ, "JAX_COORDINATOR_ADDRESS": "localhost:1"},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    before = {name: state for name, (state, _) in states(out).items()}
    assert sorted(before.values()) == ["done", "interrupted", "missing"]
    # A job that is run again says so in its status first.
    written = {
        out / name / file: (out / name / file).stat().st_mtime_ns
        for name, state in before.items()
        if state == "done"
        for file in ("status.json", "results.jsonl", "metrics.jsonl", "table.md")
    }

    process = start(*sweep(out))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert {state for state, _ in states(out).values()} == {"done"}
    assert len(list(out.glob("*/results.jsonl"))) == 3
    for path, when in written.items():
        assert path.stat().st_mtime_ns == when
    printed = subprocess.run(
        [ROOT / "scripts" / "sweep_status", out],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    ).stdout
    assert printed.splitlines()[-1] == f"{out}: 3 done"


def test_a_jobs_folder_follows_from_its_words_but_not_from_how_they_are_said():
    overrides = ["seeds=[0,1]", "adapter.rank=8", "target.dataset=a/b"]
    name = job_folder(overrides)
    passing = ["progress=false", "logger=wandb", "+logger.mode=offline"]
    assert name == job_folder([*passing, *overrides[::-1]])
    assert "/" not in name and len(name) < 100
    assert len({job_folder([*overrides, f"adapter.scale={s}"]) for s in range(50)}) == 50
    assert job_folder(["seeds=[0]", "x=1"]) != job_folder(["seeds=[0,x=1]"])
    assert len(job_folder(["chain=walker"] * 100)) < 100


def test_a_failed_run_says_why_and_one_that_ended_well_is_finished(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path), Status.kept(tmp_path):
        assert Status.read(tmp_path).state == "running"
        1 / 0  # noqa: B018
    assert Status.read(tmp_path).state == "failed"
    assert Status.read(tmp_path).error == "ZeroDivisionError: division by zero"
    with alone_in(tmp_path), Status.kept(tmp_path) as status:
        assert status.state == "running"
    assert Status.read(tmp_path).state == "finished"
    with Status.kept(tmp_path) as status:
        assert status.state == "finished"


@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"])
def test_running_is_who_holds_the_lock_on_whatever_host_and_by_whatever_number(host, tmp_path):
    """A killed run's number may be another process' by now, here this one's."""
    status = {"state": "running", "host": host, "process": os.getpid()}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert Status.read(tmp_path).state == "interrupted"
    with alone_in(tmp_path):
        assert Status.read(tmp_path).state == "running"
        assert Status.read(tmp_path).state == "running"
    assert Status.read(tmp_path).state == "interrupted"


def test_a_run_that_starts_while_its_status_is_looked_at_waits_for_the_look(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        stopped = SimpleNamespace(
            monotonic=lambda: 0.0, sleep=lambda _: fcntl.flock(look, fcntl.LOCK_UN)
        )
        monkeypatch.setattr("experiments.status.time", stopped)
        with alone_in(tmp_path):
            pass


def test_a_folder_with_a_run_is_refused_where_it_shall_not_be_gone_on_with(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    process = start("resume=false", f"hydra.run.dir={tmp_path}")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "holds a run already; resume it (resume=true)" in errors.splitlines()[-1]


def test_a_full_disk_ends_a_run_in_one_line(tmp_path, small_disk):
    disk, leave = small_disk(1)
    out, rows = tmp_path / "run", disk / "results.jsonl"
    rows.touch()
    leave(0)
    out.mkdir()
    (out / "results.jsonl").symlink_to(rows)
    process = start("methods=[zero_shot]", f"hydra.run.dir={out}")
    _, errors = process.communicate()
    assert process.returncode == 1
    message = f"error: cannot save {out}/results.jsonl (No space left on device); what was saved"
    assert errors.splitlines()[-1].startswith(message)
    assert Status.read(out).state == "failed"
