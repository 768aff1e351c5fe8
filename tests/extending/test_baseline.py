"""A baseline: it learns, and is a row of the dynamics-shift table by configuration alone."""

import jax
import numpy as np

import psec_jax as psec
from extending.baseline import AWAC
from extending.conftest import CONF, SMALL
from psec_jax.report import results

KEY = jax.random.key(4)


def test_it_prefers_the_better_of_the_actions_that_the_data_have():
    """One state, in which half of the actions are rewarded: cloning takes their mean, which is
    near zero."""
    actions = np.resize([0.8, -0.8], (64, 1))
    data = psec.TransitionDataset(
        *(np.zeros((64, 1)), actions, actions[:, 0], np.ones(64, bool), np.zeros(64, bool))
    )
    backbone = psec.GaussianBackbone(1, psec.networks.GaussianActor(1, (8,)))
    policy = psec.Policy.create(backbone, psec.Statistics.identity(1), KEY)
    optimizer = psec.Optimizer(0.01, ema_rate=0.1, schedule="constant")
    critic = psec.networks.Critic((16,))
    trained = psec.learners.AllParameters(policy)
    learner = AWAC(trained, temperature=0.2, optimizer=optimizer, network=critic)
    state = psec.training.fit(learner, data, key=KEY, training=psec.Training(400, 32))
    better, critics = learner.result(state)
    assert better.act(KEY, np.zeros((1, 1), np.float32)) > 0.6
    ends = np.float32([[0.8], [-0.8]])
    np.testing.assert_allclose(critics(np.zeros((2, 1), np.float32), ends), ends[:, 0], atol=0.2)


def test_it_is_a_row_of_the_table_by_configuration_alone(python, files, tmp_path):
    out = tmp_path / "run"
    row = (
        "{label: AWAC, learner: {kind: extending.baseline.AWAC, temperature: 0.5}, batch_size: 16,"
        " backbone: {kind: gaussian, network: {kind: gaussian_actor, hidden: [8]}}}"
    )
    python(
        *("-m", "experiments.dynamics_shift", "--config-dir", CONF, *SMALL, "robot=reach"),
        *("methods=[awac]", f"+baselines.awac={row}", "imports=[extending.dataset]"),
        *(f"robot.shifts.drag={files['north']}", f"robot.target={files['east']}", "shift=drag"),
        *("data.source_trajectories=2", "target.fraction=1", f"hydra.run.dir={out}"),
    )
    rows = results.read([out / "results.jsonl"])
    measured = {row.metric: row.value for row in rows if row.method == "awac"}
    # The robot is this package's too, with the returns that score 0 and 100.
    np.testing.assert_allclose(measured["score"], 100 * (measured["return"] + 8) / 7)
    assert "| AWAC |" in (out / "table.md").read_text()
    policy = psec.load(out / "seed_0" / "agents" / "awac")
    assert policy.backbone.network.hidden == (8,)
