import jax
import numpy as np
import pytest

from psec_jax import Bank, Composer
from psec_jax.learners.weights import AdvantageWeights
from psec_jax.networks import ConstantWeights, ContextNetwork

KEY = jax.random.key(1)


@pytest.mark.parametrize(
    ("weights", "network"),
    [
        ("context", ContextNetwork(3)),
        ("constant", ConstantWeights(3)),
        (ContextNetwork(3, (4,), "zero"), ContextNetwork(3, (4,), "zero")),
        (ContextNetwork(3, [np.int64(4)]), ContextNetwork(3, (4,))),
    ],
)
def test_weights_are_a_module_or_the_name_of_one_for_as_many_skills(
    gaussian, make_bank, weights, network
):
    carrying = gaussian.with_bank(make_bank(gaussian))
    assert Composer(weights).composed(carrying, None, KEY).context == network


def test_a_chosen_skill_of_a_bank_acts_as_in_the_whole_bank(policy, make_bank, observations):
    """Of any rank and kind, and on any layers."""
    carrying = policy.with_bank(make_bank(policy))
    names = carrying.bank.names
    for chosen in ([names[2], names[0]], [names[1]], list(names)):
        few = Composer("constant").composed(carrying, chosen, KEY)
        assert few.names == tuple(chosen)
        weights = np.linspace(0.5, 1.5, len(chosen), dtype=np.float32)
        whole = np.zeros(len(names), np.float32)
        whole[[names.index(name) for name in chosen]] = weights
        np.testing.assert_allclose(
            few.act(KEY, observations, weights),
            carrying.act(KEY, observations, whole),
            atol=1e-5,
        )


def test_a_bank_chooses_as_it_is_put_together(gaussian, make_skill, make_bank, same):
    adapters = ({"rank": 1}, {"rank": 3, "targets": "mean"}, {"kind": "full"})
    skills = {f"skill-{i}": make_skill(gaussian, i, **a) for i, a in enumerate(adapters)}
    bank = Bank.of(skills)
    for names in (["skill-2", "skill-1"], ["skill-1"], ["skill-0", "skill-2"]):
        assert same(bank.select(names), Bank.of({name: skills[name] for name in names}))
    assert same(bank.select(list(skills)), bank)
    with pytest.raises(KeyError, match="no skill 'fly' in the bank; it has"):
        bank.select(["skill-0", "fly"])
    with pytest.raises(ValueError, match="at least one skill"):
        bank.select([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "prototypes"}, r"'prototypes' are unknown; use one of \['context', 'const"),
        ({"weights": ContextNetwork}, "are unknown; use one of"),
        ({"weights": 3}, "composer weights 3 are unknown"),
        ({"anchor_strength": -1.0}, "anchor_strength must be at least 0, not -1.0"),
        ({"critics": {"return": None}}, "critics weigh nothing without weigh"),
        ({"weigh": AdvantageWeights()}, "weigh needs critics; learn them with learn_skills"),
        ({"weigh": AdvantageWeights(), "critics": {}}, "weigh needs critics"),
    ],
)
def test_a_composer_that_makes_no_sense_is_refused_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        Composer(**options)
