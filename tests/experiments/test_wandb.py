"""The W&B logger: against a stand-in for the package, against itself offline, and without it."""

import re
import sys
import types

import numpy as np
import pytest

from experiments.config import Logger
from experiments.recording import start_recording
from psec_jax import Evaluation
from psec_jax.report import figures


class Run:
    def __init__(self):
        self.logged, self.summary, self.exit_codes = [], {}, []

    def define_metric(self, *_, **__):
        pass

    def log(self, values):
        self.logged.append(values)

    def log_artifact(self, artifact):
        self.logged.append(artifact)

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.run, module.options = Run(), {}
    module.init = lambda **options: module.options.update(options) or module.run
    module.Image = lambda path: f"image {path}"
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_what_is_recorded_locally_also_reaches_wandb(tmp_path, wandb):
    logger = Logger(kind="wandb", mode="offline", project="p", group="g")
    with start_recording(tmp_path, {"seeds": [0]}, logger) as recorder:
        recorder.writer.write("skill walk", 100, {"loss": 1.5})
        evaluation = Evaluation(np.array([1.0, 3.0]), np.array([10, 10]))
        recorder.evaluation(
            setting="continual", task="walk", method="psec", seed=0, step=5, evaluation=evaluation
        )
        recorder.text("table.md", "| a |")
    assert wandb.options["mode"] == "offline" and wandb.options["group"] == "g"
    assert wandb.options["config"] == {"seeds": [0]}
    assert {"skill walk/step": 100, "skill walk/loss": 1.5} in wandb.run.logged
    assert any(values.get("psec walk (seed 0)/return") == 2.0 for values in wandb.run.logged)
    assert wandb.run.summary["table.md"] == "| a |"
    assert wandb.run.exit_codes == [0]
    assert (tmp_path / "results.jsonl").exists() and (tmp_path / "metrics.jsonl").exists()


def test_a_run_that_is_gone_on_with_keeps_its_id_and_others_have_others(tmp_path, wandb):
    ids = []
    for folder, config in (
        ("a", {"x": 1, "progress": True}),
        ("a", {"x": 1}),
        ("b", {"x": 1}),
        ("b", {"x": 2}),
    ):
        (tmp_path / folder / "config.json").unlink(missing_ok=True)
        with start_recording(tmp_path / folder, config, Logger("wandb", "offline")):
            ids.append(wandb.options["id"])
        assert wandb.options["resume"] == "allow"
    assert ids[0] == ids[1] and len(set(ids)) == 3


def test_the_library_is_an_artifact_that_says_where_its_skills_come_from(tmp_path, wandb, library):
    class Artifact:
        def __init__(self, name, type, metadata):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
            self.name, self.type, self.metadata = name, type, metadata

        def add_dir(self, path):
            self.path = path

    wandb.Artifact = Artifact
    with start_recording(tmp_path / "rank=4+1", {}, Logger("wandb", "offline")) as recorder:
        recorder.library(library.path)
    (artifact,) = wandb.run.logged
    assert artifact.type == "skill-library" and artifact.path == str(library.path)
    assert artifact.metadata["base"] == library.fingerprint
    assert artifact.metadata["skills"]["walk"]["dataset"] == "number-1"


def test_a_run_that_fails_is_ended_as_failed(tmp_path, wandb):
    with (
        pytest.raises(ZeroDivisionError),
        start_recording(tmp_path, {}, Logger(kind="wandb", mode="offline")),
    ):
        raise ZeroDivisionError
    assert wandb.run.exit_codes == [1]


def test_offline_the_real_package_keeps_everything_in_the_output_folder(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    with start_recording(tmp_path, {"seeds": [0]}, Logger("wandb", "offline")) as recorder:
        for step in (100, 200):
            recorder.writer.write("skill walk (seed 0)", step, {"loss": 1.5})
        recorder.text("table.md", "| a |")
        figures.lines(tmp_path / "S→W.png", {}, "rank")
        recorder.figure(tmp_path / "S→W.png")
    wandb.teardown()
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert content.count(b"skill walk (seed 0)/*") == 1
    assert b"skill walk (seed 0)/loss" in content and b"| a |" in content
    assert len(list(log.parent.glob("files/media/images/*.png"))) == 1


def test_without_the_package_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ImportError, match=r"psec-jax\[wandb\]"),
        start_recording(tmp_path, {}, Logger(kind="wandb", mode="offline")),
    ):
        pass
