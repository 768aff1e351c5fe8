"""``scale=paper`` and the page about the published code: each choice exists and does something."""

import re
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import psec_jax as psec
from experiments import continual, dynamics_shift, multi_objective
from experiments.config import ConfigError, parse
from experiments.recording import Recorder
from experiments.settings import Continual, DynamicsShift, MultiObjective
from psec_jax.composition import ActionLevel, NoiseLevel
from psec_jax.data.hdf5 import write_hdf5

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "published.md"
SETTINGS = {
    "continual": (Continual, continual),
    "dynamics_shift": (DynamicsShift, dynamics_shift),
    "multi_objective": (MultiObjective, multi_objective),
}
# What the paper's scale would need a day for.
TINY = (
    "progress=false",
    "evaluation.episodes=1",
    "backbone.network={features: 16, blocks: 1}",
    "data.source_trajectories=2",
    *(f"{stage}.steps=4" for stage in ("pretrain", "skill", "scratch", "context", "constants")),
    *(f"{stage}.batch_size=8" for stage in ("pretrain", "skill", "scratch", "context")),
    "constants.batch_size=8",
    "seeds=[0]",
)


def composed(setting: str, *overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(setting, list(overrides))


def configure(setting: str, *overrides: str):
    schema, runner = SETTINGS[setting]
    config = parse(composed(setting, *overrides), schema)
    runner.check(config)
    return config


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_papers_scale_makes_the_published_choices(setting):
    config = configure(setting, "scale=paper")
    backbone = config.backbone(action_size=2)
    assert (backbone.noise, backbone.network.dropout) == ("beta", 0.1)
    assert config.adapter.targets == ".*"
    assert config.composer_at("parameter", 2).weights.start == "zero"
    assert config.levels["noise"] == NoiseLevel(base_enters=False, trained_by="actions")
    assert config.levels["action"] == ActionLevel(base_enters=False)
    context = config.context.optimizer
    assert (context.learning_rate, context.schedule, config.context.steps) == (
        3e-4,
        "constant",
        1001,
    )
    observations = np.random.default_rng(0).normal(3.0, 2.0, (20, 5))
    data = psec.TransitionDataset(observations, np.zeros((20, 2)), *np.zeros((3, 20)))
    np.testing.assert_array_equal(config.statistics(data).mean, 0)
    assert (config.pretrain.batch_size, config.pretrain.optimizer.learning_rate) == (2048, 3e-4)
    assert config.pretrain.steps == (200_000 if setting == "dynamics_shift" else 1_000_000)


def test_the_papers_scale_of_dynamics_shift():
    config = configure("dynamics_shift", "scale=paper")
    guidance = config.guidance
    assert config.target.by == "transition" and config.timeouts_terminal
    assert guidance.weights == psec.weights.AdvantageWeights("return", 10.0, 100.0)
    assert guidance.expectile == 0.7 and guidance.value_network.input_norm
    assert (guidance.optimizer.learning_rate, guidance.optimizer.schedule) == (3e-4, "constant")


def test_the_papers_scale_of_multi_objective():
    config = configure("multi_objective", "scale=paper")
    guidance = config.guidance
    assert guidance.expectiles == {"return": 0.7, "feasibility": 0.9}
    assert guidance.objectives["feasibility"].threshold == 0
    assert guidance.value_network.input_norm and guidance.optimizer.schedule == "constant"
    assert config.anchor == {"reward": 0.0, "safety": 1.0} and config.anchor_strength == 256
    reward, safety = guidance.weights["reward"], guidance.weights["safety"]
    assert (reward.temperature, reward.clip) == (1, 100)
    assert (safety.temperature, safety.clip) == (1, 150)
    assert config.timeouts_terminal


@pytest.mark.parametrize("scale", ["demo", "hour", "paper", "smoke"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_at_every_scale_each_learner_can_reach_what_it_is_to_learn(setting, scale):
    """Constants must get from 1/k to 0 or 1 by themselves; others have a whole network for it."""
    config = configure(setting, f"scale={scale}")

    def reach(training):
        return training.optimizer.over(training.steps).reach

    assert config.composer_at("parameter", 2, context=False).weights == "constant"
    assert reach(config.mixing(context=False)) >= 1
    if scale != "smoke":
        for training in (config.pretrain, config.skill, config.scratch, config.context):
            assert reach(training) > 0.1


@pytest.mark.parametrize(
    ("setting", "overrides"),
    [
        ("continual", ["chain=walker_walk", "methods=[asec,nsec,nsec_skills,psec,psec_fixed]"]),
        ("dynamics_shift", ["methods=[scratch,nsec,psec,psec_fixed]", "best_of.candidates=2"]),
        (
            "multi_objective",
            ["task=bullet/ballrun", "methods=[nsec,psec,psec_fixed]", "best_of.candidates=2"],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:in 4 updates at learning rate")
def test_the_published_choices_run_in_every_setting(setting, overrides, tmp_path, ballrun):
    if setting == "multi_objective":
        context_file = tmp_path / "context.hdf5"
        write_hdf5(context_file, psec.load_dataset(str(ballrun)).take(2))
        overrides = [
            *overrides,
            f"dataset={ballrun}",
            f"context_dataset={context_file}",
            "cost_limit=100",
        ]
    config = configure(setting, "scale=paper", *TINY, *overrides)
    SETTINGS[setting][1].run(config, tmp_path, Recorder(tmp_path))
    assert (tmp_path / "table.md").exists()


def test_a_context_dataset_is_what_the_context_network_is_trained_on(tmp_path, ballrun):
    whole = psec.load_dataset(str(ballrun))
    context_file = tmp_path / "context.hdf5"
    write_hdf5(context_file, whole.take(2))
    overrides = ["task=bullet/ballrun", f"dataset={ballrun}", "cost_limit=100"]
    chosen = multi_objective.Data.chosen(
        configure("multi_objective", *overrides, f"context_dataset={context_file}")
    )
    assert len(chosen.mixing) == len(whole.take(2)) and chosen.best is None
    usual = multi_objective.Data.chosen(configure("multi_objective", *overrides))
    assert usual.mixing is usual.best.data
    write_hdf5(
        context_file, psec.TransitionDataset(np.zeros((4, 3)), np.zeros((4, 2)), *np.zeros((3, 4)))
    )
    another = configure("multi_objective", *overrides, f"context_dataset={context_file}")
    with pytest.raises(ConfigError, match=r"\(3, 2\) of the context network's data"):
        multi_objective.run(another, tmp_path / "run", Recorder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("setting", "word", "named"),
    [
        ("continual", "observations=scaled", "observations must be 'normalized' or 'raw', not"),
        ("continual", "composer.weights.start=one", "start 'one'"),
        ("continual", "levels.noise.trained_by=l2", "noise.trained_by must be 'denoising' or"),
        (
            "continual",
            "context.optimizer.schedule=step",
            "schedule must be 'cosine' or",
        ),
        ("continual", "backbone.noise=none", "noise 'none'"),
        ("dynamics_shift", "target.by=step", "target.by must be 'trajectory' or 'transition'"),
        ("multi_objective", "guidance.expectile.return=2", "expectile of 'return' must be"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(setting, word, named):
    with pytest.raises(ConfigError, match=named):
        configure(setting, word)


def test_every_switch_that_the_page_names_exists():
    """Words such as ``composer.start=zero`` in its last column are overrides of some setting."""
    page = PAGE.read_text()
    rows = [line.split("|")[-2] for line in page.splitlines() if line.startswith("| ")][2:]
    keys = {word for row in rows for word in re.findall(r"`([a-z_.]+)=[^`(]*`", row)}
    keys |= {word for row in rows for word in re.findall(r"`([a-z_]+\.[a-z_.]+)`", row)}
    known = set()
    for setting in SETTINGS:
        for scale in ("demo", "paper"):
            config = OmegaConf.to_container(composed(setting, f"scale={scale}"), resolve=True)
            known |= set(_names(config))
    assert len(keys) > 15
    assert keys <= known


def _names(config, prefix=""):
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


def test_constants_do_not_come_from_the_context_networks_optimizer():
    config = configure("continual", "constants.optimizer.learning_rate=0.5")
    assert config.mixing(context=False).optimizer.learning_rate == 0.5
    assert config.mixing().optimizer.learning_rate != 0.5
