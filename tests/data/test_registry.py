import dataclasses
import shutil
import warnings

import numpy as np
import pytest

from psec_jax import TransitionDataset, load_dataset, storage
from psec_jax.data import demonstrations, registry
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.data.download import DownloadFailed
from psec_jax.data.hdf5 import write_hdf5
from psec_jax.data.recipes import Part, Recipe
from psec_jax.data.references import find_reference
from psec_jax.data.registry import fetch, home, local_datasets, names
from psec_jax.errors import BrokenFile

NAME = "local/walker-stand-expert"
WALKERS = [f"local/walker-{task}-expert" for task in ("stand", "walk", "run")]


@pytest.fixture
def rolled_out(monkeypatch, tmp_path):
    """The calls of a stand-in for the simulator; the cache lies under ``tmp_path``."""
    monkeypatch.setenv("PSEC_JAX_HOME", str(tmp_path))
    calls = []

    def generate(recipe, seed):
        trajectories = recipe.trajectories
        calls.append((recipe.environment, trajectories, seed))
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


def test_data_are_made_once_and_then_read(rolled_out, equal):
    made = load_dataset(NAME, trajectories=3, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = load_dataset(NAME, trajectories=3, seed=5)
    assert equal(made, read)
    assert rolled_out == [("dm_control/walker-stand-v0", 3, 5)]


def test_other_data_are_not_mistaken_for_those_in_the_cache(rolled_out):
    asked = [(name, n, seed) for name in WALKERS for n in (1, 2) for seed in (0, 1)]
    for name, n, seed in asked:
        assert len(load_dataset(name, n, seed).ends) == n
    assert len(rolled_out) == len(asked) == len(set(rolled_out))
    load_dataset(NAME)
    assert rolled_out[-1] == ("dm_control/walker-stand-v0", local_datasets()[NAME].trajectories, 0)


def test_the_cache_lies_where_the_environment_says(rolled_out, tmp_path, monkeypatch):
    load_dataset(NAME, trajectories=1)
    (file,) = (tmp_path / "datasets").iterdir()
    fingerprint = local_datasets()[NAME].of_size(1).fingerprint
    assert file.name == f"walker-stand-expert-1-seed0-{fingerprint}.safetensors"
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
def test_a_damaged_cache_is_noticed_and_made_again(rolled_out, tmp_path, damage, equal):
    made = load_dataset(NAME, trajectories=2)
    (file,) = (tmp_path / "datasets").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="cached dataset is damaged and is made again"):
        assert equal(load_dataset(NAME, trajectories=2), made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(load_dataset(NAME, trajectories=2), made)
    assert len(rolled_out) == 2
    assert list(file.parent.iterdir()) == [file]


def test_a_cache_of_something_else_is_not_taken_for_data(rolled_out, tmp_path, equal):
    made = load_dataset(NAME, trajectories=2)
    (file,) = (tmp_path / "datasets").iterdir()
    tensors = {"weights": np.zeros(3, np.float32)}
    storage.write_tensors(file, tensors, {"sha256": registry._digest(tensors)})
    with pytest.warns(UserWarning, match="which is not a dataset"):
        assert equal(load_dataset(NAME, trajectories=2), made)


def test_data_that_could_not_be_made_leave_no_cache(rolled_out, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the simulator is another")

    monkeypatch.setattr(demonstrations, "generate", fail)
    with pytest.raises(RuntimeError, match="the simulator is another"):
        load_dataset(NAME, trajectories=1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_user_collects_is_known_by_name(rolled_out, tmp_path):
    weights = {"mean/kernel": np.zeros((24, 6), np.float32), "mean/bias": np.ones(6, np.float32)}
    shelf = registry.local_folder()
    BehaviorPolicy(weights, "relu", "clip", {}).save(shelf, "mine")
    recipe = Recipe("mine", "dm_control/walker-run-v0", (Part("mine", 3),), shelf, 1.0, 1.0)
    recipe.save("my-data")
    assert len(load_dataset("local/my-data").ends) == 3
    assert rolled_out == [("dm_control/walker-run-v0", 3, 0)]
    weights["mean/bias"][0] = 0.5
    BehaviorPolicy(weights, "relu", "clip", {}).save(shelf, "mine")
    load_dataset("local/my-data")
    assert len(rolled_out) == 2, "data of a policy that is another by now"


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("local/walker-stnad-expert", "local/walker-stand-expert"),
        ("walker-run", "local/walker-run-expert"),
        ("zzz", "local/"),
        ("local/", "local/"),
        ("hopper-medum-v2", "d4rl/hopper-medium-v2"),
        ("OfflineCarRum-v0", "dsrl/CarRun"),
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


NAMES = ("walker2d-medium-v2", "dsrl/CarRun")


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's home in which nothing lies, and no folder that a variable names."""
    for variable in ("PSEC_JAX_HOME", "D4RL_DATASET_DIR", "DSRL_DATASET_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def remote(server, user, monkeypatch, tmp_path, make):
    """The data that the server has for every public name."""
    data = make([3, 4])
    server.content = write_hdf5(tmp_path / "remote.hdf5", data).read_bytes()

    def find(name):
        found = find_reference(name)
        return dataclasses.replace(found, url=server.url(found.file))

    monkeypatch.setattr(registry, "find_reference", find)
    return data


def test_every_name_is_listed(rolled_out):
    assert set(local_datasets()) < set(names())
    assert {"d4rl/walker2d-medium-v2", "dsrl/CarRun"} < set(names())
    assert len(set(names())) == len(names())


@pytest.mark.parametrize("name", NAMES)
def test_a_public_dataset_is_fetched_once_and_read(server, remote, equal, user, name, capsys):
    assert equal(load_dataset(name), remote)
    assert equal(load_dataset(name, trajectories=1), remote.take(1))
    assert len(server.requests) == 1
    reference = find_reference(name)
    folder = user / ".cache" / "psec_jax" / "datasets" / reference.family
    assert fetch(name) == folder / reference.file
    assert reference.file in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["{tmp}/shared", "~/shared"])
def test_a_file_goes_where_the_variable_says(
    remote, server, user, tmp_path, monkeypatch, name, folder
):
    reference = find_reference(name)
    folder = folder.format(tmp=tmp_path)
    monkeypatch.setenv(f"{reference.family.upper()}_DATASET_DIR", folder)
    expected = tmp_path / "shared" if "~" not in folder else user / "shared"
    assert fetch(name, shown=False) == expected / reference.file
    assert fetch(name, shown=False) == expected / reference.file
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", NAMES)
def test_files_are_sought_in_the_named_folder_first(
    remote, server, user, tmp_path, monkeypatch, make, name
):
    reference = find_reference(name)
    own = user / ".cache" / "psec_jax" / "datasets" / reference.family
    usual, named = user / f".{reference.family}" / "datasets", tmp_path / "named"
    for length, folder in enumerate((own, usual, named), start=1):
        write_hdf5(folder / reference.file, make([length]))
    assert len(load_dataset(name)) == 2
    monkeypatch.setenv(f"{reference.family.upper()}_DATASET_DIR", str(named))
    assert len(load_dataset(name)) == 3
    shutil.rmtree(named)
    assert len(load_dataset(name)) == 1
    assert server.requests == []


def test_a_broken_file_on_this_machine_is_named_and_left_alone(remote, user, server):
    file = user / ".d4rl" / "datasets" / find_reference("walker2d-medium-v2").file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"garbage")
    with pytest.raises(BrokenFile, match=str(file)):
        load_dataset("walker2d-medium-v2")
    assert file.read_bytes() == b"garbage" and server.requests == []


def test_without_a_network_the_folder_for_the_file_is_named(user, monkeypatch, nowhere):
    reference = dataclasses.replace(find_reference("walker2d-medium-v2"), url=nowhere)
    monkeypatch.setattr(registry, "find_reference", lambda name: reference)
    with pytest.raises(DownloadFailed, match=f"{nowhere}.*put it into {home()}/datasets/d4rl"):
        load_dataset("walker2d-medium-v2")


@pytest.mark.parametrize("trajectories", [1.0, "3", np.float32(2)])
def test_trajectories_are_counted_in_integers(rolled_out, trajectories):
    with pytest.raises(ValueError, match="trajectories must be an integer, not "):
        load_dataset(NAME, trajectories)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "0", None, True])
def test_seeds_are_integers_of_32_bits(rolled_out, seed, equal):
    with pytest.raises(ValueError, match=r"seed must be an integer from 0 to 2\*\*32 - 1, not"):
        load_dataset(NAME, 1, seed)
    assert rolled_out == []
    one = load_dataset(NAME, np.int64(1), np.uint32(2**32 - 1))
    assert equal(one, load_dataset(NAME, 1, 2**32 - 1)) and len(rolled_out) == 1


@pytest.mark.parametrize("suffix", ["hdf5", "h5"])
def test_a_file_is_read_by_its_path(tmp_path, make, equal, suffix):
    data = make([3, 4])
    path = write_hdf5(tmp_path / f"data.{suffix}", data)
    assert equal(load_dataset(str(path)), data)
    assert equal(load_dataset(str(path), trajectories=1), data.take(1))
    with pytest.raises(ValueError, match="cannot take 3 trajectories of a dataset of 2"):
        load_dataset(str(path), trajectories=3)


@pytest.mark.parametrize("name", ["local/walker-run-expert", "minari/walker/test-v0"])
def test_only_public_files_are_fetched(user, name):
    with pytest.raises(ValueError, match=f"{name} comes on first use; only D4RL and DSRL names"):
        fetch(name)
