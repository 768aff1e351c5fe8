"""A run of continual whose backbone, composition method, environments and reader are this
package's, chosen by configuration alone."""

from pathlib import Path

import jax
import numpy as np
import pytest

import psec_jax as psec
from extending.backbone import FlowMatching, VelocityNetwork
from extending.composition_method import NearestPrototypes
from extending.conftest import CONF, SMALL
from psec_jax.report import results
from psec_jax.training.seeds import named_key


@pytest.fixture(scope="module")
def finished(python, files, tmp_path_factory) -> Path:
    """A run of continual: its backbone, composer, environments and reader are this package's."""
    out = tmp_path_factory.mktemp("continual") / "run"
    choices = ("chain=reach", "backbone=flow", "composer=prototypes")
    words = [f"chain.tasks.{goal}.dataset={path}" for goal, path in files.items()]
    python(
        *("-m", "experiments.continual", "--config-dir", CONF, *SMALL, *choices, *words),
        *("methods=[nsec_skills,asec_skills,psec]", "imports=[extending.dataset]"),
        *("data.target_trajectories=2", "adapter.targets='.*'", f"hydra.run.dir={out}"),
    )
    return out


def test_the_backbone_is_trained_and_mixed_at_every_level(finished):
    library = psec.SkillLibrary.open(finished / "seed_0" / "library")
    assert library.base.backbone == FlowMatching(2, VelocityNetwork((256, 256)))
    assert library.names() == ("north",)
    levels = {
        name: type(psec.load(finished / "seed_0" / "agents" / f"{name}-E_to_N").level)
        for name in ("nsec_skills", "asec_skills", "psec")
    }
    kinds = psec.composition.NoiseLevel, psec.composition.ActionLevel
    assert tuple(levels.values()) == (*kinds, psec.composition.ParameterLevel)


def test_the_composition_method_gives_the_weights(finished):
    for method in ("nsec_skills", "asec_skills", "psec"):
        agent = psec.load(finished / "seed_0" / "agents" / f"{method}-E_to_N")
        assert agent.context == NearestPrototypes(1, prototypes=4)


def test_the_environment_is_evaluated_in(finished):
    rows = results.read([finished / "results.jsonl"])
    (row,) = (row for row in rows if (row.method, row.metric) == ("psec", "return"))
    agent = psec.load(finished / "seed_0" / "agents" / "psec-E_to_N")
    key = named_key(jax.random.key(0), "evaluate north")
    again = psec.evaluate(agent, "reach/north", episodes=1, key=key)
    np.testing.assert_array_equal(again.returns, row.values)
    assert "E→N" in (finished / "table.md").read_text()


def test_the_reader_reads_the_demonstrations(finished, files):
    library = psec.SkillLibrary.open(finished / "seed_0" / "library")
    assert library.get("north").provenance["dataset"] == str(files["north"])
