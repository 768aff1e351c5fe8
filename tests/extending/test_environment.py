"""Environments: by id wherever one is expected, on the command line and in an experiment too."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import psec_jax as psec
from extending import environment

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def agent():
    backbone = psec.GaussianBackbone(2, psec.networks.GaussianActor(2, (4,)))
    return psec.Policy.create(backbone, psec.Statistics.identity(2), KEY)


def test_an_id_of_the_family_is_the_environment_that_its_factory_makes(agent):
    def evaluate(where):
        return psec.evaluate(agent, where, episodes=5, key=KEY).returns

    made = evaluate(lambda: environment.Reach("east", drag=0.5))
    np.testing.assert_array_equal(evaluate("reach/east?drag=0.5"), made)
    np.testing.assert_array_equal(evaluate("reach/east"), evaluate("Reach-v0"))
    np.testing.assert_allclose(evaluate("swarm/east?drag=0.5"), made, rtol=1e-5)
    assert (evaluate("reach/east") != made).all()
    with pytest.raises(ValueError, match="did you mean reach/north"):
        evaluate("reach/nort")


@struct.dataclass
class Straight:
    """Acts as the demonstrations do."""

    goal: jax.Array
    observation_size: int = struct.field(pytree_node=False, default=2)
    action_size: int = struct.field(pytree_node=False, default=2)

    def sample(self, key, observations, weights=None):
        return jnp.clip(2 * (self.goal - observations), -1, 1)


def test_whoever_acts_as_the_demonstrations_returns_what_they_do():
    """Each starts elsewhere; to stand still comes to about −8."""
    agent = Straight(jnp.array(environment.GOALS["north"]))
    returns = psec.evaluate(agent, "reach/north", episodes=20, key=KEY).returns
    shown = environment.demonstrations("north", 20).returns
    np.testing.assert_allclose(returns.mean(), shown.mean(), atol=0.3)


def test_the_command_line_imports_it(agent, python, tmp_path):
    agent.save(tmp_path / "agent")
    words = ("reach/north", "--import", "extending.environment", "--episodes", 3, "--json")
    printed = json.loads(python("-m", "psec_jax.evaluate", tmp_path / "agent", *words))
    expected = psec.evaluate(agent, "reach/north", episodes=3, key=jax.random.key(0))
    assert printed["returns"] == expected.returns.tolist()
