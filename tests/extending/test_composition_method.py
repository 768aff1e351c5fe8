"""A composition method: learned, stored, and chosen by configuration alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import psec_jax as psec
from extending.composition_method import NearestPrototypes
from extending.environment import demonstrations

KEY = jax.random.key(2)


def test_a_state_at_a_prototype_takes_its_skill():
    prototypes = jnp.array([[[0.0, 0.0], [3.0, 0.0]], [[0.0, 3.0], [9.0, 9.0]]])
    states = jnp.array([[3.0, 0.0], [0.0, 3.0], [0.0, 1.5]])
    module = NearestPrototypes(2, prototypes=2, temperature=0.1)
    weights = module.apply({"params": {"prototypes": prototypes}}, states)
    np.testing.assert_allclose(weights, [[1, 0], [0, 1], [0.5, 0.5]], atol=1e-6)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """π₀ and two skills, near ones of which go east and far ones north."""
    data = demonstrations("east", 2)
    backbone = psec.GaussianBackbone(2, psec.networks.GaussianActor(2, (8,)))
    how = {"key": KEY, "training": psec.Training(4, 8)}
    base = psec.pretrain(data, backbone=backbone, **how)
    library = psec.SkillLibrary.create(tmp_path_factory.mktemp("prototypes") / "library", base)
    for goal in ("east", "north"):
        training = psec.Training(100, 8, psec.Optimizer(0.01, ema_rate=0.1))
        skill = psec.learn_skill(base, demonstrations(goal, 2), key=KEY, training=training)
        library.add(goal, skill)
    return library


def test_compose_learns_it_and_it_is_loaded_as_it_was_saved(library, tmp_path):
    data = demonstrations("north", 2)
    method, training = NearestPrototypes(2, temperature=0.5), psec.Training(200, 16)
    start = psec.compose(library, data, composer=method, key=KEY, training=psec.Training(1, 16))
    optimizer = psec.Optimizer(0.05, ema_rate=0.1)
    training = psec.Training(200, 16, optimizer)
    agent = psec.compose(library, data, composer=method, key=KEY, training=training)
    batch = {"observations": data.observations, "actions": data.actions}
    assert agent.loss(batch, KEY).mean() < start.loss(batch, KEY).mean()
    agent.save(tmp_path / "agent")
    loaded = psec.load(tmp_path / "agent")
    assert loaded.context == method
    np.testing.assert_array_equal(
        loaded.act(KEY, data.observations), agent.act(KEY, data.observations)
    )
