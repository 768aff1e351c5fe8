"""The columns of a file under the names, and in the groups, in which libraries write them."""

import re
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax.data.hdf5 import read_hdf5
from psec_jax.data.readers import read_file
from psec_jax.errors import BrokenFile

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@pytest.fixture(autouse=True)
def strict():
    """Nothing is warned of that a test does not expect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def write_h5(path, entries):
    with h5py.File(path, "w") as file:
        for key, values in entries.items():
            file[key] = values
    return path


def write_npz(path, entries):
    np.savez(path, **entries)
    return path


FORMATS = {"data.hdf5": write_h5, "data.npz": write_npz}
in_each_format = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture
def write(tmp_path):
    return lambda entries, name="data.hdf5": FORMATS[name](tmp_path / name, entries)


def columns(data, drop=(), **names):
    """The columns of ``data``, some under other names."""
    arrays = {k: v for k, v in data.arrays().items() if k not in drop}
    return {names.get(name, name): values for name, values in arrays.items()}


DIALECTS = {
    "D4RL": {"terminations": "terminals", "truncations": "timeouts"},
    "Gymnasium": {"terminations": "terminated", "truncations": "truncated"},
    "Minari": {},
    "short": {"observations": "obs", "next_observations": "next_obs", "costs": "cost"},
    "singular": {
        "observations": "observation",
        "actions": "action",
        "rewards": "reward",
        "terminations": "terminal",
        "truncations": "timeout",
        "next_observations": "next_observation",
    },
}


@in_each_format
@pytest.mark.parametrize("dialect", DIALECTS)
@given(lengths=LENGTHS, folder=st.sampled_from(["", "data/", "a/b/"]))
def test_every_dialect_is_understood(write, make, equal, name, dialect, lengths, folder):
    data = make(lengths)
    entries = {folder + k: v for k, v in columns(data, **DIALECTS[dialect]).items()}
    assert equal(read_file(write(entries, name)), data)


@pytest.mark.parametrize("other", ["truncated", "truncations", "timeouts", "timeout"])
def test_naming_one_column_leaves_the_others_to_be_found(write, make, equal, other):
    data = make([3, 4, 2], terminations=np.zeros(9), truncations=np.isin(np.arange(9), (2, 6)))
    path = write(columns(data, terminations="mine", truncations=other))
    assert equal(read_hdf5(path, keys={"terminations": "mine"}), data)
    with pytest.raises(BrokenFile, match=r"no dataset 'terminals' .* keys=\{'terminations': '…'"):
        read_hdf5(path)
    said = rf"or, where nothing terminates, keys=\{{'truncations': '{other}'\}}$"
    path = write(columns(data, drop=["terminations"], truncations=other))
    with pytest.raises(BrokenFile, match=said):
        read_hdf5(path)
    assert equal(read_hdf5(path, keys={"truncations": other}), data)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("terminations", ("terminals", "terminated")),
        ("truncations", ("timeouts", "truncated")),
        ("rewards", ("rewards", "reward")),
        ("costs", ("costs", "infos/cost")),
        ("observations", ("observations", "obs")),
    ],
)
def test_two_columns_for_one_quantity_must_agree(write, make, equal, name, keys):
    data = make([3, 4])
    values = getattr(data, name)
    entries = columns(data, drop=[name]) | dict.fromkeys(keys, values)
    assert equal(read_hdf5(write(entries)), data)
    changed = ~values if values.dtype == bool else values + 1
    path = write(entries | {keys[1]: changed})
    said = f"has '{keys[0]}' and '{keys[1]}' for {name}, which disagree; .*'{name}': '{keys[0]}'"
    with pytest.raises(BrokenFile, match=said):
        read_hdf5(path)
    assert equal(read_hdf5(path, keys={name: keys[0]}), data)


@given(LENGTHS)
def test_the_ends_of_episodes_are_terminations_less_truncations(write, make, equal, lengths):
    data = make(lengths, next_observations=None)
    dones = {"dones": data.terminations | data.truncations}
    whole, marks = columns(data, drop=["next_observations"]), ("terminations", "truncations")
    for drop in (["terminations"], [], ["truncations"]):
        entries = {k: v for k, v in whole.items() if k not in drop}
        assert equal(read_hdf5(write(entries | dones)), data)
    # Or they may be the terminations.
    assert equal(read_hdf5(write(whole | {"done": data.terminations})), data)
    # Named as one of the marks, they are that and no other.
    entries = {k: v for k, v in whole.items() if k not in marks} | dones
    cut = read_hdf5(write(entries), keys={"truncations": "dones"})
    assert not cut.terminations.any()
    np.testing.assert_array_equal(cut.truncations, dones["dones"])
    for drop in ([], ["truncations"]):
        wrong = {k: v for k, v in whole.items() if k not in drop} | {"dones": np.zeros(len(data))}
        with pytest.raises(BrokenFile, match="'terminations' and 'dones' for terminations, which"):
            read_hdf5(write(wrong))


def test_dones_alone_are_terminations_with_a_warning(write, make):
    data = make([3, 4, 2])
    entries = columns(data, drop=["terminations", "truncations", "next_observations"])
    path = write(entries | {"dones": data.terminations | data.truncations})
    said = r"3 transitions are marked by 'dones' alone.*keys=\{'truncations': 'dones'\}"
    with pytest.warns(UserWarning, match=said):
        read = read_hdf5(path)
    assert read.terminations.sum() == 3 and not read.truncations.any()


@in_each_format
@given(lengths=st.lists(st.integers(1, 6), min_size=11, max_size=12), first=st.integers(0, 3))
def test_demonstrations_are_trajectories_in_numeric_order(
    write, make, equal, name, lengths, first
):
    """As robomimic keeps them: demo_2 comes before demo_10."""
    data = make(lengths, terminations=np.zeros(sum(lengths)), truncations=np.zeros(sum(lengths)))
    ends = np.cumsum(lengths)
    entries = {"mask/train": np.zeros(3)}
    for number, (start, end) in enumerate(zip(ends - lengths, ends, strict=True), first):
        for key, values in columns(data, drop=["truncations"], terminations="dones").items():
            entries[f"data/demo_{number}/{key}"] = values[start:end]
        entries[f"data/demo_{number}/states"] = np.zeros((end - start, 40))
    read = read_file(write(entries, name))
    np.testing.assert_array_equal(read.ends, ends)
    assert not read.terminations.any()
    assert equal({**read.arrays(), "truncations": data.truncations}, data)


@pytest.mark.parametrize("place", ["data/demo_{:03}/", "traj_{}/", "{}/", "a/b/{}/"])
def test_imitation_data_need_nothing_but_observations_and_actions(write, make, place):
    data = make([3, 4])
    entries = {}
    for number, part in enumerate(data.trajectories()):
        entries[f"{place.format(number)}obs"] = part.observations
        entries[f"{place.format(number)}actions"] = part.actions
    read = read_hdf5(write(entries))
    assert read.rewards is None and read.costs is None
    assert list(read.ends) == [3, 7] == list(np.flatnonzero(read.truncations) + 1)
    np.testing.assert_array_equal(read.actions, data.actions)


def test_an_observation_more_than_actions_is_the_last_next_observation(write, make, equal):
    """As in a Minari file; its infos begin with that of the reset."""
    data = make([3, 4], next_observations=None)
    following = data.next_observations.copy()
    following[data.ends - 1] += 1
    data = make([3, 4], next_observations=following)
    entries = {}
    for number, part in enumerate(data.trajectories()):
        own = columns(part, drop=["costs", "next_observations"])
        own["observations"] = [*part.observations, part.next_observations[-1]]
        own["infos/cost"] = [9, *part.costs]
        entries |= {f"episode_{number}/{key}": values for key, values in own.items()}
    assert equal(read_hdf5(write(entries)), data)


@pytest.fixture
def robot(make):
    """Demonstrations with dictionaries of observations, and the entries of these."""
    data = make([3, 4], terminations=np.zeros(7), truncations=np.isin(np.arange(7), (2, 6)))
    entries, parts = {}, {"hand": slice(1, 3), "arm/angle": 0}
    for number, part in enumerate(data.trajectories()):
        for key in ("actions", "rewards", "truncations"):
            entries[f"data/demo_{number}/{key}"] = getattr(part, key)
        for key in ("observations", "next_observations"):
            group = f"data/demo_{number}/{key.removesuffix('ervations')}"
            for name, which in parts.items():
                entries[f"{group}/{name}"] = getattr(part, key)[:, which]
    return data, entries


@in_each_format
@pytest.mark.parametrize(
    ("keys", "order"),
    [(None, [0, 1, 2]), (["hand", "arm/angle"], [1, 2, 0]), (("hand",), [1, 2])],
)
def test_dictionaries_of_observations_become_vectors_in_a_known_order(
    write, robot, name, keys, order
):
    """Alphabetical, or as asked for."""
    data, entries = robot
    read = read_file(write(entries, name), **({} if keys is None else {"observation_keys": keys}))
    np.testing.assert_array_equal(read.observations, data.observations[:, order])
    np.testing.assert_array_equal(read.next_observations, data.next_observations[:, order])
    assert list(read.ends) == [3, 7]


def test_text_among_observations_is_no_vector(write, robot):
    words = {f"data/demo_{i}/obs/words": np.array([b"go"] * n) for i, n in enumerate((3, 4))}
    with pytest.raises(BrokenFile, match=r"'words' in 'obs' .*keys=\['arm/angle', 'hand'\]"):
        read_hdf5(write(robot[1] | words))


def test_images_among_observations_are_not_vectors(write, robot):
    data, entries = robot
    images = {f"data/demo_{i}/obs/camera": np.zeros((n, 2, 2, 3)) for i, n in enumerate((3, 4))}
    path = write(entries | images)
    said = (
        r"'camera' in 'obs' is of shape \(3, 2, 2, 3\).*observation_keys=\['arm/angle', 'hand'\]"
    )
    with pytest.raises(BrokenFile, match=said):
        read_hdf5(path)
    read = read_hdf5(path, observation_keys=["arm/angle", "hand"])
    np.testing.assert_array_equal(read.observations, data.observations)


def test_pieces_that_go_on_are_one_trajectory_and_marks_end_it(write, make, equal):
    """The second piece begins where the first has led to, the third does not."""
    data = make([5, 4], next_observations=None)
    data = make([5, 4], next_observations=data.next_observations + 1)
    following = data.next_observations.copy()
    inner = [0, 1, 2, 3, 5, 6, 7]
    following[inner] = data.observations[np.add(inner, 1)]
    data = make(
        [5, 4],
        next_observations=following,
        terminations=np.zeros(9),
        truncations=np.isin(np.arange(9), (4, 8)),
    )
    pieces = [slice(0, 2), slice(2, 5), slice(5, 9)]

    def entries(drop, **changes):
        whole = columns(data, drop=drop) | changes
        return {f"{i}/{k}": v[rows] for i, rows in enumerate(pieces) for k, v in whole.items()}

    assert equal(read_hdf5(write(entries(["terminations", "truncations"]))), data)
    assert equal(read_hdf5(write(entries(["truncations"]))), data)
    assert equal(read_hdf5(write(entries([]))), data)
    ended = read_hdf5(write(entries(["truncations"], terminations=np.arange(9) == 1)))
    assert list(ended.ends) == [2, 5, 9] and list(np.flatnonzero(ended.terminations)) == [1]
    apart = read_hdf5(write(entries(["terminations", "truncations", "next_observations"])))
    assert list(apart.ends) == [2, 5, 9] == list(np.flatnonzero(apart.truncations) + 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"2/rewards": None}, "1 of 3 demonstrations have no rewards, which are left out of all"),
        (
            {"0/costs": None, "1/costs": None},
            "2 of 3 demonstrations have no costs, which are left",
        ),
        ({"7/x": [1.0]}, "1 of 4 groups like '0' hold no actions and are left out"),
    ],
)
def test_what_is_left_out_is_warned_of_with_its_count(write, make, changes, said):
    data = make([3, 4, 2])
    parts = enumerate(data.trajectories())
    entries = {f"{i}/{k}": v for i, part in parts for k, v in columns(part).items()} | changes
    path = write({k: v for k, v in entries.items() if v is not None})
    with pytest.warns(UserWarning, match=said):
        read = read_hdf5(path)
    assert list(read.ends) == [3, 7, 9]
    assert (read.rewards is None) == ("rewards" in said)
    assert (read.costs is None) == ("costs" in said)


def test_an_end_within_a_demonstration_is_warned_of(write, make):
    data = make([5])
    entries = {f"demo_0/{k}": v for k, v in columns(data, drop=["terminations"]).items()}
    path = write(entries | {"demo_0/dones": [0, 0, 1, 1, 1]})
    with pytest.warns(UserWarning, match="1 of 1 demonstrations end before their last transition"):
        assert list(read_hdf5(path).ends) == [3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"1/rewards": np.zeros(3)}, r"the lengths of the arrays in '1' differ: .*'rewards': \(3"),
        (
            {"1/terminations": None},
            "1 of 2 demonstrations have no terminations, so how they ended",
        ),
        (
            {"1/actions": np.zeros((4, 3))},
            r"shapes of actions differ between groups: .*\(3,\): '1'",
        ),
        (
            {"1/observations": None},
            "in 1 has no dataset 'observations' for observations; it holds",
        ),
        ({"1/terminations": np.full(4, 0.5)}, "in 1: terminations hold 0.5 at transition 0"),
        ({"train/actions": np.zeros((1, 2))}, r"not numbered alike: \['0', '1', 'train'\]"),
        ({"x1/actions": np.zeros((1, 2))}, r"not numbered alike: \['0', '1', 'x1'\]"),
        (
            {"0/actions": np.zeros(3)},
            r"actions in '0' must have 2 dimension\(s\), not shape \(3,\)",
        ),
        (
            {f"{i}/actions": np.zeros((0, 2)) for i in (0, 1)},
            "lengths of the arrays in '0' differ",
        ),
    ],
)
def test_what_is_wrong_in_one_demonstration_is_named(write, make, changes, said):
    parts = enumerate(make([3, 4]).trajectories())
    entries = {f"{i}/{k}": v for i, part in parts for k, v in columns(part).items()} | changes
    with pytest.raises(BrokenFile, match=said) as error:
        read_hdf5(write({k: v for k, v in entries.items() if v is not None}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observation_keys": "obs"}, "observation_keys must be a sequence of one or more names"),
        ({"observation_keys": []}, "observation_keys must be a sequence of one or more names"),
        ({"keys": {"rewards": 3}}, "keys must map to names in the file, not to 3"),
        ({"keys": {"reward": "r"}}, r"keys \['reward'\] are unknown"),
    ],
)
def test_wrong_options_are_refused(write, make, options, said):
    path = write(columns(make([3])))
    with pytest.raises(ValueError, match=said):
        read_hdf5(path, **options)


@pytest.mark.parametrize(
    ("keys", "said"),
    [(["foot"], "no 'foot' in 'obs'; it holds"), (["arm"], r"'arm' in 'obs' is of shape \(\)")],
)
def test_an_observation_that_is_not_there_is_named(write, robot, keys, said):
    with pytest.raises(BrokenFile, match=said):
        read_hdf5(write(robot[1]), observation_keys=keys)


def test_one_array_has_no_entries_to_choose(write, make):
    said = re.escape("'observations' is one array, but a dictionary with ['x'] was expected")
    with pytest.raises(BrokenFile, match=said):
        read_hdf5(write(columns(make([3]))), observation_keys=["x"])


def test_an_axis_of_one_environment_is_left_out(write, make, equal):
    data = make([3, 4])
    assert equal(read_hdf5(write({k: v[:, None] for k, v in columns(data).items()})), data)


def test_links_that_lead_nowhere_are_passed_over(write, make, equal):
    data = make([3, 4])
    path = write({f"data/{k}": v for k, v in columns(data).items()})
    with h5py.File(path, "a") as file:
        file["a"], file["data/self"] = h5py.SoftLink("/nowhere"), h5py.SoftLink("/data")
    assert equal(read_hdf5(path), data)
    with pytest.raises(BrokenFile, match=r"no dataset 'torque' for actions; it holds \['data/act"):
        read_hdf5(path, keys={"actions": "torque"})


@pytest.mark.parametrize("kind", ["f2", ">f4", ">f8", "f8"])
def test_floats_of_any_width_and_byte_order_are_read(write, make, kind):
    data = make([3, 4])
    entries = {k: v if v.dtype == bool else v.astype(kind) for k, v in columns(data).items()}
    for name in FORMATS:
        read = read_file(write(entries, name))
        for key, values in read.arrays().items():
            np.testing.assert_array_equal(values, np.float32(entries[key]))
