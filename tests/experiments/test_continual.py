"""The continual runner, whole, at the smallest scale."""

import json
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

import psec_jax as psec
from experiments.config import ConfigError, parse
from experiments.continual import METHODS, check, run
from experiments.recording import Recorder
from experiments.settings import Continual
from psec_jax.report import results
from psec_jax.training.seeds import named_key

ROOT = Path(__file__).parents[2]
SMALL = ("scale=smoke", "progress=false", "evaluation.episodes=1")
TABLE = ("scratch", "asec", "nsec", "psec_mlp", "psec")


def configure(*overrides: str) -> Continual:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = parse(compose("continual", [*SMALL, *overrides]), Continual)
    check(config)
    return config


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.continual", f"hydra.run.dir={folder}"]
    return subprocess.run([*command, *SMALL, *overrides], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("continual") / "run"
    process = launch(out, "seeds=[0,1]")
    assert process.returncode == 0, process.stderr
    return out, process.stdout


def test_a_run_measures_every_method_on_every_column_for_every_seed(finished):
    out, _ = finished
    rows = [row for row in results.read([out / "results.jsonl"]) if row.metric == "return"]
    measured = {(row.method, row.task, row.seed) for row in rows}
    expected = {
        (method, column, seed)
        for method in TABLE
        for column in ("S→W", "S→R", "S+W→R")
        for seed in (0, 1)
    }
    assert measured == expected
    assert all(row.value == pytest.approx(np.mean(row.values)) for row in rows)


def test_every_method_leaves_its_agent_which_gives_its_return_again(finished):
    out, _ = finished
    columns = {"S_to_W": ("S→W", "walk"), "S_to_R": ("S→R", "run"), "S_W_to_R": ("S+W→R", "run")}
    names = {f"{method}-{column}" for method in TABLE for column in columns}
    measured = {
        (row.method, row.task, row.seed): row.values
        for row in results.read([out / "results.jsonl"])
        if row.metric == "return"
    }
    for seed in (0, 1):
        folder = out / f"seed_{seed}" / "agents"
        assert {path.name for path in folder.iterdir()} == names
        for method in ("nsec", "psec"):
            column, task = columns["S_to_W"]
            path = folder / f"{method}-S_to_W"
            key = named_key(jax.random.key(seed), f"evaluate {task}")
            environment = f"dm_control/walker-{task}-v0"
            evaluation = psec.evaluate(psec.load(path), environment, episodes=1, key=key)
            np.testing.assert_array_equal(evaluation.returns, measured[method, column, seed])
            provenance = {"method": method, "task": column, "seed": seed}
            assert psec.agents.provenance(path) == provenance


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("a b", "a+b"),
            r"chain.columns have names that are one as files: \['psec-a_b', 'psec-a_b",
        ),
        (("a" * 64, "b"), r"chain.columns: agent name 'psec-aa.*is not allowed: use 1 to 64"),
    ],
)
def test_columns_whose_agents_could_not_be_kept_apart_are_refused(names, message):
    columns = [f"{{name: '{name}', skills: [walk], target: walk}}" for name in names]
    with pytest.raises(ConfigError, match=message):
        configure(f"chain.columns=[{','.join(columns)}]", "methods=[psec]")


def test_the_printed_table_is_the_written_one_and_has_the_papers_layout(finished):
    out, printed = finished
    table = (out / "table.md").read_text()
    assert table in printed
    header, _, *body = [line for line in table.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header.split("|")[2:-1]] == ["S→W", "S→R", "S+W→R"]
    labels = [line.split("|")[1].strip() for line in body[:5]]
    assert labels == ["Scratch", "ASEC", "NSEC", "PSEC (MLP)", "PSEC"]


def test_the_output_folder_holds_what_the_last_lines_name(finished):
    out, printed = finished
    for name in ("returns.png", "weights_S_to_W.png", "weights_S_W_to_R.png"):
        assert (out / name).stat().st_size > 5000
        assert name in printed
    config = json.loads((out / "config.json").read_text())
    assert config["seeds"] == [0, 1] and config["pretrain"]["steps"] == 20
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"pretrain (seed 0)", "scratch run (seed 1)"} <= {line["label"] for line in losses}


def test_the_library_that_a_run_leaves_can_be_used_again(finished):
    out, _ = finished
    library = psec.SkillLibrary.open(out / "seed_0" / "library")
    assert library.names() == ("run", "run-full", "walk", "walk-full")
    provenance = library.get("walk").provenance
    assert provenance["dataset"] == "local/walker-walk-expert" and provenance["steps"] == 20


def test_weights_over_an_episode_are_written_as_numbers(finished):
    out, _ = finished
    lines = (out / "weights_S_W_to_R.csv").read_text().splitlines()
    assert lines[0] == "step,weight_walk,weight_run,reward,cost"
    assert len(lines) == 1001


def test_every_method_runs_and_a_seed_alone_learns_what_it_learns_beside_others(
    tmp_path, finished
):
    seldom = ("nsec_home", "psec_mlp_home", "asec_skills_home")  # As the others that go home.
    others = [name for name in METHODS if name not in (*TABLE, *seldom)]
    config = configure("chain=walker_walk", "seeds=[1]", f"methods=[psec_mlp,{','.join(others)}]")
    run(config, tmp_path, Recorder(tmp_path))
    rows = results.read([tmp_path / "results.jsonl"])
    assert {row.method for row in rows if row.metric == "return"} == {"psec_mlp", *others}
    header, *steps = (tmp_path / "weights_home_S_to_W.csv").read_text().splitlines()
    assert header == "step,weight_walk,reward,cost,home_reward" and len(steps) == 1000
    assert (tmp_path / "weights_home_S_to_W.png").stat().st_size > 5000
    alone, beside = (
        psec.SkillLibrary.open(folder / "seed_1" / "library") for folder in (tmp_path, finished[0])
    )
    for one, other in [
        (alone.base.params, beside.base.params),
        (alone.get("walk").deltas, beside.get("walk").deltas),
        (alone.get("walk-full").deltas, beside.get("walk-full").deltas),
    ]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one, other)
    purpose = alone.purpose()
    assert purpose.statistics.mean.shape == (24,) and 0 < purpose.usual < 1
    stored = psec.agents.provenance(alone.path / "base" / "purpose")
    assert stored == {"dataset": "local/walker-stand-expert", "seed": 1}
    for level in ("psec", "nsec_skills", "asec"):
        fixed, home = (
            psec.load(tmp_path / "seed_1" / "agents" / f"{level}_{kind}-S_to_W")
            for kind in ("fixed", "home")
        )
        observations = np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)
        expected = psec.homing(fixed, purpose).weights(observations)
        np.testing.assert_array_equal(home.weights(observations), expected)


def test_another_runs_base_can_be_used_instead_of_pretraining(tmp_path, finished):
    pattern = finished[0] / "seed_{seed}" / "library"
    config = configure("chain=walker_walk", "methods=[zero_shot]", f"base='{pattern}'")
    run(config, tmp_path, Recorder(tmp_path))
    used = psec.SkillLibrary.open(tmp_path / "seed_0" / "library")
    given = psec.SkillLibrary.open(finished[0] / "seed_0" / "library")
    assert used.fingerprint == given.fingerprint


def test_the_best_state_on_the_way_is_what_is_learned(tmp_path, monkeypatch, same):
    """By returns that stand for a policy that gets worse again, whatever it is worth."""
    given = {5: 1.0, 10: 3.0, 15: 2.0, 20: 0.0}
    seen = []

    def evaluate(policies, *_, **__):
        seen.extend(policies)
        value = given[5 * len(seen)] if len(seen) <= 4 else 0.5
        return [psec.evaluation.Evaluation(np.array([value]), np.array([1]))]

    monkeypatch.setattr("psec_jax.evaluate", evaluate)
    plan = ["evaluation.curve_every=5", "checkpoint.every=5", "evaluation.best=true"]
    config = configure("chain=walker_walk", "methods=[scratch]", *plan)
    with closing(Recorder(tmp_path, every=5)) as recorder:
        run(config, tmp_path, recorder)
        curve = {r.step: r.value for r in recorder.measurements() if r.metric == "learning_return"}
    assert curve == given
    *on_the_way, final = seen
    assert [same(policy.params, final.params) for policy in on_the_way] == [0, 1, 0, 0]


def test_the_gaussian_backbone_runs_where_noise_is_not_mixed(tmp_path):
    config = configure(
        "backbone=gaussian", "chain=walker_walk", "methods=[scratch,asec,psec_mlp,psec]"
    )
    run(config, tmp_path, Recorder(tmp_path))
    assert (tmp_path / "returns.png").exists()


def test_source_trajectories_join_the_context_networks_data(tmp_path):
    config = configure("chain=walker_walk", "methods=[psec]", "data.replayed_trajectories=1")
    run(config, tmp_path, Recorder(tmp_path))
    assert (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.stepz=1", "stepz"),
        ("scale=huge", "huge"),
        ("+pretrain.momentum=1", "momentum"),
        ("pretrain.steps=many", "pretrain.steps"),
        ("pretrain.steps=0", "steps"),
        ("skill.optimizer.learning_rate=-1", "skill.optimizer: learning_rate must be above 0"),
        ("skill.batch_size=0", "batch_size"),
        ("seeds=7", "seeds"),
        ("seeds=[]", "seeds"),
        ("seeds=[1,1]", "twice"),
        ("seeds=[1,4294967297]", "seeds must be from 0 to .*4294967295, not 4294967297"),
        ("seeds=[4294967296]", "seeds must be from 0 to .*, not 4294967296"),
        ("seeds=[-1]", "seeds must be from 0 to .*, not -1"),
        ("data.replayed_trajectories=3", "data: replayed_trajectories 3 are more than .*, 2"),
        ("optimize.method=nsec_skills", "optimize.method 'nsec_skills' is not measured here"),
        ("optimize.metric=cost", r"optimize.metric 'cost' .* use one of \['return'\]"),
        ("optimize.task='S→X'", "optimize.task 'S→X' is not measured here; use one of .*S→W"),
        ("adapter.rank=0", "rank"),
        ("adapter.rank=eight", "adapter.rank"),
        ("adapter.targets='('", "regular expression"),
        ("backbone.network.activation=sine", "sine"),
        ("backbone.schedule=quadratic", "quadratic"),
        ("backbone.noise=pink", "backbone: noise 'pink' is unknown; .*'beta', 'posterior'"),
        ("backbone.kind=transformer", "transformer"),
        ("methods=[psec,magic]", "magic"),
        ("methods=[]", "methods"),
        ("chain.source=fly", "fly"),
        ("logger.kind=printer", "printer"),
        ("evaluation.episodes=0", "episodes"),
        ("evaluation.best=true", "curve_every"),
    ],
)
def test_a_wrong_configuration_is_refused_and_named(override, message):
    with pytest.raises((ConfigError, HydraException), match=message):
        configure(override)


@pytest.mark.parametrize(
    ("overrides", "noise"), [([], "posterior"), (["backbone.noise=beta"], "beta")]
)
def test_the_configuration_names_the_samplers_noise(overrides, noise):
    assert configure(*overrides).backbone(action_size=2).noise == noise


def test_the_best_state_is_of_one_seed():
    overrides = ["evaluation.best=true", "evaluation.curve_every=5", "seeds=[0,1]"]
    with pytest.raises(ConfigError, match=r"best keeps the best state of one seed; use side_by"):
        configure(*overrides)
    configure(*overrides, "side_by_side=false")


def test_mixing_noise_needs_the_diffusion_backbone():
    with pytest.raises(ConfigError, match=r"method nsec_skills: .* only a diffusion backbone"):
        configure("backbone=gaussian", "methods=[nsec_skills]")


def test_a_refused_configuration_computes_nothing_and_says_why_in_one_line(tmp_path):
    process = launch(tmp_path / "run", "adapter.rank=0")
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run" / "results.jsonl").exists()
    assert not (tmp_path / "run" / "seed_0").exists()
