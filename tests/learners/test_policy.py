import jax
import numpy as np
import pytest

from psec_jax import DiffusionBackbone, Optimisation, fingerprint
from psec_jax.learners import PolicyLearner
from psec_jax.training import fit

FAST = Optimisation(steps=150, learning_rate=1e-2, ema_rate=0.1)


def test_a_cloned_policy_acts_like_its_data(gaussian, dataset):
    learner = PolicyLearner(gaussian, FAST)
    state = fit(learner, dataset, steps=150, batch_size=32, key=jax.random.key(0))
    cloned = learner.result(state)

    def distance(policy):
        actions = policy.act(jax.random.key(0), dataset.observations)
        return np.abs(actions - dataset.actions).mean()

    assert distance(cloned) < 0.4 * distance(gaussian)


def test_training_changes_the_parameters_and_nothing_else(policy, dataset, same):
    before = fingerprint(policy)
    learner = PolicyLearner(policy, Optimisation(steps=2, ema_rate=0.5))
    state = fit(learner, dataset, steps=2, batch_size=8, key=jax.random.key(0))
    trained = learner.result(state)
    assert fingerprint(policy) == before
    assert fingerprint(trained) != before
    assert same(trained.statistics, policy.statistics)
    assert trained.backbone == policy.backbone
    assert same(trained.params, state.average)
    changed = jax.tree.map(lambda one, other: np.any(one != other), policy.params, trained.params)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_active_while_training_only(diffusion, dataset, dropout):
    network = diffusion.backbone.network.clone(dropout=dropout)
    policy = diffusion.replace(backbone=DiffusionBackbone(2, network))
    learner = PolicyLearner(policy, Optimisation())
    batch = {name: values[:16] for name, values in dataset.device().items()}
    key = jax.random.key(0)
    _, metrics = jax.jit(learner.update)(learner.init(key, batch), batch, key)
    quiet = jax.jit(policy.loss)(batch, jax.random.split(key)[0]).mean()
    assert np.isclose(metrics["loss"], quiet, rtol=1e-5) == (dropout == 0.0)
