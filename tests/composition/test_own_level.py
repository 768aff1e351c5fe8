"""A level of one's own, defined in ``flows``: composed, learned, saved and loaded."""

import dataclasses
import sys

import flows
import jax
import numpy as np
import pytest

import psec_jax as psec
from psec_jax import Optimizer
from psec_jax.composition import LEVELS, ActionLevel, ComposedPolicy, NoiseLevel, ParameterLevel
from psec_jax.errors import NotImported
from psec_jax.learners import ContextLearner
from psec_jax.networks import ByLayer, ConstantWeights

pytestmark = pytest.mark.slow

KEY = jax.random.key(6)


@pytest.fixture(scope="module")
def carrying(gaussian, make_bank):
    return gaussian.with_bank(make_bank(gaussian))


@pytest.fixture(scope="module")
def switching(carrying):
    level = flows.Switching(sharpness=50.0)
    return ComposedPolicy.create(carrying, ConstantWeights(3), level, KEY)


def test_it_mixes_the_skills(carrying, switching, observations):
    for alone in np.eye(3, dtype=np.float32):
        expected = carrying.act(KEY, observations, alone)
        np.testing.assert_allclose(switching.act(KEY, observations, alone), expected, atol=1e-5)


def test_its_loss_trains_the_weights(switching, dataset):
    batch = {"observations": dataset.observations, "actions": dataset.actions}
    learner = ContextLearner(switching, Optimizer())
    state, metrics = learner.update(learner.init(KEY, batch), batch, KEY)
    np.testing.assert_allclose(metrics["loss"], switching.loss(batch, KEY).mean(), rtol=1e-5)
    before = switching.context_params["weights"]
    assert np.abs(learner.result(state).context_params["weights"] - before).min() > 0


def test_the_verbs_take_it(library, dataset):
    composer = psec.Composer("constant", flows.Switching())
    how = {"key": KEY, "training": psec.Training(2, 8), "composer": composer}
    agent = psec.compose(library, dataset, **how)
    assert agent.level == flows.Switching()
    parts = {name: library.base.with_bank(library.bank([name])) for name in library.names()}
    merged = {name: policy.merged() for name, policy in parts.items()}
    apart = psec.compose({**merged, "base": library.base}, dataset, **how)
    np.testing.assert_allclose(
        agent.act(KEY, dataset.observations), apart.act(KEY, dataset.observations), atol=1e-5
    )


def test_it_is_loaded_where_it_is_imported_or_handed_over(
    switching, tmp_path, observations, monkeypatch
):
    switching.save(tmp_path / "agent")
    assert psec.load(tmp_path / "agent").level == switching.level
    monkeypatch.delitem(sys.modules, "flows")
    with pytest.raises(NotImported, match="flows:Switching is needed, and flows is not imported"):
        psec.load(tmp_path / "agent")
    handed = {"flows:Switching": flows.Switching, "flows:bent": flows.bent}
    loaded = psec.load(tmp_path / "agent", custom_objects=handed)
    assert loaded.level == switching.level
    expected = switching.act(KEY, observations)
    np.testing.assert_array_equal(loaded.act(KEY, observations), expected)


def test_it_is_asked_whether_policies_can_be_mixed(carrying):
    @dataclasses.dataclass(frozen=True)
    class Never(flows.Switching):
        def check(self, policies):
            raise ValueError(f"Never mixes {len(policies)} policies")

    with pytest.raises(ValueError, match="Never mixes 4 policies"):
        ComposedPolicy.create(carrying, ConstantWeights(3), Never(), KEY)
    context = ByLayer.of(ConstantWeights(3), dict.fromkeys(carrying.bank.layers, 1))
    with pytest.raises(ValueError, match="Switching mixes whole policies"):
        ComposedPolicy.create(carrying, context, flows.Switching(), KEY)


@dataclasses.dataclass
class Loose:
    """Not frozen."""

    mixes_policies = True
    check = loss = sample = flows.Switching.sample


def test_what_is_no_level_is_refused_with_what_it_lacks(carrying):
    for level, message in (
        (flows.Mixer(3), r"Mixer is no level: it lacks \['mixes_policies', 'check', 'loss', 'sam"),
        (None, "NoneType is no level"),
        (Loose(), "the level Loose must be a frozen dataclass"),
    ):
        with pytest.raises(TypeError, match=message):
            ComposedPolicy.create(carrying, ConstantWeights(3), level, KEY)


def test_the_names_are_short_for_the_defaults():
    assert {
        "parameter": ParameterLevel(),
        "noise": NoiseLevel(base_enters=True, trained_by="denoising"),
        "action": ActionLevel(base_enters=True),
    } == LEVELS
