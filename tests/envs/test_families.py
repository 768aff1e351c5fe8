import sys

import gymnasium
import numpy as np
import pytest
from cheap import Cheap
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv

from psec_jax import envs
from psec_jax.envs import families
from psec_jax.envs.ids import parse


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.delitem(sys.modules, "registering", raising=False)
    monkeypatch.delitem(gymnasium.registry, "Late-v0", raising=False)
    before = dict(families.FAMILIES)
    yield
    families.FAMILIES.clear()
    families.FAMILIES.update(before)


class Hill(Cheap):
    """Its torques reach 1 plus the wind."""

    def __init__(self, name, wind=0.0, legs=2):
        super().__init__()
        self.name, self.wind, self.legs = name, wind, legs
        self.action_space = Box(-1 - wind, 1 + wind, (3,))


def test_ids_of_a_registered_family_are_made_by_its_function_with_the_factors_of_the_id():
    envs.register("mine", Hill, factors={"wind": float, "legs": int})
    vector = envs.make("mine/steep?wind=-0.5&legs=4", 2)
    inner = [env.unwrapped for env in vector.envs]
    assert [(env.name, env.wind, env.legs) for env in inner] == [("steep", -0.5, 4)] * 2
    assert inner[0] is not inner[1]
    vector.reset(seed=[3, 3])
    _, rewards, *_, infos = vector.step(np.full((2, 3), 0.5))
    np.testing.assert_array_equal(rewards, [0.75, 0.75])
    np.testing.assert_array_equal(infos["cost"], [0.5, 0.5])
    assert envs.make("mine/flat", 1).envs[0].unwrapped.legs == 2
    assert envs.copies_at_once("mine/flat", 120) == 40


def test_a_family_may_step_all_copies_at_once():
    """Its copies are those of single environments, reached by the same ids."""

    def hills(name, num_envs, **factors):
        return SyncVectorEnv([lambda: Hill(name, **factors)] * num_envs)

    envs.register("mine", Hill, factors={"wind": float})
    envs.register_vector("ours", hills, factors={"wind": float})
    alone, together = (envs.make(f"{prefix}/steep?wind=-0.5", 2) for prefix in ("mine", "ours"))
    answers = []
    for vector in (alone, together):
        observations, _ = vector.reset(seed=[3, 4])
        answers.append((observations, *vector.step(np.full((2, 3), 0.5))[:4]))
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)
    for wrong in (lambda name, num_envs: Hill(name), lambda name, num_envs: hills(name, 1)):
        envs.register_vector("ours", wrong)
        with pytest.raises(TypeError, match=r"factory of ours/ made .*VectorEnv of num_envs=2"):
            envs.make("ours/steep", 2)


def test_names_are_known_and_others_refused_where_there_are_any():
    before = envs.known_ids()
    envs.register("mine", Hill, names=["steep", "flat"])
    assert envs.known_ids() == (*before, "mine/steep", "mine/flat")
    assert parse("mine/flat") == ("mine", "flat", {})
    with pytest.raises(ValueError, match=r"unknown environment 'mine/stepe'.*mean mine/steep\?"):
        envs.make("mine/stepe", 1)
    with pytest.raises(ValueError, match=r"unknown environment 'mien/steep'.*mean mine/steep\?"):
        envs.make("mien/steep", 1)


def test_factors_that_a_family_does_not_have_or_read_are_refused():
    envs.register("mine", Hill, factors={"wind": float, "legs": int})
    with pytest.raises(ValueError, match=r"'win' in 'mine/a\?win=2'; expected wind, legs.*wind"):
        envs.make("mine/a?win=2", 1)
    with pytest.raises(ValueError, match=r"'legs=2\.5' in 'mine/a\?legs=2\.5' is wrong: .*'2\.5'"):
        envs.make("mine/a?legs=2.5", 1)
    with pytest.raises(ValueError, match="only mujoco/, mine/ environments take them"):
        envs.make("bullet/carrun?wind=2", 1)
    envs.register("mine", Hill)
    with pytest.raises(ValueError, match=r"only mujoco/ .*did you mean mine/a\?"):
        envs.make("mine/a?wind=2", 1)


@pytest.mark.parametrize("env_id", ["mine", "mine/", "mine/?wind=2"])
def test_an_id_without_a_name_is_refused(env_id):
    envs.register("mine", Hill, factors={"wind": float})
    with pytest.raises(ValueError, match=f"unknown environment '{env_id}'".replace("?", r"\?")):
        envs.make(env_id, 1)


@pytest.mark.parametrize("prefix", ["mujoco", "dm_control", "bullet", "metadrive", "gymnasium"])
def test_built_in_prefixes_cannot_be_taken(prefix):
    with pytest.raises(ValueError, match=f"prefix '{prefix}' is built in; choose another"):
        envs.register(prefix, Hill)


@pytest.mark.parametrize("prefix", ["", "a/b", "a?b", "a:b", "a b"])
def test_prefixes_that_no_id_can_start_with_are_refused(prefix):
    with pytest.raises(ValueError, match=f"prefix '{prefix}' cannot".replace("?", r"\?")):
        envs.register(prefix, Hill)


def test_what_cannot_be_called_is_no_factory():
    with pytest.raises(TypeError, match=r"callable as factory\(name, \*\*factors\), not 'Hill'"):
        envs.register("mine", "Hill")


def test_ids_of_gymnasium_are_made_as_it_makes_them():
    assert parse("Pendulum-v1") == ("gymnasium", "Pendulum-v1", {})
    assert envs.copies_at_once("Pendulum-v1", 120) == 40
    vector = envs.make("Pendulum-v1", 2)
    native = gymnasium.make("Pendulum-v1")
    observations, infos = vector.reset(seed=[4, 5])
    np.testing.assert_array_equal(observations[0], native.reset(seed=4)[0])
    assert infos == {}
    for action in np.float32([[0.5], [-0.125], [1], [-1], [0.25]]):
        expected, reward, *_ = native.step(2 * action)
        observations, rewards, *_ = vector.step(np.stack([action, action]))
        np.testing.assert_array_equal(observations[0], expected)
        assert rewards[0] == reward


def test_ids_of_gymnasium_take_no_factors():
    with pytest.raises(ValueError, match=r"lambda: gymnasium\.make\('Pendulum-v1', …\)"):
        envs.make("Pendulum-v1?g=5", 1)


@pytest.mark.parametrize("env_id", ["late/road", "Late-v0"])
def test_a_module_in_front_of_an_id_is_imported_first(env_id):
    assert parse(f"registering:{env_id}")[1] in env_id
    vector = envs.make(f"registering:{env_id}", 1)
    assert isinstance(vector.envs[0].unwrapped, Cheap)


def test_a_module_that_cannot_be_imported_is_an_error_of_its_id():
    with pytest.raises(ImportError, match=r"'no_such\.module' of the environment 'no_such\.modul"):
        envs.make("no_such.module:Env-v0", 1)
