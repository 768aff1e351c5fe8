import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from psec_jax import load_dataset
from psec_jax.data import registry
from psec_jax.data.__main__ import main
from psec_jax.data.hdf5 import read_hdf5, write_hdf5
from psec_jax.data.references import find_reference, references
from psec_jax.data.registry import names


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for variable in ("PSEC_JAX_HOME", "D4RL_DATASET_DIR", "DSRL_DATASET_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


@pytest.fixture
def data(make):
    whole = make([3, 4], next_observations=None)
    return make([3, 4], next_observations=whole.next_observations)


@pytest.fixture
def file(home, data):
    return str(write_hdf5(home / "data.hdf5", data))


@pytest.fixture
def foreign(home, data):
    """The same transitions under other keys, with actions between 0 and 10."""
    with h5py.File(home / "foreign.hdf5", "w") as file:
        file["data/obs"], file["data/r"] = data.observations, data.rewards
        file["terminals"], file["timeouts"] = data.terminations, data.truncations
        file["actions"] = 5 + 5 * data.actions
    return str(home / "foreign.hdf5")


MAPPING = ["--key", "observations=data/obs", "--key", "rewards=data/r", "--bounds", "0", "10"]


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_list_names_every_dataset_and_says_where_it_is(home, make, capsys):
    reference = find_reference("walker2d-medium-v2")
    path = write_hdf5(home / ".d4rl" / "datasets" / reference.file, make([3]))
    main(["list"])
    rows = {line.split()[0]: line for line in lines(capsys)}
    assert tuple(rows) == names()
    row = rows["d4rl/walker2d-medium-v2"]
    assert str(path) in row and "returns 1.6 to 4592.3" in row and "mujoco/walker2d-v4" in row
    assert "to be fetched" in rows["dsrl/CarRun"]
    assert "made here" in rows["local/walker-run-expert"]


@pytest.mark.parametrize("part", ["carrun", "walker2d-medium", "LOCAL/", "v2"])
def test_list_can_be_narrowed(part, capsys):
    main(["list", part])
    found = [line.split()[0] for line in lines(capsys)]
    assert found == [name for name in names() if part.lower() in name.lower()] != []


def test_show_prints_the_summary_as_json(file, data, capsys):
    main(["show", file])
    shown, facts = json.loads(capsys.readouterr().out), data.summary()
    assert shown.keys() == facts.keys()
    for name, value in facts.items():
        assert shown[name] == pytest.approx(value, abs=1e-4)


def test_keys_and_bounds_of_a_file_can_be_given(foreign, data, home, capsys):
    main(["convert", foreign, str(home / "new.hdf5"), *MAPPING])
    read = read_hdf5(home / "new.hdf5")
    np.testing.assert_array_equal(read.observations, data.observations)
    np.testing.assert_array_equal(read.rewards, data.rewards)
    np.testing.assert_allclose(read.actions, data.actions, atol=1e-6)
    capsys.readouterr()
    main(["show", foreign, *MAPPING])
    assert json.loads(capsys.readouterr().out)["actions_clipped"] == 0


def test_bounds_can_be_given_by_dimension_and_observations_chosen(home, data, capsys):
    path = home / "foreign.npz"
    entries = data.arrays()
    del entries["observations"], entries["next_observations"]
    entries |= {"actions": [0, 5] + data.actions * [2, 5]}
    entries |= {"obs/b": data.observations[:, 1], "obs/a": data.observations[:, [0, 2]]}
    np.savez(path, **entries)
    bounds = ["--bounds", "-2", "2", "--bounds", "0", "10"]
    order = ["--observation-key", "b", "--observation-key", "a"]
    main(["convert", str(path), str(home / "new.hdf5"), *bounds, *order])
    read = read_hdf5(home / "new.hdf5")
    np.testing.assert_allclose(read.actions, data.actions, atol=1e-6)
    np.testing.assert_array_equal(read.observations, data.observations[:, [1, 0, 2]])
    assert capsys.readouterr().err == ""


def test_warnings_are_a_line_each(foreign, capsys):
    main(["show", foreign, *MAPPING[:-1], "9"])
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith(f"warning: {foreign}: the actions of ") and "are clipped" in line
    assert json.loads(shown.out)["transitions"] == 7


@pytest.mark.parametrize("words", [["psec_jax.data", "list"], ["psec_jax.data", "show", "{file}"]])
def test_a_reader_that_stops_early_is_no_error(file, words):
    """As ``head`` does; here it has closed the pipe before anything is printed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", *(word.format(file=file) for word in words)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("target", ["{home}/folder/new.hdf5", "{home}/new.h5", "~/new.H5"])
def test_convert_writes_hdf5(file, data, home, equal, target, capsys):
    main(["convert", file, target.format(home=home)])
    written = target.format(home=home).replace("~", str(home))
    assert lines(capsys) == [written]
    assert equal(load_dataset(written), data)


def test_convert_writes_minari_datasets_that_can_be_converted_back(
    file, data, home, equal, capsys
):
    main(["convert", file, "minari/walker/test-v0"])
    assert lines(capsys) == [str(home / "minari" / "walker" / "test-v0")]
    main(["convert", "minari/walker/test-v0", str(home / "back.hdf5")])
    assert equal(load_dataset(str(home / "back.hdf5")), data)


def test_fetch_prints_the_files(home, make, capsys):
    paths = []
    for name in ("walker2d-medium-v2", "dsrl/CarRun"):
        reference = find_reference(name)
        folder = home / f".{reference.family}" / "datasets"
        paths.append(str(write_hdf5(folder / reference.file, make([3]))))
    main(["fetch", "walker2d-medium-v2", "OfflineCarRun-v0"])
    assert lines(capsys) == paths


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "zzz"], "no known dataset has 'zzz' in its name"),
        (["show", "walker2d-medum-v2"], "did you mean .*d4rl/walker2d-medium-v2"),
        (["show", "{home}/none.hdf5"], "none.hdf5 is missing or not a plain file"),
        (["show", "{home}/broken.hdf5"], "broken.hdf5 is not a readable HDF5 file"),
        (["show", "{file}", "--key", "costs=infos/cost"], "no dataset 'infos/cost' for costs"),
        (["show", "{file}", "--key", "costs"], "--key 'costs' must be NAME=KEY, such as"),
        (["show", "{file}", "--key", "cost=costs"], r"keys \['cost'\] are unknown"),
        (["show", "{file}", "--bounds", "1", "-1"], "bounds must be finite and rise"),
        (["show", "CarRun", "--bounds", "-2", "2"], "are for files, and 'CarRun' is a name"),
        (["show", "minari/../x-v0"], "'../x-v0' is no Minari id"),
        (["fetch", "CarRum"], "did you mean .*dsrl/CarRun"),
        (["fetch", "minari/walker/test-v0"], "only D4RL and DSRL names are fetched"),
        (["fetch", "{file}"], "unknown dataset"),
        (["convert", "{file}", "{file}"], "data.hdf5 exists already; remove it or choose"),
        (["convert", "{file}", "new.csv"], "'new.csv' is neither a file.hdf5 nor minari/"),
        (["convert", "{file}", "new.npz"], "'new.npz' is neither a file.hdf5 nor minari/"),
        (["show", "new.csv"], "new.csv has the suffix '.csv', which no reader takes; files that"),
        (["show", "{file}", *["--bounds", "-1", "1"] * 3], r"of 3 dimension\(s\), but .* have 2"),
        (["show", "CarRun", "--observation-key", "x"], "are for files, and 'CarRun' is a name"),
        (["convert", "{file}", "minari/x"], "'x' is no Minari id"),
        (["convert", "{home}/broken.hdf5", "{home}/a/new.hdf5"], "is not a readable HDF5 file"),
        (["convert", "{home}/broken.hdf5", "minari/x-v0"], "is not a readable HDF5 file"),
        (["convert", "{home}/jumps.hdf5", "minari/x-v0"], "does not lead to the observation"),
    ],
)
def test_mistakes_end_in_one_line_and_change_nothing(
    home, file, make, tree_of, arguments, said, capsys
):
    (home / "broken.hdf5").write_bytes(b"garbage")
    write_hdf5(home / "jumps.hdf5", make([3]))
    (home / "minari").mkdir()
    before = tree_of(home)
    with pytest.raises(SystemExit, match=f"^error: .*{said}") as stop:
        main([argument.format(home=home, file=file) for argument in arguments])
    # Python prints such a text to the standard error and exits with status 1.
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    assert capsys.readouterr().out == ""
    assert tree_of(home) == before


def test_what_cannot_be_fetched_ends_in_one_line(home, monkeypatch, nowhere, capsys):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(home))
    known = references()["d4rl/walker2d-medium-v2"]
    reference = type(known)(known.name, nowhere, known.low_return, known.high_return)
    monkeypatch.setattr(registry, "find_reference", lambda name: reference)
    with pytest.raises(SystemExit, match=rf"^error: .*{nowhere} .*put it into {home}$"):
        main(["fetch", "walker2d-medium-v2"])
    assert not [path for path in home.iterdir() if not path.name.startswith(".")]


def test_without_minari_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "psec_jax.data.minari", raising=False)
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(SystemExit, match=r"^error: .*pip install 'psec-jax\[minari\]'"):
        main(["show", "minari/walker/test-v0"])


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["show"], ["fetch"], ["convert", "x"], ["show", "x", "--bounds", "1"]],
)
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: python -m psec_jax.data" in capsys.readouterr().err
