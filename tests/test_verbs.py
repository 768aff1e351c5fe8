import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from psec_jax import (
    Adapter,
    Composer,
    GaussianBackbone,
    Guidance,
    Optimizer,
    SkillLibrary,
    Statistics,
    Training,
    TransitionDataset,
    compose,
    improve,
    learn_skill,
    learn_skills,
    pretrain,
)
from psec_jax.learners.objectives import DiscountedCost, Return
from psec_jax.learners.weights import AdvantageWeights
from psec_jax.networks import ContextNetwork, Critic, GaussianActor
from psec_jax.policies import fingerprint

KEY = jax.random.key(9)
BACKBONE = GaussianBackbone(2, GaussianActor(2, hidden=(8, 8)))
FAST = Optimizer(learning_rate=0.03, ema_rate=0.5)
SHORT = Training(4, 16, FAST)
HOW = {"key": KEY, "training": SHORT}


@pytest.fixture(scope="module")
def base(dataset):
    return pretrain(dataset, backbone=BACKBONE, **HOW)


@pytest.fixture(scope="module")
def skills(base, dataset):
    return {"walk": skill_of(base, dataset, 2), "run": skill_of(base, dataset, 3)}


def skill_of(base, data, rank, **training):
    training = dataclasses.replace(SHORT, **training)
    key, adapter = jax.random.key(rank), Adapter(rank=rank)
    return learn_skill(base, data, key=key, training=training, adapter=adapter)


@pytest.fixture(scope="module")
def costly(dataset):
    return dataclasses.replace(dataset, costs=np.random.default_rng(2).uniform(size=60))


BOTH = {"return": Return(), "cost": DiscountedCost()}
WEIGHS = {"fast": AdvantageWeights(), "careful": AdvantageWeights("cost", 1.0), "plain": None}


@pytest.fixture(scope="module")
def guided(base, costly):
    """Three skills with two critics."""
    return learn_skills(base, costly, guidance=Guidance(BOTH, WEIGHS), **HOW)


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
        how = {"key": jax.random.key(seed), "training": SHORT}
        policy = pretrain(dataset, backbone=BACKBONE, **how)
        skill = learn_skill(base, dataset, adapter=Adapter(rank=2), **how)
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
    skill = skill_of(base, dataset, 2)
    agent = compose(shelf, dataset, composer=ContextNetwork(2, (8,)), **HOW)
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
    training = Training(200, 256, optimizer, label="walk", writer=Losses(), chunk=50)
    learn_skill(base, dataset, key=KEY, training=training, adapter=Adapter(rank=2))
    assert [(label, step) for label, step, _ in losses] == [
        ("walk", step) for step in (50, 100, 150, 200)
    ]
    assert losses[-1][2] < losses[0][2] - 0.2


def test_a_new_policy_normalizes_by_its_data_unless_told_otherwise(base, dataset, same):
    normalized = base.statistics.normalize(dataset.observations)
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=0), 1, rtol=1e-4)
    given = Statistics.identity(5)
    policy = pretrain(dataset, backbone=BACKBONE, statistics=given, **HOW)
    assert same(policy.statistics, given)


def test_a_skill_is_of_the_adapter_that_was_asked_for(base, skills, dataset):
    assert skills["run"].adapter == Adapter(rank=3)
    full = learn_skill(base, dataset, adapter=Adapter("full"), **HOW)
    assert full.adapter == Adapter("full")
    assert learn_skill(base, dataset, **HOW).adapter == Adapter()


VERBS = {
    "pretrain": lambda given, data, **options: pretrain(data, **options),
    "learn_skill": lambda given, data, **options: learn_skill(given["base"], data, **options),
    "learn_skills": lambda given, data, **options: learn_skills(given["base"], data, **options),
    "improve": lambda given, data, **options: improve(given["base"], data, **options),
    "compose": lambda given, data, **options: compose(given["library"], data, **options),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_word_is_refused_by_the_verb_that_was_called(shelf, base, dataset, verb):
    with pytest.raises(
        TypeError, match=rf"^{verb}\(\) got an unexpected keyword argument 'steps'"
    ):
        VERBS[verb]({"base": base, "library": shelf}, dataset, steps=3, **HOW)


def test_the_learning_rate_falls_over_the_steps_of_the_verb(base, skills, dataset, same):
    longer = skill_of(base, dataset, 2, optimizer=dataclasses.replace(FAST, steps=1000))
    assert same(dict(longer.deltas), dict(skills["walk"].deltas))


def test_looking_in_on_the_way_changes_nothing(base, skills, dataset, same):
    seen = []
    skill = skill_of(base, dataset, 2, every=3, inspect=lambda *shown: seen.append(shown))
    assert [step for step, _ in seen] == [3, 4]
    assert same(dict(skill.deltas), dict(skills["walk"].deltas))
    assert same(dict(seen[-1][1].deltas), dict(skill.deltas))
    assert not same(dict(seen[0][1].deltas), dict(skill.deltas))


@pytest.mark.parametrize("level", ["parameter", "action"])
def test_weights_depend_on_the_state_with_context_only(shelf, dataset, level):
    aware, constant = (
        compose(shelf, dataset, composer=Composer(weights, level), **HOW)
        for weights in (ContextNetwork(2, (8,)), "constant")
    )
    assert np.ptp(aware.weights(dataset.observations), axis=0).min() > 1e-4
    weights = constant.weights(dataset.observations)
    assert weights.shape == (2,)
    assert np.abs(weights - 0.5).min() > 1e-3


def test_constants_that_could_not_be_trained_are_said(shelf, dataset):
    slow, composer = Training(300, 16, Optimizer(1e-3)), Composer("constant", "action")
    said = r"in 300 updates at learning rate 0.001 .* at most 0.15"
    with pytest.warns(UserWarning, match=said) as warned:
        compose(shelf, dataset, key=KEY, training=slow, composer=composer)
    assert warned[0].filename == __file__


def test_the_module_that_gives_the_weights_may_be_the_users_own(shelf, dataset):
    class Halves(nn.Module):
        @nn.compact
        def __call__(self, observations):
            return jnp.tile(observations[:, :1] > 0, (1, 2)) * self.param(
                "w", lambda _: jnp.ones(2)
            )

    agent = compose(shelf, dataset, composer=Halves(), **HOW)
    weights = np.asarray(agent.weights(dataset.observations))
    positive = np.asarray(agent.base.statistics.normalize(dataset.observations))[:, 0] > 0
    assert (weights[~positive] == 0).all() and (weights[positive] != 0).all()


def test_the_skills_asked_for_are_mixed_in_that_order(shelf, base, dataset):
    for parts in (shelf, base.with_bank(shelf.bank()), separate(shelf)):
        for names in (None, ["walk"], ["walk", "run"]):
            level = "action" if isinstance(parts, dict) else "parameter"
            composer = Composer("constant", level)
            agent = compose(parts, dataset, skills=names, composer=composer, **HOW)
            assert agent.names == tuple(names or ("run", "walk"))
            assert agent.weights(dataset.observations).shape == (60, len(agent.names))
        with pytest.raises(KeyError, match=r"no (skill|policy) 'fly'"):
            compose(parts, dataset, skills=["fly"], composer=composer, **HOW)


def separate(library):
    """The library's policies, with each skill merged into a policy of its own."""
    base, names = library.base, library.names()
    policies = {name: base.with_bank(library.bank([name])).merged() for name in names}
    return {**policies, "base": base}


def test_a_policy_that_carries_a_bank_is_composed_like_its_library(shelf, base, dataset, same):
    composer = ContextNetwork(2, (8,))
    of_library = compose(shelf, dataset, composer=composer, **HOW)
    names = ["walk", "run"]
    carrying = base.with_bank(shelf.bank(names))
    assert same(
        compose(carrying, dataset, skills=["run", "walk"], composer=composer, **HOW), of_library
    )
    turned = compose(shelf, dataset, skills=names, composer=composer, **HOW)
    assert same(compose(carrying, dataset, composer=composer, **HOW), turned)


def test_merged_skills_are_composed_like_those_of_the_library(shelf, dataset):
    composer = Composer(ContextNetwork(2, (8,)), "action")
    of_library = compose(shelf, dataset, composer=composer, **HOW)
    of_policies = compose(separate(shelf), dataset, composer=composer, **HOW)
    assert of_policies.names == of_library.names
    np.testing.assert_allclose(
        of_policies.weights(dataset.observations),
        of_library.weights(dataset.observations),
        atol=1e-5,
    )


def test_what_cannot_be_composed_is_refused(shelf, base, dataset):
    policies = separate(shelf)
    for parts, message in (
        (base, "nothing to compose: the policy carries no bank"),
        ({"base": base}, "nothing to compose: 'base' is the only policy"),
        ({"walk": policies["walk"]}, r"\['walk'\] have no entry 'base', which is π₀"),
        (policies, "separate policies share no kernels; use level 'noise' or 'action'"),
        (shelf.bank(), "compose takes a SkillLibrary, a Policy .* not Bank"),
    ):
        with pytest.raises(ValueError, match=message):
            compose(parts, dataset, **HOW)


def test_a_name_or_a_module_is_short_for_a_composer(shelf, dataset, same):
    for weights in ("context", "constant", ContextNetwork(2, (8,))):
        short = compose(shelf, dataset, composer=weights, **HOW)
        assert same(short, compose(shelf, dataset, composer=Composer(weights), **HOW))
    for unknown in ("prototypes", True, None):
        with pytest.raises(ValueError, match=f"composer weights {unknown!r} are unknown; use one"):
            compose(shelf, dataset, composer=unknown, **HOW)


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

    def deltas(guidance=None):
        return dict(learn_skills(base, dataset, guidance=guidance, **HOW)[0]["skill"].deltas)

    weighed, plain = deltas(), deltas(Guidance(weights={"skill": None}))
    distance = jax.tree.map(lambda a, b: np.abs(a - b).max(), weighed, plain)
    assert max(jax.tree.leaves(distance)) > 1e-3


def test_by_default_one_skill_is_weighed_by_its_advantage_in_the_return(base, dataset, same):
    skills, critics = learn_skills(base, dataset, **HOW)
    guidance = Guidance(
        {"return": Return.scaled_to(dataset, 0.25, 0.99)},
        {"skill": AdvantageWeights("return", 3.0, 100.0)},
        expectile=0.7,
        optimizer=Optimizer(3e-4, weight_decay=0.0, ema_rate=0.005),
    )
    spelt_out = learn_skills(base, dataset, guidance=guidance, adapter=Adapter(), **HOW)
    assert list(skills) == ["skill"]
    assert list(critics) == ["return"]
    assert same(dict(skills["skill"].deltas), dict(spelt_out[0]["skill"].deltas))
    assert same(critics, spelt_out[1])


def test_each_critic_may_have_an_expectile_of_its_own(base, costly, same):

    def critics(expectile):
        guidance = Guidance(BOTH, expectile=expectile)
        return learn_skills(base, costly, guidance=guidance, **HOW)[1]

    low, high = critics(0.5), critics(0.9)
    mixed = critics({"return": 0.5, "cost": 0.9})
    assert not same(low["cost"], high["cost"])
    assert same(mixed["return"], low["return"]) and same(mixed["cost"], high["cost"])
    with pytest.raises(ValueError, match=r"expectile names \['return'\], but the critics are"):
        critics({"return": 0.5})


def test_v_alone_may_have_another_network(base, dataset):
    guidance = Guidance(value_network=Critic((7,)))
    _, critics = learn_skills(base, dataset, guidance=guidance, **HOW)
    found = critics["return"]
    assert found.value_params["hidden_0"]["kernel"].shape == (5, 7)
    assert found.q_params["hidden_0"]["kernel"].shape == (2, 7, 256)
    assert found.value(dataset.observations).shape == (60,)


def test_offline_skills_leave_their_base_as_it_is(guided, base, dataset, same):
    """The fixture that made it has run by now."""
    assert same(base, pretrain(dataset, backbone=BACKBONE, **HOW))


def test_looking_in_on_offline_learning_shows_skills_and_critics(base, dataset, same):
    seen = []
    watched = dataclasses.replace(SHORT, every=2, inspect=lambda *shown: seen.append(shown))
    _, last = learn_skills(base, dataset, key=KEY, training=watched)
    assert [step for step, _ in seen] == [2, 4]
    assert same(seen[-1][1][1], last)
    for _, (skills, critics) in seen:
        assert list(skills) == ["skill"]
        assert list(critics) == ["return"]


def test_improving_starts_from_the_given_policy_and_leaves_it_as_it_is(base, dataset, same):
    """Adam moves no parameter by much more than its learning rate at once."""
    before = jax.device_get(base)
    improved, critics = improve(base, dataset, **HOW)
    assert list(critics) == ["return"]
    assert same(base, before)
    assert same(improved.statistics, base.statistics)
    assert improved.backbone == base.backbone
    assert improved.bank is None
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), improved.params, base.params)
    assert 0.001 < min(jax.tree.leaves(moved)) <= max(jax.tree.leaves(moved)) < 4 * 0.04


def test_improving_is_by_the_weights_that_are_asked_for(base, dataset, same):

    def improved(weights):
        return improve(base, dataset, guidance=Guidance(weights=weights), **HOW)[0]

    default, _ = improve(base, dataset, **HOW)
    assert same(default, improved(AdvantageWeights()))
    assert not same(default, improved(AdvantageWeights(temperature=0.0)))
    with pytest.raises(ValueError, match=r"improve trains one policy, .* weights of \['fast', 'c"):
        improved(WEIGHS)


@pytest.mark.parametrize("of", ["library", "policies"])
def test_samples_are_weighed_by_critics_while_composing(shelf, costly, guided, same, of):
    _, critics = guided
    before = jax.device_get(critics)
    parts = shelf if of == "library" else separate(shelf)

    def weights(**how):
        composer = Composer(ContextNetwork(2, (8,)), "action", **how)
        agent = compose(parts, costly, composer=composer, **HOW)
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
        lambda: pretrain(alien, backbone=BACKBONE, statistics=base.statistics, **HOW),
        lambda: learn_skill(base, alien, **HOW),
        lambda: learn_skills(base, alien, **HOW),
        lambda: improve(base, alien, **HOW),
        lambda: compose(shelf, alien, **HOW),
        lambda: compose(separate(shelf), alien, composer=Composer(level="action"), **HOW),
    ):
        with pytest.raises(ValueError, match=message):
            verb()
    with pytest.raises(ValueError, match=r"sizes \(5, 2\), but the policy .* \(5, 3\)"):
        pretrain(dataset, backbone=GaussianBackbone(3), **HOW)
