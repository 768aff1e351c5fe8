"""The W&B logger: against a stand-in for the package, against itself offline, and without it."""

import dataclasses
import re
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from experiments.config import ConfigError, Logger
from experiments.recording import start_recording
from psec_jax.evaluation import Evaluation, Trace
from psec_jax.report import figures, results

ROOT = Path(__file__).parents[2]
OFFLINE = Logger(kind="wandb", mode="offline", project="p", group="g")
TRACE = Trace(
    weights=np.array([[0.5, 2.0], [1.0, 0.0]]),
    rewards=np.array([1.0, 3.0]),
    costs=np.array([0.0, 1.0]),
    pictures=tuple((step, np.full((8, 8, 3), 80 * step, np.uint8)) for step in range(2)),
)


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


class Error(Exception):
    pass


VARIABLES = {
    "WANDB_MODE": "offline",
    "WANDB_PROJECT": "their-project",
    "WANDB_ENTITY": "their-team",
    "WANDB_NAME": "their-name",
    "WANDB_RUN_GROUP": "their-group",
    "WANDB_TAGS": "one,two",
}


@pytest.fixture(autouse=True)
def no_variables_of_the_user(monkeypatch):
    for name in (*VARIABLES, "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.run, module.begun = Run(), []
    module.init = lambda **options: module.begun.append(options) or module.run
    module.login = lambda **_: True
    module.teardown = lambda: None
    module.errors = types.SimpleNamespace(Error=Error, UsageError=type("Usage", (Error,), {}))
    module.Settings = dict
    module.Image = lambda path: f"image {path}"
    module.Video = lambda path: f"video {path}"
    module.Table = lambda columns, data: [dict(zip(columns, row, strict=True)) for row in data]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def measure(recorder, method: str, seed: int, returns: list[float], metric: str = "return"):
    recorder.evaluation(
        setting="continual",
        task="S→W",
        method=method,
        seed=seed,
        step=5,
        metric=metric,
        evaluation=Evaluation(np.array(returns), np.array([10, 10]), costs=np.array([0.0, 1.0])),
    )


def test_what_is_recorded_locally_also_reaches_wandb(tmp_path, wandb):
    with start_recording(tmp_path, {"seeds": [0]}, OFFLINE) as recorder:
        recorder.writer.write("skills (seed 0)", 100, {"loss": 1.5, "safety/q_loss": 2.0})
        measure(recorder, "psec", 0, [1.0, 3.0])
        recorder.text("table.md", "| a |")
    (options,) = wandb.begun
    assert options["mode"] == "offline" and options["group"] == "g"
    assert options["config"] == {"seeds": [0]}
    losses = {"skills_seed_0/loss": 1.5, "skills_seed_0/safety/q_loss": 2.0}
    assert {"skills_seed_0/step": 100, **losses} in wandb.run.logged
    assert any(values.get("psec_S_W_seed_0/return") == 2.0 for values in wandb.run.logged)
    assert wandb.run.summary["table_md"] == "| a |"
    assert wandb.run.exit_codes == [0]
    assert (tmp_path / "results.jsonl").exists() and (tmp_path / "metrics.jsonl").exists()


def test_every_name_is_one_that_wandb_can_sort_by(tmp_path, wandb):
    with start_recording(tmp_path, {}, OFFLINE) as recorder:
        recorder.writer.write("walker2d medium-v2, π₀ (seed 0)", 1, {"v2.0": 1.5})
        measure(recorder, "psec", 0, [1.0, 3.0])
        recorder.trace("weights S→W", TRACE, ["gravity-walk", "safety"], "")
    names = {name for values in wandb.run.logged for name in values} | set(wandb.run.summary)
    assert len(names) > 8 and all(re.fullmatch(r"[A-Za-z]\w*(/\w+)*", n, re.A) for n in names)


def tables(run: Run) -> dict[str, list[dict]]:
    return {k: v for values in run.logged for k, v in values.items() if isinstance(v, list)}


def test_at_the_end_all_measurements_and_their_means_over_seeds_are_tables(tmp_path, wandb):
    with start_recording(tmp_path, {}, OFFLINE) as recorder:
        measure(recorder, "psec", 0, [1.0, 3.0])
        measure(recorder, "psec", 1, [5.0, 7.0])
        measure(recorder, "psec", 1, [5.0, 7.0], metric="cost")
        assert not tables(wandb.run)
    logged = tables(wandb.run)
    written = results.read([tmp_path / "results.jsonl"])
    assert [results.Measurement(**row) for row in logged["results"]] == written
    (mean,) = logged["means_return"]
    assert (mean["label"], mean["mean"], mean["seeds"], mean["episodes"]) == ("psec S→W", 4, 2, 4)
    assert mean["low"] < 4 < mean["high"]
    assert [row["mean"] for row in logged["means_cost"]] == [0.5]
    assert wandb.run.summary["return/psec_S_W"] == 4


def test_the_tables_of_a_run_gone_on_with_also_hold_what_was_measured_before(tmp_path, wandb):
    for seed in range(2):
        with start_recording(tmp_path, {}, OFFLINE) as recorder:
            measure(recorder, "psec", seed, [1.0, 3.0])
    assert [row["seed"] for row in tables(wandb.run)["results"]] == [0, 1]


def test_weights_over_an_episode_are_series_a_figure_and_a_video(tmp_path, wandb):
    with start_recording(tmp_path, {}, OFFLINE) as recorder:
        recorder.trace("weights", TRACE, ["reward", "safety"], "PSEC")
    steps = [values for values in wandb.run.logged if "weights/step" in values]
    assert [values["weights/weight_safety"] for values in steps] == [2.0, 0.0]
    assert [values["weights/weight_reward"] for values in steps] == [0.5, 1.0]
    assert [values["weights/reward"] for values in steps] == [1.0, 3.0]
    assert {"figures/weights": f"image {tmp_path / 'weights.png'}"} in wandb.run.logged
    assert {"videos/weights": f"video {tmp_path / 'weights.gif'}"} in wandb.run.logged
    assert (tmp_path / "weights.gif").exists()


def fail(**options):
    if options["mode"] == "online":
        raise Error("no such host\nwhile retrying")
    return options


@pytest.mark.parametrize("failing", ["login", "network"])
def test_online_without_a_login_or_network_keeps_files_and_says_so_in_a_line(
    failing, tmp_path, wandb, capsys, monkeypatch
):
    init = wandb.init
    if failing == "login":
        wandb.login = lambda **options: bool(options["prompt"])
    else:
        wandb.init = lambda **options: fail(**options) and init(**options)
    with start_recording(tmp_path, {}, Logger("wandb", "online")) as recorder:
        recorder.writer.write("walk", 1, {"loss": 0.5})
    (options,) = wandb.begun
    assert options["mode"] == "offline" and wandb.run.exit_codes == [0]
    (line,) = capsys.readouterr().out.splitlines()
    assert {"login": "not logged in", "network": "no such host"}[failing] in line
    assert "logger.mode=offline" in line and f"wandb sync {tmp_path}/wandb/" in line


def test_an_error_of_an_offline_run_is_not_hidden(tmp_path, wandb):
    wandb.init = lambda **options: fail(mode="online")
    with pytest.raises(Error), start_recording(tmp_path, {}, OFFLINE):
        pass


def test_a_run_that_is_gone_on_with_keeps_its_id_and_others_have_others(tmp_path, wandb):
    ids = []
    for folder, config in (
        ("a", {"x": 1, "progress": True}),
        ("a", {"x": 1}),
        ("b", {"x": 1}),
        ("b", {"x": 2}),
    ):
        (tmp_path / folder / "config.json").unlink(missing_ok=True)
        with start_recording(tmp_path / folder, config, OFFLINE):
            ids.append(wandb.begun[-1]["id"])
        assert wandb.begun[-1]["resume"] == "allow"
    assert ids[0] == ids[1] and len(set(ids)) == 3


def test_the_library_is_an_artifact_that_says_where_its_skills_come_from(tmp_path, wandb, library):
    class Artifact:
        def __init__(self, name, type, metadata):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
            self.name, self.type, self.metadata = name, type, metadata

        def add_dir(self, path, **_):
            self.path = path

    wandb.Artifact = Artifact
    with start_recording(tmp_path / "rank=4+1", {}, OFFLINE) as recorder:
        recorder.library(library.path)
    (artifact,) = wandb.run.logged
    assert artifact.type == "skill-library" and artifact.path == str(library.path)
    assert artifact.metadata["base"] == library.fingerprint
    assert artifact.metadata["skills"]["walk"]["dataset"] == "number-1"


def test_a_network_lost_on_the_way_costs_tables_and_artifacts_but_not_the_run(
    tmp_path, wandb, library, capsys
):
    wandb.Artifact = lambda *_, **__: types.SimpleNamespace(add_dir=lambda *_, **__: None)
    wandb.run.log_artifact = lambda _: fail(mode="online")
    log = wandb.run.log
    wandb.run.log = lambda values: log(values) or (tables(wandb.run) and fail(mode="online"))
    with start_recording(tmp_path, {}, OFFLINE) as recorder:
        measure(recorder, "psec", 0, [1.0, 3.0])
        recorder.library(library.path)
    assert wandb.run.exit_codes == [0]
    printed = capsys.readouterr().out
    assert printed.count("no such host") == 3 and "without results: no such host" in printed


def test_a_run_that_fails_is_ended_as_failed(tmp_path, wandb):
    with (
        pytest.raises(ZeroDivisionError),
        start_recording(tmp_path, {}, OFFLINE),
    ):
        raise ZeroDivisionError
    assert wandb.run.exit_codes == [1]


def test_wandbs_own_variables_are_obeyed_where_the_configuration_is_silent(
    tmp_path, wandb, monkeypatch
):
    names = ("mode", "project", "entity", "name", "group", "tags", "dir")

    def begun(**options):
        with start_recording(tmp_path / "run", {}, Logger("wandb", **options)):
            return tuple(wandb.begun[-1][name] for name in names)

    folder = str(tmp_path / "run")
    assert begun() == ("online", "psec-jax", None, "run", None, None, folder)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "there"))
    # W&B reads the variables itself of which nothing is said.
    from_variables = ("their-project", None, "their-name", None, None)
    assert begun() == ("offline", *from_variables, str(tmp_path / "there"))
    options = {"project": "p", "entity": "e", "name": "n", "group": "g", "tags": ["t"]}
    assert begun(mode="disabled", **options) == (
        *("disabled", "p", "e", "n", "g", ["t"]),
        str(tmp_path / "there"),
    )
    assert begun(tags=[])[5] == []
    for old, mode in {"dryrun": "offline", "run": "online", "": "online"}.items():
        monkeypatch.setenv("WANDB_MODE", old)
        assert begun()[0] == mode


def test_a_mode_that_wandb_does_not_know_is_refused(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    recording = start_recording(tmp_path, {}, Logger("wandb"))
    with pytest.raises(ConfigError, match="WANDB_MODE 'ofline' is unknown; use one of"), recording:
        pass


def test_a_preset_leaves_everything_to_wandbs_variables():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("continual", ["logger=wandb"]).logger
    assert set(config) == {field.name for field in dataclasses.fields(Logger)}
    assert [value for key, value in config.items() if key != "kind"] == [None] * 6


def records(log) -> list:
    """The records of one of W&B's files: LevelDB's log format, a header of 7 bytes first."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, part, found = log.read_bytes(), 7, b"", []
    while at < len(content):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(part))
            part = b""
    return found


def kind_of(found: list, kind: str) -> list:
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


@pytest.fixture
def real(monkeypatch, tmp_path):
    module = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    # No login of the user's.
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return module


def test_offline_the_real_package_keeps_everything_in_the_output_folder(tmp_path, real, library):
    out = tmp_path / "run"
    for seed in range(2):
        with start_recording(out, {"seeds": [0]}, OFFLINE) as recorder:
            for step in (100, 200):
                recorder.writer.write(f"skill walk (seed {seed})", step, {"loss": step / 100})
            measure(recorder, "psec", seed, [1.0, 3.0])
            recorder.trace("weights", TRACE, ["reward", "safety"], "PSEC")
            recorder.text("table.md", "| a |")
            recorder.figure("S→W.png", figures.lines, {}, "rank")
            recorder.library(library.path)
    real.teardown()
    logs = sorted(out.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == 2 and len({log.name for log in logs}) == 1
    found = records(logs[1])
    (run,) = kind_of(found, "run")
    assert (run.project, run.run_group, run.display_name) == ("p", "g", "run")
    assert {item.key: item.value_json for item in run.config.update}["seeds"] == "[0]"
    defined = {metric.glob_name: metric.step_metric for metric in kind_of(found, "metric")}
    assert defined["skill_walk_seed_1/*"] == "skill_walk_seed_1/step"
    rows = [
        {"/".join(i.nested_key): i.value_json for i in h.item} for h in kind_of(found, "history")
    ]
    curve = [row["skill_walk_seed_1/loss"] for row in rows if "skill_walk_seed_1/loss" in row]
    assert curve == ["1", "2"]
    assert sum("weights/weight_safety" in row for row in rows) == 2
    kept = {artifact.name: artifact for artifact in kind_of(found, "artifact")}
    (stored,) = (artifact for artifact in kept.values() if artifact.type == "skill-library")
    assert library.fingerprint in stored.metadata
    paths = [entry.local_path for entry in stored.manifest.contents]
    assert paths and all(path.startswith(str(library.path)) for path in paths)
    files = logs[1].parent / "files" / "media"
    assert len(list(files.glob("images/figures/*.png"))) == 3
    assert len(list(files.glob("videos/videos/*.gif"))) == 1
    assert len(list(files.glob("table/*.table.json"))) == 2
    (end,) = kind_of(found, "exit")
    assert end.exit_code == 0


def test_the_real_package_obeys_its_variables(tmp_path, real, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "there"))
    with start_recording(tmp_path / "run", {}, Logger("wandb", project="mine")) as recorder:
        recorder.writer.write("walk", 1, {"loss": 0.5})
    real.teardown()
    (log,) = tmp_path.glob("there/wandb/offline-run-*/run-*.wandb")
    (run,) = kind_of(records(log), "run")
    assert (run.project, run.entity, run.display_name) == ("mine", "their-team", "their-name")
    assert run.run_group == "their-group" and list(run.tags) == ["one", "two"]
    assert not (tmp_path / "run" / "wandb").exists()


def test_online_without_a_login_the_real_package_keeps_files(tmp_path, real, capsys):
    with start_recording(tmp_path / "run", {}, Logger("wandb", "online")) as recorder:
        recorder.writer.write("walk", 1, {"loss": 0.5})
    assert "not logged in" in capsys.readouterr().out
    real.teardown()
    (log,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert len(kind_of(records(log), "history")) == 1


def test_without_the_package_one_line_names_the_extra_and_local_files_are_kept(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with start_recording(tmp_path, {}, OFFLINE) as recorder:
        recorder.writer.write("walk", 1, {"loss": 0.5})
        measure(recorder, "psec", 0, [1.0, 3.0])
    (line, _) = capsys.readouterr().out.splitlines()
    assert "pip install 'psec-jax[wandb]'" in line and "local files only" in line
    assert '"loss": 0.5' in (tmp_path / "metrics.jsonl").read_text()
    assert len(results.read([tmp_path / "results.jsonl"])) == 1
