"""Side by side is one after another, to float tolerance, in one program."""

import functools
import json
import sys

import jax
import numpy as np
import pytest
from flax import struct

import psec_jax as psec
from psec_jax.errors import Diverged
from psec_jax.networks import Denoiser
from psec_jax.training import Checkpoints, Interrupted, JsonLines
from psec_jax.training.seeds import groups, joined, shapes, side_by_side, stacked, unstacked

BACKBONE = psec.DiffusionBackbone(2, Denoiser(16, 1, time_features=8, time_hidden=8, dropout=0.0))
SEEDS = (0, 1, 2)


def data_of(trajectories, seed=0):
    random = np.random.default_rng(seed)
    observations = random.normal(size=(20 * trajectories, 5))
    ends = np.arange(len(observations)) % 20 == 19
    return psec.TransitionDataset(
        observations,
        np.tanh(observations[:, :2]),
        random.normal(size=len(observations)) * (1 + seed),
        ends,
        np.zeros(len(observations), bool),
    )


SOURCE = data_of(5)


def run(seed, folder, **options):
    """The stages of a run; each seed has a target of its own, of another size."""
    target = data_of(3 + seed, seed)
    stage = lambda name: {  # noqa: E731
        "steps": 25,
        "batch_size": 16,
        "chunk": 10,
        "label": f"{name} (seed {seed})",
        "key": jax.random.fold_in(jax.random.key(seed), sum(map(ord, name))),
        **options,
    }
    base = psec.pretrain(SOURCE, backbone=BACKBONE, **stage("base"))
    skills, critics = psec.learn_skills(
        base, target, objectives={"return": psec.Return.scaled_to(target)}, **stage("skill")
    )
    library = psec.SkillLibrary.create(folder / str(seed), base)
    library.add("skill", skills["skill"])
    agent = psec.compose(library, target, **stage("compose"))
    return base.params, skills["skill"].deltas, critics["return"].q_params, agent.context_params


@pytest.fixture
def programs(monkeypatch):
    """The numbers of seeds of the programs that ran."""
    module, counts = sys.modules["psec_jax.training.fit"], []
    fit_together = module._fit_together

    def noting(fits):
        counts.append(len(fits))
        return fit_together(fits)

    monkeypatch.setattr(module, "_fit_together", noting)
    return counts


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return [run(seed, folder) for seed in SEEDS]


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), found, expected
    )


def test_three_seeds_are_one_program_a_stage_and_learn_what_each_learns_alone(
    alone, programs, tmp_path
):
    found = side_by_side(lambda seed: run(seed, tmp_path), SEEDS)
    assert programs == [3, 3, 3]
    assert_close(found, alone)


def test_what_differs_in_more_than_numbers_runs_for_itself(programs):
    def learn(features):
        network = Denoiser(features, 1, time_features=8, time_hidden=8, dropout=0.0)
        backbone = psec.DiffusionBackbone(2, network)
        return psec.pretrain(SOURCE, steps=3, key=jax.random.key(0), backbone=backbone)

    found = side_by_side(learn, [16, 8, 16])
    assert programs == [2, 1]
    assert [policy.backbone.network.features for policy in found] == [16, 8, 16]


def test_metrics_of_each_seed_go_to_its_own_writer(tmp_path):
    def learn(seed, folder):
        with JsonLines(folder / f"{seed}.jsonl") as writer:
            options = {"label": f"base {seed}", "writer": writer, "chunk": 5, "batch_size": 16}
            key = jax.random.key(seed)
            psec.pretrain(SOURCE, steps=15, key=key, backbone=BACKBONE, **options)
        return [json.loads(row) for row in (folder / f"{seed}.jsonl").read_text().splitlines()]

    together = side_by_side(lambda seed: learn(seed, tmp_path / "together"), SEEDS)
    for seed, rows in zip(SEEDS, together, strict=True):
        expected = learn(seed, tmp_path / "alone")
        assert [row["step"] for row in rows] == [row["step"] for row in expected] == [5, 10, 15]
        for row, other in zip(rows, expected, strict=True):
            assert row["label"] == other["label"] == f"base {seed}"
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
    losses = [rows[-1]["loss"] for rows in together]
    assert len(set(losses)) == len(losses)


def test_interrupted_and_gone_on_with_is_bit_for_bit_what_it_would_have_been(tmp_path):
    options = {"checkpoints": Checkpoints(tmp_path / "whole", every=10)}
    whole = side_by_side(lambda seed: run(seed, tmp_path / "a", **options), SEEDS)

    checkpoints = Checkpoints(tmp_path / "pieces", every=10)
    options = {"checkpoints": checkpoints}
    for number, stopping in enumerate(("skill", "compose")):

        class Stopping:
            """Asks for the end at a stage's first metrics, as a signal does."""

            def write(self, label, step, metrics, stage=stopping):
                if label.startswith(stage):
                    checkpoints.stopping = True

            def rewind(self, label, step):
                pass

        folder = tmp_path / f"b{number}"
        with pytest.raises(Interrupted):
            side_by_side(lambda seed: run(seed, folder, writer=Stopping(), **options), SEEDS)  # noqa: B023
        checkpoints.stopping = False
    pieces = side_by_side(lambda seed: run(seed, tmp_path / "c", **options), SEEDS)
    jax.tree.map(np.testing.assert_array_equal, pieces, whole)


def test_they_run_in_turn_and_in_order():
    seen = []

    def negative(calls):
        return [-call for call in calls]

    def asking(item):
        for step in range(3):
            seen.append((step, item))
            assert joined(negative, item) == -item
        return item * 10

    assert side_by_side(asking, (3, 1, 2)) == [30, 10, 20]
    assert seen == [(step, item) for step in range(3) for item in (3, 1, 2)]


def test_some_may_ask_more_often_than_others():
    sizes = []

    def double(calls):
        sizes.append(len(calls))
        return [2 * call for call in calls]

    def asking(count):
        return [joined(double, number) for number in range(count)]

    assert side_by_side(asking, (1, 3, 2)) == [[0], [0, 2, 4], [0, 2]]
    assert sizes == [3, 2, 1]


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_an_error_ends_all_and_is_raised(where):
    ended = []

    def fail(calls):
        if where == "within":
            raise OSError("together")
        return calls

    def asking(item):
        try:
            if where == "before" and item == 1:
                raise OSError("one")
            joined(fail, item)
            if where == "after" and item == 1:
                raise OSError("one")
            joined(fail, item)
        finally:
            ended.append(item)

    with pytest.raises(OSError, match="together" if where == "within" else "one"):
        side_by_side(asking, (0, 1, 2))
    # The third had not begun where the second failed first.
    assert sorted(ended) == ([0, 1] if where == "before" else [0, 1, 2])


def test_the_seed_that_diverges_is_named():
    def learn(seed):
        rate = psec.Optimisation(learning_rate=1e-3)
        data = data_of(3)
        if seed == 1:
            data = psec.TransitionDataset(
                **{**data.arrays(), "observations": data.observations * 1e30}
            )
        return psec.pretrain(
            data,
            steps=5,
            key=jax.random.key(seed),
            backbone=BACKBONE,
            statistics=psec.Statistics.of(SOURCE.observations),
            optimisation=rate,
            label=f"base (seed {seed})",
        )

    with pytest.raises(Diverged, match=r"^base \(seed 1\)"):
        side_by_side(learn, SEEDS)


def test_what_one_has_locked_does_not_stop_the_others():
    def count(calls):
        return [len(calls)] * len(calls)

    class Run:
        @functools.cached_property
        def asked(self):
            return joined(count, None)

    assert side_by_side(lambda _: Run().asked, range(3)) == [3, 3, 3]


def test_side_by_side_within_side_by_side():
    def total(calls):
        return [sum(calls)] * len(calls)

    def outer(item):
        inner = side_by_side(lambda i: joined(total, i), (1, 2))
        return [joined(total, 10), *inner, item]

    assert side_by_side(outer, "ab") == [[20, 3, 3, "a"], [20, 3, 3, "b"]]


def test_stacked_trees_come_apart_again():
    trees = [{"a": np.full(3, i), "b": (np.float32(i),)} for i in range(4)]
    apart = unstacked(stacked(trees), 4)
    jax.tree.map(np.testing.assert_array_equal, apart, trees)
    assert stacked(trees[:1]) is trees[0] and unstacked(trees[0], 1) == [trees[0]]


def test_groups_are_of_equal_shapes():
    trees = [{"a": np.zeros(2)}, {"a": np.ones(2)}, {"a": np.ones(3)}, {"b": np.ones(2)}]
    assert groups([shapes(tree) for tree in trees]) == [[0, 1], [2], [3]]


def test_trees_of_different_classes_are_not_alike():
    """JAX calls their structures equal where their fields are."""

    @struct.dataclass
    class One:
        value: jax.Array

    @struct.dataclass
    class Other:
        value: jax.Array

    one, other = One(np.zeros(2)), Other(np.zeros(2))
    assert shapes(one) == shapes(One(np.ones(2)))
    assert shapes(one) != shapes(other)
    assert groups([shapes(one), shapes(other), shapes(one)]) == [[0, 2], [1]]
