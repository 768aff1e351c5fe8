import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psec_jax import TransitionDataset
from psec_jax.data.hdf5 import read_hdf5, write_hdf5
from psec_jax.errors import BrokenFile

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def write(path, entries):
    with h5py.File(path, "w") as file:
        for key, values in entries.items():
            file[key] = values
    return path


def plain(data, drop=()):
    """What every layout holds, in D4RL's words."""
    names = {"terminals": data.terminations, "timeouts": data.truncations}
    names |= {name: getattr(data, name) for name in ("observations", "actions", "rewards")}
    names |= {name: getattr(data, name) for name in ("costs", "next_observations")}
    return {name: values for name, values in names.items() if name not in drop}


def d4rl(data):
    """A D4RL v2 file of MuJoCo: with the simulator's state and the policy that collected it."""
    n, generator = len(data), np.random.default_rng(1)
    return plain(data, drop=["costs"]) | {
        "infos/action_log_probs": generator.normal(size=n).astype(np.float32),
        "infos/qpos": generator.normal(size=(n, 9)),
        "infos/qvel": generator.normal(size=(n, 9)),
        "metadata/algorithm": "SAC",
        "metadata/iteration": 1000,
        "metadata/policy/fc0/weight": generator.normal(size=(4, 3)),
        "metadata/policy/fc0/bias": generator.normal(size=4),
        "metadata/policy/last_fc/weight": generator.normal(size=(2, 4)),
        "metadata/policy/nonlinearity": "relu",
        "metadata/policy/output_distribution": "tanh_gaussian",
    }


def antmaze(data):
    """No next observations; marks are float32 numbers."""
    goal = {"infos/goal": np.ones((len(data), 2)), "infos/qpos": np.ones((len(data), 15))}
    marks = {k: plain(data)[k].astype(np.float32) for k in ("terminals", "timeouts")}
    return plain(data, drop=["costs", "next_observations"]) | goal | marks


def dsrl(data):
    """Everything is float32, and one number a transition is a vector."""
    return {name: values.astype(np.float32) for name, values in plain(data).items()}


def dsrl_columns(data):
    """Costs and rewards with an axis of one, marks as bytes, states in double precision."""
    columns = plain(data)
    flat = {k: columns[k][:, None] for k in ("rewards", "costs")}
    marks = {k: columns[k].astype(np.uint8)[:, None] for k in ("terminals", "timeouts")}
    return columns | flat | marks | {"observations": columns["observations"].astype(np.float64)}


@pytest.mark.parametrize(
    ("layout", "lacks"),
    [
        (d4rl, ["costs"]),
        (antmaze, ["costs", "next_observations"]),
        (dsrl, []),
        (dsrl_columns, []),
    ],
)
@given(lengths=LENGTHS)
def test_the_same_transitions_are_read_from_every_layout(
    tmp_path, make, equal, layout, lacks, lengths
):
    data = make(lengths)
    read = read_hdf5(write(tmp_path / "data.hdf5", layout(data)))
    assert equal(read, make(lengths, **dict.fromkeys(lacks)))


def test_compressed_and_chunked_files_are_read(tmp_path, make, equal):
    data = make([30, 40])
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        for key, values in plain(data).items():
            file.create_dataset(key, data=values, compression="gzip", chunks=True)
    assert equal(read_hdf5(tmp_path / "data.hdf5"), data)


@given(lengths=LENGTHS, lacks=st.sampled_from([[], ["costs"]]))
def test_what_is_written_is_read_again_bit_for_bit(tmp_path, make, equal, lengths, lacks):
    data = make(lengths, **dict.fromkeys(lacks))
    path = write_hdf5(tmp_path / "folder" / "data.hdf5", data)
    assert equal(read_hdf5(path), data)
    with h5py.File(path) as file:
        stored = {key: file[key][...] for key in file}
    assert equal(stored, plain(data, drop=lacks))
    assert list(path.parent.iterdir()) == [path]


@given(LENGTHS, st.booleans())
def test_unmarked_breaks_are_seen_in_the_next_observations(tmp_path, make, lengths, terminals):
    """Every observation is another, so inside a trajectory alone one follows the other."""
    data = make(lengths, next_observations=None)
    entries = plain(data, drop=["timeouts"])
    if not terminals:
        entries["terminals"] = np.zeros(len(data))
    read = read_hdf5(write(tmp_path / "data.hdf5", entries))
    np.testing.assert_array_equal(read.ends, np.cumsum(lengths))
    np.testing.assert_array_equal(read.terminations, entries["terminals"])
    assert not (read.terminations & read.truncations).any()


def test_without_any_mark_the_data_are_one_trajectory(tmp_path, make):
    entries = plain(make([3, 4]), drop=["timeouts", "next_observations"])
    read = read_hdf5(write(tmp_path / "data.hdf5", entries | {"terminals": np.zeros(7)}))
    assert list(read.ends) == [7]


def test_keys_can_be_named(tmp_path, make, equal):
    data = make([3, 4])
    names = {"observations": "data/obs", "rewards": "data/r", "truncations": "cut", "costs": "c"}
    renamed = {"observations": "data/obs", "rewards": "data/r", "timeouts": "cut", "costs": "c"}
    entries = {renamed.get(key, key): values for key, values in plain(data).items()}
    # What lies under the usual key is then something else.
    entries |= {"costs": np.zeros(3), "timeouts": np.ones(7)}
    assert equal(read_hdf5(write(tmp_path / "data.hdf5", entries), names), data)


@given(
    st.floats(-9, 9),
    st.floats(0.5, 9),
    st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=9),
)
def test_actions_are_scaled_from_their_bounds_and_clipped(tmp_path, make, low, width, actions):
    high, actions = low + width, np.array(actions)
    raw = low + (actions + 1) / 2 * (high - low)
    entries = plain(make([len(actions)]), drop=["actions"]) | {"actions": raw[:, None]}
    path = write(tmp_path / "data.hdf5", entries)
    read = read_hdf5(path, bounds=(low, high))
    np.testing.assert_allclose(read.actions[:, 0], np.clip(actions, -1, 1), atol=3e-5)
    clear = np.abs(np.abs(actions) - 1) > 3e-5
    if clear.all():
        assert read.summary()["actions_clipped"] == (np.abs(actions) > 1).sum()


@pytest.mark.parametrize("bounds", [(1, 1), (1, -1), (np.nan, 1), (-1, np.inf)])
def test_bounds_must_rise_and_be_finite(tmp_path, make, bounds):
    path = write_hdf5(tmp_path / "data.hdf5", make([3]))
    with pytest.raises(ValueError, match=r"bounds must be finite and rise from low to high"):
        read_hdf5(path, bounds=bounds)


def test_keys_of_unknown_quantities_are_refused(tmp_path, make):
    path = write_hdf5(tmp_path / "data.hdf5", make([3]))
    with pytest.raises(ValueError, match=r"keys \['obs'\] are unknown; .*'observations'"):
        read_hdf5(path, {"obs": "observations"})


def refused(path, **options):
    """The one line that a file is refused with, which names it."""
    with pytest.raises(BrokenFile) as error:
        read_hdf5(path, **options)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": None}, "no dataset 'actions' for actions; it holds ['costs', 'next_obs"),
        ({"observations": None}, "no dataset 'observations' for observations; it holds ['actions"),
        ({"terminals": None}, "no dataset 'terminals' for terminations; it holds ['actions"),
        ({"observations": None, "observations/x": [1]}, "one array, but a dictionary with ['x']"),
        ({"rewards": None, "rewards/x": [1]}, "must hold numbers for rewards, not <HDF5 group"),
        ({"timeouts": None, "timeouts/x": [1]}, "must hold numbers for truncations, not <HDF5 gr"),
        ({"costs": None, "costs/x": [1]}, "must hold numbers for costs, not <HDF5 group"),
        ({"rewards": ["high"] * 7}, "must hold numbers for rewards, not <HDF5 dataset"),
        ({"terminals": ["no"] * 7}, "must hold numbers for terminations, not <HDF5 dataset"),
        ({"timeouts": np.array([b"no"] * 7)}, "must hold numbers for truncations"),
        ({"actions": h5py.Empty("f4")}, "must hold numbers for actions"),
        ({"rewards": np.zeros(7, complex)}, "must hold numbers for rewards"),
        ({"rewards": np.zeros(6)}, "lengths of a dataset's arrays differ"),
        ({"terminals": np.zeros(6), "timeouts": None}, "lengths of a dataset's arrays differ"),
        ({"rewards": np.full(7, np.nan)}, "rewards hold 7 row(s) that are not finite"),
        ({"next_observations": np.full((7, 3), np.inf)}, "next_observations hold 7 row(s)"),
        ({"terminals": np.full(7, np.nan)}, "terminations hold values that are not finite"),
        ({"terminals": np.full(7, 255, "u1")}, "terminations hold 255 at transition 0; exp"),
        ({"timeouts": np.full(7, -1, "i1")}, "truncations hold -1 at transition 0; expected 0"),
        ({"actions": np.full((7, 2), np.inf)}, "actions hold 7 row(s) that are not finite"),
        ({"next_observations": np.zeros((7, 4))}, "do not fit observations"),
        ({"observations": np.zeros(7)}, "observations must have 2 dimension(s)"),
        ({"observations": 1.0, "timeouts": None}, "observations must have 2 dimension(s)"),
        ({"costs": np.zeros((7, 2))}, "costs must have 1 dimension(s)"),
        ({"actions": np.zeros((7, 0))}, "the dataset is empty"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, make, changes, said):
    entries = {**plain(make([3, 4])), **changes}
    entries = {key: values for key, values in entries.items() if values is not None}
    assert said in refused(write(tmp_path / "data.hdf5", entries))


def test_a_file_of_no_transitions_is_refused(tmp_path, make):
    empty = {key: values[:0] for key, values in plain(make([3])).items()}
    assert "the dataset is empty" in refused(write(tmp_path / "data.hdf5", empty))


def test_a_named_key_that_is_missing_is_refused_even_where_it_may_be(tmp_path, make):
    path = write_hdf5(tmp_path / "data.hdf5", make([3]))
    said = refused(path, keys={"costs": "infos/cost"})
    assert "no dataset 'infos/cost' for costs; it holds ['actions', 'costs'" in said
    assert "keys={'costs': '…'}" in said


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x89HDF\r\n\x1a\n", b"<html>" * 999])
def test_what_is_no_hdf5_file_is_refused(tmp_path, content):
    (tmp_path / "data.hdf5").write_bytes(content)
    assert "is not a readable HDF5 file: " in refused(tmp_path / "data.hdf5")


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.hdf5"):
        assert refused(path) == " is missing or not a plain file"


def test_a_file_cut_off_anywhere_is_refused(tmp_path, make):
    path = write_hdf5(tmp_path / "data.hdf5", make([30, 40]))
    content = path.read_bytes()
    for end in np.linspace(0, len(content) - 1, 50).astype(int):
        path.write_bytes(content[:end])
        assert "is not a readable HDF5 file: " in refused(path)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_anywhere_is_refused_or_changes_only_numbers(tmp_path, make, changes):
    """HDF5 holds no checksums of numbers; what else is broken, h5py says in many ways."""
    data = make([3, 4])
    path = write_hdf5(tmp_path / "data.hdf5", data)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        assert isinstance(read_hdf5(path), TransitionDataset)
    except BrokenFile as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_writing_that_fails_leaves_nothing(tmp_path, make, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("the disk is full")

    path = write_hdf5(tmp_path / "data.hdf5", make([3]))
    before = path.read_bytes()
    monkeypatch.setattr(h5py.File, "create_dataset", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_hdf5(path, make([4]))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
