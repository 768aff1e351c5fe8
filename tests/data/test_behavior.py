import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import storage
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.errors import BrokenFile

FUNCTIONS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "tanh": lambda x: 1 - 2 / (np.exp(2 * x) + 1),
    "clip": lambda x: np.where(x > 1, 1, np.where(x < -1, -1, x)),
}


def policy(hidden=(5, 4), activation="relu", squash="tanh", seed=0):
    generator = np.random.default_rng(seed)
    sizes = [3, *hidden, 2]
    names = [*(f"hidden_{i}" for i in range(len(hidden))), "mean"]
    weights = {}
    for name, d_in, d_out in zip(names, sizes, sizes[1:], strict=False):
        weights[f"{name}/kernel"] = generator.normal(size=(d_in, d_out)).astype(np.float32)
        weights[f"{name}/bias"] = generator.normal(size=d_out).astype(np.float32)
    return BehaviorPolicy(weights, activation, squash, {"environment": "here"})


@given(
    st.lists(st.integers(1, 12), max_size=12).map(tuple),
    st.sampled_from(["relu", "tanh"]),
    st.sampled_from(["tanh", "clip"]),
)
def test_it_is_a_network_squashed_into_the_bounds(hidden, activation, squash):
    actor = policy(hidden, activation, squash)
    x = np.random.default_rng(1).normal(size=(7, 3))
    h = x
    for index in range(len(hidden)):
        layer = f"hidden_{index}"
        h = FUNCTIONS[activation](
            h @ actor.weights[f"{layer}/kernel"].astype(float) + actor.weights[f"{layer}/bias"]
        )
    expected = FUNCTIONS[squash](h @ actor.weights["mean/kernel"] + actor.weights["mean/bias"])
    actions = actor(x)
    np.testing.assert_allclose(actions, expected, atol=1e-3)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1


def test_it_comes_back_from_disk_as_it_was(tmp_path):
    actor = policy(activation="tanh", squash="clip")
    actor.save(tmp_path, "actor")
    again = BehaviorPolicy.load(tmp_path, "actor")
    x = np.random.default_rng(1).normal(size=(7, 3))
    np.testing.assert_array_equal(again(x), actor(x))
    assert again.provenance["environment"] == "here"


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"activation": "gelu"}, "activation 'gelu'"), ({"squash": None}, "squash None")],
)
def test_other_functions_are_refused(tmp_path, facts, message):
    policy().save(tmp_path, "actor")
    known = json.loads((tmp_path / "actor.json").read_text())
    storage.write_json(tmp_path / "actor.json", {**known, **facts})
    with pytest.raises(BrokenFile, match=f"{message}.*expected one of"):
        BehaviorPolicy.load(tmp_path, "actor")


def test_files_that_are_no_actor_are_refused(tmp_path):
    policy().save(tmp_path, "actor")
    storage.write_tensors(tmp_path / "actor.safetensors", {"a": np.zeros(2, np.float32)})
    with pytest.raises(BrokenFile, match="holds no actor"):
        BehaviorPolicy.load(tmp_path, "actor")
    with pytest.raises(ValueError, match=r"policy name '\.\./actor' is not allowed"):
        BehaviorPolicy.load(tmp_path, "../actor")
