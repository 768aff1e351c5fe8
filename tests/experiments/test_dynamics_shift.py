"""The dynamics-shift runner, whole, at the smallest scale."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import psec_jax as psec
from experiments.config import ConfigError, parse
from experiments.dynamics_shift import Data, Run, check, column_name, methods, run
from experiments.recording import Recorder, start_recording
from experiments.settings import DynamicsShift
from experiments.simulators import Simulators
from psec_jax.evaluation import scores
from psec_jax.report import results
from psec_jax.training.seeds import named_key

ROOT = Path(__file__).parents[2]
SMALL = ("scale=smoke", "progress=false", "evaluation.episodes=1", "best_of.candidates=2")


def configure(*overrides: str) -> DynamicsShift:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = parse(compose("dynamics_shift", [*SMALL, *overrides]), DynamicsShift)
    check(config)
    return config


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.dynamics_shift", f"hydra.run.dir={folder}"]
    return subprocess.run([*command, *SMALL, *overrides], cwd=ROOT, capture_output=True, text=True)


# Going home is the same at all levels.
METHODS = [name for name in methods(configure()) if name not in ("asec_home", "nsec_home")]
WORDS = ("seeds=[3]", f"methods=[{','.join(METHODS)}]", "shift=gravity+friction")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("dynamics_shift") / "run"
    process = launch(out, *WORDS)
    assert process.returncode == 0, process.stderr
    return out, process.stdout


def test_every_method_leaves_its_agent_which_gives_its_return_again(finished):
    out, _ = finished
    folder = out / "seed_3" / "agents"
    assert {path.name for path in folder.iterdir()} == set(METHODS)
    key = named_key(jax.random.key(3), "evaluate")
    returns = [row for row in results.read([out / "results.jsonl"]) if row.metric == "return"]
    for row in returns:
        if row.method in ("iql", "psec"):
            agent = psec.load(folder / row.method)
            evaluation = psec.evaluate(agent, "mujoco/walker2d-v4", episodes=1, key=key)
            np.testing.assert_array_equal(evaluation.returns, row.values)
            assert psec.agents.provenance(folder / row.method)["task"] == row.task


def test_a_run_measures_every_method_and_normalizes_its_returns(finished):
    out, printed = finished
    rows = results.read([out / "results.jsonl"])
    returns = {row.method: row for row in rows if row.metric == "return"}
    normalized = {row.method: row for row in rows if row.metric == "score"}
    assert set(returns) == set(normalized) == set(METHODS)
    for method, row in normalized.items():
        expected = scores.d4rl_score("walker2d-medium-v2", np.array(returns[method].values))
        np.testing.assert_allclose(row.values, expected)
    table = (out / "table.md").read_text()
    assert table in printed
    assert "| walker2d medium, gravity+friction |" in table
    assert (out / "scores.png").stat().st_size > 5000


def test_a_further_source_is_a_skill_beside_the_targets(finished):
    out, _ = finished
    library = psec.SkillLibrary.open(out / "seed_3" / "library")
    assert library.names() == ("friction", "target")
    assert "AdvantageWeights" in library.get("target").provenance["weights"]
    assert library.get("friction").provenance["dataset"] == "local/walker2d-friction0.5-good"
    stored = psec.agents.provenance(library.path / "base" / "purpose")
    assert stored == {"dataset": "local/walker2d-gravity2-good", "seed": 3}
    home, fixed = (psec.load(out / "seed_3" / "agents" / f"psec_{k}") for k in ("home", "fixed"))
    observations = np.random.default_rng(0).normal(size=(50, 17)).astype(np.float32)
    expected = psec.homing(fixed.policy, library.purpose()).weights(observations)
    np.testing.assert_array_equal(home.weights(observations), expected)
    assert (out / "weights_home.csv").read_text().startswith("step,weight_friction,weight_target,")


def test_a_run_started_again_goes_on_to_the_same_numbers(finished, tmp_path):
    """Killed after some methods and in the middle of a row, it does only what is missing."""
    whole, _ = finished
    lines = (whole / "results.jsonl").read_text().splitlines(keepends=True)
    out = tmp_path / "again"
    (out / "seed_3").mkdir(parents=True)
    psec.SkillLibrary.create(
        out / "seed_3" / "library", psec.SkillLibrary.open(whole / "seed_3" / "library").base
    )
    (out / "results.jsonl").write_text("".join(lines[:12]) + lines[12][:30])
    process = launch(out, *WORDS)
    assert process.returncode == 0, process.stderr
    assert (out / "results.jsonl").read_text().splitlines(keepends=True) == lines


def test_a_folder_of_another_configuration_is_refused_with_the_difference(finished):
    out, _ = finished
    process = launch(out, *WORDS, "guidance.weights.temperature=1")
    assert process.returncode == 1
    assert "guidance.weights.temperature: 3.0 there, 1 now" in process.stderr
    assert "Traceback" not in process.stderr


def test_baselines_act_as_their_plans_say_and_may_be_trained_with_others(tmp_path):
    """Several seeds side by side, whose actors differ, at the smallest sizes."""
    names = ("td3bc", "cql", "rebrac")
    small = "{backbone: {network: {hidden: [8]}}, batch_size: 16}"
    overrides = [f"baselines.{name}={small}" for name in names]
    config = configure("seeds=[0,1]", f"methods=[{','.join(names)}]", *overrides)
    for plan in config.baselines.values():
        backbone = plan.backbone(action_size=2)
        assert backbone.deterministic and backbone.network.hidden == (8,)
    assert config.baselines["cql"].learner(trained=None).alpha == 5.0
    recorder = Recorder(tmp_path)
    run(config, tmp_path, recorder)
    recorder.close()
    rows = results.read([tmp_path / "results.jsonl"])
    values = {(row.method, row.seed): row.values for row in rows if row.metric == "return"}
    assert set(values) == {(name, seed) for name in names for seed in (0, 1)}
    for name in names:
        assert list(values[name, 0]) != list(values[name, 1])


def test_a_baseline_of_ones_own_is_a_row_by_configuration_alone(tmp_path):
    config = configure("seeds=[0]", "methods=[mine]", "+baselines.mine=${baselines.td3bc}")
    run(config, tmp_path, Recorder(tmp_path))
    rows = results.read([tmp_path / "results.jsonl"])
    assert "mine" in {row.method for row in rows}


def test_what_passes_may_differ_between_runs_of_one_folder(finished):
    out, _ = finished
    config = json.loads((out / "config.json").read_text())
    assert config["progress"] is False
    with start_recording(out, {**config, "progress": True}, configure().logger):
        pass


def test_each_seed_has_its_own_share_of_the_targets_trajectories(tmp_path):
    config = configure("target.fraction=0.1", "target.trajectories=20")
    with Simulators(1) as simulators:
        data = Data.opened(config, simulators)
        chosen = Run(config, data, [0, 1, 0], tmp_path, None, simulators).targets
    assert [len(data.ends) for data in chosen] == [2, 2, 2]
    np.testing.assert_array_equal(chosen[0].observations, chosen[2].observations)
    assert not np.array_equal(chosen[0].returns, chosen[1].returns)


def test_joint_training_sees_every_sources_and_the_targets_data(tmp_path):
    config = configure("shift=gravity+friction")
    with Simulators(1) as simulators:
        data = Data.opened(config, simulators)
        opened = Run(config, data, [0], tmp_path, None, simulators)
    assert list(opened.sources) == ["gravity", "friction"]
    assert [len(data.ends) for data in opened.sources.values()] == [2, 2]


@pytest.mark.parametrize(
    ("dataset", "column"),
    [
        ("local/walker2d-medium-replay", "walker2d medium-replay, thigh"),
        ("walker2d-medium-v2", "walker2d medium, thigh"),
        ("d4rl/walker2d-medium-expert-v2", "walker2d medium-expert, thigh"),
    ],
)
def test_a_column_is_named_by_robot_data_and_shift(dataset, column):
    assert column_name(configure(f"target.dataset={dataset}", "shift=thigh")) == column


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shift=wind"], "which walker2d has no data of; expected one or more of"),
        (["shift=gravity+gravity"], "names a source twice"),
        (["observation_floor=0"], "observation_floor must be above 0, not 0"),
        (["target.fraction=0"], r"target: fraction must be in \(0, 1\], not 0"),
        (["methods=[magic]"], r"\['magic'\] are unknown"),
        (["robot.reference=walker3d"], "robot: unknown dataset 'walker3d'"),
        (["robot.reference=[1,1]"], r"robot: reference must rise .* not \(1.0, 1.0\)"),
        (["methods=[nsec]", "backbone=gaussian"], r"method nsec: .* only a diffusion backbone"),
        (
            ["methods=[nsec_home]", "levels.noise.base_enters=false"],
            "method nsec_home: weights of 0 are π₀ only where it enters",
        ),
        (["home.discount=1"], "home: discount must be at least 0 and below 1, not 1"),
        (["composer.weights=home"], "what goes home are the methods <row>_home"),
        (["+composer.switch=[0.2,0.4]"], "says when the mixture goes home, but it does not"),
        (["home.low=0.3"], "home: low must be below high, not 0.3 and 0.3"),
        (["guidance=reward_safety"], "guidance.weights must be those of one skill"),
        (["guidance.expectile=1"], r"guidance: expectile of 'return' must be in \(0, 1\)"),
        (["guidance.weights.temperature=-1"], "guidance.weights: temperature must be at least 0"),
        (["best_of.candidates=0"], "best_of: candidates must be"),
        (["guidance.objectives.return.discount=1"], r"return: discount must be in \[0, 1\)"),
        (["baselines.td3bc.learner.alpha=-1"], "td3bc.learner: alpha must be at least 0, not -1"),
        (["baselines.rebrac.learner.critic_penalty=-1"], "rebrac.learner: critic_penalty must be"),
        (
            ["baselines.cql.batch_size=0"],
            "baselines.cql: batch_size must be an integer",
        ),
    ],
)
def test_bad_words_are_refused_before_anything_is_computed(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configure(*overrides)


def test_a_robot_whose_data_have_other_sizes_is_refused(tmp_path):
    overrides = ("target.dataset=local/walker-walk-expert", "target.trajectories=1")
    recorder = Recorder(tmp_path)
    with pytest.raises(ValueError, match="use data of the same robot"):
        run(configure(*overrides, "methods=[psec]"), tmp_path, recorder)
    recorder.close()
