"""A run in two processes that share one folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from hydra import compose, initialize_config_dir

from experiments.config import parse
from experiments.continual import run
from experiments.recording import Recorder
from experiments.settings import Continual
from experiments.status import Status, alone_in
from psec_jax import SkillLibrary
from psec_jax.report import results

ROOT = Path(__file__).parents[2]
OVERRIDES = ["scale=smoke", "chain=walker_walk", "methods=[zero_shot]", "seeds=[0,1]"]
OVERRIDES += ["pretrain.steps=1000", "evaluation.episodes=1", "progress=false"]
# Told to stop while the first chunk of updates is asked about, when others are still to come.
STOPPED = """
import os, runpy, signal
from psec_jax.training import checkpoints
ask = checkpoints.any_process
def asking(flag):
    checkpoints.any_process = ask
    os.kill(os.getpid(), signal.SIGTERM)
    return ask(flag)
checkpoints.any_process = asking
runpy.run_module("experiments.continual", run_name="__main__", alter_sys=True)
"""


def start(*outs: Path, stopped: bool = False) -> list[subprocess.Popen]:
    """Two processes of one run, of which the second is ``stopped`` halfway."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PLATFORMS": "cpu",
    }
    program = ["-m", "experiments.continual"]
    return [
        subprocess.Popen(
            [
                sys.executable,
                *(["-c", STOPPED] if stopped and index else program),
                *(*OVERRIDES, f"hydra.run.dir={outs[index]}"),
            ],
            cwd=ROOT,
            env={**os.environ, **environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def ended(processes: list[subprocess.Popen], code: int) -> tuple[list[str], list[str]]:
    """What each printed, and its errors, after all ended with ``code``."""
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == code, errors[-3000:]
    return tuple(map(list, zip(*outputs, strict=True)))


def test_two_processes_stop_together_go_on_and_leave_what_one_does(tmp_path):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = parse(compose("continual", OVERRIDES), Continual)
    alone, out = tmp_path / "alone", tmp_path / "run"
    alone.mkdir()
    run(config, alone, Recorder(alone))

    # The second is told another folder: the first one's holds for all.
    _, errors = ended(start(out, tmp_path / "another", stopped=True), 75)
    assert "resume it by" in errors[0] and "resume it by" not in errors[1]
    assert Status.read(out).state == "interrupted" and (out / "checkpoints").exists()

    printed, _ = ended(start(out, out), 0)
    assert "zero-shot" in printed[0] and "zero-shot" not in printed[1]
    assert Status.read(out).state == "finished"

    whole, shared = (results.read([folder / "results.jsonl"]) for folder in (alone, out))
    for one, other in zip(whole, shared, strict=True):
        assert (one.method, one.task, one.seed, one.metric, one.step) == (
            *(other.method, other.task, other.seed, other.metric, other.step),
        )
        # An episode of 1000 steps makes much of a last digit; parameters are compared below.
        assert one.metric == "return" or one.value == other.value
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (alone, out)]
    assert len(lines[0]) == len(lines[1]) == 20
    for seed in (0, 1):
        bases = [SkillLibrary.open(f / f"seed_{seed}" / "library").base for f in (alone, out)]
        for one, other in zip(*(jax.tree.leaves(base.params) for base in bases), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3)
    files = [{p.name for p in f.iterdir() if not p.name.startswith(".")} for f in (alone, out)]
    assert files[1] - files[0] <= {"config.json", "status.json", "continual.log"}
    assert files[0] - files[1] <= {"checkpoints"}
    assert {p.name for p in (tmp_path / "another").iterdir()} <= {".hydra", "continual.log"}


def test_what_ends_one_process_before_the_run_ends_all(tmp_path):
    """A folder that another run is at work in is seen by the first process alone."""
    with alone_in(tmp_path):
        _, errors = ended(start(tmp_path, tmp_path), 1)
    assert "is being written by another process" in errors[0].splitlines()[-1]
    assert errors[1].splitlines()[-1].startswith("error: another process of this program failed")
