import dataclasses
import itertools

import jax
import numpy as np
import pytest

from psec_jax import Adapter, Bank
from psec_jax.errors import BaseMismatch

LAYERS = {
    "time/in": (3, 4),
    "in": (5, 6),
    "block_0/up": (6, 8),
    "block_1/up": (6, 8),
    "out": (6, 2),
}


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        (Adapter().targets, {"in", "block_0/up", "block_1/up", "out"}),
        (".*", set(LAYERS)),
        ("in", {"in"}),
        (r"block_\d/.*|out", {"block_0/up", "block_1/up", "out"}),
    ],
)
@pytest.mark.parametrize("kind", ["low_rank", "full"])
def test_targets_match_whole_paths(kind, targets, chosen):
    deltas = Adapter(kind, rank=3, targets=targets).fresh(jax.random.key(0), LAYERS)
    assert set(deltas) == chosen
    for path, delta in deltas.items():
        assert delta.kernel(np.ones((1, 1), np.float32)).shape == LAYERS[path]


def test_each_layer_starts_from_its_own_random_numbers():
    deltas = Adapter().fresh(jax.random.key(0), LAYERS)
    one, other = deltas["block_0/up"].down, deltas["block_1/up"].down
    assert not np.any(np.asarray(one) == np.asarray(other))


def test_targets_that_match_nothing_are_refused_with_the_layers():
    with pytest.raises(ValueError, match=r"'block_9.*' match none of the dense layers .*'out'"):
        Adapter(targets="block_9.*").fresh(jax.random.key(0), LAYERS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be an integer of at least 1, not 0"),
        ({"rank": -2}, "rank must be an integer of at least 1, not -2"),
        ({"rank": True}, "rank must be an integer of at least 1, not True"),
        ({"rank": 2.0}, "rank must be an integer of at least 1, not 2.0"),
        ({"rank": "8"}, "rank must be an integer of at least 1, not '8'"),
        ({"scale": 0}, "scale must be above 0, not 0"),
        ({"scale": -16.0}, "scale must be above 0, not -16"),
        ({"scale": float("nan")}, "scale must be .*, not nan"),
        ({"scale": float("inf")}, "scale must be .*, not inf"),
        ({"kind": "lora"}, "kind 'lora' is unknown; use 'low_rank' or 'full'"),
        ({"targets": "(in"}, "targets '\\(in' is not a regular expression"),
    ],
)
def test_adapters_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Adapter(**settings)


def test_a_skill_counts_its_parameters(diffusion, make_skill):
    shapes = diffusion.dense_layers()
    low = make_skill(diffusion, rank=3, targets=".*")
    full = make_skill(diffusion, kind="full", targets=".*")
    assert low.size == sum(3 * (d_in + d_out) for d_in, d_out in shapes.values())
    assert full.size == sum(d_in * d_out for d_in, d_out in shapes.values())


def outputs(policy, bank, weights=None):
    inputs = [np.ones(leaf.shape, np.float32) / 2 for leaf in policy.backbone.example(5)]
    return np.hstack(policy.with_bank(bank).predict(weights)(*inputs))


def test_a_bank_of_one_at_weight_one_is_that_skill_in_any_bank(policy, make_bank, make_skill):
    bank = make_bank(policy)
    alone = outputs(
        policy,
        Bank.of(
            {"alone": make_skill(policy, 1, rank=3, scale=1.0, targets="(in|out|hidden_0|mean)")}
        ),
    )
    among = outputs(policy, bank, np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(alone, among, atol=1e-6)
    assert not np.allclose(alone, outputs(policy, bank, np.array([1.0, 0.0, 0.0])), atol=1e-4)


def test_no_weights_mean_one_for_each_skill(policy, make_bank):
    bank = make_bank(policy)
    np.testing.assert_array_equal(outputs(policy, bank), outputs(policy, bank, np.ones(3)))


def test_the_order_of_skills_does_not_matter(policy, make_skill):
    skills = [
        ("a", make_skill(policy, 1, rank=1)),
        ("b", make_skill(policy, 2, rank=4, scale=3.0)),
        ("c", make_skill(policy, 3, kind="full", targets="(in|out|mean|hidden_0)")),
    ]
    weights = {"a": 0.7, "b": -0.4, "c": 1.3}
    results = [
        outputs(policy, Bank.of(dict(order)), np.array([weights[name] for name, _ in order]))
        for order in itertools.permutations(skills)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_scale_multiplies_like_a_weight(policy, make_skill):
    """Scale s at weight w equals scale s·c at weight w/c."""
    skill = make_skill(policy, scale=2.0)
    louder = dataclasses.replace(skill, adapter=dataclasses.replace(skill.adapter, scale=8.0))
    np.testing.assert_allclose(
        outputs(policy, Bank.of({"a": skill}), np.array([1.0])),
        outputs(policy, Bank.of({"a": louder}), np.array([0.25])),
        atol=1e-6,
    )


def test_skills_of_two_bases_make_no_bank(policy, make_skill):
    skill = make_skill(policy)
    other = dataclasses.replace(skill, base="0123456789abcdef")
    with pytest.raises(BaseMismatch, match="learn the skill again") as error:
        Bank.of({"mine": skill, "theirs": other})
    for part in ("'mine'", "'theirs'", skill.base, other.base):
        assert part in str(error.value)


def test_a_bank_needs_a_skill():
    with pytest.raises(ValueError, match="a bank needs at least one skill"):
        Bank.of({})
