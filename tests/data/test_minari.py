import json
import shutil

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from psec_jax import load_dataset
from psec_jax.data.minari import read_minari, write_minari
from psec_jax.errors import BrokenFile

ID = "walker/test-v0"
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)
VECTOR = Box(-np.inf, np.inf, (3,))

pytestmark = pytest.mark.filterwarnings("ignore:.*(None|no environment spec).*:UserWarning")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def follow(make):
    """``follow(lengths)``: data in which each next observation is the one that follows, but for
    the last of a trajectory, which no other transition has seen."""

    def follow(lengths, seed=0, **changes):
        data = make(lengths, seed, next_observations=None)
        following = data.next_observations.copy()
        following[data.ends - 1] += 1
        return make(lengths, seed, next_observations=following, **changes)

    return follow


def episode(steps, observations=None, **changes):
    """An episode as Minari's own collectors store it."""
    generator = np.random.default_rng(steps)
    columns = {
        "observations": generator.normal(size=(steps + 1, 3)).astype(np.float32),
        "actions": generator.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        "rewards": generator.normal(size=steps),
        "terminations": np.zeros(steps, bool),
        "truncations": np.arange(steps) == steps - 1,
    }
    columns |= {} if observations is None else {"observations": observations}
    return EpisodeBuffer(**{**columns, **changes})


def create(episodes, observations=VECTOR, actions=None):
    actions = Box(-1, 1, (2,)) if actions is None else actions
    minari.create_dataset_from_buffers(
        ID, episodes, observation_space=observations, action_space=actions
    )


@given(lengths=LENGTHS, lacks=st.sampled_from([[], ["costs"]]))
def test_what_is_written_is_read_again_bit_for_bit(follow, equal, lengths, lacks):
    data = follow(lengths, **dict.fromkeys(lacks))
    folder = write_minari(ID, data)
    assert minari.list_local_datasets().keys() == {ID}
    assert equal(read_minari(ID), data)
    shutil.rmtree(folder)


def test_minari_reads_what_is_written(follow, root):
    data = follow([3, 4, 2])
    folder = write_minari(ID, data, "walks", author="me", algorithm_name="SAC")
    assert folder == root / ID
    dataset = minari.load_dataset(ID)
    episodes = list(dataset.iterate_episodes())
    for mine, theirs in zip(data.trajectories(), episodes, strict=True):
        observations = [*mine.observations, mine.next_observations[-1]]
        np.testing.assert_array_equal(theirs.observations, observations)
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(mine, name))
        np.testing.assert_array_equal(theirs.infos["cost"], [0, *mine.costs])
    facts = dataset.storage.metadata
    assert (facts["author"], facts["algorithm_name"]) == ({"me"}, "SAC")
    assert facts["description"] == "walks" and facts["total_steps"] == 9


def test_datasets_have_names_like_all_others(follow, equal):
    data = follow([3, 4])
    write_minari(ID, data)
    assert equal(load_dataset(f"minari/{ID}"), data)
    assert equal(load_dataset(f"minari/{ID}", trajectories=1), data.take(1))


def test_episodes_become_trajectories_with_their_last_observation():
    ended = episode(4, terminations=np.arange(4) == 3, truncations=np.zeros(4, bool))
    unmarked = episode(3, truncations=np.zeros(3, bool))
    create([unmarked, ended, episode(2)])
    data = read_minari(ID)
    assert list(data.ends) == [3, 7, 9]
    assert list(np.flatnonzero(data.terminations)) == [6]
    assert list(np.flatnonzero(data.truncations)) == [2, 8]
    np.testing.assert_array_equal(data.observations[3:7], ended.observations[:-1])
    np.testing.assert_array_equal(data.next_observations[3:7], ended.observations[1:])
    assert data.costs is None


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("extra", [0, 1])
def test_costs_are_those_of_the_steps_and_not_of_the_reset(extra, shape):
    costs = np.arange(3 + extra, dtype=float)
    create([episode(3, infos={"cost": costs.reshape(shape)})])
    np.testing.assert_array_equal(read_minari(ID).costs, costs[extra:])


@pytest.mark.filterwarnings("error:.*have no costs")
def test_costs_that_some_episodes_lack_are_left_out_with_a_warning():
    create([episode(3, infos={"cost": np.ones(3)}), episode(2), episode(4)])
    said = f"^{ID}: 2 of 3 episodes have no costs, which are left out of all$"
    with pytest.warns(UserWarning, match=said):
        assert read_minari(ID).costs is None
    for folder in minari.list_local_datasets():
        minari.delete_dataset(folder)
    create([episode(3), episode(2)])
    assert read_minari(ID).costs is None


@pytest.mark.parametrize(
    "space",
    [
        Dict({"wind": Box(-1, 1, (2,)), "body": Dict({"q": VECTOR, "a": Box(-1, 1, (2, 2))})}),
        Tuple((VECTOR, Box(-1, 1, (2, 2)))),
    ],
    ids=["dict", "tuple"],
)
def test_structured_observations_become_vectors_in_gymnasiums_order(space):
    space.seed(0)
    samples = [space.sample() for _ in range(4)]

    def stack(space, values):
        if isinstance(space, Dict):
            return {k: stack(part, [v[k] for v in values]) for k, part in space.spaces.items()}
        if isinstance(space, Tuple):
            parts = zip(space.spaces, zip(*values, strict=True), strict=True)
            return tuple(stack(part, v) for part, v in parts)
        return np.stack(values)

    create([episode(3, stack(space, samples))], observations=space)
    data = read_minari(ID)
    flat = np.stack([gymnasium.spaces.flatten(space, sample) for sample in samples])
    np.testing.assert_array_equal(data.observations, flat[:-1])
    np.testing.assert_array_equal(data.next_observations, flat[1:])


def test_actions_are_scaled_from_the_bounds_of_their_space():
    low, high = np.array([-2, 0], np.float32), np.array([2, 10], np.float32)
    actions = np.array([[-2, 0], [0, 5], [1, 7.5], [3, 9]], np.float32)
    create([episode(4, actions=actions)], actions=Box(low, high))
    said = rf"^{ID}: the actions of 1 of 4 .*\[2.0, 10.0\]\), the farthest is 3; they are clipped$"
    with pytest.warns(UserWarning, match=said):
        data = read_minari(ID)
    np.testing.assert_allclose(data.actions, [[-1, -1], [0, 0], [0.5, 0.5], [1, 0.8]], atol=2e-5)
    assert data.summary()["actions_clipped"] == 2


@pytest.mark.parametrize(
    "space", [Discrete(4), Box(-1, 1, (2, 2)), Box(-np.inf, np.inf, (2,))], ids=str
)
def test_actions_that_cannot_be_scaled_are_refused(space):
    create([episode(2, actions=np.stack([space.sample() for _ in range(2)]))], actions=space)
    with pytest.raises(BrokenFile, match=r"actions in .*; expected a bounded Box of one dim"):
        read_minari(ID)


def test_numbers_that_are_not_finite_are_refused():
    create([episode(3), episode(2, rewards=[0.0, np.nan])])
    with pytest.raises(BrokenFile, match=rf"{ID}: rewards hold 1 row.* at transition 4"):
        read_minari(ID)


def test_episodes_have_rewards(follow):
    with pytest.raises(
        ValueError, match=r"no rewards, which Minari keeps .* convert them to HDF5"
    ):
        write_minari(ID, follow([3, 4], rewards=None))
    assert not minari.list_local_datasets()


def test_only_episodes_can_be_written(make, root):
    data = make([3, 4])
    with pytest.raises(ValueError, match=r"transition 0 does not lead .* convert them to HDF5"):
        write_minari(ID, data)
    assert not minari.list_local_datasets()


def test_an_id_that_is_taken_is_refused_and_kept(follow, equal, root, tree_of):
    data = follow([3, 4])
    write_minari(ID, data)
    before = tree_of(root)
    with pytest.raises(FileExistsError, match=r"exists already; remove it or choose another id"):
        write_minari(ID, follow([5]))
    assert tree_of(root) == before and equal(read_minari(ID), data)


def test_writing_that_fails_leaves_nothing(follow, root, monkeypatch):
    def fail(*arguments, **facts):
        (root / ID / "data").mkdir(parents=True)
        raise OSError("the disk is full")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_minari(ID, follow([3]))
    assert not (root / ID).exists()


WRONG_IDS = ["../x-v0", "/tmp/x-v0", "a/../../x-v0", "walker/x", "x-v", "", ".x-v0", "aa//x-v0"]


@pytest.mark.parametrize("dataset_id", [*WRONG_IDS, "a.b-v0", "x-v0/", "~/x-v0", "x-v0\n"])
def test_ids_that_are_none_are_refused_before_anything_is_touched(follow, root, dataset_id):
    for act in (read_minari, lambda name: write_minari(name, follow([3]))):
        with pytest.raises(ValueError, match=r"is no Minari id; expected \[namespace/\]name-v0"):
            act(dataset_id)
    assert not root.exists()


def test_a_dataset_that_is_nowhere_is_refused_in_one_line(root, monkeypatch):
    def unreachable(dataset_id, download=False):
        assert (dataset_id, download) == (ID, True)
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(minari, "load_dataset", unreachable)
    with pytest.raises(BrokenFile) as error:
        read_minari(ID)
    said = str(error.value)
    assert ID in said and str(root) in said and "no route to host" in said
    assert "\n" not in said


def test_a_damaged_dataset_is_refused_in_one_line(follow, root, monkeypatch):
    write_minari(ID, follow([3, 4]))
    numbers, facts = (root / ID / "data" / name for name in ("main_data.hdf5", "metadata.json"))
    content = numbers.read_bytes()
    described = json.loads(facts.read_text())
    damages = [(numbers, content[:end]) for end in range(0, len(content), len(content) // 9)]
    for seed in range(40):
        generator = np.random.default_rng(seed)
        flipped = bytearray(content)
        for place in generator.integers(0, 4000, size=6):
            flipped[place] ^= int(generator.integers(1, 256))
        damages.append((numbers, bytes(flipped)))
    damages += [(facts, text.encode()) for text in ("", "{", "{}", "[]")]
    damages.append((facts, json.dumps(described | {"total_episodes": 9}).encode()))
    damages.append((facts, json.dumps(described | {"total_episodes": 0}).encode()))
    refusals = 0
    for file, damage in damages:
        whole = file.read_bytes()
        file.write_bytes(damage)
        try:
            read_minari(ID)
        except BrokenFile as error:
            refusals += 1
            assert ID in str(error) and "\n" not in str(error)
        file.write_bytes(whole)
    assert refusals > 9 + 6
