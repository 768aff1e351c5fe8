"""Losses that critics enter, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import psec_jax as psec
from psec_jax.learners import (
    AllParameters,
    ContextParameters,
    Critics,
    Deltas,
    Frozen,
    GuidedLearner,
    PolicyLearner,
    SkillLearner,
)
from psec_jax.learners.weights import AdvantageWeights
from psec_jax.networks import ConstantWeights, Critic, GaussianActor
from psec_jax.training import Training, fit

pytestmark = pytest.mark.slow

KEY = jax.random.key(4)
SETTINGS = psec.Optimizer(0.03, weight_decay=0.0, ema_rate=0.1, steps=400)
STRENGTH = 0.1
ADAPTER = psec.Adapter(rank=2, scale=1.0)


def ddpg_bc(policy, batch, critics, key):
    """What a user would write: ‖π(s) − a‖² − λ Q(s, π(s))."""
    actions = policy.sample(key, batch["observations"])
    q = critics["return"].q(batch["observations"], actions)
    return jnp.square(actions - batch["actions"]).sum(axis=-1) - STRENGTH * q


@pytest.fixture(scope="module")
def data():
    """One state, and actions about 0.1, each worth three times itself."""
    actions = np.linspace(-0.3, 0.5, 64)[:, None]
    ends = np.ones(64), np.zeros(64)
    return psec.TransitionDataset(np.ones((64, 1)), actions, 3 * actions[:, 0], *ends)


@pytest.fixture(scope="module")
def base():
    backbone = psec.GaussianBackbone(1, GaussianActor(1, hidden=(4,)))
    return psec.Policy.create(backbone, psec.Statistics.identity(1), KEY)


@pytest.fixture(scope="module")
def critics():
    """Q(s, a) = 3 a, exactly."""
    params = {"value": {"kernel": jnp.array([[[0.0], [3.0]]]), "bias": jnp.zeros((1, 1))}}
    return Critics(None, params, psec.Statistics.identity(1), Critic(()), True)


def action(policy):
    return float(policy.act(KEY, np.ones((1, 1)))[0, 0])


def best(policies, data):
    training = Training(400, 64, chunk=400)
    return policies.result(fit(policies, data, key=KEY, training=training))[0]


# (π − a)² − 0.1 · 3 π is least at the mean of a, 0.1, and 0.15 on.
EXPECTED = 0.25


def test_a_whole_policy_goes_where_its_loss_with_critics_is_least(base, data, critics):
    learner = PolicyLearner(base, SETTINGS, ddpg_bc)
    guided = GuidedLearner({"return": Frozen(critics)}, learner, (("policy", None),))
    assert action(best(guided, data)["policy"]) == pytest.approx(EXPECTED, abs=0.03)


def test_a_skill_goes_there_too_and_weights_still_weigh(base, data, critics, same):
    """Of the samples those with actions above 0.1 count for one, whose mean is near 0.3."""

    def upper(critics, batch):
        return 2.0 * (batch["actions"][:, 0] > 0.1)

    before = jax.device_get(base)
    learner = SkillLearner(base, ADAPTER, SETTINGS, ddpg_bc)
    weighs = (("all", None), ("upper", upper))
    learned = best(GuidedLearner({"return": Frozen(critics)}, learner, weighs), data)
    acting = {n: action(base.with_bank(psec.Bank.of({n: s}))) for n, s in learned.items()}
    assert acting["all"] == pytest.approx(EXPECTED, abs=0.03)
    assert acting["upper"] == pytest.approx(EXPECTED + 0.2, abs=0.03)
    assert same(base, before)


@pytest.mark.parametrize("verb", ["improve", "learn_skills"])
def test_the_verbs_take_a_loss_and_then_weigh_nothing_unasked(base, data, verb, monkeypatch):
    asked = []
    monkeypatch.setattr(AdvantageWeights, "__call__", lambda *_: asked.append(1) or jnp.ones(16))

    def half(policy, batch, critics, key):
        assert list(critics) == ["return"]
        actions = policy.sample(key, batch["observations"])
        return jnp.square(actions - 0.5).sum(axis=-1)

    skill = {"adapter": ADAPTER} if verb == "learn_skills" else {}
    how = {"training": psec.Training(200, 16, SETTINGS), "guidance": psec.Guidance(loss=half)}
    learned, _ = getattr(psec, verb)(base, data, key=KEY, **how, **skill)
    if verb == "learn_skills":
        assert "half" in learned["skill"].provenance["loss"]
        assert " at 0x" not in learned["skill"].provenance["loss"]
        learned = base.with_bank(psec.Bank.of(learned))
    assert not asked
    assert action(learned) == pytest.approx(0.5, abs=0.02)


def test_each_part_starts_as_the_policy_that_it_is_a_part_of(gaussian, make_bank, observations):
    mixed = gaussian.with_bank(make_bank(gaussian))
    composed = psec.composition.ComposedPolicy.create(mixed, ConstantWeights(3), "parameter", KEY)
    parts = [
        (AllParameters(gaussian), gaussian),
        (Deltas(gaussian, psec.Adapter(rank=2)), gaussian),
        (ContextParameters(composed), composed),
    ]
    for part, policy in parts:
        found = part.at(part.init(KEY)).act(KEY, observations)
        np.testing.assert_allclose(found, policy.act(KEY, observations), atol=1e-6)


def test_critics_without_a_value_say_so(critics):
    batch = {"observations": jnp.ones((2, 1)), "actions": jnp.ones((2, 1))}
    with pytest.raises(ValueError, match=r"no V\(s\), and so no advantage.*improve"):
        AdvantageWeights()({"return": critics}, batch)


def test_a_policy_that_carries_skills_is_not_trained(gaussian, make_bank, dataset):
    """They belong to its parameters as they are, and to no others."""
    carrying = gaussian.with_bank(make_bank(gaussian))
    once = psec.Optimizer(steps=2)
    for learner in (
        PolicyLearner(carrying, once),
        SkillLearner(carrying, psec.Adapter(rank=2), once),
    ):
        with pytest.raises(ValueError, match=r"carries the skills .*merge them first"):
            fit(learner, dataset, key=KEY, training=Training(2, 4))
