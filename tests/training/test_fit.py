from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from psec_jax import Adapter, Optimizer
from psec_jax.errors import Diverged
from psec_jax.learners import SkillLearner
from psec_jax.training import Training, fit

KEY = jax.random.key(6)


@struct.dataclass
class Recorder:
    """Writes down the key and the batch of each update; its loss is the number of the update."""

    offset: Any
    updates: int = struct.field(pytree_node=False, default=12)
    breaks_at: int = struct.field(pytree_node=False, default=0)

    name = "recorder"
    columns = ("observations", "actions")

    def init(self, key, example):
        return {
            "init": jax.random.key_data(key),
            "keys": jnp.zeros((self.updates, 2), jnp.uint32),
            "rows": jnp.zeros((self.updates, 5, 5)),
            "drawn": jnp.zeros((self.updates, 5), int),
            "example": example,
            "count": jnp.array(0),
            "total": self.offset,
        }

    def update(self, state, batch, key):
        count = state["count"]
        state = {
            **state,
            "keys": state["keys"].at[count].set(jax.random.key_data(key)),
            "rows": state["rows"].at[count].set(batch["observations"]),
            "drawn": state["drawn"].at[count].set(jax.random.randint(key, (5,), 0, 60)),
            "count": count + 1,
            "total": state["total"] * 0.5 + jax.random.normal(key) + batch["actions"].mean(),
        }
        loss = jnp.where(count + 1 == self.breaks_at, jnp.nan, count + 1.0)
        return state, {"loss": loss, "square": jnp.square(count + 1)}


@pytest.fixture
def recorder():
    return Recorder(jnp.float32(0.5))


def run(learner, data, steps=12, key=KEY, state=None, start=0, **options):
    training = Training(steps, 5, **options)
    return fit(learner, data, key=key, training=training, state=state, start=start)


class Rows(list):
    """A writer."""

    def write(self, label, step, metrics):
        self.append((label, step, dict(metrics)))


def test_no_key_is_used_twice(recorder, dataset):
    state = run(recorder, dataset, chunk=5)
    keys = np.vstack([state["keys"], state["init"], jax.random.key_data(KEY)])
    assert len(np.unique(keys, axis=0)) == 14
    assert not np.array_equal(dataset.observations[state["drawn"]], state["rows"])


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_length_of_chunks_does_not_change_the_result(recorder, dataset, same, chunk):
    assert same(run(recorder, dataset, chunk=chunk), run(recorder, dataset, chunk=4))


@pytest.mark.parametrize("stop", [1, 4, 11])
def test_training_that_was_interrupted_equals_training_that_was_not(recorder, dataset, same, stop):
    first = run(recorder, dataset, stop)
    resumed = run(recorder, dataset, state=first, start=stop)
    assert same(resumed, run(recorder, dataset))
    assert resumed["count"] == 12


@pytest.mark.parametrize("kind", ["low_rank", "full"])
def test_resuming_a_real_learner_is_exact(gaussian, dataset, same, kind):
    learner = SkillLearner(gaussian, Adapter(kind, rank=2), Optimizer(steps=4))
    whole = run(learner, dataset, 4, chunk=2)
    half = run(learner, dataset, 2, chunk=2)
    assert same(run(learner, dataset, 4, chunk=2, state=half, start=2), whole)
    assert same(run(learner, dataset, 4, chunk=4), whole)
    assert not same(half.params, whole.params)


def test_the_same_key_gives_the_same_bits_and_another_key_others(recorder, dataset, same):
    state = run(recorder, dataset)
    assert same(run(recorder, dataset), state)
    other = run(recorder, dataset, key=jax.random.key(7))
    shared = {tuple(k) for k in np.asarray(state["keys"])} & {
        tuple(k) for k in np.asarray(other["keys"])
    }
    assert not shared
    assert not same(other["rows"], state["rows"])


def test_each_update_draws_rows_of_its_own_from_all_of_the_data(dataset):
    updates = 100
    state = run(Recorder(jnp.float32(0.0), updates), dataset, updates)
    rows = np.asarray(state["rows"])
    assert len(np.unique(rows.reshape(updates, -1), axis=0)) == updates
    drawn, counts = np.unique(rows.reshape(-1, 5), axis=0, return_counts=True)
    np.testing.assert_array_equal(drawn, np.unique(dataset.observations, axis=0))
    assert counts.max() < 30


def test_batches_keep_observations_and_actions_together(dataset):
    @struct.dataclass
    class Pairs(Recorder):
        def init(self, key, example):
            return {"worst": jnp.array(0.0)}

        def update(self, state, batch, key):
            known = jnp.asarray(np.hstack([dataset.observations, dataset.actions]))
            pairs = jnp.hstack([batch["observations"], batch["actions"]])
            worst = jnp.abs(pairs[:, None] - known).max(axis=-1).min(axis=-1).max()
            return {"worst": jnp.maximum(worst, state["worst"])}, {"loss": worst}

    assert run(Pairs(jnp.float32(0.0)), dataset)["worst"] == 0


def test_the_learner_is_shown_one_sample_to_start_from(recorder, dataset):
    example = run(recorder, dataset)["example"]
    np.testing.assert_array_equal(example["observations"], dataset.observations[:1])
    np.testing.assert_array_equal(example["actions"], dataset.actions[:1])


def test_what_is_passed_in_can_still_be_used(recorder, dataset, same):
    """The memory of the state is reused between chunks, but not that of what was passed in."""
    state = run(recorder, dataset, 3)
    before = jax.device_get(state)
    first = run(recorder, dataset, state=state, start=3, chunk=2)
    again = run(recorder, dataset, state=state, start=3, chunk=2)
    assert same(first, again)
    assert same(state, before)
    assert recorder.offset == 0.5


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("start", [0, 4])
def test_a_loss_that_is_no_number_stops_training_at_that_step(dataset, chunk, start):
    learner = Recorder(jnp.float32(0.0), breaks_at=7)
    state = run(learner, dataset, start) if start else None
    rows = Rows()
    with pytest.raises(Diverged, match=r"^walk: loss became nan at step 7; try a smaller"):
        run(learner, dataset, state=state, start=start, chunk=chunk, label="walk", writer=rows)
    assert all(step < 7 for _, step, _ in rows)
    with pytest.raises(Diverged, match=r"^recorder: "):
        run(learner, dataset)


@pytest.mark.parametrize(
    ("broken_at", "named"),
    [
        ({"a": 5, "loss": 4, "z": 6}, "loss became nan at step 4;"),
        ({"a": 5, "loss": 5}, "loss became nan at step 5;"),
        ({"a": 5, "loss": 6, "z": 3}, "z became nan at step 3;"),
    ],
)
def test_the_metric_that_broke_first_is_named_the_loss_before_others(dataset, broken_at, named):
    @struct.dataclass
    class Breaks:
        name = "breaks"
        columns = ("observations",)

        def init(self, key, example):
            return jnp.array(0)

        def update(self, state, batch, key):
            metrics = {"a": 1.0, "loss": 1.0, "z": 1.0} | {
                metric: jnp.where(state + 1 >= step, jnp.nan, 1.0)
                for metric, step in broken_at.items()
            }
            return state + 1, metrics

    with pytest.raises(Diverged, match=f"^breaks: {named}"):
        run(Breaks(), dataset)


def test_learners_of_other_classes_never_share_a_program(dataset):
    """As many as make two hashes meet in a table of programs, if their equality were asked."""

    def counting_by(stride):
        @struct.dataclass
        class Counts:
            name = "counts"
            columns = ("observations",)

            def init(self, key, example):
                return jnp.array(0)

            def update(self, state, batch, key):
                return state + stride, {"loss": 1.0}

        return Counts()

    ends = [int(run(counting_by(stride), dataset, 1)) for stride in range(60)]
    assert ends == list(range(60))


def test_writers_get_the_mean_of_each_metric_over_a_chunk(recorder, dataset):
    rows = Rows()
    run(recorder, dataset, 7, chunk=3, label="walk", writer=rows)
    assert rows == [
        ("walk", 3, {"loss": 2.0, "square": pytest.approx(14 / 3)}),
        ("walk", 6, {"loss": 5.0, "square": pytest.approx(77 / 3)}),
        ("walk", 7, {"loss": 7.0, "square": 49.0}),
    ]


def test_progress_shows_the_label_and_the_count(recorder, dataset, capsys):
    run(recorder, dataset, label="walk", progress=True)
    shown = capsys.readouterr().out
    assert "walk" in shown
    assert "12/12" in shown
    run(recorder, dataset, label="walk")
    assert capsys.readouterr().out == ""


def test_updates_that_have_been_made_are_not_made_again(recorder, dataset, same):
    state = run(recorder, dataset)
    assert same(run(recorder, dataset, state=state, start=12), state)


@pytest.mark.parametrize("start", [13, -1])
def test_a_start_that_means_nothing_is_refused(recorder, dataset, start):
    with pytest.raises(ValueError, match=f"start must be from 0 to steps, 12, not {start}"):
        run(recorder, dataset, start=start)


def test_a_learner_has_an_optimizer_of_its_own(recorder, dataset):
    with pytest.raises(ValueError, match="a learner has its own: give it to the learner"):
        run(recorder, dataset, optimizer=Optimizer())
