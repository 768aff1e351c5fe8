import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import TransitionDataset
from psec_jax.data.recipes import Part, Recipe, read_recipes
from psec_jax.errors import BrokenFile

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=4)


def recipe(folder, sizes, environment="bullet/carrun"):
    parts = tuple(Part(f"policy-{index}", size, 0.1) for index, size in enumerate(sizes))
    return Recipe("a mixture", environment, parts, folder)


@given(SIZES, st.integers(1, 300))
def test_another_size_keeps_the_shares(tmp_path_factory, sizes, trajectories):
    whole = recipe(tmp_path_factory.getbasetemp(), sizes)
    resized = whole.of_size(trajectories)
    assert resized.trajectories == trajectories
    counts = {part.policy: part.trajectories for part in resized.parts}
    for part in whole.parts:
        share = part.trajectories * trajectories / whole.trajectories
        assert abs(counts.get(part.policy, 0) - share) <= 1
    assert min(counts.values()) > 0
    assert whole.of_size(whole.trajectories) == whole


def test_a_recipe_comes_back_from_disk(tmp_path):
    data = TransitionDataset(
        np.zeros((4, 2)),
        np.zeros((4, 1)),
        [1, 2, 3, 4],
        [0, 1, 0, 0],
        np.zeros(4),
        costs=[0, 1, 1, 1],
    )
    measured = recipe(tmp_path, [3, 2]).measured(data)
    assert (measured.return_mean, measured.return_std) == (5.0, 2.0)
    assert (measured.cost_mean, measured.cost_std) == (1.5, 0.5)
    assert measured.measure == "return 5.0 ± 2.0, cost 1.5 ± 0.5"
    measured.save("mixed")
    assert dict(read_recipes(tmp_path)) == {"mixed": measured}


def test_environments_without_costs_have_none(tmp_path):
    data = TransitionDataset(np.zeros((2, 2)), np.zeros((2, 1)), [1, 2], [0, 0], np.zeros(2))
    measured = recipe(tmp_path, [1], "mujoco/hopper-v5").measured(data)
    assert measured.cost_mean is None
    assert measured.measure == "return 3.0 ± 0.0"


def test_the_fingerprint_follows_all_that_the_data_follow_from(tmp_path):
    for index in range(2):
        (tmp_path / f"policy-{index}.safetensors").write_bytes(bytes([index]))
    whole = recipe(tmp_path, [3, 2])
    others = [
        whole.of_size(4),
        dataclasses.replace(whole, environment="bullet/ballrun"),
        dataclasses.replace(whole, parts=whole.parts[::-1]),
    ]
    assert len({r.fingerprint for r in [whole, *others]}) == 4
    assert dataclasses.replace(whole, about="otherwise put").fingerprint == whole.fingerprint
    before = whole.fingerprint
    (tmp_path / "policy-1.safetensors").write_bytes(b"trained anew")
    assert whole.fingerprint != before


@pytest.mark.parametrize(
    "harm",
    [
        lambda facts: facts.pop("parts"),
        lambda facts: facts.update(parts=[{"polcy": "a"}]),
        lambda facts: facts.update(surprise=1),
        lambda facts: facts.pop("environment"),
    ],
)
def test_a_description_of_no_dataset_is_refused_by_name(tmp_path, harm):
    path = recipe(tmp_path, [1]).save("mixed")
    facts = json.loads(path.read_text())
    harm(facts)
    path.write_text(json.dumps(facts))
    with pytest.raises(BrokenFile, match=r"mixed\.dataset\.json describes no dataset"):
        list(read_recipes(tmp_path))


def test_a_name_that_is_a_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dataset name '\.\./mixed' is not allowed"):
        recipe(tmp_path, [1]).save("../mixed")
