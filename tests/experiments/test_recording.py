import json

import pytest

from experiments.config import ConfigError, Logger
from experiments.recording import start_recording

LOCAL = Logger(kind="local")


def test_the_configuration_is_written_before_anything_else(tmp_path):
    with start_recording(tmp_path / "run", {"seeds": [0]}, LOCAL):
        assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"seeds": [0]}


def test_a_folder_that_is_being_written_is_refused_and_free_afterwards(tmp_path):
    with start_recording(tmp_path, {}, LOCAL):
        again = start_recording(tmp_path, {}, LOCAL)
        with pytest.raises(ConfigError, match="is being written by another process"), again:
            pass
    with start_recording(tmp_path, {}, LOCAL):
        pass


@pytest.mark.parametrize("failing", [False, True])
def test_the_metrics_are_closed_at_the_end_also_of_a_run_that_fails(tmp_path, failing):
    try:
        with start_recording(tmp_path, {}, LOCAL) as recorder:
            recorder.writer.write("walk", 1, {"loss": 0.5})
            if failing:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert failing
    with pytest.raises(ValueError, match="closed"):
        recorder.writer.write("walk", 2, {"loss": 0.5})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1
