"""Mixtures at fixed weights as one skill."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psec_jax import Bank, BestOf, SkillLibrary
from psec_jax.composition import ComposedPolicy
from psec_jax.errors import BaseMismatch
from psec_jax.networks import ConstantWeights, ContextNetwork

pytestmark = pytest.mark.slow

KEY = jax.random.key(4)
LOW = ({"rank": 1, "scale": 2.0}, {"rank": 3, "scale": 5.0, "targets": "(in|out|hidden_0|mean)"})
WEIGHTS = np.float32([0.7, -0.4])


@pytest.fixture
def folding(policy, tmp_path):
    return SkillLibrary.create(tmp_path / "library", policy)


def mixture(policy, bank, weights=WEIGHTS):
    context = ConstantWeights(bank.size)
    composed = ComposedPolicy.create(policy.with_bank(bank), context, "parameter", KEY)
    return composed.with_fixed(np.resize(weights, bank.size).astype(np.float32))


def acting(library, name, observations):
    return library.base.with_bank(library.bank([name])).act(KEY, observations)


def test_a_mixture_of_low_rank_skills_is_one_of_the_sum_of_their_ranks(
    folding, policy, make_bank, observations
):
    agent = mixture(policy, make_bank(policy, LOW))
    folding.add("both", agent, dataset="walk")
    skill = folding.get("both")
    assert (skill.adapter.kind, skill.adapter.rank, skill.adapter.scale) == ("low_rank", 4, 1.0)
    names = {"skill-0": pytest.approx(0.7), "skill-1": pytest.approx(-0.4)}
    assert skill.provenance == {"mixture": names, "dataset": "walk"}
    expected = agent.act(KEY, observations)
    np.testing.assert_allclose(acting(folding, "both", observations), expected, atol=1e-5)
    assert not np.allclose(policy.act(KEY, observations), expected, atol=1e-3)


def test_a_mixture_with_a_dense_part_is_a_dense_skill(folding, policy, make_bank, observations):
    agent = mixture(policy, make_bank(policy))
    folding.add("all", agent)
    assert folding.get("all").adapter.kind == "full"
    expected = agent.act(KEY, observations)
    np.testing.assert_allclose(acting(folding, "all", observations), expected, atol=1e-5)


def test_a_policy_with_a_bank_is_its_skills_at_weight_one(
    folding, policy, make_bank, observations
):
    carrying = policy.with_bank(make_bank(policy, LOW))
    folding.add("sum", carrying)
    found = acting(folding, "sum", observations)
    np.testing.assert_allclose(found, carrying.act(KEY, observations), atol=1e-5)


def kernels(library, name):
    skill = library.get(name)
    bank = Bank.of({name: skill})
    return {
        path: np.asarray(sum(delta.kernel(bank.gains(None)[path]) for delta in deltas), np.float64)
        for path, deltas in bank.layers.items()
    }


@pytest.mark.parametrize("adapters", [LOW, None])
@pytest.mark.parametrize("rank", [1, 2, 30])
def test_a_rank_gives_the_closest_skill_of_that_rank(folding, policy, make_bank, adapters, rank):
    """Eckart and Young: the error is what the singular values beyond the rank add up to."""
    bank = make_bank(policy) if adapters is None else make_bank(policy, adapters)
    agent = mixture(policy, bank)
    folding.add("whole", agent)
    folding.add("few", agent, rank=rank)
    skill = folding.get("few")
    assert (skill.adapter.kind, skill.adapter.rank) == ("low_rank", rank)
    whole, few = kernels(folding, "whole"), kernels(folding, "few")
    assert whole.keys() == few.keys()
    values = [np.linalg.svd(kernel, compute_uv=False) for kernel in whole.values()]
    total = sum(np.sum(one**2) for one in values)
    best = np.sqrt(sum(np.sum(one[rank:] ** 2) for one in values) / total)
    assert skill.provenance["relative_error"] == pytest.approx(best, abs=1e-5)
    distance = sum(np.sum((few[path] - whole[path]) ** 2) for path in whole)
    assert np.sqrt(distance / total) == pytest.approx(best, abs=1e-5)
    assert (best < 1e-5) == (rank == 30)


def test_a_skill_is_refactored_too(folding, policy, make_skill):
    folding.add("skill", make_skill(policy, rank=4), rank=2)
    skill = folding.get("skill")
    assert skill.adapter.rank == 2 and 0 < skill.provenance["relative_error"] < 1
    assert skill.provenance["dataset"] == "number-0"
    zero = dataclasses.replace(skill, deltas=jax.tree.map(jnp.zeros_like, dict(skill.deltas)))
    folding.add("zero", zero, rank=1)
    assert folding.get("zero").provenance["relative_error"] == 0


def test_what_is_no_fixed_mixture_is_refused(folding, policy, make_bank, unchanged):
    bank = make_bank(policy, LOW)
    carrying = policy.with_bank(bank)
    by_state = ComposedPolicy.create(carrying, ContextNetwork(2), "parameter", KEY)
    actions = ComposedPolicy.create(carrying, ConstantWeights(2), "action", KEY)
    fixed = mixture(policy, bank)
    unchanged()
    for agent, message in (
        (by_state, r"ContextNetwork and depend on the state, .*agent.with_fixed\(weights\)"),
        (actions, r"at ActionLevel\(.*\) is no skill: only deltas add up"),
        (policy, "Policy is no skill and no mixture of skills; expected a Skill"),
        (BestOf(fixed, None, 2), "BestOf is no skill and no mixture"),
        (3, "int is no skill and no mixture"),
    ):
        with pytest.raises(ValueError, match=message):
            folding.add("new", agent)
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, not 0"):
        folding.add("new", fixed, rank=0)
    other = policy.replace(params=jax.tree.map(lambda leaf: leaf + 1, policy.params))
    with pytest.raises(BaseMismatch):
        folding.add("new", mixture(other, make_bank(other, LOW)))
    with pytest.raises(BaseMismatch, match=r"the bank \['skill-0', 'skill-1'\]"):
        folding.add("new", other.replace(bank=bank))
