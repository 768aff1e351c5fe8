"""A backbone: pretrained, expanded, composed, stored, and chosen by configuration alone."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import psec_jax as psec
from extending.backbone import FlowMatching, VelocityNetwork
from extending.environment import demonstrations

KEY = jax.random.key(1)
LEVELS = ("parameter", "noise", "action")
HOW = {"key": KEY, "training": psec.Training(4, 8)}
STATES = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    backbone = FlowMatching(2, VelocityNetwork((8,)))
    base = psec.pretrain(demonstrations("east", 2), backbone=backbone, **HOW)
    library = psec.SkillLibrary.create(tmp_path_factory.mktemp("flow") / "library", base)
    for name in ("north", "northeast"):
        library.add(name, psec.learn_skill(base, demonstrations(name, 2), **HOW))
    return library


@pytest.fixture(scope="module")
def agents(library):
    """Level → skills mixed there."""
    data = demonstrations("northeast", 2)
    composers = {level: psec.Composer("constant", level) for level in LEVELS}
    return {
        level: psec.compose(library, data, composer=composer, **HOW)
        for level, composer in composers.items()
    }


@pytest.mark.filterwarnings("ignore:in 4 updates")
def test_a_skill_alone_is_itself_at_every_level_and_none_is_the_base(library, agents):
    """Where actions are mixed every policy samples by a key of its own."""
    for level in ("parameter", "noise"):
        mixed = agents[level].act(KEY, STATES, jnp.zeros(2))
        np.testing.assert_allclose(mixed, library.base.act(KEY, STATES), atol=1e-5)
    for index, name in enumerate(library.names()):
        alone = library.base.with_bank(library.bank([name]))
        for level in ("parameter", "noise"):
            mixed = agents[level].act(KEY, STATES, jnp.eye(2)[index])
            np.testing.assert_allclose(mixed, alone.act(KEY, STATES), atol=1e-5)
        own_key = jax.random.split(KEY, 3)[index + 1]
        mixed = agents["action"].sample(KEY, STATES, jnp.eye(2)[index])
        np.testing.assert_allclose(mixed, alone.sample(own_key, STATES), atol=1e-5)


# Prints the digest of the actions of each stored agent, and of the library's skills at weight 1.
ACTS = """
import hashlib, sys
import jax, numpy as np
import psec_jax as psec
from extending import backbone, composition_method
states = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
library = psec.SkillLibrary.open(sys.argv[1])
for agent in [library.base.with_bank(library.bank()), *map(psec.load, sys.argv[2:])]:
    actions = agent.act(jax.random.key(1), states)
    print(hashlib.sha256(np.asarray(actions).tobytes()).hexdigest())
"""


@pytest.mark.filterwarnings("ignore:in 4 updates")
def test_another_process_opens_its_library_and_its_agents_which_act_alike(
    python, library, agents, tmp_path
):
    for level, agent in agents.items():
        agent.save(tmp_path / level)
    printed = python("-c", ACTS, library.path, *(tmp_path / level for level in LEVELS))
    here = [library.base.with_bank(library.bank()), *agents.values()]
    actions = [np.asarray(agent.act(KEY, STATES)) for agent in here]
    assert printed.split() == [hashlib.sha256(each.tobytes()).hexdigest() for each in actions]
