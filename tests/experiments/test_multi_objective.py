"""The multi-objective runner, whole, at the smallest scale."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import psec_jax as psec
from experiments import multi_objective
from experiments.config import ConfigError, parse
from experiments.multi_objective import Data, check, dataset_name, run
from experiments.recording import Recorder
from experiments.settings import MultiObjective
from psec_jax.data.hdf5 import write_hdf5
from psec_jax.report import results
from psec_jax.training.seeds import named_key

ROOT = Path(__file__).parents[2]
# Going home is the same at all levels.
METHODS = [name for name in multi_objective.METHODS if name not in ("asec_home", "nsec_home")]
SMALL = (
    "scale=smoke",
    "progress=false",
    "evaluation.episodes=2",
    "best_of.candidates=2",
    "task=bullet/ballrun",
)


def configure(*overrides: str) -> MultiObjective:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = parse(compose("multi_objective", [*SMALL, *overrides]), MultiObjective)
    check(config)
    return config


def launch(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.multi_objective", f"hydra.run.dir={folder}"]
    return subprocess.run(
        [*command, *SMALL, *overrides],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def unsafe(ballrun) -> Path:
    """The two of these trajectories that cost 2."""
    path = ballrun.with_name("unsafe.hdf5")
    write_hdf5(path, psec.load_dataset(str(ballrun)).select([6, 7]))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ballrun) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("multi_objective") / "run"
    process = launch(
        out,
        "seeds=[2]",
        f"methods=[{','.join(METHODS)},reward,safety,frugal]",
        "guidance=reward_safety_energy",
        f"dataset={ballrun}",
        "cost_limit=1",
        "other_limits=[50]",
    )
    assert process.returncode == 0, process.stderr
    return out, process.stdout


def test_every_method_leaves_its_agent_which_gives_its_costs_again(finished):
    out, _ = finished
    folder = out / "seed_2" / "agents"
    assert {p.name for p in folder.iterdir()} == {*METHODS, "reward", "safety", "frugal"}
    key = named_key(jax.random.key(2), "evaluate")
    for row in results.read([out / "results.jsonl"]):
        if row.metric == "cost" and row.method in ("fisor", "psec", "frugal"):
            agent = psec.load(folder / row.method)
            evaluation = psec.evaluate(agent, "bullet/ballrun", episodes=2, key=key)
            np.testing.assert_array_equal(evaluation.costs, row.values)


def test_a_run_measures_reward_and_cost_of_every_method(finished):
    out, printed = finished
    rows = results.read([out / "results.jsonl"])
    for metric in ("return", "cost"):
        assert {row.method for row in rows if row.metric == metric} == {
            *METHODS,
            "reward",
            "safety",
            "frugal",
        }
    assert all(0 <= value <= 100 for row in rows if row.metric == "cost" for value in row.values)
    table = (out / "table.md").read_text()
    assert table in printed
    assert "at limit 1 " in table and "at limit 50 " in table
    for name in ("plane_1.png", "plane_50.png", "weights.png"):
        assert (out / name).stat().st_size > 5000


def test_a_third_objective_needs_words_only(finished):
    """The energy skill, its critic and its weights come from the configuration alone."""
    out, _ = finished
    library = psec.SkillLibrary.open(out / "seed_2" / "library")
    assert library.names() == ("frugal", "reward", "safety")
    assert "critic='energy'" in library.get("frugal").provenance["weights"]
    assert (
        (out / "weights.csv")
        .read_text()
        .startswith("step,weight_reward,weight_safety,weight_frugal,reward,cost\n")
    )


def test_the_context_networks_data_are_chosen_and_counted(finished):
    _, printed = finished
    assert "8 trajectories, 6 of them safe, 3 of these chosen" in printed


def test_a_run_started_again_measures_only_what_is_missing(ballrun, tmp_path):
    config = configure("methods=[bc,psec]", "seeds=[0]", f"dataset={ballrun}", "cost_limit=1")
    with closing(Recorder(tmp_path)) as recorder:
        run(config, tmp_path, recorder)
    whole = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(whole[:2]))
    with closing(Recorder(tmp_path)) as recorder:
        run(config, tmp_path, recorder)
    assert (tmp_path / "results.jsonl").read_text().splitlines(keepends=True) == whole


def test_skills_come_from_all_data_and_cloning_safely_from_the_safe(ballrun):
    data = Data.chosen(configure(f"dataset={ballrun}", "cost_limit=1"))
    assert len(data.all.ends) == 8
    assert len(data.safe.data.ends) == 6 and data.safe.data.cost_returns.max() == 1
    assert len(data.best.data.ends) == 3


@pytest.mark.parametrize("method", ["bc", "fisor", "reward"])
def test_a_limit_that_nothing_keeps_matters_only_to_methods_that_choose(method, unsafe):
    config = configure(f"methods=[{method}]", f"dataset={unsafe}", "cost_limit=1")
    data = Data.chosen(config)
    assert len(data.all.ends) == 2 and data.safe is None and data.best is None


@pytest.mark.parametrize(
    ("alias", "task"),
    [
        ("OfflineCarRun-v0", "bullet/carrun"),
        ("dsrl/OfflineCarRunGymnasium-v0", "bullet/carrun"),
        ("dsrl/CarRun", "bullet/carrun"),
        ("OfflineMetadrive-easymean-v0", "metadrive/easymean"),
        ("metadrive/easymean", "metadrive/easymean"),
    ],
)
def test_a_task_may_be_called_as_dsrl_does(alias, task):
    assert configure(f"task={alias}") == configure(f"task={task}")
    assert configure(f"task={alias}").task == task


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["task=metadrive/easymean"], "local/metadrive-easymean-mixed"),
        (["task=bullet/ballrun"], "local/ballrun-mixed"),
        (["task=bullet/dronecircle", "dataset=dsrl"], "dsrl/dronecircle"),
        (["dataset=mine.hdf5"], "mine.hdf5"),
    ],
)
def test_data_are_named_by_task_and_source(overrides, name):
    assert dataset_name(configure(*overrides)) == name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=bullet/planerun"], "task 'bullet/planerun' is unknown"),
        (["task=mujoco/walker2d-v4"], "is unknown; expected one of bullet/antrun"),
        (["task=dsrl/CarGoal1"], "task 'dsrl/CarGoal1' is unknown"),
        (["task=walker2d-medium-v2"], "task 'walker2d-medium-v2' is unknown"),
        (["task=bullet/dronecircle"], "use dataset=dsrl"),
        (["cost_limit=0"], "cost limits must be above 0, not 0"),
        (["other_limits=[-1]"], "cost limits must be above 0"),
        (["methods=[magic]"], r"\['magic'\] are unknown"),
        (["return_quantile=1"], r"return_quantile must be in \[0, 1\)"),
        (["anchor={reward: 1}"], r"must name each of \['reward', 'safety'\]"),
        (["best_of.critic=speed"], "best_of.critic 'speed' is no critic"),
        (["best_of.among_feasible=speed"], "among_feasible 'speed' is no critic"),
        (
            ["best_of.critic=return", "best_of.among_feasible=return"],
            "among_feasible needs best_of.critic to be one of feasibility, not 'return'",
        ),
        (["guidance.weights.reward.critic=speed"], "reward is weighed by critic 'speed'"),
        (["guidance.weights.reward.kind=speed"], "weights.reward.kind 'speed' is unknown"),
        (["fisor.temperature=-1"], "fisor: temperature"),
        (["guidance.objectives.return.kind=speed"], "return.kind 'speed' is unknown"),
        (["guidance.objectives.feasibility.safe=1"], "feasibility needs safe < 0 < unsafe"),
        (["~guidance.weights"], "guidance.weights must name at least one skill"),
        (["~guidance.objectives", "guidance.expectile=0.9"], "guidance.objectives is missing"),
        (["guidance.expectile=0"], "expectile of 'return' must be in"),
        (["best_of.candidates=0"], "best_of: candidates must be an integer of at least 1"),
        (["backbone=gaussian", "methods=[nsec]"], "only a diffusion backbone"),
    ],
)
def test_bad_words_are_refused_before_anything_is_computed(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configure(*overrides)


def refused(folder: Path, *overrides: str) -> str:
    """With what the run is refused, before anything is measured or learned."""
    config = configure("seeds=[0,1]", *overrides)
    with closing(Recorder(folder)) as recorder, pytest.raises(ConfigError) as error:
        run(config, folder, recorder)
    assert not recorder.measurements() and not (folder / "metrics.jsonl").read_text()
    return str(error.value)


@pytest.mark.parametrize("methods", [[], ["methods=[psec]"], ["methods=[reward]"]])
def test_data_without_costs_are_refused(methods, tmp_path):
    data = psec.TransitionDataset(
        np.zeros((4, 7)), np.zeros((4, 2)), np.ones(4), np.zeros(4, bool), np.zeros(4, bool)
    )
    write_hdf5(tmp_path / "free.hdf5", data)
    message = refused(tmp_path, f"dataset={tmp_path / 'free.hdf5'}", *methods)
    assert message.startswith(f"dataset {tmp_path / 'free.hdf5'}: these data have no costs")


@pytest.mark.parametrize("methods", [[], ["methods=[psec]"], ["methods=[bc,bc_safe]"]])
def test_a_limit_that_nothing_keeps_says_how_far_it_would_have_to_go(methods, unsafe, tmp_path):
    message = refused(tmp_path, f"dataset={unsafe}", "cost_limit=1", *methods)
    assert message.endswith("the least costs 2; raise the cost limit")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("none.hdf5", "none.hdf5 is missing"), ("CarRum", "did you mean dsrl/CarRun")],
)
def test_data_that_are_not_there_end_the_run_in_one_line(dataset, message, tmp_path):
    process = launch(tmp_path / "run", f"dataset={dataset}")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()[-1:]
    assert line.startswith("error: ") and message in line
    assert "Traceback" not in process.stderr


def test_a_task_whose_simulator_is_missing_names_the_extra(tmp_path):
    """Before anything is learned; what stands for the package here cannot be imported."""
    (tmp_path / "bullet_safety_gym.py").write_text("raise ImportError('none here')")
    process = launch(tmp_path / "run", "dataset=none.hdf5", PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert "pip install 'psec-jax[bullet]'" in process.stderr
    assert "Traceback" not in process.stderr
