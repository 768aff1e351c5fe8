import jax
import numpy as np

from psec_jax import DiffusionBackbone, Optimizer
from psec_jax.learners import PolicyLearner
from psec_jax.policies import fingerprint
from psec_jax.training import Training, fit

KEY = jax.random.key(0)


def test_a_cloned_policy_acts_like_its_data(gaussian, dataset):
    learner = PolicyLearner(gaussian, Optimizer(steps=200, learning_rate=1e-2, ema_rate=0.1))
    cloned = learner.result(fit(learner, dataset, key=KEY, training=Training(200, 32)))

    def distance(policy):
        return np.abs(policy.act(KEY, dataset.observations) - dataset.actions).mean()

    assert distance(cloned) < 0.4 * distance(gaussian)


def test_training_changes_every_parameter_and_nothing_else(policy, dataset, same):
    before = jax.device_get(policy), fingerprint(policy)
    learner = PolicyLearner(policy, Optimizer(steps=2, ema_rate=0.5))
    state = fit(learner, dataset, key=KEY, training=Training(2, 32))
    trained = learner.result(state)
    assert same(policy, before[0])
    assert same(trained.params, state.average)
    assert same(trained.statistics, policy.statistics)
    assert trained.backbone == policy.backbone
    assert fingerprint(trained) != before[1] == fingerprint(policy)
    changed = jax.tree.map(lambda one, other: np.any(one != other), policy.params, trained.params)
    assert all(jax.tree.leaves(changed))


def test_dropout_is_active_while_training(diffusion, dataset):
    """With every unit of the only block dropped, its layers have no gradient."""
    network = diffusion.backbone.network.clone(dropout=1.0)
    policy = diffusion.replace(backbone=DiffusionBackbone(2, network))
    learner = PolicyLearner(policy, Optimizer(weight_decay=0.0))
    batch = {name: values[:16] for name, values in dataset.columns(learner.columns).items()}
    state, _ = jax.jit(learner.update)(learner.init(KEY, batch), batch, KEY)
    kernel = "block_0", "up", "kernel"
    before, after = policy.params, state.params
    for part in kernel:
        before, after = before[part], after[part]
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(policy.params["in"]["kernel"], state.params["in"]["kernel"])
