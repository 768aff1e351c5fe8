import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import psec_jax as psec
from experiments.collect import Collect
from experiments.config import parse
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.data.registry import local_datasets, local_folder

pytest.importorskip("sbx", reason="training behavior policies needs the extra 'collect'")

CONF = Path(__file__).parents[2] / "conf"
FEW = ["~policies.good", "~datasets.good", "~datasets.medium-good"]
MIXED = "[{policy:reckless,trajectories:200,noise:0.1},{policy:poor,trajectories:200,noise:0.3}]"
ENVIRONMENTS = {
    "mujoco": ["behavior=halfcheetah", "shift.gravity=2", *FEW],
    "bullet": [
        "behavior=carrun",
        "~policies.balanced",
        "~policies.careful",
        f"datasets.mixed.parts={MIXED}",
    ],
    "dm_control": [
        "behavior=halfcheetah",
        "name=pointmass",
        "environment=dm_control/point_mass-easy-v0",
        *FEW,
        "~datasets.medium",
    ],
}


def collect(out, *overrides):
    command = [sys.executable, "-m", "experiments.collect", "budget=smoke", *overrides]
    return [*command, f"hydra.run.dir={out}"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEC_JAX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("simulator", ENVIRONMENTS)
def test_a_dataset_is_trained_exported_rolled_out_and_known_by_name(simulator, home, tmp_path):
    overrides = ENVIRONMENTS[simulator]
    run = subprocess.run(collect(tmp_path / "out", *overrides), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    recipes = {
        name: recipe
        for name, recipe in local_datasets().items()
        if recipe.folder == local_folder()
    }
    assert recipes
    (full,) = (path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    for name, recipe in recipes.items():
        assert name.startswith(f"local/{full}-")
        assert (
            tmp_path / "out" / full / f"{name.removeprefix('local/')}.png"
        ).stat().st_size > 1000
        data = psec.load_dataset(name)
        assert len(data.ends) == recipe.trajectories
        # The measure was taken on the very data that seed 0 gives.
        assert data.returns.mean() == pytest.approx(recipe.return_mean)
        assert (data.costs is not None) == (simulator == "bullet")
        assert recipe.command.startswith(
            f"python -m experiments.collect budget=smoke {overrides[0]}"
        )
        for part in recipe.parts:
            provenance = BehaviorPolicy.load(recipe.folder, part.policy).provenance
            assert provenance["environment"] == recipe.environment
            assert provenance["rollouts"] == 1 and np.isfinite(provenance["return_mean"])


def test_an_exported_policy_acts_as_the_trained_one_did(home, tmp_path):
    """Of each algorithm, with the statistics of its observations."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from experiments import behavior

    for algorithm, activation in (("ppo", "tanh"), ("sac", "relu")):
        options = {"n_steps": 64} if algorithm == "ppo" else {"learning_starts": 50}
        training = behavior.Training(algorithm, [8, 8], activation, options=options, every=200)
        folder = tmp_path / algorithm
        behavior.train("bullet/ballrun", training, 200, folder, cost_weight=0.5)
        exported = behavior.trained_policy(folder, 200)
        path = behavior.checkpoint(folder, 200)
        # Fewer steps than there are checkpoints of have a checkpoint of their own, too.
        behavior.train("bullet/ballrun", training, 100, folder, cost_weight=0.5)
        assert behavior.checkpoints(folder) == [100, 200]
        model = behavior.algorithm_class(algorithm).load(path / "model.zip", device="cpu")
        simulator = psec.envs.make("bullet/ballrun", 1).envs[0]
        normalizer = VecNormalize(DummyVecEnv([lambda env=simulator: env]), clip_obs=np.inf)
        behavior.read_statistics(normalizer, path)
        observations = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
        expected, _ = model.predict(normalizer.normalize_obs(observations), deterministic=True)
        normalizer.close()
        np.testing.assert_allclose(exported(observations), expected, atol=2e-4)
        assert np.std(expected, axis=0).min() > 1e-3


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="MetaDrive has no release for this Python")
def test_drivers_are_described_and_rolled_out_without_training(home, tmp_path):
    overrides = [
        "behavior=metadrive",
        "+policies.wild.driver.wander=0.5",
        "datasets.mixed.parts=[{policy:wild,trajectories:400,noise:0.3}]",
    ]
    run = subprocess.run(collect(tmp_path / "out", *overrides), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    name = "local/metadrive-easymean-mixed"
    recipe = local_datasets()[name]
    assert recipe.folder == local_folder() and recipe.trajectories == 2
    assert recipe.drivers["wild"] == {"wander": 0.5}
    assert {path.suffix for path in local_folder().iterdir()} == {".json"}
    data = psec.load_dataset(name)
    assert data.returns.mean() == pytest.approx(recipe.return_mean)
    assert data.cost_returns.mean() == pytest.approx(recipe.cost_mean)


def test_acting_needs_neither_torch_nor_sbx(home, tmp_path):
    code = (
        "import sys; sys.modules.update(torch=None, sbx=None, stable_baselines3=None)\n"
        "import psec_jax as psec\n"
        "print(len(psec.load_dataset('local/walker-run-expert', trajectories=1)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "1000", run.stderr


def test_killed_while_training_it_goes_on_from_the_last_checkpoint(home, tmp_path):
    out = tmp_path / "out"
    others = [f"~policies.{name}" for name in ("balanced", "careful", "poor")]
    overrides = ["behavior=carrun", "share=1", "training.every=600", "~datasets.mixed", *others]
    folder = out / "carrun" / "training_cost_weight_0"
    process = subprocess.Popen(collect(out, *overrides), start_new_session=True)
    try:
        while not list(folder.glob("step_*")):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {path.name: (path / "model.zip").stat().st_mtime_ns for path in folder.glob("step_*")}
    assert before
    goal = max(int(name.removeprefix("step_")) for name in before) + 600
    longer = [*overrides, f"policies.reckless.steps={goal}"]
    run = subprocess.run(collect(out, *longer), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    trained = [line for line in run.stdout.splitlines() if line.endswith("steps")]
    assert trained == [f"carrun, cost weight 0: {goal:,} steps"]
    for name, written in before.items():
        assert (folder / name / "model.zip").stat().st_mtime_ns == written
    provenance = json.loads((local_folder() / "carrun-reckless.json").read_text())
    assert provenance["environment_steps"] == goal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["share=0"], "share must be in"),
        (["+shift.gravty=2"], "gravty"),
        (["shift.gravity=-2"], "'gravity=-2' .* no positive, finite number"),
        (["behavior=carrun", "shift.thigh=2"], "only mujoco/ environments take them"),
        (["environment=mujoco/halfchetah-v4"], "did you mean mujoco/halfcheetah-v4"),
        (["datasets.medium.parts=[{policy:best,trajectories:2}]"], "datasets.medium mixes .*best"),
        (["name=../x"], "name '../x-early' is not allowed"),
        (["training.algorithm=dqn"], "training.algorithm must be 'ppo' or 'sac', not 'dqn'"),
        (["training.every=0"], "training: every must be an integer of at least 1"),
        (["policies.good.steps=0"], "policies.good: steps must be an integer of at least 1"),
        (["+training.seed=-1"], "training.seed must be from 0"),
        (["~datasets.good.parts"], "datasets.good.parts is missing"),
        (["+policies.good.stepz=3"], "stepz"),
        (["+policies.good.driver.target_speed=9"], "only metadrive/ environments have"),
        (["behavior=metadrive", "+policies.poor.driver.speed=9"], "no setting 'speed'"),
        (["behavior=metadrive", "+policies.new.steps=9"], "without a driver need training"),
    ],
)
def test_what_cannot_be_collected_is_refused(overrides, message):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("collect", ["budget=smoke", *overrides])
    with pytest.raises(ValueError, match=message):
        parse(config, Collect)


def test_a_refusal_is_one_line_and_nothing_is_trained(home, tmp_path):
    run = subprocess.run(collect(tmp_path / "out", "share=0"), capture_output=True, text=True)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line == "error: share must be in (0, 1], not 0.0"
    assert not home.exists()
