"""Any optax transformation as the optimizer of any verb."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from psec_jax import (
    Adapter,
    Bank,
    Checkpoints,
    GaussianBackbone,
    Guidance,
    Optimizer,
    Policy,
    Statistics,
    Training,
    TransitionDataset,
    compose,
    improve,
    learn_skill,
    learn_skills,
    pretrain,
)
from psec_jax.errors import OtherTraining
from psec_jax.learners import Transformation
from psec_jax.learners.actors import imitation
from psec_jax.networks import ContextNetwork, GaussianActor
from psec_jax.training import Interrupted

KEY = jax.random.key(5)
BACKBONE = GaussianBackbone(2, GaussianActor(2, (4,), "mish"))
IDENTITY = Statistics.identity(3)
ADAPTER = Adapter(rank=2)
UNWEIGHED = Guidance(loss=imitation)
# Every batch is the same: one transition.
ONE = TransitionDataset(
    np.array([[0.5, -1.0, 2.0]]), np.array([[0.3, -0.6]]), *np.ones((2, 1)), np.zeros(1)
)
BATCH = {"observations": ONE.observations, "actions": ONE.actions}
VERBS = ["pretrain", "learn_skill", "learn_skills", "improve", "compose"]


@pytest.fixture(scope="module")
def base():
    return Policy.create(BACKBONE, IDENTITY, KEY)


@pytest.fixture(scope="module")
def carrying(base, make_skill):
    return base.with_bank(Bank.of({f"{i}": make_skill(base, i, size=0.3) for i in range(2)}))


@pytest.fixture(params=VERBS)
def verb(request, base, carrying):
    """``train(training) -> trained parameters``, and their loss."""

    def of_policy(params):
        return base.replace(params=params).loss(BATCH, KEY).mean()

    def of_deltas(deltas):
        skill = dataclasses.replace(fresh, deltas=deltas)
        return base.replace(bank=Bank.of({"skill": skill})).loss(BATCH, KEY).mean()

    def of_context(params):
        return agent.with_context(params).loss(BATCH, KEY).mean()

    def mixture(training):
        return compose(carrying, ONE, key=KEY, training=training, composer=ContextNetwork(2, (4,)))

    still = Training(1, optimizer=optax.set_to_zero())
    fresh = learn_skill(base, ONE, key=KEY, training=still, adapter=ADAPTER)
    agent = mixture(still)
    how = {"guidance": UNWEIGHED, "key": KEY}
    return {
        "pretrain": (
            lambda t: (
                pretrain(ONE, key=KEY, training=t, backbone=BACKBONE, statistics=IDENTITY).params
            ),
            of_policy,
        ),
        "learn_skill": (
            lambda t: dict(learn_skill(base, ONE, key=KEY, training=t, adapter=ADAPTER).deltas),
            of_deltas,
        ),
        "learn_skills": (
            lambda t: dict(
                learn_skills(base, ONE, training=t, adapter=ADAPTER, **how)[0]["skill"].deltas
            ),
            of_deltas,
        ),
        "improve": (lambda t: improve(base, ONE, training=t, **how)[0].params, of_policy),
        "compose": (lambda t: mixture(t).context_params, of_context),
    }[request.param]


def test_momentum_takes_the_steps_of_its_closed_form(verb):
    train, loss = verb
    rate, momentum = 0.01, 0.9

    def after(steps, transformation):
        optimizer = Transformation(transformation, ema_rate=1.0)
        return train(Training(steps, 4, optimizer))

    start = after(1, optax.set_to_zero())
    slope = jax.jit(jax.grad(loss))
    velocity = slope(start)
    first = jax.tree.map(lambda p, v: p - rate * v, start, velocity)
    velocity = jax.tree.map(lambda g, v: g + momentum * v, slope(first), velocity)
    second = jax.tree.map(lambda p, v: p - rate * v, first, velocity)
    sgd = optax.sgd(rate, momentum)
    for expected, found in ((first, after(1, sgd)), (second, after(2, sgd))):
        jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, atol=2e-5), found, expected)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), second, start)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_an_optimizer_is_its_own_transformation(verb, same):
    train, _ = verb
    optimizer = Optimizer(0.01, steps=3)
    expected = train(Training(3, 4, optimizer))
    assert same(train(Training(3, 4, optimizer.transformation)), expected)
    slower = Transformation(optimizer.transformation, ema_rate=0.5)
    assert not same(train(Training(3, 4, slower)), expected)


def test_critics_take_it_too_and_keep_the_rate_of_their_target_networks(base, same):
    optimizer = Optimizer(0.01, weight_decay=0.0, ema_rate=0.005, steps=3)

    def critics(optimizer):
        guidance = Guidance(optimizer=optimizer)
        return learn_skills(base, ONE, key=KEY, training=Training(3, 4), guidance=guidance)[1]

    assert same(critics(optimizer), critics(optimizer.transformation))


def parted(rate):
    """Adam on the ups of a skill, while its downs stay as they are."""

    def labels(deltas):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "still" if "down" in jax.tree_util.keystr(path) else "moving", deltas
        )

    return optax.multi_transform(
        {"moving": optax.adam(rate), "still": optax.set_to_zero()}, labels
    )


def test_parts_may_be_trained_by_optimizers_of_their_own(base):
    def deltas(optimizer):
        return learn_skill(base, ONE, key=KEY, training=Training(4, 4, optimizer)).deltas

    fresh, trained = (
        deltas(Transformation(one, ema_rate=1.0)) for one in (optax.set_to_zero(), parted(1e-3))
    )
    for path, delta in trained.items():
        np.testing.assert_array_equal(delta.down, fresh[path].down)
        assert 1e-3 < np.abs(delta.up).max() < 5e-3


def test_an_interrupted_training_resumes_with_an_equal_transformation_alone(base, tmp_path, same):
    def learn(transformation, folder, stop_at=None):
        checkpoints = Checkpoints(folder, every=100)

        def inspect(step, skill):
            checkpoints.stopping |= step == stop_at

        training = Training(
            6, 4, transformation, label="x", checkpoints=checkpoints, inspect=inspect, every=2
        )
        return dict(learn_skill(base, ONE, key=KEY, training=training).deltas)

    whole = learn(parted(1e-3), tmp_path / "whole")
    with pytest.raises(Interrupted):
        learn(parted(1e-3), tmp_path / "pieces", stop_at=2)
    with pytest.raises(OtherTraining, match=r"differs:\n  learner\.optimizer\.transformation"):
        learn(parted(2e-3), tmp_path / "pieces")
    assert same(learn(parted(1e-3), tmp_path / "pieces"), whole)


def test_seeds_are_trained_together(base, same):
    keys = jax.random.split(KEY, 2)
    training = Training(3, 4, parted(1e-3))
    together = learn_skill(base, ONE, key=keys, training=training)
    for key, skill in zip(keys, together, strict=True):
        alone = learn_skill(base, ONE, key=key, training=training)
        jax.tree.map(
            lambda *pair: np.testing.assert_allclose(*pair, atol=1e-5),
            dict(skill.deltas),
            dict(alone.deltas),
        )
