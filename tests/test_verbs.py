import dataclasses

import jax
import numpy as np
import pytest

from psec_jax import (
    Adapter,
    GaussianBackbone,
    Optimisation,
    SkillLibrary,
    Statistics,
    TransitionDataset,
    compose,
    compose_policies,
    fingerprint,
    learn_skill,
    pretrain,
)
from psec_jax.networks import GaussianActor

KEY = jax.random.key(9)
BACKBONE = GaussianBackbone(2, GaussianActor(2, hidden=(8, 8)))
FAST = Optimisation(learning_rate=0.03, ema_rate=0.5)
SHORT = {"steps": 4, "key": KEY, "batch_size": 16, "optimisation": FAST}


@pytest.fixture(scope="module")
def base(dataset):
    return pretrain(dataset, backbone=BACKBONE, **SHORT)


@pytest.fixture(scope="module")
def skills(base, dataset):
    return {
        name: learn_skill(base, dataset, rank=rank, **{**SHORT, "key": jax.random.key(rank)})
        for name, rank in (("walk", 2), ("run", 3))
    }


@pytest.fixture
def shelf(tmp_path, base, skills):
    """A library with both skills."""
    shelf = SkillLibrary.create(tmp_path / "library", base)
    for name, skill in skills.items():
        shelf.add(name, skill)
    return shelf


def other_robot(dataset):
    d = dataset
    observations = np.zeros((60, 6))
    return TransitionDataset(observations, d.actions, d.rewards, d.terminations, d.truncations)


def test_the_same_key_gives_the_same_bits_and_another_key_others(base, skills, dataset, same):
    def both(seed):
        policy = pretrain(dataset, backbone=BACKBONE, **{**SHORT, "key": jax.random.key(seed)})
        skill = learn_skill(base, dataset, rank=2, **{**SHORT, "key": jax.random.key(seed)})
        return policy.params, dict(skill.deltas)

    again, other = both(9)[0], both(10)
    assert same(again, base.params)
    assert same(both(2)[1], dict(skills["walk"].deltas))
    assert not same(other[0], base.params)
    assert not same(other[1], dict(skills["walk"].deltas))


def test_learning_and_composing_leave_the_base_and_the_library_as_they_are(
    shelf, base, dataset, same, tree_of
):
    before, files = jax.device_get(base), tree_of(shelf.path)
    skill = learn_skill(base, dataset, rank=2, **SHORT)
    agent = compose(shelf, dataset, hidden=(8,), **SHORT)
    assert same(base, before)
    assert same(agent.base.replace(bank=None), before)
    assert same(agent.base.bank, shelf.bank())
    assert tree_of(shelf.path) == files
    assert skill.base == fingerprint(base)
    shelf.add("third", skill)
    assert shelf.names() == ("run", "third", "walk")


def test_learning_lowers_the_loss(base, dataset):
    losses = []

    class Losses:
        def write(self, label, step, metrics):
            losses.append((label, step, metrics["loss"]))

    optimisation = Optimisation(learning_rate=0.01)
    learn_skill(
        base,
        dataset,
        rank=2,
        steps=200,
        key=KEY,
        optimisation=optimisation,
        chunk=50,
        label="walk",
        writer=Losses(),
    )
    assert [(label, step) for label, step, _ in losses] == [
        ("walk", step) for step in (50, 100, 150, 200)
    ]
    assert losses[-1][2] < losses[0][2] - 0.2


def test_a_new_policy_normalises_by_its_data_unless_told_otherwise(base, dataset, same):
    normalised = base.statistics.normalise(dataset.observations)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(axis=0), 1, rtol=1e-4)
    given = Statistics.identity(5)
    policy = pretrain(dataset, backbone=BACKBONE, statistics=given, **SHORT)
    assert same(policy.statistics, given)


def test_rank_is_a_short_cut_for_an_adapter(base, skills, dataset, same):
    options = {**SHORT, "key": jax.random.key(3)}
    spelt_out = learn_skill(base, dataset, adapter=Adapter(rank=3), **options)
    assert same(dict(spelt_out.deltas), dict(skills["run"].deltas))
    assert spelt_out.adapter == skills["run"].adapter
    full = learn_skill(base, dataset, adapter=Adapter("full"), **options)
    assert full.adapter.kind == "full"
    assert learn_skill(base, dataset, **options).adapter == Adapter()
    with pytest.raises(ValueError, match="give rank or adapter, not both"):
        learn_skill(base, dataset, rank=8, adapter=Adapter(rank=8), **options)


def test_the_learning_rate_falls_over_the_steps_of_the_verb(base, skills, dataset, same):
    longer = dataclasses.replace(FAST, steps=1000)
    options = {**SHORT, "key": jax.random.key(2), "optimisation": longer}
    assert same(
        dict(learn_skill(base, dataset, rank=2, **options).deltas), dict(skills["walk"].deltas)
    )


def test_looking_in_on_the_way_changes_nothing(base, skills, dataset, same):
    seen = []
    skill = learn_skill(
        base,
        dataset,
        rank=2,
        every=3,
        inspect=lambda step, skill: seen.append((step, skill)),
        **{**SHORT, "key": jax.random.key(2)},
    )
    assert [step for step, _ in seen] == [3, 4]
    assert same(dict(skill.deltas), dict(skills["walk"].deltas))
    assert same(dict(seen[-1][1].deltas), dict(skill.deltas))
    assert not same(dict(seen[0][1].deltas), dict(skill.deltas))


@pytest.mark.parametrize("level", ["parameter", "action"])
def test_weights_depend_on_the_state_with_context_only(shelf, dataset, level):
    aware, constant = (
        compose(shelf, dataset, level=level, context=context, hidden=(8,), **SHORT)
        for context in (True, False)
    )
    assert np.ptp(aware.weights(dataset.observations), axis=0).min() > 1e-4
    weights = constant.weights(dataset.observations)
    assert np.ptp(weights, axis=0).max() == 0
    assert np.abs(weights - 0.5).min() > 1e-3


def test_the_skills_asked_for_are_mixed_in_that_order(shelf, dataset):
    assert compose(shelf, dataset, hidden=(8,), **SHORT).names == ("run", "walk")
    chosen = compose(shelf, dataset, skills=["walk"], hidden=(8,), **SHORT)
    assert chosen.names == ("walk",)
    assert chosen.weights(dataset.observations).shape == (60, 1)
    with pytest.raises(KeyError, match="no skill 'fly'"):
        compose(shelf, dataset, skills=["fly"], **SHORT)


def test_merged_skills_are_composed_like_those_of_the_library(shelf, base, dataset, same):
    policies = {name: base.with_bank(shelf.bank([name])).merged() for name in shelf.names()}
    options = {"level": "action", "hidden": (8,), **SHORT}
    of_library = compose(shelf, dataset, **options)
    of_policies = compose_policies(base, policies, dataset, **options)
    assert of_policies.names == ("run", "walk")
    np.testing.assert_allclose(
        of_policies.weights(dataset.observations),
        of_library.weights(dataset.observations),
        atol=1e-5,
    )


def test_data_of_another_robot_are_refused_by_every_verb(shelf, base, dataset):
    alien = other_robot(dataset)
    message = r"sizes \(6, 2\), but the policy was made for \(5, 2\); use data of the same robot"
    for verb in (
        lambda: pretrain(alien, backbone=BACKBONE, statistics=base.statistics, **SHORT),
        lambda: learn_skill(base, alien, **SHORT),
        lambda: compose(shelf, alien, **SHORT),
        lambda: compose_policies(base, {"a": base}, alien, level="action", **SHORT),
    ):
        with pytest.raises(ValueError, match=message):
            verb()
    with pytest.raises(ValueError, match=r"sizes \(5, 2\), but the policy .* \(5, 3\)"):
        pretrain(dataset, backbone=GaussianBackbone(3), **SHORT)


def test_no_steps_are_refused(base, dataset):
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        learn_skill(base, dataset, **{**SHORT, "steps": 0})
