import jax
import numpy as np
import optax
import pytest

from psec_jax import Guidance
from psec_jax.learners import CriticLearner, Transformation
from psec_jax.learners.actors import imitation
from psec_jax.learners.cql import CQL
from psec_jax.learners.objectives import DiscountedCost, Feasibility, Return
from psec_jax.learners.rebrac import ReBRAC
from psec_jax.learners.td3bc import TD3BC
from psec_jax.learners.weights import AdvantageWeights, FeasibleWeights
from psec_jax.policies import Statistics

BOTH = {"return": Return(), "cost": DiscountedCost()}
WEIGH = FeasibleWeights("cost")


@pytest.mark.parametrize(
    ("guidance", "weights"),
    [
        (Guidance(), {"walk": AdvantageWeights()}),
        (Guidance(loss=imitation), {"walk": None}),
        (Guidance(loss=imitation, weights=WEIGH), {"walk": WEIGH}),
        (Guidance(weights=WEIGH), {"walk": WEIGH}),
        (Guidance(weights={"run": WEIGH, "jump": None}), {"run": WEIGH, "jump": None}),
    ],
)
def test_weights_are_of_the_skills_that_they_name_or_of_the_one_that_is_asked_for(
    guidance, weights
):
    assert guidance.weights_of("walk") == weights


def test_each_objective_has_a_critic_with_its_expectile(dataset):
    statistics = Statistics.of(dataset.observations)

    def critics(*options):
        return Guidance(*options).critics(statistics, dataset, steps=7)

    one = critics(BOTH, None, None, 0.6)
    assert {name: critic.expectile for name, critic in one.items()} == {"return": 0.6, "cost": 0.6}
    each = critics(BOTH, None, None, {"cost": 0.9, "return": 0.7})
    assert {name: critic.expectile for name, critic in each.items()} == {
        "return": 0.7,
        "cost": 0.9,
    }
    assert {name: critic.objective for name, critic in each.items()} == BOTH
    assert all(critic.optimizer.steps == 7 for critic in each.values())
    (critic,) = critics().values()
    assert critic.objective == Return.scaled_to(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {}}, "objectives need at least one entry"),
        ({"expectile": 1.0}, r"expectile of 'return' must be in \(0, 1\), not 1.0"),
        ({"expectile": {"cost": 0.7}}, r"names \['cost'\], but the critics are \['return'\]"),
        (
            {"objectives": {"safe": Feasibility()}, "expectile": {"safe": np.float64(0.0)}},
            r"expectile of 'safe' must be in \(0, 1\)",
        ),
        ({"weights": "advantage"}, "weights of 'skill' must be a function .*not 'advantage'"),
        ({"weights": {"walk": 3.0}}, "weights of 'walk' must be a function .*not 3.0"),
        ({"weights": {"critic return": None}}, "skill name 'critic return' is not allowed"),
        ({"weights": {}}, "weights need at least one skill"),
        ({"optimizer": "adam"}, "optimizer must be a psec_jax.Optimizer or an optax"),
    ],
)
def test_guidance_that_makes_no_sense_is_refused_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**options)


def test_a_bare_transformation_takes_the_rate_of_target_networks():
    """Of whatever trains critics; the wrapper has its own."""
    bare, slow = optax.sgd(1e-3), Transformation(optax.sgd(1e-3), ema_rate=0.5)
    statistics = Statistics.identity(2)
    for given, rate in ((bare, 0.005), (slow, 0.5)):
        assert Guidance(optimizer=given).optimizer.ema_rate == rate
        assert CriticLearner(statistics, Return(), given).optimizer.ema_rate == rate
        for algorithm in (TD3BC, CQL, ReBRAC):
            learner = algorithm(None, actor_optimizer=given, critic_optimizer=given)
            assert learner.actor_optimizer.ema_rate == learner.critic_optimizer.ema_rate == rate
            assert hash(jax.tree.structure(learner)) == hash(jax.tree.structure(learner))
