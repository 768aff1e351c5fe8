import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from psec_jax import (
    Adapter,
    AdvantageWeights,
    GaussianBackbone,
    Optimizer,
    Return,
    SkillLibrary,
    Statistics,
    TransitionDataset,
    compose,
    compose_policies,
    fingerprint,
    improve,
    learn_skill,
    learn_skills,
    pretrain,
)
from psec_jax.learners import DiscountedCost
from psec_jax.networks import ContextNetwork, Critic, GaussianActor

KEY = jax.random.key(9)
BACKBONE = GaussianBackbone(2, GaussianActor(2, hidden=(8, 8)))
FAST = Optimizer(learning_rate=0.03, ema_rate=0.5)
SHORT = {"steps": 4, "key": KEY, "batch_size": 16, "optimizer": FAST}


@pytest.fixture(scope="module")
def base(dataset):
    return pretrain(dataset, backbone=BACKBONE, **SHORT)


@pytest.fixture(scope="module")
def skills(base, dataset):
    return {
        name: learn_skill(base, dataset, rank=rank, **{**SHORT, "key": jax.random.key(rank)})
        for name, rank in (("walk", 2), ("run", 3))
    }


@pytest.fixture(scope="module")
def costly(dataset):
    return dataclasses.replace(dataset, costs=np.random.default_rng(2).uniform(size=60))


WEIGHS = {"fast": AdvantageWeights(), "careful": AdvantageWeights("cost", 1.0), "plain": None}


@pytest.fixture(scope="module")
def guided(base, costly):
    """Three skills with two critics."""
    objectives = {"return": Return(), "cost": DiscountedCost()}
    return learn_skills(base, costly, skills=WEIGHS, objectives=objectives, **SHORT)


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
    agent = compose(shelf, dataset, context=ContextNetwork(2, (8,)), **SHORT)
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

    optimizer = Optimizer(learning_rate=0.01)
    learn_skill(
        base,
        dataset,
        rank=2,
        steps=200,
        key=KEY,
        optimizer=optimizer,
        chunk=50,
        label="walk",
        writer=Losses(),
    )
    assert [(label, step) for label, step, _ in losses] == [
        ("walk", step) for step in (50, 100, 150, 200)
    ]
    assert losses[-1][2] < losses[0][2] - 0.2


def test_a_new_policy_normalizes_by_its_data_unless_told_otherwise(base, dataset, same):
    normalized = base.statistics.normalize(dataset.observations)
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=0), 1, rtol=1e-4)
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
    options = {**SHORT, "key": jax.random.key(2), "optimizer": longer}
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
        compose(shelf, dataset, level=level, context=context, **SHORT)
        for context in (ContextNetwork(2, (8,)), False)
    )
    assert np.ptp(aware.weights(dataset.observations), axis=0).min() > 1e-4
    weights = constant.weights(dataset.observations)
    assert np.ptp(weights, axis=0).max() == 0
    assert np.abs(weights - 0.5).min() > 1e-3


def test_constants_that_could_not_be_trained_are_said(shelf, dataset):
    slow = {**SHORT, "optimizer": Optimizer(1e-3), "steps": 300}
    with pytest.warns(UserWarning, match=r"in 300 updates at learning rate 0.001 .* at most 0.15"):
        compose(shelf, dataset, level="action", context=False, **slow)


def test_the_module_that_gives_the_weights_may_be_the_users_own(shelf, dataset):
    class Halves(nn.Module):
        @nn.compact
        def __call__(self, observations):
            return jnp.tile(observations[:, :1] > 0, (1, 2)) * self.param(
                "w", lambda _: jnp.ones(2)
            )

    agent = compose(shelf, dataset, context=Halves(), **SHORT)
    weights = np.asarray(agent.weights(dataset.observations))
    positive = np.asarray(agent.base.statistics.normalize(dataset.observations))[:, 0] > 0
    assert (weights[~positive] == 0).all() and (weights[positive] != 0).all()


def test_the_skills_asked_for_are_mixed_in_that_order(shelf, dataset):
    both = compose(shelf, dataset, context=ContextNetwork(2, (8,)), **SHORT)
    assert both.names == ("run", "walk")
    chosen = compose(shelf, dataset, skills=["walk"], context=ContextNetwork(1, (8,)), **SHORT)
    assert chosen.names == ("walk",)
    assert chosen.weights(dataset.observations).shape == (60, 1)
    with pytest.raises(KeyError, match="no skill 'fly'"):
        compose(shelf, dataset, skills=["fly"], **SHORT)


def test_merged_skills_are_composed_like_those_of_the_library(shelf, base, dataset, same):
    policies = {name: base.with_bank(shelf.bank([name])).merged() for name in shelf.names()}
    options = {"level": "action", "context": ContextNetwork(2, (8,)), **SHORT}
    of_library = compose(shelf, dataset, **options)
    of_policies = compose_policies(base, policies, dataset, **options)
    assert of_policies.names == ("run", "walk")
    np.testing.assert_allclose(
        of_policies.weights(dataset.observations),
        of_library.weights(dataset.observations),
        atol=1e-5,
    )


def test_offline_skills_and_critics_come_by_the_names_that_were_asked_for(
    guided, base, shelf, same
):
    skills, critics = guided
    assert list(skills) == list(WEIGHS)
    better = {name: critic.greater_is_better for name, critic in critics.items()}
    assert better == {"return": True, "cost": False}
    for name, skill in skills.items():
        shelf.add(name, skill)
        found = shelf.get(name)
        assert same(dict(found.deltas), dict(skill.deltas))
        assert found.base == fingerprint(base)
        assert found.adapter == Adapter()
        facts = {"steps": 4, "batch_size": 16, "weights": str(WEIGHS[name])}
        assert found.provenance.items() >= facts.items()


def test_offline_skills_are_weighed_as_is_asked_for(base, dataset):
    """Under one name, and so from the same start."""

    def deltas(**options):
        return dict(learn_skills(base, dataset, **options, **SHORT)[0]["skill"].deltas)

    weighed, plain = deltas(), deltas(skills={"skill": None})
    distance = jax.tree.map(lambda a, b: np.abs(a - b).max(), weighed, plain)
    assert max(jax.tree.leaves(distance)) > 1e-3


def test_by_default_one_skill_is_weighed_by_its_advantage_in_the_return(base, dataset, same):
    skills, critics = learn_skills(base, dataset, **SHORT)
    spelt_out = learn_skills(
        base,
        dataset,
        skills={"skill": AdvantageWeights("return", 3.0, 100.0)},
        objectives={"return": Return.scaled_to(dataset, 0.25, 0.99)},
        adapter=Adapter(),
        critic_optimizer=Optimizer(3e-4, weight_decay=0.0, ema_rate=0.005),
        expectile=0.7,
        **SHORT,
    )
    assert list(skills) == ["skill"]
    assert list(critics) == ["return"]
    assert same(dict(skills["skill"].deltas), dict(spelt_out[0]["skill"].deltas))
    assert same(critics, spelt_out[1])


def test_each_critic_may_have_an_expectile_of_its_own(base, costly, same):
    objectives = {"return": Return(), "cost": DiscountedCost()}

    def critics(expectile):
        return learn_skills(base, costly, objectives=objectives, expectile=expectile, **SHORT)[1]

    low, high = critics(0.5), critics(0.9)
    mixed = critics({"return": 0.5, "cost": 0.9})
    assert not same(low["cost"], high["cost"])
    assert same(mixed["return"], low["return"]) and same(mixed["cost"], high["cost"])
    with pytest.raises(ValueError, match=r"expectile names \['return'\], but the critics are"):
        critics({"return": 0.5})


def test_v_alone_may_have_another_network(base, dataset):
    _, critics = learn_skills(base, dataset, value_network=Critic((7,)), **SHORT)
    found = critics["return"]
    assert found.value_params["hidden_0"]["kernel"].shape == (5, 7)
    assert found.q_params["hidden_0"]["kernel"].shape == (2, 7, 256)
    assert found.value(dataset.observations).shape == (60,)


def test_offline_skills_leave_their_base_as_it_is(guided, base, dataset, same):
    """The fixture that made it has run by now."""
    assert same(base, pretrain(dataset, backbone=BACKBONE, **SHORT))


def test_looking_in_on_offline_learning_shows_skills_and_critics(base, dataset):
    seen = []
    learn_skills(base, dataset, every=2, inspect=lambda *shown: seen.append(shown), **SHORT)
    assert [step for step, _ in seen] == [2, 4]
    for _, (skills, critics) in seen:
        assert list(skills) == ["skill"]
        assert list(critics) == ["return"]


def test_improving_starts_from_the_given_policy_and_leaves_it_as_it_is(base, dataset, same):
    """Adam moves no parameter by much more than its learning rate at once."""
    before = jax.device_get(base)
    improved, critics = improve(base, dataset, **SHORT)
    assert list(critics) == ["return"]
    assert same(base, before)
    assert same(improved.statistics, base.statistics)
    assert improved.backbone == base.backbone
    assert improved.bank is None
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), improved.params, base.params)
    assert 0.001 < min(jax.tree.leaves(moved)) <= max(jax.tree.leaves(moved)) < 4 * 0.04


def test_improving_is_by_the_weights_that_are_asked_for(base, dataset, same):
    even, _ = improve(base, dataset, weigh=AdvantageWeights(temperature=0.0), **SHORT)
    default, _ = improve(base, dataset, **SHORT)
    spelt_out, _ = improve(base, dataset, weigh=AdvantageWeights(), **SHORT)
    assert same(default, spelt_out)
    assert not same(default, even)


@pytest.mark.parametrize("verb", ["compose", "compose_policies"])
def test_samples_are_weighed_by_critics_while_composing(shelf, base, costly, guided, same, verb):
    _, critics = guided
    before = jax.device_get(critics)

    def weights(**options):
        options = {"level": "action", "context": ContextNetwork(2, (8,)), **SHORT, **options}
        if verb == "compose":
            agent = compose(shelf, costly, **options)
        else:
            policies = {n: base.with_bank(shelf.bank([n])).merged() for n in shelf.names()}
            agent = compose_policies(base, policies, costly, **options)
        return np.asarray(agent.weights(costly.observations))

    unweighed = weights()
    even = weights(critics=critics, weigh=AdvantageWeights(temperature=0.0))
    careful = weights(critics=critics, weigh=AdvantageWeights("cost", 10.0))
    np.testing.assert_allclose(even, unweighed, atol=1e-4)
    assert np.abs(careful - unweighed).max() > 1e-3
    assert same(critics, before)
    for missing in (None, {}):
        with pytest.raises(ValueError, match="weigh needs critics; learn them with learn_skills"):
            weights(critics=missing, weigh=AdvantageWeights())


def test_data_of_another_robot_are_refused_by_every_verb(shelf, base, dataset):
    alien = other_robot(dataset)
    message = r"sizes \(6, 2\), but the policy was made for \(5, 2\); use data of the same robot"
    for verb in (
        lambda: pretrain(alien, backbone=BACKBONE, statistics=base.statistics, **SHORT),
        lambda: learn_skill(base, alien, **SHORT),
        lambda: learn_skills(base, alien, **SHORT),
        lambda: improve(base, alien, **SHORT),
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


def test_critics_that_weigh_nothing_are_refused(shelf, dataset, guided):
    with pytest.raises(ValueError, match="critics weigh nothing without weigh"):
        compose(shelf, dataset, critics=guided[1], **SHORT)


def test_a_skills_name_is_one_that_a_library_takes(base, dataset):
    with pytest.raises(ValueError, match="skill name 'critic return' is not allowed"):
        learn_skills(base, dataset, skills={"critic return": None}, **SHORT)
