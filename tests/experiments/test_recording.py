import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import psec_jax as psec
from experiments import continual, dynamics_shift
from experiments.config import ConfigError, Logger, parse
from experiments.recording import Recorder, start_recording
from experiments.settings import Continual, DynamicsShift

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


SETTINGS = {
    "continual": (continual, Continual, "walk", "return", "The demonstrations themselves: S→W 9."),
    "dynamics_shift": (
        dynamics_shift,
        DynamicsShift,
        "walker2d medium, gravity",
        "score",
        "The target's data themselves: 0.2.",
    ),
}


@pytest.mark.parametrize("rewarded", [True, False])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_return_of_demonstrations_is_reported_where_they_have_rewards(
    tmp_path, setting, rewarded
):
    runner, schema, task, metric, line = SETTINGS[setting]
    chain = ["chain=walker_walk"] if setting == "continual" else []
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        overrides = ["scale=smoke", "methods=[scratch]", "seeds=[0]", *chain]
        config = parse(compose(setting, overrides), schema)
    ends = np.array([False, True])
    rewards = np.array([4, 5]) if rewarded else None
    data = psec.TransitionDataset(np.zeros((2, 3)), np.zeros((2, 1)), rewards, np.zeros(2), ends)
    recorder = Recorder(tmp_path)
    where = {"setting": setting, "seed": 0}
    recorder.demonstrations(data, task=task, **where)
    column = "S→W" if setting == "continual" else task
    evaluation = psec.evaluation.Evaluation(np.ones(2), np.ones(2))
    recorder.evaluation(
        method="scratch", task=column, step=1, evaluation=evaluation, metric=metric, **where
    )
    runner.report(config, recorder)
    recorder.close()
    table = (tmp_path / "table.md").read_text()
    assert (line in table) == ("themselves" in table) == rewarded
