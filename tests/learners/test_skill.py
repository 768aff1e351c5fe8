import jax
import numpy as np
import pytest

from psec_jax import Adapter, Bank, DiffusionBackbone, Optimizer
from psec_jax.learners import SkillLearner
from psec_jax.policies import fingerprint
from psec_jax.training import Training, fit

KEY = jax.random.key(2)
ADAPTERS = {"low_rank": Adapter(rank=2, scale=2.0), "full": Adapter("full", scale=2.0)}

each_kind = pytest.mark.parametrize("kind", ADAPTERS)
either = pytest.mark.parametrize(
    ("policy", "kind"), [("diffusion", "low_rank"), ("gaussian", "full")], indirect=["policy"]
)


def learn(policy, data, adapter, steps, **settings):
    learner = SkillLearner(policy, adapter, Optimizer(steps=steps, **settings))
    state = fit(learner, data, key=KEY, training=Training(steps, 32))
    return learner.result(state, dataset="toy")


@either
def test_before_the_first_update_a_skill_is_its_base(policy, dataset, observations, kind):
    learner = SkillLearner(policy, ADAPTERS[kind], Optimizer(steps=5))
    newborn = learner.result(learner.init(KEY, {}))
    carrying = policy.with_bank(Bank.of({"newborn": newborn}))
    np.testing.assert_allclose(
        carrying.act(KEY, observations), policy.act(KEY, observations), atol=1e-6
    )


@either
def test_learning_a_skill_leaves_its_base_and_other_skills_as_they_are(
    policy, dataset, make_bank, same, kind
):
    base, bank, hash_ = jax.device_get(policy), make_bank(policy), fingerprint(policy)
    others = jax.device_get(bank)
    skill = learn(policy, dataset, ADAPTERS[kind], 3)
    assert same(policy, base)
    assert same(bank, others)
    assert skill.base == fingerprint(policy) == hash_
    assert skill.provenance == {"dataset": "toy"}
    assert any(np.any(leaf) for leaf in jax.tree.leaves(skill.deltas))


@each_kind
def test_a_skill_acts_like_its_data(gaussian, dataset, kind):
    skill = learn(gaussian, dataset, ADAPTERS[kind], 200, learning_rate=1e-2, ema_rate=0.1)

    def distance(policy):
        return np.abs(policy.act(KEY, dataset.observations) - dataset.actions).mean()

    carrying = gaussian.with_bank(Bank.of({"skill": skill}))
    assert distance(carrying) < 0.7 * distance(gaussian)


@pytest.mark.parametrize(
    ("adapter", "layers"),
    [
        (Adapter(rank=1, targets="in|block_0/up"), {"in", "block_0/up"}),
        (Adapter(rank=1), {"in", "block_0/up", "block_0/down", "out"}),
    ],
)
def test_a_skill_lives_in_its_target_layers_only(diffusion, adapter, layers):
    """By default those of a denoiser's time embedding are left alone."""
    learner = SkillLearner(diffusion, adapter, Optimizer())
    assert set(learner.init(KEY, {}).params) == layers


def test_what_has_been_learned_is_the_average(gaussian, same):
    learner = SkillLearner(gaussian, ADAPTERS["low_rank"], Optimizer())
    state = learner.init(KEY, {})
    state = state.replace(average=jax.tree.map(lambda leaf: leaf + 1, state.average))
    assert same(learner.result(state).deltas, state.average)


def test_dropout_is_active_while_learning(diffusion, dataset):
    """With every unit of the only block dropped, its layers have no gradient."""
    network = diffusion.backbone.network.clone(dropout=1.0)
    policy = diffusion.replace(backbone=DiffusionBackbone(2, network))
    learner = SkillLearner(policy, Adapter("full"), Optimizer(weight_decay=0.0))
    batch = {name: values[:16] for name, values in dataset.columns(learner.columns).items()}
    state, _ = jax.jit(learner.update)(learner.init(KEY, batch), batch, KEY)
    assert not np.any(state.params["block_0/up"].kernels)
    assert np.any(state.params["in"].kernels)


def test_skills_of_several_seeds_can_be_learned_at_once(gaussian, dataset):
    learner = SkillLearner(gaussian, ADAPTERS["low_rank"], Optimizer(steps=2))
    batch = {name: values[:16] for name, values in dataset.columns(learner.columns).items()}

    @jax.jit
    def first_update(key):
        return learner.update(learner.init(key, batch), batch, key)[0].params

    keys = jax.random.split(KEY, 3)
    together = jax.vmap(first_update)(keys)
    for index, key in enumerate(keys):
        alone = first_update(key)
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one[index], other, atol=1e-5)
