from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import TransitionDataset, concatenate
from psec_jax.data.dataset import INSIDE
from psec_jax.data.selection import safe_and_rewarding
from psec_jax.learners.objectives import Return

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)
# What ``make`` gives; next actions follow from the others.
NAMES = [f.name for f in fields(TransitionDataset) if f.name != "next_actions"]


def split(data):
    """The arrays of each trajectory, by going from transition to transition."""
    parts, start = [], 0
    for row in range(len(data)):
        if data.terminations[row] or data.truncations[row]:
            parts.append({name: a[start : row + 1] for name, a in data.arrays().items()})
            start = row + 1
    return parts


def join(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@given(LENGTHS)
def test_trajectories_are_the_data_cut_where_they_end(make, equal, lengths):
    data = make(lengths)
    parts = split(data)
    assert [len(part["rewards"]) for part in parts] == lengths == list(data.lengths)
    assert all(map(equal, data.trajectories(), parts))
    assert equal(concatenate(list(data.trajectories())), data)
    np.testing.assert_array_equal(data.returns, [sum(part["rewards"]) for part in parts])
    np.testing.assert_array_equal(data.cost_returns, [sum(part["costs"]) for part in parts])


@given(LENGTHS, st.data())
def test_selections_are_of_whole_trajectories_with_all_that_they_hold(make, equal, lengths, draw):
    """Also the next observation at a trajectory's end, and how it ended."""
    data = make(lengths)
    parts, numbers = split(data), st.integers(0, len(lengths) - 1)
    chosen = draw.draw(st.lists(numbers, min_size=1))
    assert equal(data.select(chosen), join([parts[i] for i in chosen]))
    count = draw.draw(numbers) + 1
    assert equal(data.take(count), join(parts[:count]))
    by_return = sorted(parts, key=lambda part: -sum(part["rewards"]))
    by_cost = sorted(parts, key=lambda part: sum(part["costs"]))
    assert equal(data.top(count), join(by_return[:count]))
    assert equal(data.top(count, by="cost"), join(by_cost[:count]))
    low, high = (sum(parts[chosen[0]][name]) for name in ("rewards", "costs"))
    good = [part for part in parts if sum(part["rewards"]) >= low]
    assert equal(data.where(return_at_least=low), join(good))
    safe = [part for part in good if sum(part["costs"]) <= high]
    assert equal(data.where(low, cost_at_most=high), join(safe))


@given(LENGTHS, st.floats(0, 1, exclude_min=True), st.integers(0, 9))
def test_a_fraction_is_some_trajectories_in_their_order(make, equal, lengths, share, seed):
    data = make(lengths)
    part = data.fraction(share, seed)
    assert len(part.ends) == max(1, round(share * len(lengths)))
    assert equal(part, data.fraction(share, seed))
    numbers = {t["actions"].tobytes(): number for number, t in enumerate(split(data))}
    chosen = [numbers[t["actions"].tobytes()] for t in split(part)]
    assert chosen == sorted(set(chosen))


@pytest.mark.parametrize("by", ["trajectory", "transition"])
def test_another_seed_gives_another_fraction(make, by):
    data = make([1] * 20)
    parts = {data.fraction(0.5, seed, by).observations.tobytes() for seed in range(20)}
    assert len(parts) == 20


@given(LENGTHS, st.floats(0, 1, exclude_min=True), st.integers(0, 9))
def test_a_fraction_of_transitions_is_some_of_them_cut_where_one_is_left_out(
    make, equal, lengths, share, seed
):
    data = make(lengths)
    part = data.fraction(share, seed, by="transition")
    assert len(part) == max(1, round(share * len(data)))
    assert equal(part, data.fraction(share, seed, by="transition"))
    numbers = {row.tobytes(): number for number, row in enumerate(data.observations)}
    chosen = [numbers[row.tobytes()] for row in part.observations]
    assert chosen == sorted(set(chosen))
    for name in set(NAMES) - {"truncations"}:
        np.testing.assert_array_equal(getattr(part, name), getattr(data, name)[chosen])
    for row, number in enumerate(chosen):
        gap = number + 1 not in chosen[row + 1 : row + 2]
        cut = data.truncations[number] or (gap and not data.terminations[number])
        assert part.truncations[row] == cut
    assert equal(data.fraction(1, seed, by="transition"), data)


@given(LENGTHS)
def test_truncations_can_count_as_terminations(make, equal, lengths):
    data = make(lengths)
    ended = data.truncations_as_terminations()
    np.testing.assert_array_equal(ended.ends, data.ends)
    assert ended.terminations.sum() == len(lengths) and not ended.truncations.any()
    marks = {name: getattr(data, name) for name in ("terminations", "truncations")}
    assert equal({**ended.arrays(), **marks}, data)


def next_actions(data):
    return data.columns(["next_actions"])["next_actions"]


@given(LENGTHS)
def test_next_actions_follow_and_are_unknown_at_an_end(make, lengths):
    data = make(lengths)
    expected = [
        np.concatenate([part["actions"][1:], np.full((1, 2), np.nan)]) for part in split(data)
    ]
    np.testing.assert_array_equal(next_actions(data), np.concatenate(expected))
    assert "next_actions" not in data.arrays()


@given(LENGTHS, st.floats(0.05, 0.95), st.integers(0, 5))
def test_transitions_keep_the_action_that_followed_wherever_they_are_taken(
    make, lengths, share, seed
):
    data, others = make(lengths), make([2], seed=1)
    part = data.fraction(share, seed, by="transition")
    numbers = {row.tobytes(): number for number, row in enumerate(data.observations)}
    chosen = [numbers[row.tobytes()] for row in part.observations]
    expected = next_actions(data)[chosen]
    np.testing.assert_array_equal(next_actions(part), expected)
    np.testing.assert_array_equal(next_actions(part.truncations_as_terminations()), expected)
    for joined, whole in (
        (concatenate([part, others]), [expected, next_actions(others)]),
        (concatenate([others, part]), [next_actions(others), expected]),
    ):
        np.testing.assert_array_equal(next_actions(joined), np.concatenate(whole))


def test_next_actions_that_are_given_are_taken(make):
    own = np.array([[0.5, -0.5], [np.nan, np.nan], [1, 0]], np.float32)
    data = make([3], next_actions=own)
    np.testing.assert_array_equal(next_actions(data), own)
    np.testing.assert_array_equal(next_actions(data.select([0])), own)
    assert not data.next_actions.flags.writeable


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([[0, 0], [0, 2]], r"next_actions must lie in \[-1, 1\], but one is as large as 2"),
        ([[0, 0], [0, np.nan]], "next_actions hold 1 row.* not finite"),
        ([[0, 0], [0, np.inf]], "next_actions hold 1 row.* not finite"),
        ([[0, 0, 0]] * 2, r"next_actions of shape \(2, 3\) do not fit actions of shape \(2, 2\)"),
        ([[0, 0]], "lengths of a dataset's arrays differ.*'next_actions': 1"),
    ],
)
def test_next_actions_that_cannot_be_are_refused(make, own, message):
    with pytest.raises(ValueError, match=message):
        make([2], next_actions=np.array(own, np.float32))


SEEDS = [-1, 2**32, 1.0, "0", None, True]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by", ["trajectory", "transition"])
def test_seeds_are_integers_of_32_bits(make, seed, by, equal):
    data = make([3, 4])
    with pytest.raises(ValueError, match=r"seed must be an integer from 0 to 2\*\*32 - 1, not"):
        data.fraction(0.5, seed, by)
    whole = data.fraction(1.0, np.uint32(2**32 - 1), by)
    assert equal(whole, data)


@given(LENGTHS)
def test_data_without_rewards_are_all_else_that_data_are(make, equal, lengths):
    """Imitation needs none; what is computed from them says so or leaves them out."""
    data, bare = make(lengths), make(lengths, rewards=None)
    without = {name: a for name, a in data.arrays().items() if name != "rewards"}
    assert bare.rewards is None and equal(bare, without)
    assert bare.summary() == {k: v for k, v in data.summary().items() if k != "return"}
    assert equal(concatenate(list(bare.trajectories())), bare)
    limit = np.median(data.cost_returns)
    for act in (
        lambda d: d.where(cost_at_most=limit),
        lambda d: d.top(1, by="cost"),
        lambda d: d.fraction(0.5, 0, by="transition"),
        lambda d: d.truncations_as_terminations(),
    ):
        assert equal({**act(bare).arrays(), "rewards": act(data).rewards}, act(data).arrays())
    for act in (
        lambda d: d.returns,
        lambda d: d.top(1),
        lambda d: d.where(return_at_least=0),
        lambda d: d.columns(["rewards"]),
        Return.scaled_to,
        lambda d: safe_and_rewarding(d, 100),
    ):
        with pytest.raises(ValueError, match="these data have no rewards"):
            act(bare)


@given(LENGTHS)
def test_the_last_transition_ends_its_trajectory_even_unmarked(make, lengths):
    marked = make(lengths)
    last = np.arange(len(marked)) == len(marked) - 1
    ends = {name: getattr(marked, name) & ~last for name in ("terminations", "truncations")}
    closed = make(lengths, **ends)
    np.testing.assert_array_equal(closed.ends, marked.ends)
    np.testing.assert_array_equal(closed.terminations, ends["terminations"])
    np.testing.assert_array_equal(closed.truncations, ends["truncations"] | last)


@given(LENGTHS)
def test_next_observations_follow_and_stand_still_at_an_end(make, equal, lengths):
    data = make(lengths, next_observations=None)
    for part in split(data):
        following = [*part["observations"][1:], part["observations"][-1]]
        np.testing.assert_array_equal(part["next_observations"], following)
    assert equal(make(lengths, next_observations=data.next_observations), data)


@given(st.lists(LENGTHS, min_size=1, max_size=3))
def test_joining_and_taking_apart_are_inverse(make, equal, parts):
    datasets = [make(lengths, seed) for seed, lengths in enumerate(parts)]
    whole = concatenate(datasets)
    assert equal(whole, join([d.arrays() for d in datasets]))
    assert equal(whole.take(len(parts[0])), datasets[0])


@given(st.lists(st.floats(-1 - 9e-6, 1 + 9e-6), min_size=1))
def test_actions_are_kept_inside_and_else_left_alone(make, actions):
    kept = make([len(actions)], actions=np.array(actions)[:, None]).actions[:, 0]
    assert np.abs(kept).max() <= np.float32(INSIDE) < 1 - 9e-6
    inside = np.abs(actions) <= INSIDE
    np.testing.assert_array_equal(kept[inside], np.float32(actions)[inside])
    np.testing.assert_allclose(kept, np.float32(actions), atol=2.1e-5)


def test_a_summary_counts_and_gives_quantiles(make):
    actions = np.zeros((15, 2))
    actions[[3, 7, 9], [0, 1, 0]] = 1, -1, 0.9999
    rewards = np.repeat([1, -1, 2, 0, 4], [1, 2, 3, 4, 5])
    data = make([1, 2, 3, 4, 5], actions=actions, rewards=rewards, costs=np.ones(15))
    spread = {"min": 1, "quarter": 2, "median": 3, "three_quarters": 4, "max": 5, "mean": 3}
    returns = {"min": -2, "quarter": 0, "median": 1, "three_quarters": 6, "max": 20, "mean": 5}
    assert data.summary() == {
        "transitions": 15,
        "trajectories": 5,
        "observation_size": 3,
        "action_size": 2,
        "terminations": 3,
        "truncations": 2,
        "actions_clipped": 2,
        "length": spread,
        "return": returns,
        "cost": spread,
    }
    assert "cost" not in make([3], costs=None).summary()


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8, np.bool_, list])
def test_numbers_become_float32_and_marks_bool(make, kind):
    columns = {name: getattr(make([4]), name) > 0 for name in NAMES}
    raw = {n: a.tolist() if kind is list else a.astype(kind) for n, a in columns.items()}
    data = TransitionDataset(**{**raw, "actions": columns["actions"] * 0.5})
    for name, values in data.arrays().items():
        assert values.dtype == (bool if name in ("terminations", "truncations") else np.float32)
        if name != "actions":
            np.testing.assert_array_equal(values, columns[name])


def read_only(array):
    view = array[:]
    view.setflags(write=False)
    return view


@pytest.mark.parametrize("given_as", [lambda a: a, lambda a: a[:], read_only, memoryview])
@pytest.mark.parametrize("name", NAMES)
def test_data_cannot_be_changed_from_outside(make, name, given_as):
    own = getattr(make([3, 4]), name).copy()
    data = make([3, 4], **{name: given_as(own)})
    own[:] = ~own if own.dtype == bool else own + 0.05
    before = getattr(make([3, 4]), name)
    np.testing.assert_array_equal(getattr(data, name), before)
    assert not any(a.flags.writeable for a in (*data.arrays().values(), data.ends, data.returns))
    assert not any(a.flags.writeable for a in data.select([1, 0]).arrays().values())


def test_taking_a_piece_copies_nothing(make):
    data = make([3, 4], actions=np.ones((7, 2)))
    for piece in (data.take(1), *data.trajectories(), TransitionDataset(**data.arrays())):
        assert all(np.shares_memory(a, getattr(data, n)) for n, a in piece.arrays().items())


def test_arrays_can_be_had_by_name(make):
    data = make([3, 4], costs=None)
    arrays = data.columns(("rewards", "next_observations"))
    assert list(arrays) == ["rewards", "next_observations"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(data, name))
    with pytest.raises(ValueError, match="these data have no costs or returns"):
        data.columns(("rewards", "costs", "returns"))


@pytest.mark.parametrize("values", [[np.nan] * 2, [np.inf] * 2, [np.inf, -np.inf]])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("terminations", "truncations")])
@pytest.mark.filterwarnings("error")
def test_values_that_are_no_numbers_are_refused_with_their_row(make, name, values):
    array = getattr(make([3, 4]), name).copy()
    array[[4, 6]] = np.reshape(values, (2,) + (1,) * (array.ndim - 1))
    with pytest.raises(ValueError, match=f"{name} hold 2 row.* first at transition 4; drop"):
        make([3, 4], **{name: array})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rewards", ["1.0"] * 7),
        ("rewards", np.ones(7, complex)),
        ("rewards", np.ones(7).astype(object)),
        ("terminations", ["False"] * 7),
        ("costs", np.arange(7).astype("datetime64[s]")),
    ],
)
def test_what_is_not_numeric_is_refused(make, name, values):
    with pytest.raises(ValueError, match=f"{name} must hold numbers, not values of dtype "):
        make([7], **{name: values})


@pytest.mark.parametrize("name", ["observations", "actions", "terminations", "truncations"])
def test_only_what_data_can_do_without_may_be_missing(make, name):
    with pytest.raises(ValueError, match=f"{name} must be an array, not None"):
        make([3], **{name: None})


def test_ragged_rows_are_refused_by_name(make):
    with pytest.raises(ValueError, match="observations must be one array of numbers: "):
        make([2], observations=[[1, 2, 3], [1, 2]])


@pytest.mark.parametrize("value", [0.5, -1, 2, 255])
@pytest.mark.parametrize("name", ["terminations", "truncations"])
def test_marks_are_zero_or_one(make, name, value):
    with pytest.raises(ValueError, match=rf"{name} hold {value}.* at transition 1; expected 0 or"):
        make([3], **{name: np.array([0, value, value])})


@pytest.mark.parametrize(
    "changed",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ],
    ids=["fortran", "negative strides", "byte order"],
)
def test_how_arrays_lie_in_memory_does_not_matter(make, equal, changed):
    data = make([3, 4])
    moved = TransitionDataset(**{name: changed(a) for name, a in data.arrays().items()})
    assert equal(moved, data) and equal(moved.select([1, 0]), data.select([1, 0]))


@pytest.mark.parametrize("name", NAMES)
def test_uneven_lengths_are_refused_with_all_of_them(make, name):
    short = getattr(make([3, 4]), name)[:-1]
    with pytest.raises(ValueError, match=f"lengths of a dataset's arrays differ.*'{name}': 6"):
        make([3, 4], **{name: short})


@pytest.mark.parametrize("shapes", [(0, 3, 2), (7, 0, 2), (7, 3, 0)])
def test_empty_data_are_refused(shapes):
    n, observation, action = shapes
    arrays = np.zeros((n, observation)), np.zeros((n, action)), *np.zeros((3, n))
    with pytest.raises(ValueError, match=rf"the dataset is empty.*'actions': \({n}, {action}\)"):
        TransitionDataset(*arrays)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("observations", (7,)), ("actions", (7, 2, 1)), ("rewards", (7, 1)), ("costs", ())],
)
def test_arrays_of_other_dimensions_are_refused(make, name, shape):
    with pytest.raises(ValueError, match=rf"{name} must have \d dimension.*not shape \("):
        make([7], **{name: np.zeros(shape)})


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda make: make([7], actions=np.full((7, 2), -1.5)), r"in \[-1, 1\], .* large as 1.5"),
        (lambda make: make([7], next_observations=np.zeros((7, 4))), r"\(7, 4\) do not fit.*7, 3"),
        (lambda make: make([3, 4]).take(0), "cannot take 0 .* dataset of 2"),
        (lambda make: make([3, 4]).take(3), "cannot take 3 .* dataset of 2"),
        (lambda make: make([3, 4]).top(-1), "cannot take -1 .* dataset of 2"),
        (lambda make: make([3, 4]).take(1.5), "cannot take 1.5 .* dataset of 2"),
        (lambda make: make([3]).fraction(1, 0, by="step"), "by='step' is unknown; .*'trajectory'"),
        (lambda make: make([3]).top(1, by="length"), "by='length' is unknown; .*'return' or"),
        (lambda make: make([3], costs=None).top(1, by="cost"), "these data have no costs"),
        (lambda make: make([3], costs=None).where(cost_at_most=1), "these data have no costs"),
        (lambda make: make([3], costs=None).cost_returns, "these data have no costs"),
        *(
            (lambda make, share=share: make([3]).fraction(share, 0), r"share must be in \(0, 1\]")
            for share in (0, -0.1, 1.01, np.nan)
        ),
        (lambda make: concatenate([]), "at least one dataset"),
        (lambda make: concatenate([make([3]), make([3], costs=None)]), "some have none; give"),
        (lambda make: concatenate([make([3], rewards=None), make([3])]), "have rewards and some"),
    ],
)
def test_what_cannot_be_is_refused(make, act, message):
    with pytest.raises(ValueError, match=message):
        act(make)


def test_where_nothing_is_left_the_reach_of_the_data_is_said(make):
    data = make([1, 2], rewards=[3, 1, 4], costs=[2, 3, 4])
    with pytest.raises(ValueError, match=r"none of 2 .* return is 5, the least cost 2; move"):
        data.where(return_at_least=4, cost_at_most=6)


def test_data_of_other_sizes_cannot_be_joined(make):
    wide = make([4], observations=np.zeros((4, 5)), next_observations=None)
    with pytest.raises(ValueError, match=r"sizes differ between datasets: \[\(3, 2\), \(5, 2\)"):
        concatenate([make([3]), wide])
