"""A setting: it is swept, interrupted, resumed and tabulated as those of the project."""

import shlex

import pytest

from experiments.sweeping import states
from extending.conftest import CONF, SMALL

# Stops the training of the skill after its first chunk of updates.
STOPPED = """
import runpy, sys
from psec_jax.training import Checkpoints
whole = Checkpoints.of
def stopping(self, label, like):
    self.stopping = label.startswith("skill")
    return whole(self, label, like)
Checkpoints.of = stopping
runpy.run_module("extending.setting", run_name="__main__", alter_sys=True)
"""


def test_it_is_swept_and_a_run_that_was_stopped_resumes_to_the_same_end(python, files, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["--config-dir", CONF, "composer=prototypes", "imports=[extending.dataset]"]
    words += [*SMALL, "backbone=gaussian", "methods=[skill,psec]"]
    words += [f"source.dataset={files['east']}", f"target.dataset={files['north']}"]
    words += ["data.source_trajectories=2"]
    swept, out = tmp_path / "swept", tmp_path / "run"
    joblib = ("hydra/launcher=joblib", f"hydra.sweep.dir={swept}", "adapter.rank=2,3")
    python("-m", "extending.setting", "-m", *words, *joblib)
    assert [state for state, _ in states(swept).values()] == ["done", "done"]

    words += ["adapter.rank=2", f"hydra.run.dir={out}"]
    printed = python("-c", STOPPED, *words, code=75)
    (line,) = (line for line in printed.splitlines() if "resume it by: " in line)
    again = shlex.split(line.partition("resume it by: ")[2])
    assert again[:5] == ["python", "-m", "extending.setting", "--config-dir", str(CONF)]
    printed = python(*again[1:])
    (job,) = (folder for folder in swept.iterdir() if "adapter.rank=2" in folder.name)
    for name in ("results.jsonl", "table.md"):
        assert (out / name).read_bytes() == (job / name).read_bytes()
    assert (out / "table.md").read_text() in printed
    assert "| Skill |" in printed and "| PSEC |" in printed
