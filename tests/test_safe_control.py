"""A constrained problem whose best safe policy is known, from data to composed policy.

The action is a speed, the reward of a step is the speed, and a speed above the limit of the state
costs 1. The best safe policy drives at the limit: 0.4 where the state is positive, 0 elsewhere.
Each trajectory keeps near a speed of its own, from −1 to 1, relative to the limit.
"""

import jax
import numpy as np
import pytest

import psec_jax as psec
from psec_jax.learners.objectives import Feasibility, Return
from psec_jax.learners.weights import AdvantageWeights, FeasibleWeights
from psec_jax.networks import Denoiser

KEY = jax.random.key(0)
LENGTH = 10
FAST = psec.Optimizer(learning_rate=5e-3, ema_rate=0.05)


def limit(states: np.ndarray) -> np.ndarray:
    return np.where(states > 0, 0.4, 0.0)


@pytest.fixture(scope="module")
def data() -> psec.TransitionDataset:
    generator = np.random.default_rng(0)
    states = generator.uniform(-1, 1, (400, LENGTH))
    speeds = generator.uniform(-0.9, 0.5, (400, 1)) + limit(states)
    actions = np.clip(speeds + generator.normal(0, 0.05, states.shape), -1, 1)
    ends = np.arange(states.size) % LENGTH == LENGTH - 1
    return psec.TransitionDataset(
        observations=states.reshape(-1, 1),
        actions=actions.reshape(-1, 1),
        rewards=actions.ravel(),
        terminations=np.zeros(states.size, bool),
        truncations=ends,
        costs=(actions > limit(states)).astype(float).ravel(),
    )


def drive(agent) -> tuple[float, float]:
    """Mean speed, and the share of steps above the limit."""
    states = np.random.default_rng(1).uniform(-1, 1, (500, 1)).astype(np.float32)
    actions = np.asarray(agent.act(KEY, states))[:, 0]
    return float(actions.mean()), float((actions > limit(states[:, 0])).mean())


@pytest.fixture(scope="module")
def found(data, tmp_path_factory) -> dict[str, tuple[float, float]]:
    """(speed, share of violations) of each policy."""
    network = Denoiser(features=32, blocks=1, time_features=8, time_hidden=16, dropout=0.0)
    backbone = psec.DiffusionBackbone(1, network)

    def taking(steps):
        return {"key": KEY, "training": psec.Training(steps, optimizer=FAST)}

    base = psec.pretrain(data, backbone=backbone, **taking(800))
    guidance = psec.Guidance(
        objectives={"return": Return(0.9, scale=3.0), "feasibility": Feasibility(0.9)},
        weights={"reward": AdvantageWeights("return"), "safety": FeasibleWeights("feasibility")},
        expectile=0.9,
        optimizer=psec.Optimizer(learning_rate=5e-3, ema_rate=0.05, weight_decay=0.0),
    )
    adapter = psec.Adapter(rank=4, scale=4.0)
    skills, critics = psec.learn_skills(
        base, data, guidance=guidance, adapter=adapter, **taking(1_000)
    )
    library = psec.SkillLibrary.create(tmp_path_factory.mktemp("safe") / "library", base)
    for name, skill in skills.items():
        library.add(name, skill)
    best = psec.data.safe_and_rewarding(data, cost_limit=1.0, return_quantile=0.7).data
    safe = psec.data.safe_and_rewarding(data, cost_limit=1.0, return_quantile=0.0).data
    agent = psec.compose(library, best, **taking(400))

    def choosing(policy):
        return psec.BestOf(policy, critics["feasibility"], 8)

    return {
        "bc": drive(base),
        "bc_safe": drive(psec.pretrain(safe, backbone=backbone, **taking(800))),
        "reward": drive(base.with_bank(library.bank(["reward"]))),
        "safety": drive(base.with_bank(library.bank(["safety"]))),
        "psec": drive(choosing(agent)),
    }


def test_each_skill_alone_serves_its_own_aim_only(found):
    """The best safe speed is 0.2 on average."""
    speed, violations = found["reward"]
    assert speed > 0.2 and violations > 0.3, found
    speed, violations = found["safety"]
    assert violations < 0.1 and speed < 0.05, found


def test_the_composed_policy_is_safe_and_faster_than_cloning_what_is_safe(found):
    speed, violations = found["psec"]
    assert violations < 0.1, found
    assert found["bc_safe"][0] + 0.05 < speed < 0.25, found
    assert found["bc"][1] > 0.2
