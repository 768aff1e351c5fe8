"""What made a saved state: the same in every process, another where anything else made it."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from psec_jax import Adapter, Optimizer
from psec_jax.learners import CriticLearner, GuidedLearner, SkillLearner, Transformation
from psec_jax.learners.objectives import Return
from psec_jax.learners.weights import AdvantageWeights
from psec_jax.networks import Denoiser
from psec_jax.training.origin import differences, explained, origin_of

KEY = jax.random.key(0)
DATA = {"observations": np.arange(6, dtype=np.float32).reshape(3, 2), "actions": np.ones((3, 1))}


def origin(learner=None, data=DATA, key=KEY, batch_size=4, **given):
    # As it is read again.
    return json.loads(json.dumps(origin_of(learner, data, key, batch_size, **given)))


def lines(one, other):
    return explained(differences(one, other))


@pytest.fixture
def guided(diffusion):
    return GuidedLearner(
        {"return": CriticLearner(diffusion.statistics, Return(scale=2.0), Optimizer())},
        SkillLearner(diffusion, Adapter(rank=2), Optimizer()),
        (("skill", AdvantageWeights()),),
    )


CHANGES = {
    "learner.learner.adapter.scale: 8.0 now, 16.0 there": lambda g: replace(
        g, learner=replace(g.learner, adapter=Adapter(rank=2, scale=8))
    ),
    "learner.learner.optimizer.learning_rate: 0.1 now, 0.0003 there": lambda g: replace(
        g, learner=replace(g.learner, optimizer=Optimizer(0.1))
    ),
    "learner.critics.return.optimizer.steps: 9 now, 10000 there": lambda g: replace(
        g,
        critics={"return": replace(g.critics["return"], optimizer=Optimizer(steps=9))},
    ),
    "learner.critics.return.objective.scale: 3.0 now, 2.0 there": lambda g: replace(
        g, critics={"return": replace(g.critics["return"], objective=Return(scale=3.0))}
    ),
    "learner.critics.return.expectile: 0.9 now, 0.7 there": lambda g: replace(
        g, critics={"return": replace(g.critics["return"], expectile=0.9)}
    ),
    "learner.weighs[0][1].temperature: 1.0 now, 3.0 there": lambda g: replace(
        g, weighs=(("skill", AdvantageWeights(temperature=1.0)),)
    ),
    "learner.weighs[0][0]: other now, skill there": lambda g: replace(
        g, weighs=(("other", AdvantageWeights()),)
    ),
    "learner.learner.policy.params: other values": lambda g: of_policy(
        g, params=jax.tree.map(lambda a: a + 1, g.learner.policy.params)
    ),
    "learner.learner.policy.statistics.mean: other values": lambda g: of_policy(
        g,
        statistics=g.learner.policy.statistics.replace(mean=g.learner.policy.statistics.mean + 1),
    ),
    "learner.learner.policy.backbone.sampler: ddim now, ddpm there": lambda g: of_policy(
        g, backbone=replace(g.learner.policy.backbone, sampler="ddim")
    ),
    "learner.learner.policy.backbone.network.dropout: 0.5 now, 0.0 there": lambda g: of_policy(
        g,
        backbone=replace(
            g.learner.policy.backbone, network=g.learner.policy.backbone.network.clone(dropout=0.5)
        ),
    ),
}


def of_policy(guided, **changes):
    policy = guided.learner.policy.replace(**changes)
    return replace(guided, learner=replace(guided.learner, policy=policy))


@pytest.mark.parametrize("line", CHANGES)
def test_whatever_differs_in_a_learner_is_named_alone(guided, line):
    there = origin(guided)
    assert lines(origin(guided), there) == []
    assert lines(origin(CHANGES[line](guided)), there) == [line]


def test_whatever_else_a_fit_is_given_is_named_alone():
    there = origin()
    assert lines(origin(key=jax.random.key(1)), there) == ["key: another"]
    assert lines(origin(batch_size=5), there) == ["batch_size: 5 now, 4 there"]
    observations = DATA["observations"] + np.float32([[0, 0], [0, 0], [0, 1e-3]])
    other = {**DATA, "observations": observations}
    assert lines(origin(data=other), there) == ["data: other observations"]
    fewer = {name: values[:2] for name, values in DATA.items()}
    assert lines(origin(data=fewer), there) == ["data: other actions, observations"]
    given = origin(state={"a": jnp.zeros(2)}, start=3)
    assert lines(given, there) == [
        "initial state: 1 leaves now, none there",
        "start: 3 now, none there",
    ]
    other = origin(state={"a": jnp.ones(2)}, start=3)
    assert lines(other, given) == ["initial state: other values"]


def test_a_number_of_numpy_or_jax_is_that_number():
    settings = (3, 0.5, True, 7)
    assert origin(settings) == origin((np.int64(3), np.float32(0.5), np.True_, jnp.int32(7)))
    assert origin(key=jax.random.key(3)) == origin(key=jax.random.PRNGKey(3))


def adding(amount):
    return lambda x: x + amount


def parted(moving, still):
    return optax.multi_transform(
        {moving: optax.adam(1e-3), still: optax.set_to_zero()},
        lambda params: dict.fromkeys(params, moving),
    )


OUTSIDE = 3.0
RATE = optax.constant_schedule(1e-3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x * 1),
        (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
        (adding(1), adding(2)),
        (adding(np.zeros(2)), adding(np.ones(2))),
        (adding(adding(1)), adding(adding(2))),
        (lambda x, by=1: x + by, lambda x, by=2: x + by),
        (lambda x, *, by=1: x + by, lambda x, *, by=2: x + by),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (jax.tree_util.Partial(adding, 1), jax.tree_util.Partial(adding, 2)),
        (jax.jit(adding(1)), jax.jit(adding(2))),
        (max, min),
        (jnp.tanh, jnp.sin),
        (optax.adam(1e-3), optax.adam(2e-3)),
        (optax.adam(1e-3), optax.sgd(1e-3)),
        (optax.adam(1e-3), optax.adam(1e-3, b1=0.8)),
        (optax.adam(optax.constant_schedule(1e-3)), optax.adam(optax.constant_schedule(2e-3))),
        (optax.adam(lambda step: 1e-3 * step), optax.adam(lambda step: 2e-3 * step)),
        (
            optax.chain(optax.clip(1.0), optax.sgd(1.0)),
            optax.chain(optax.clip(2.0), optax.sgd(1.0)),
        ),
        (
            optax.chain(optax.clip(1.0), optax.sgd(1.0)),
            optax.chain(optax.sgd(1.0), optax.clip(1.0)),
        ),
        (parted("a", "b"), parted("b", "a")),
        (optax.masked(optax.sgd(1.0), {"a": True}), optax.masked(optax.sgd(1.0), {"a": False})),
        (optax.inject_hyperparams(optax.sgd)(1.0), optax.inject_hyperparams(optax.sgd)(2.0)),
        (Transformation(optax.sgd(1.0)), Transformation(optax.sgd(1.0), ema_rate=0.5)),
        ({1, 2}, {1, 3}),
        ((), None),
        (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2), np.zeros(2, np.float32)),
        (jax.random.key(0), jax.random.key(1)),
        (float("nan"), float("inf")),
        (Adapter, Optimizer),
        ("1", 1),
    ],
)
def test_settings_of_any_kind_are_told_apart(one, other):
    assert origin(one) == origin(one)
    assert origin(one) != origin(other)


def test_a_value_that_a_function_finds_outside_is_part_of_it(monkeypatch):
    def weigh(x):
        return [OUTSIDE * y for y in x]

    there = origin(weigh)
    monkeypatch.setitem(globals(), "OUTSIDE", 4.0)
    assert lines(origin(weigh), there) == ["learner.OUTSIDE: 4.0 now, 3.0 there"]


@pytest.mark.parametrize(
    "rate", [optax.constant_schedule(2e-3), functools.partial(RATE), optax.linear_schedule]
)
def test_a_function_with_values_of_its_own_is_part_of_one_that_finds_it(monkeypatch, rate):
    def schedule(step):
        return 2 * RATE(step)

    there = origin(optax.sgd(schedule))
    assert origin(optax.sgd(schedule)) == there
    monkeypatch.setitem(globals(), "RATE", rate)
    assert origin(optax.sgd(schedule)) != there


def test_a_module_is_its_name():
    def schedule(module):
        return lambda step: module.sin(step)

    assert lines(origin(schedule(np)), origin(schedule(jnp))) == [
        "learner.module: numpy now, jax.numpy there"
    ]


class Plain:
    """An object of a class that describes itself by its place in memory."""

    def __init__(self, rate):
        self.rate = rate


def test_an_object_is_its_class_and_what_it_holds():
    assert origin(Plain(1)) == origin(Plain(1))
    assert lines(origin(Plain(1)), origin(Plain(2))) == ["learner.rate: 1 now, 2 there"]
    loop = Plain(1)
    loop.rate = loop
    assert origin(loop) == origin(loop)


@struct.dataclass
class Everything:
    weighs: Any = struct.field(pytree_node=False)
    names: Any = struct.field(pytree_node=False)
    network: Any = struct.field(pytree_node=False)
    optimizer: Any = struct.field(pytree_node=False)
    params: Any


def everything():
    return Everything(
        (lambda x: x in {"a", "b", "c"}, adding(2), Plain(max)),
        frozenset("abcdef"),
        Denoiser(),
        (optax.adam(1e-3), parted("a", "b"), optax.inject_hyperparams(optax.lion)(1e-3)),
        {"b": jnp.arange(3), "a": np.ones(2)},
    )


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_origin
print(test_origin.json.dumps(test_origin.origin(test_origin.everything()), sort_keys=True))
"""


@pytest.mark.slow
def test_another_process_describes_it_in_the_same_words():
    environment = {**os.environ, "PYTHONHASHSEED": "11"}
    command = [sys.executable, "-c", PROGRAM, os.path.dirname(__file__)]
    theirs = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    mine = json.dumps(origin(everything()), sort_keys=True)
    assert theirs.stdout.strip() == mine
    assert " at 0x" not in mine


def test_many_differences_are_counted_rather_than_listed():
    found = lines(origin(dict.fromkeys(range(20), 1)), origin(dict.fromkeys(range(20), 2)))
    assert len(found) == 9 and found[-1] == "and 12 more"


def doubled(x):
    return 2 * x


def through_a_helper(policy, batch, critics, key):
    return doubled(batch)


def test_the_helpers_of_a_function_belong_to_it(monkeypatch):
    here = sys.modules[__name__]
    before = origin_of({"loss": through_a_helper}, {}, jax.random.key(0), 4)
    monkeypatch.setattr(here, "doubled", lambda x: 3 * x)
    after = origin_of({"loss": through_a_helper}, {}, jax.random.key(0), 4)
    assert list(differences(after, before)) == ["learner.loss.doubled"]
