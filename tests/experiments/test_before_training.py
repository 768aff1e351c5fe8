"""Whatever a setting needs is opened before anything is trained."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import psec_jax as psec
from experiments import continual, dynamics_shift, multi_objective
from experiments.checks import check_purpose
from experiments.config import ConfigError, Setting, parse
from experiments.recording import Recorder
from experiments.settings import Continual, DynamicsShift, MultiObjective
from psec_jax.data.hdf5 import write_hdf5

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "continual": (continual, Continual, ["chain=walker_walk", "methods=[scratch]"]),
    "dynamics_shift": (dynamics_shift, DynamicsShift, ["methods=[zero_shot,joint]"]),
    "multi_objective": (multi_objective, MultiObjective, ["task=bullet/ballrun", "methods=[bc]"]),
}
SIZES = {"continual": (24, 6), "dynamics_shift": (17, 6), "multi_objective": (7, 2)}
SMALL = ["scale=smoke", "seeds=[0,1]", "progress=false", "evaluation.episodes=1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with ``<setting>.hdf5``, ``<setting>_free.hdf5`` without costs, ``other.hdf5`` of
    another robot, ``unpaid.hdf5`` without any reward, and no ``missing.hdf5``."""
    folder = tmp_path_factory.mktemp("data")
    for setting, sizes in SIZES.items():
        write(folder / f"{setting}.hdf5", *sizes, costs=True)
        write(folder / f"{setting}_free.hdf5", *sizes, costs=False)
    write(folder / "other.hdf5", 5, 3, costs=True)
    write(folder / "unpaid.hdf5", *SIZES["continual"], costs=True, reward=0.0)
    return folder


def write(path: Path, observation: int, action: int, costs: bool, reward: float = 1.0) -> None:
    """Twelve random trajectories of four steps, with rewards of this size."""
    generator = np.random.default_rng(0)
    data = psec.TransitionDataset(
        observations=generator.normal(size=(48, observation)),
        actions=np.tanh(generator.normal(size=(48, action))),
        rewards=reward * generator.normal(size=48),
        terminations=np.zeros(48, bool),
        truncations=np.arange(48) % 4 == 3,
        costs=np.zeros(48) if costs else None,
    )
    write_hdf5(path, data)


def configured(setting: str, *overrides: str) -> Setting:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse(compose(setting, [*SMALL, *overrides]), SETTINGS[setting][1])


def data_overrides(setting: str, source: Path, target: Path) -> list[str]:
    return {
        "continual": [
            f"chain.tasks.stand.dataset={source}",
            f"chain.tasks.walk.dataset={target}",
        ],
        "dynamics_shift": [f"robot.shifts.gravity={source}", f"target.dataset={target}"],
        "multi_objective": [f"dataset={target}"],
    }[setting]


FREE = "some of the datasets have costs and some have none"


@pytest.mark.parametrize(
    ("setting", "source", "target", "more", "message"),
    [
        ("continual", "missing", "continual", [], "missing.hdf5 is missing"),
        ("continual", "continual", "missing", [], "missing.hdf5 is missing"),
        ("continual", "continual", "other", [], "use data of the same robot"),
        ("continual", "other", "continual", [], "use data of the same robot"),
        ("continual", "other", "other", [], "use data of the same robot"),
        ("continual", "continual", "continual_free", ["data.replayed_trajectories=1"], FREE),
        ("continual", "continual", "continual", ["data.target_trajectories=13"], "12"),
        ("continual", "unpaid", "continual", ["methods=[psec_home]"], "the reward is 0 in all"),
        (
            "continual",
            "continual",
            "continual",
            ["base='{FILES}/seed_{{seed}}'"],
            "seed_0.* is no",
        ),
        (
            "continual",
            "continual",
            "continual",
            ["chain.tasks.walk.environment=dm_control/walker-wlk-v0"],
            "did you mean dm_control/walker-walk-v0",
        ),
        ("dynamics_shift", "missing", "dynamics_shift", [], "missing.hdf5 is missing"),
        ("dynamics_shift", "dynamics_shift", "missing", [], "missing.hdf5 is missing"),
        ("dynamics_shift", "dynamics_shift", "other", [], "use data of the same robot"),
        ("dynamics_shift", "other", "other", [], "use data of the same robot"),
        ("dynamics_shift", "dynamics_shift", "dynamics_shift_free", [], FREE),
        (
            "dynamics_shift",
            "dynamics_shift",
            "dynamics_shift",
            ["robot.environment=mujoco/walker3d-v4"],
            "did you mean mujoco/walker2d",
        ),
        ("multi_objective", "", "missing", [], "missing.hdf5 is missing"),
        ("multi_objective", "", "other", [], "use data of the same robot"),
        ("multi_objective", "", "multi_objective_free", ["methods=[bc,psec]"], "have no costs"),
    ],
)
def test_missing_or_unfit_data_are_refused_before_anything_is_trained(
    setting, source, target, more, message, files, tmp_path
):
    runner, _, overrides = SETTINGS[setting]
    data = data_overrides(setting, files / f"{source}.hdf5", files / f"{target}.hdf5")
    more = [word.format(FILES=files) for word in more]
    config = configured(setting, *overrides, *data, *more)
    runner.check(config)
    with closing(Recorder(tmp_path)) as recorder, pytest.raises(ValueError, match=message):
        runner.run(config, tmp_path, recorder)
    assert not trained(tmp_path)


def test_going_home_by_value_asks_the_value_of_the_source_not_its_reward():
    """Which is 0 but for the last step of a trajectory."""
    last = np.arange(48) % 4 == 3
    data = psec.TransitionDataset(
        np.zeros((48, 2)), np.zeros((48, 1)), last.astype(float), np.zeros(48), last
    )
    by_reward, by_value = (
        configured("continual", "methods=[psec_home]", f"home.discount={discount}")
        for discount in (0.0, 0.9)
    )
    with pytest.raises(ConfigError, match=r"psec_home, .* usual reward of these data is 0"):
        check_purpose(by_reward, data)
    check_purpose(by_value, data)


def trained(out: Path) -> bool:
    """Whether anything was, or was measured, in the run in ``out``."""
    rows = [path for path in out.glob("*.jsonl") if path.read_text()]
    return bool(rows) or any(out.glob("checkpoints/*")) or any(out.glob("seed_*"))


def test_missing_simulators_are_named_before_anything_is_trained(files, tmp_path):
    """Each setting in turn in a process that cannot import any of them."""
    commands = [
        [setting, *SMALL, *overrides, *data_overrides(setting, *[files / f"{setting}.hdf5"] * 2)]
        for setting, (_, _, overrides) in SETTINGS.items()
    ]
    program = f"""
import runpy, sys
sys.modules.update(dm_control=None, mujoco=None, pybullet=None, bullet_safety_gym=None)
for setting, *words in {commands}:
    sys.argv = ["x", *words, "hydra.run.dir={tmp_path}/" + setting]
    try:
        runpy.run_module("experiments." + setting, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        print(error.code)
"""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    lines = process.stdout.splitlines()
    for line, extra in zip(lines, ("dmcontrol", "mujoco", "bullet"), strict=True):
        assert line.startswith("error: ") and f"pip install 'psec-jax[{extra}]'" in line
    for setting in SETTINGS:
        assert json.loads((tmp_path / setting / "status.json").read_text())["state"] == "failed"
        assert not trained(tmp_path / setting)
