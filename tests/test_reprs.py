"""What is printed of an object that holds arrays: a few lines, which tell it from another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import psec_jax as psec
from psec_jax import reprs
from psec_jax.composition import ComposedPolicy
from psec_jax.evaluation import Evaluation, Trace
from psec_jax.learners import Critics, FeasibleFirst, TrainState
from psec_jax.learners.purpose import Purpose
from psec_jax.networks import ConstantWeights, Critic
from psec_jax.networks.actor import GaussianActor

NAMES = tuple(f"a-rather-long-name-of-a-skill-{i}" for i in range(40))


def statistics(seed):
    return psec.Statistics.of(np.random.default_rng(seed).normal(size=(30, 3)))


def policy(seed):
    backbone = psec.GaussianBackbone(2, GaussianActor(2, hidden=(4,)))
    return psec.Policy.create(backbone, statistics(seed), jax.random.key(seed))


def skill(seed, kind="low_rank"):
    base, adapter = policy(0), psec.Adapter(kind, rank=2)
    deltas = adapter.fresh(jax.random.key(seed), base.dense_layers())
    deltas = jax.tree.map(lambda leaf: leaf + seed, deltas)
    return psec.Skill(deltas, adapter, psec.policies.fingerprint(base))


def bank(seed):
    return psec.Bank.of({name: skill(seed + i) for i, name in enumerate(NAMES)})


def composed(seed):
    made = ComposedPolicy.create(
        policy(0).with_bank(bank(seed)),
        ConstantWeights(len(NAMES)),
        "parameter",
        jax.random.key(0),
    )
    return made.with_context(jax.tree.map(lambda leaf: leaf + seed, made.context_params))


def critics(seed):
    network = Critic((4,))
    value = network.init(jax.random.key(seed), jnp.zeros((1, 3)))["params"]
    q = network.init(jax.random.key(seed), jnp.zeros((1, 3)), jnp.zeros((1, 2)))["params"]
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), q)
    return Critics(value, both, statistics(seed), network, True)


def purpose(seed):
    network = Critic((4,))
    params = network.init(jax.random.key(seed), jnp.zeros((1, 3)))["params"]
    return Purpose(params, jnp.asarray(1.0), statistics(seed), network)


def dataset(seed):
    random = np.random.default_rng(seed)
    return psec.TransitionDataset(
        random.normal(size=(20, 3)), np.zeros((20, 2)), None, np.zeros(20), np.zeros(20)
    )


def composer(seed):
    weigh = psec.weights.AdvantageWeights()
    return psec.Composer(critics={name: critics(seed) for name in NAMES}, weigh=weigh)


HOLDERS = [
    statistics,
    policy,
    lambda seed: policy(0).with_bank(bank(seed)),
    composed,
    lambda seed: psec.BestOf(composed(0), critics(seed), 4),
    critics,
    purpose,
    lambda seed: FeasibleFirst(critics(seed), critics(0)),
    skill,
    bank,
    lambda seed: skill(seed).deltas["hidden_0"],
    lambda seed: skill(seed, "full").deltas["hidden_0"],
    dataset,
    composer,
    lambda seed: TrainState.start(policy(seed).params, optax.adam(1e-3)),
    lambda seed: Evaluation(np.full(50, seed), np.full(50, 10), np.ones(50)),
    lambda seed: Trace(np.ones((9, 2)), np.full(9, seed), np.zeros(9)),
]


def check_brief(text, kind):
    lines = text.splitlines()
    assert text.startswith(f"{kind}(") and text.endswith(")")
    assert len(lines) <= 5 and max(map(len, lines)) <= 99
    assert "Array(" not in text and "array(" not in text


@pytest.mark.parametrize("made", HOLDERS)
def test_a_repr_is_a_few_lines_that_are_the_same_for_the_same_values_only(made):
    text = repr(made(1))
    check_brief(text, type(made(1)).__name__)
    assert text == repr(made(1)) != repr(made(2))


def test_a_library_shows_its_base_and_skills(tmp_path):
    one = psec.SkillLibrary.create(tmp_path / ("long" * 30), policy(1))
    one.add("walk", skill_on(policy(1)))
    check_brief(repr(one), "SkillLibrary")
    other = psec.SkillLibrary.create(tmp_path / "other", policy(2))
    assert repr(one).split("fingerprint")[1] != repr(other).split("fingerprint")[1]
    assert "walk" in repr(one)


def skill_on(base):
    adapter = psec.Adapter(rank=2)
    deltas = adapter.fresh(jax.random.key(0), base.dense_layers())
    return psec.Skill(deltas, adapter, psec.policies.fingerprint(base))


@pytest.mark.parametrize("made", [statistics, policy, composed, critics, bank])
def test_what_is_traced_stacked_or_a_mere_shape_has_a_repr_too(made):
    seen = []
    jax.jit(lambda tree: seen.append(repr(tree)) or jax.tree.leaves(tree)[0])(made(1))
    seen.append(repr(jax.eval_shape(lambda tree: tree, made(1))))
    assert all("unknown" in text for text in seen)
    seen.append(repr(psec.stack([made(1), made(2), made(3)])))
    assert "3 stacked" in seen[-1]
    seen.append(repr(jax.tree.map(lambda leaf: 0, made(1))))
    for text in seen:
        check_brief(text, type(made(1)).__name__)


def test_a_policy_shows_the_fingerprint_by_which_skills_know_it():
    base = policy(1)
    assert reprs.short(psec.policies.fingerprint(base)) in repr(base)
    assert reprs.short(psec.policies.fingerprint(base)) in repr(skill_on(base))


@pytest.mark.parametrize(
    ("size", "text"), [(7, "7"), (999, "999"), (1_000, "1 k"), (1_645_830, "1.65 M"), (2e9, "2 G")]
)
def test_sizes_have_three_digits(size, text):
    assert reprs.parameters(jax.ShapeDtypeStruct((int(size),), "float32")) == f"{text} parameters"
