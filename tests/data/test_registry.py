import dataclasses
import warnings

import numpy as np
import pytest

from psec_jax import TransitionDataset, load_dataset, storage
from psec_jax.data import demonstrations
from psec_jax.data.registry import LOCAL, home

NAME = "local/walker-stand-expert"


@pytest.fixture
def rolled_out(monkeypatch, tmp_path):
    """The calls of a stand-in for the simulator; the cache lies under ``tmp_path``."""
    monkeypatch.setenv("PSEC_JAX_HOME", str(tmp_path))
    calls = []

    def generate(policy, trajectories, seed):
        calls.append((policy.environment, trajectories, seed))
        generator = np.random.default_rng([seed, trajectories])
        n = 4 * trajectories
        return TransitionDataset(
            generator.normal(size=(n, 3)),
            generator.uniform(-1, 1, size=(n, 2)),
            generator.normal(size=n),
            np.arange(n) % 4 == 3,
            np.zeros(n),
        )

    monkeypatch.setattr(demonstrations, "generate", generate)
    return calls


def same(one, other):
    return all(
        getattr(one, f.name).tobytes() == getattr(other, f.name).tobytes()
        for f in dataclasses.fields(one)
    )


def test_data_are_made_once_and_then_read(rolled_out):
    made = load_dataset(NAME, trajectories=3, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = load_dataset(NAME, trajectories=3, seed=5)
    assert same(made, read)
    assert rolled_out == [("dm_control/walker-stand-v0", 3, 5)]


def test_other_data_are_not_mistaken_for_those_in_the_cache(rolled_out):
    asked = [(name, n, seed) for name in LOCAL for n in (1, 2) for seed in (0, 1)]
    for name, n, seed in asked:
        assert len(load_dataset(name, n, seed).ends) == n
    assert len(rolled_out) == len(asked) == len(set(rolled_out))
    load_dataset(NAME)
    assert rolled_out[-1] == ("dm_control/walker-stand-v0", LOCAL[NAME].trajectories, 0)


def test_the_cache_lies_where_the_environment_says(rolled_out, tmp_path, monkeypatch):
    load_dataset(NAME, trajectories=1)
    (file,) = (tmp_path / "datasets").iterdir()
    assert file.name == "walker-stand-expert-1-seed0.safetensors"
    monkeypatch.delenv("PSEC_JAX_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert home() == tmp_path / "user" / ".cache" / "psec_jax"


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def flip_sign(content):
    """Still a finite number in the middle of the data."""
    middle = len(content) - 41
    return content[:middle] + bytes([content[middle] ^ 128]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        flip_sign,
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"garbage",
    ],
    ids=["flip", "sign", "truncate", "empty", "garbage"],
)
def test_a_damaged_cache_is_noticed_and_made_again(rolled_out, tmp_path, damage):
    made = load_dataset(NAME, trajectories=2)
    (file,) = (tmp_path / "datasets").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="cached dataset is damaged and is made again"):
        assert same(load_dataset(NAME, trajectories=2), made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(load_dataset(NAME, trajectories=2), made)
    assert len(rolled_out) == 2
    assert list(file.parent.iterdir()) == [file]


def test_a_cache_of_something_else_is_not_taken_for_data(rolled_out, tmp_path):
    made = load_dataset(NAME, trajectories=2)
    (file,) = (tmp_path / "datasets").iterdir()
    storage.write_tensors(file, {"weights": np.zeros(3, np.float32)})
    with pytest.warns(UserWarning, match="which is not a dataset"):
        assert same(load_dataset(NAME, trajectories=2), made)


def test_data_that_could_not_be_made_leave_no_cache(rolled_out, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the simulator is another")

    monkeypatch.setattr(demonstrations, "generate", fail)
    with pytest.raises(RuntimeError, match="the simulator is another"):
        load_dataset(NAME, trajectories=1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("local/walker-stnad-expert", "local/walker-stand-expert"),
        ("walker-run", "local/walker-run-expert"),
        ("zzz", "local/walker-walk-expert"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(rolled_out, name, close):
    with pytest.raises(ValueError, match=f"unknown dataset '{name}'; did you mean .*{close}"):
        load_dataset(name)
    assert rolled_out == []


@pytest.mark.parametrize("trajectories", [0, -1])
def test_at_least_one_trajectory_is_made(rolled_out, trajectories):
    with pytest.raises(ValueError, match=f"trajectories must be at least 1, not {trajectories}"):
        load_dataset(NAME, trajectories)
