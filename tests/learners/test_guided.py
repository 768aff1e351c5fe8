import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import (
    Adapter,
    Bank,
    DiffusionBackbone,
    GaussianBackbone,
    Guidance,
    Optimizer,
    Policy,
    Statistics,
    TransitionDataset,
    improve,
)
from psec_jax.composition import ComposedPolicy
from psec_jax.learners import (
    ContextLearner,
    CriticLearner,
    Frozen,
    GuidedLearner,
    PolicyLearner,
    SkillLearner,
    Transformation,
)
from psec_jax.learners.objectives import DiscountedCost, Return
from psec_jax.learners.weights import AdvantageWeights, FeasibleWeights, FisorWeights
from psec_jax.networks import ContextNetwork, Critic, Denoiser, GaussianActor
from psec_jax.policies import fingerprint
from psec_jax.training import Training, fit

KEY = jax.random.key(5)
FAST = Optimizer(steps=8, learning_rate=0.03, ema_rate=0.5, weight_decay=0.0)
DESCENT = Transformation(optax.sgd(1e-3), ema_rate=0.5)
SMALL = Critic((8,))


# Weights


@struct.dataclass
class Says:
    """A critic that says what it is told to."""

    advantages: Any = None
    values: Any = None
    costs: Any = None

    def advantage(self, batch):
        return self.advantages

    def value(self, observations):
        return self.values

    def q(self, observations, actions):
        return self.costs


@given(
    arrays.arrays(np.float32, 6, elements=st.floats(-5, 5, width=32)),
    st.floats(0, 10),
    st.floats(1, 200),
)
def test_weights_are_the_exponential_of_the_named_advantage_up_to_a_bound(a, temperature, clip):
    critics = {"return": Says(jnp.asarray(a)), "other": Says(jnp.asarray(-a))}
    for name, sign in (("return", 1), ("other", -1)):
        weights = AdvantageWeights(name, temperature, clip)(critics, {})
        expected = np.minimum(np.exp(temperature * sign * a.astype(np.float64)), clip)
        np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize("clip", [1.0, 100.0, 1e30])
def test_no_advantage_is_too_great_or_too_small_for_a_weight(clip):
    critics = {"return": Says(jnp.array([1e3, 1e20, 3e38, -1e3, -3e38, 0.0]))}
    weights = AdvantageWeights(temperature=3.0, clip=clip)(critics, {})
    np.testing.assert_allclose(weights, [clip, clip, clip, 0, 0, 1], rtol=1e-4)


def test_cheaper_actions_weigh_more_to_a_critic_of_costs(dataset, statistics):
    learner = CriticLearner(statistics, DiscountedCost(), FAST, network=SMALL)

    @jax.jit
    def say(batch):
        critics = learner.result(learner.init(KEY, batch))
        q = critics.q(batch["observations"], batch["actions"])
        weighs = AdvantageWeights("cost", 0.1), FeasibleWeights("cost", 0.1)
        weights = [weigh({"cost": critics}, batch) for weigh in weighs]
        return q < critics.value(batch["observations"]), *weights

    cheaper, weights, feasible = say(dataset.columns(("observations", "actions")))
    assert 0 < np.mean(cheaper) < 1
    np.testing.assert_array_equal(weights > 1, cheaper)
    np.testing.assert_array_equal(feasible > 0, cheaper)


def test_feasible_weights_are_nothing_to_what_is_less_safe_than_its_state():
    """1[A_h < 0] exp(−temp · A_h) up to a bound, with A_h the other way round."""
    a = jnp.array([-3e38, -2.0, -0.1, 0.0, 0.1, 2.0, 3e38])
    weights = FeasibleWeights(temperature=2.0, clip=50.0)({"feasibility": Says(a)}, {})
    expected = [0, 0, 0, 0, np.exp(0.2), 50, 50]
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_fisor_seeks_reward_where_it_is_safe_and_safety_where_it_is_not():
    """Rows: feasible states with actions that stay so, the same with others, other states."""
    values = jnp.array([-0.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5])
    costs = jnp.array([-0.2, -0.2, -0.2, 0.2, -0.2, 0.2, 0.2])
    rewarding = jnp.array([0.3, -0.3, 9.0, 0.3, 0.7, 0.7, 0.7])
    escaping = jnp.array([0.1, 0.1, 0.1, 0.1, 0.4, -0.4, 9.0])
    critics = {"return": Says(rewarding), "feasibility": Says(escaping, values, costs)}
    batch = {"observations": None, "actions": None}
    weights = FisorWeights(temperature=2.0, safety_temperature=4.0, clip=20.0)(critics, batch)
    expected = [np.exp(0.6), np.exp(-0.6), 20, 0, np.exp(1.6), np.exp(-1.6), 20]
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize("weights", [AdvantageWeights, FeasibleWeights, FisorWeights])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0 and finite, not -1.0"),
        ({"temperature": float("inf")}, "temperature must be at least 0 and finite, not inf"),
        ({"temperature": float("nan")}, "temperature must be at least 0 and finite, not nan"),
        ({"clip": 0.5}, "clip must be at least 1, not 0.5"),
        ({"clip": float("nan")}, "clip must be at least 1, not nan"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, settings, message):
    with pytest.raises(ValueError, match=message):
        weights(**settings)


def test_both_temperatures_of_fisor_are_checked():
    with pytest.raises(ValueError, match=r"temperature must be .* not -1\.0"):
        FisorWeights(safety_temperature=-1.0)


def learners(policy, make_bank):
    composed = ComposedPolicy.create(
        policy.with_bank(make_bank(policy)), ContextNetwork(3, (8,)), "parameter", KEY
    )
    return {
        "policy": PolicyLearner(policy, FAST),
        "skill": SkillLearner(policy, Adapter(rank=2), FAST),
        "context": ContextLearner(composed, FAST),
    }


@pytest.mark.parametrize("kind", ["policy", "skill", "context"])
def test_samples_without_weight_might_as_well_be_missing(gaussian, dataset, make_bank, kind):
    """Half the samples at weight 2 and half at 0 have the mean loss of the first half."""
    learner = learners(gaussian, make_bank)[kind]
    half = {n: values[:20] for n, values in dataset.columns(learner.columns).items()}
    other = {n: values[20:40] for n, values in dataset.columns(learner.columns).items()}
    both = {n: jnp.concatenate([half[n], other[n]]) for n in half}
    update = jax.jit(lambda batch: learner.update(learner.init(KEY, batch), batch, KEY))
    expected, plain = update(half)
    found, weighted = update({**both, "weights": jnp.repeat(jnp.array([2.0, 0.0]), 20)})
    assert float(weighted["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-5)
    for one, two in zip(*map(gradients, (found, expected)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)
    even, _ = update({**both, "weights": jnp.ones(40)})
    assert any(
        not np.allclose(one, two, rtol=1e-2)
        for one, two in zip(*map(gradients, (even, expected)), strict=True)
    )


def test_weights_multiply_the_loss(gaussian, dataset):
    learner = SkillLearner(gaussian, Adapter(rank=2), FAST)
    batch = dataset.columns(learner.columns)
    update = jax.jit(lambda batch: learner.update(learner.init(KEY, batch), batch, KEY))
    plain, before = update(batch)
    for share in (0.5, 1.0, 3.0):
        weighted, after = update({**batch, "weights": jnp.full(60, share)})
        assert float(after["loss"]) == pytest.approx(share * float(before["loss"]), rel=1e-5)
        for one, two in zip(*map(gradients, (weighted, plain)), strict=True):
            np.testing.assert_allclose(one, share * two, rtol=1e-3, atol=1e-5)


def gradients(state):
    """The first gradients, from the optimizer's first moments."""
    return jax.tree.leaves(optax.tree_utils.tree_get(state.optimizer, "mu"))


# Who guides whom


@struct.dataclass
class Counts:
    """A critic that has learned the number of its updates."""

    name = "counts"
    columns = ("terminations",)

    def init(self, key, example):
        return jnp.float32(0)

    def update(self, state, batch, key):
        return state + 1, {"loss": 100.0}

    def result(self, state):
        return state


@struct.dataclass
class Notes:
    """A learner that notes its last batch's weights, its last key, and what critic a says."""

    name = "notes"
    columns = ("actions",)

    def init(self, key, example):
        nothing = {"weights": jnp.zeros(60), "critic": jnp.float32(0)}
        return {**nothing, "key": jax.random.key_data(key)}

    def update(self, state, batch, key, critics):
        noted = {"weights": batch["weights"], "critic": critics["a"]}
        noted["key"] = jax.random.key_data(key)
        return noted, {"loss": batch["weights"].sum()}

    def result(self, state):
        return state


def rising(critics, batch):
    return critics["a"] * jnp.arange(60.0)


def thrice(critics, batch):
    return 3 * critics["b"] * jnp.ones(60)


@pytest.fixture(scope="module")
def noting():
    weighs = (("one", rising), ("two", thrice), ("plain", None))
    return GuidedLearner({"a": Counts(), "b": Counts()}, Notes(), weighs)


def test_each_copy_is_weighed_its_own_way_by_critics_that_have_moved(noting, dataset):
    batch = dataset.columns(noting.columns)
    assert set(batch) == {"terminations", "actions"}
    state = noting.init(KEY, batch)
    for count in (1, 2):
        state, metrics = noting.update(state, batch, KEY)
        learned, critics = noting.result(state)
        assert critics == {"a": count, "b": count}
        np.testing.assert_array_equal(learned["one"]["weights"], count * np.arange(60))
        np.testing.assert_array_equal(learned["two"]["weights"], np.full(60, 3 * count))
        np.testing.assert_array_equal(learned["plain"]["weights"], np.ones(60))
        assert {float(copy["critic"]) for copy in learned.values()} == {count}
        assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
            {
                "a/loss": 100,
                "b/loss": 100,
                "one/loss": 1770 * count,
                "one/weight": 29.5 * count,
                "two/loss": 180 * count,
                "two/weight": 3 * count,
                "plain/loss": 60,
                "plain/weight": 1,
                "loss": 1950 * count + 60,
            }
        )


def test_copies_side_by_side_share_no_key(noting, dataset):
    batch = dataset.columns(noting.columns)
    start = noting.init(KEY, batch)
    end, _ = noting.update(start, batch, jax.random.key(6))
    notes = [copy for state in (start, end) for copy in noting.result(state)[0].values()]
    assert len({tuple(copy["key"].tolist()) for copy in notes}) == 6


# Critics and skills together


@pytest.fixture(scope="module")
def costly(dataset):
    costs = np.random.default_rng(2).uniform(size=60)
    return dataclasses.replace(dataset, costs=costs)


@pytest.fixture(scope="module")
def parts(gaussian):
    """Critics of rewards and of costs, and skills that each of them guides."""
    critics = {
        name: CriticLearner(gaussian.statistics, objective, DESCENT, network=SMALL)
        for name, objective in (("return", Return()), ("cost", DiscountedCost()))
    }
    skill = SkillLearner(gaussian, Adapter(rank=2), DESCENT)
    weighs = {"fast": AdvantageWeights(), "careful": AdvantageWeights("cost", 1.0)}
    return SimpleNamespace(
        base=jax.device_get(gaussian),
        critics=critics,
        skill=skill,
        weighs=weighs,
        guided=GuidedLearner(critics, skill, tuple(weighs.items())),
    )


def begin(learner, data):
    return jax.jit(learner.init)(KEY, data.columns(learner.columns))


def train(learner, data, steps=6, writer=None, **given):
    training = Training(steps, 16, writer=writer, chunk=3)
    return fit(learner, data, key=KEY, training=training, **given)


@pytest.fixture(scope="module")
def start(parts, costly):
    return begin(parts.guided, costly)


@pytest.fixture(scope="module")
def trained(parts, costly, start):
    return train(parts.guided, costly, state=start)


def test_critics_learn_as_they_would_alone(parts, costly, start, trained, close):
    alone = train(parts.critics["cost"], costly, state=start["critics"]["cost"])
    close(trained["critics"]["cost"], alone)


def test_an_unweighted_copy_learns_as_it_would_alone(parts, dataset, close):
    guided = GuidedLearner({}, parts.skill, (("walk", None),))
    start = begin(guided, dataset)
    alone = jax.tree.map(lambda leaf: leaf[0], start["copies"])
    found = guided.result(train(guided, dataset, state=start))[0]["walk"]
    expected = parts.skill.result(train(parts.skill, dataset, state=alone))
    close(dict(found.deltas), dict(expected.deltas))


def test_another_skill_or_critic_changes_nothing_for_those_there_are(
    parts, dataset, trained, close
):
    """The data need no costs as long as nobody asks for them."""
    fewer = GuidedLearner(
        {"return": parts.critics["return"]}, parts.skill, (("fast", parts.weighs["fast"]),)
    )
    skills, critics = fewer.result(train(fewer, dataset, state=begin(fewer, dataset)))
    more_skills, more_critics = parts.guided.result(trained)
    close(dict(skills["fast"].deltas), dict(more_skills["fast"].deltas))
    close(critics["return"], more_critics["return"])


def test_skills_are_learned_in_their_own_ways_and_the_base_is_left_as_it_was(
    parts, gaussian, trained, costly, same
):
    learned, critics = parts.guided.result(trained)
    assert list(learned) == ["fast", "careful"]
    assert list(critics) == ["return", "cost"]
    assert same(gaussian, parts.base)
    for skill in learned.values():
        assert skill.base == fingerprint(gaussian)
        policy = gaussian.with_bank(Bank.of({"skill": skill}))
        assert not np.allclose(
            policy.act(KEY, costly.observations), gaussian.act(KEY, costly.observations), atol=1e-3
        )
    unlike = jax.tree.map(lambda a, b: np.any(a != b), *(dict(s.deltas) for s in learned.values()))
    assert all(jax.tree.leaves(unlike))


def test_training_that_was_interrupted_equals_training_that_was_not(
    parts, costly, start, trained, same
):
    half = train(parts.guided, costly, 3, state=start)
    assert not same(half, trained)
    assert same(train(parts.guided, costly, state=half, start=3), trained)


def test_data_without_a_column_that_a_critic_needs_are_refused(parts, dataset):
    with pytest.raises(ValueError, match="these data have no costs"):
        train(parts.guided, dataset)


def test_what_was_learned_before_guides_and_stays_as_it_was(parts, dataset, trained, same):
    critics = parts.guided.result(trained)[1]["return"]
    before = jax.device_get(critics)
    weighs = (("fast", parts.weighs["fast"]),)
    guided = GuidedLearner({"return": Frozen(critics)}, parts.skill, weighs)
    assert set(guided.columns) == {"observations", "actions"}
    weights = []

    class Rows:
        def write(self, label, step, metrics):
            weights.append(metrics["fast/weight"])

    state = train(guided, dataset, 2, writer=Rows())
    assert same(guided.result(state)[1]["return"], before)
    assert same(critics, before)
    everywhere = AdvantageWeights()({"return": critics}, dataset.columns(guided.columns))
    assert everywhere.min() < weights[0] < everywhere.max()


# A bandit


@pytest.fixture(scope="module")
def bandit():
    """One state, and actions about −0.6 and 0.6 as often, of which the latter are rewarded."""
    generator = np.random.default_rng(0)
    sides = generator.permutation(np.repeat([-1.0, 1.0], 500))
    actions = (0.6 * sides + 0.05 * generator.normal(size=1000))[:, None]
    ends = np.ones(1000), np.zeros(1000)
    return TransitionDataset(np.ones((1000, 1)), actions, (sides > 0) * 1.0, *ends)


def learn_both_ways(backbone, bandit, steps, rate):
    """Policies of a base that was cloned from all of the bandit's data, with the skill that
    imitates them, and with the one that imitates the better."""
    settings = Optimizer(steps=steps, learning_rate=rate, ema_rate=0.03, weight_decay=0.0)
    base = jax.jit(Policy.create, static_argnums=0)(backbone, Statistics.identity(1), KEY)
    cloning = PolicyLearner(base, settings)
    how = {"key": KEY, "training": Training(steps, 128, chunk=steps)}
    base = cloning.result(fit(cloning, bandit, **how))
    skill = SkillLearner(base, Adapter(rank=4, scale=4.0), settings)
    guided = GuidedLearner(
        {"return": CriticLearner(base.statistics, Return(), settings, 0.7, Critic((16,)))},
        skill,
        (("imitating", None), ("better", AdvantageWeights(temperature=10.0))),
    )
    learned, _ = guided.result(fit(guided, bandit, **how))
    return base, *(base.with_bank(Bank.of({n: s})) for n, s in learned.items())


@pytest.mark.slow
def test_a_weighted_skill_of_a_diffusion_policy_moves_to_the_better_of_two_modes(bandit):
    denoiser = Denoiser(features=16, blocks=1, time_features=8, time_hidden=8, dropout=0.0)
    policies = learn_both_ways(DiffusionBackbone(1, denoiser), bandit, 2000, 5e-3)
    actions = [np.asarray(policy.act(KEY, np.ones((1000, 1)))) for policy in policies]
    shares = [[np.mean(np.abs(a - mode) < 0.3) for mode in (-0.6, 0.6)] for a in actions]
    base, imitating, better = shares
    assert min(base) > 0.25
    assert min(imitating) > 0.25
    assert better[1] > 0.9


def test_a_weighted_skill_of_a_gaussian_policy_moves_to_the_better_of_two_modes(bandit):
    backbone = GaussianBackbone(1, GaussianActor(1, hidden=(16,)))
    policies = learn_both_ways(backbone, bandit, 1000, 5e-3)
    base, imitating, better = (float(p.act(KEY, np.ones((1, 1)))[0, 0]) for p in policies)
    assert abs(base) < 0.2
    assert abs(imitating) < 0.2
    assert better == pytest.approx(0.6, abs=0.1)


def test_a_critic_that_is_not_there_is_named(gaussian, dataset):
    rewarded = Guidance({"reward": Return()})
    with pytest.raises(ValueError, match=r"by the critic 'return', but there are \['reward'\]"):
        improve(gaussian, dataset, key=KEY, training=Training(2, 4), guidance=rewarded)
