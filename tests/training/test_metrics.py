import json
import sys
import types

import jax
import pytest

from psec_jax.errors import NotSaved
from psec_jax.training import JsonLines
from psec_jax.training.metrics import Wandb, Writers
from psec_jax.training.seeds import named_key


def test_rows_can_be_read_the_moment_they_are_written(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = JsonLines(path)
    rows = [
        {"label": "walk", "step": 100, "loss": 0.1 + 0.2},
        {"label": "läuft", "step": 200, "loss": 1e-30, "norm": 3},
    ]
    for count, row in enumerate(rows, 1):
        writer.write(
            row["label"], row["step"], {k: row[k] for k in row if k not in ("label", "step")}
        )
        assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:count]


def test_a_second_run_appends(tmp_path):
    for step in (1, 2):
        JsonLines(tmp_path / "metrics.jsonl").write("walk", step, {"loss": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_the_file_is_closed_when_its_context_is_left(tmp_path):
    with JsonLines(tmp_path / "metrics.jsonl") as writer:
        writer.write("walk", 1, {"loss": 0.5})
    with pytest.raises(ValueError, match="closed"):
        writer.write("walk", 2, {"loss": 0.5})
    writer.close()


def test_several_writers_get_the_same_rows(tmp_path):
    paths = tmp_path / "one", tmp_path / "two"
    Writers(tuple(JsonLines(path) for path in paths)).write("walk", 1, {"loss": 0.5})
    one, two = (path.read_text() for path in paths)
    assert one == two != ""


def test_a_full_disk_is_said_and_loses_no_row(small_disk):
    disk, leave = small_disk(1)
    path = disk / "metrics.jsonl"
    writer = JsonLines(path)
    writer.write("walk", 0, {"loss": 0.5})
    leave(0)
    with pytest.raises(NotSaved, match=r"cannot save .*metrics.jsonl \(No space left on device\)"):
        for step in range(1, 1000):
            writer.write("walk", step, {"loss": 0.5})
    with pytest.raises(NotSaved):
        writer.close()
    (disk / "filler").unlink()
    with JsonLines(path) as writer:
        writer.write("walk", step, {"loss": 0.5})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(step + 1))


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package that writes down what it is told."""
    told = []

    def recorder(name):
        return lambda *arguments, **options: told.append((name, arguments, options))

    run = types.SimpleNamespace(
        define_metric=recorder("define"),
        log=recorder("log"),
        finish=recorder("finish"),
        summary={},
    )

    def init(**options):
        told.append(("init", (), options))
        return run

    errors = types.SimpleNamespace(Error=Exception)
    stand_in = types.SimpleNamespace(init=init, Settings=dict, errors=errors)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return told, run


def test_weights_and_biases_gets_each_label_against_its_own_step(tmp_path, wandb):
    told, run = wandb
    with Wandb(tmp_path, {"rank": 8}, "offline", "psec", group="g") as writer:
        writer.write("walk", 100, {"loss": 0.5})
        writer.write("run", 30, {"loss": 0.7})
        writer.write("walk", 200, {"loss": 0.4})
        writer.summary("table", "| a |")
    (_, _, options), *_ = told
    assert (options["config"], options["mode"], options["dir"]) == (
        {"rank": 8},
        "offline",
        str(tmp_path),
    )
    logged = [arguments[0] for name, arguments, _ in told if name == "log"]
    assert logged == [
        {"walk/step": 100, "walk/loss": 0.5},
        {"run/step": 30, "run/loss": 0.7},
        {"walk/step": 200, "walk/loss": 0.4},
    ]
    defined = [(a[0], o["step_metric"]) for name, a, o in told if name == "define"]
    assert defined == [("walk/*", "walk/step"), ("run/*", "run/step")]
    assert run.summary == {"table": "| a |"}
    assert told[-1] == ("finish", (), {"exit_code": 0})


def test_the_key_of_a_stage_follows_from_its_name_alone():
    key = jax.random.key(0)
    names = ["base", "skill/walk", "skill/run", "compose/psec/parameter"]
    one, again, other = (
        [tuple(jax.random.key_data(named_key(k, name)).tolist()) for name in order]
        for k, order in ((key, names), (key, names[::-1]), (jax.random.key(1), names))
    )
    assert one == again[::-1]
    assert len({*one, *other}) == 2 * len(names)
