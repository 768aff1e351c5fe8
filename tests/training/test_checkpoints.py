"""Saving and going on: nothing of it may be seen in what is learned."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from psec_jax import Adapter, Optimizer, TransitionDataset, learn_skill
from psec_jax.errors import OtherTraining
from psec_jax.learners import SkillLearner
from psec_jax.policies import fingerprint
from psec_jax.training import Checkpoints, Interrupted, JsonLines, Training, fit

pytestmark = pytest.mark.slow

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def learner(gaussian):
    return SkillLearner(gaussian, Adapter(rank=2), Optimizer(steps=10))


def train(learner, data, checkpoints=None, key=KEY, state=None, start=0, **options):
    options = {"steps": 10, "batch_size": 5, "chunk": 2, "label": "skill", **options}
    training = Training(checkpoints=checkpoints, **options)
    return fit(learner, data, key=key, training=training, state=state, start=start)


class Stop:
    """An ``inspect`` that stops the fit at a step, as a signal would."""

    def __init__(self, checkpoints, at):
        self.checkpoints, self.at, self.seen = checkpoints, at, []

    def __call__(self, step, state):
        self.seen.append(step)
        self.checkpoints.stopping |= step == self.at


@pytest.mark.parametrize("at", [2, 6, 10])
def test_stopped_and_gone_on_with_equals_undisturbed_in_state_and_metrics(
    learner, dataset, tmp_path, same, at
):
    with JsonLines(tmp_path / "whole.jsonl") as writer:
        whole = train(learner, dataset, writer=writer)
    first = Checkpoints(tmp_path / "states", every=100)
    stop = Stop(first, at)
    with JsonLines(tmp_path / "parts.jsonl") as writer, pytest.raises(Interrupted) as ended:
        train(learner, dataset, first, every=2, inspect=stop, writer=writer)
    assert ended.value.code == 75 and not first.fitting
    with JsonLines(tmp_path / "parts.jsonl") as writer:
        second = Checkpoints(tmp_path / "states", every=100)
        rest = Stop(second, None)
        resumed = train(learner, dataset, second, every=2, inspect=rest, writer=writer)
    assert same(resumed, whole)
    assert stop.seen + rest.seen == [2, 4, 6, 8, 10]
    texts = [(tmp_path / f"{name}.jsonl").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1]


def test_a_fit_that_is_through_returns_its_last_state_and_learns_nothing(
    learner, dataset, tmp_path, same
):
    checkpoints = Checkpoints(tmp_path)
    whole = train(learner, dataset, checkpoints)
    seen = []
    again = train(learner, dataset, checkpoints, inspect=lambda step, _: seen.append(step))
    assert same(again, whole) and not seen


def test_the_last_states_are_kept_and_no_others(learner, dataset, tmp_path):
    train(learner, dataset, Checkpoints(tmp_path, every=2, keep=3), label="x")
    (folder,) = tmp_path.iterdir()
    assert sorted(int(path.name) for path in folder.iterdir()) == [6, 8, 10]


SCORES = {2: 1.0, 4: 7.0, 6: 3.0, 8: 2.0, 10: 5.0}


def scored(step, _):
    return SCORES[step]


def test_the_best_state_is_kept_beside_the_last_and_returned_where_asked_for(
    learner, dataset, tmp_path, same
):
    options = {"every": 2, "inspect": scored}
    last = train(learner, dataset, Checkpoints(tmp_path, every=2, keep=2), **options)
    (folder,) = tmp_path.iterdir()
    assert sorted(int(path.name) for path in folder.iterdir()) == [4, 8, 10]
    # A finished fit is read, not repeated.
    best = train(learner, dataset, Checkpoints(tmp_path, every=2, keep=2), best=True, **options)
    # One seed of the schedule of 10 updates, after 4 of them.
    states = {}
    train(learner, dataset, every=2, inspect=lambda step, state: states.update({step: state}))
    assert same(best, states[4]) and same(last, states[10])


@pytest.mark.parametrize("at", [3, 4, 7])
def test_the_best_state_is_the_same_after_an_interruption(learner, dataset, tmp_path, same, at):
    """Also where the state of the interruption is none that would have been saved."""
    options = {"chunk": 1, "every": 2, "best": True}
    whole = train(learner, dataset, Checkpoints(tmp_path / "whole", 2), inspect=scored, **options)
    checkpoints = Checkpoints(tmp_path / "parts", 2)

    class Writer:
        def write(self, label, step, metrics):
            checkpoints.stopping |= step == at

        def rewind(self, label, step):
            pass

    with pytest.raises(Interrupted):
        train(learner, dataset, checkpoints, inspect=scored, writer=Writer(), **options)
    rest = Checkpoints(tmp_path / "parts", 2)
    assert same(train(learner, dataset, rest, inspect=scored, **options), whole)


def test_the_best_is_of_one_seed(learner, dataset, tmp_path):
    """Seeds are saved together, so that one step would be the best of all."""
    options = {"every": 2, "inspect": lambda *_: [1, 2], "best": True}
    with pytest.raises(ValueError, match="best is of one seed: several are saved together"):
        train(learner, dataset, Checkpoints(tmp_path), key=jnp.stack([KEY, KEY]), **options)


def test_a_score_of_another_step_is_not_taken(learner, dataset, tmp_path, same):
    """Inspected at 6 and 10, saved at 4, 8 and 10: only the last has a score."""
    checkpoints = Checkpoints(tmp_path, every=4)
    found = train(learner, dataset, checkpoints, every=6, inspect=scored, best=True)
    assert same(found, train(learner, dataset))


def test_without_a_score_there_is_no_best(learner, dataset, tmp_path, same):
    checkpoints = Checkpoints(tmp_path)
    nothing = {"inspect": lambda *_: None, "best": True}
    assert same(train(learner, dataset, checkpoints, **nothing), train(learner, dataset))


def test_fits_of_different_labels_do_not_meet(learner, dataset, tmp_path, same):
    checkpoints = Checkpoints(tmp_path)
    first = train(learner, dataset, checkpoints, label="S→W (seed 0)")
    other = train(learner, dataset, checkpoints, jax.random.key(4), label="S+W (seed 0)")
    assert len(list(tmp_path.iterdir())) == 2
    assert not same(first, other)


def test_a_state_that_was_not_written_to_its_end_is_not_read(learner, dataset, tmp_path, same):
    checkpoints = Checkpoints(tmp_path, every=2)
    whole = train(learner, dataset, checkpoints)
    (folder,) = tmp_path.iterdir()
    (folder / "10").rename(folder / "10.orbax-checkpoint-tmp-7")
    assert same(train(learner, dataset, checkpoints), whole)


def test_a_learner_of_other_shapes_never_meets_the_states_of_this_one(
    learner, dataset, gaussian, tmp_path, same
):
    train(learner, dataset, Checkpoints(tmp_path), label="x")
    other = SkillLearner(gaussian, Adapter(rank=3), Optimizer(steps=10))
    assert same(
        train(other, dataset, Checkpoints(tmp_path), label="x"), train(other, dataset, label="x")
    )
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="trained for 10 updates before, not 4"):
        train(learner, dataset, Checkpoints(tmp_path), label="x", steps=4)


def test_a_label_longer_than_a_file_name_may_be_keeps_its_states(learner, dataset, tmp_path, same):
    label = " + ".join(f"a skill of some length (seed {seed})" for seed in range(12))
    kept = train(learner, dataset, Checkpoints(tmp_path), label=label)
    same(kept, train(learner, dataset, Checkpoints(tmp_path), label=label))
    train(learner, dataset, Checkpoints(tmp_path), label=f"{label} + one more")
    assert len(list(tmp_path.iterdir())) == 2


def test_rewinding_forgets_later_rows_of_that_label_alone_and_torn_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as writer:
        for step in (1, 2, 3):
            for label in ("a", "b"):
                writer.write(label, step, {"loss": step})
    with path.open("a") as file:
        file.write('{"label": "a", "st')
    with JsonLines(path) as writer:
        writer.rewind("a", 1)
        writer.write("a", 2, {"loss": 9})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(row["label"], row["step"]) for row in rows]
    assert found == [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("a", 2)]


@struct.dataclass
class Large:
    """Its state has eight megabytes that do not compress."""

    name = "large"
    columns = ("observations",)

    def init(self, key, example):
        return jax.random.normal(key, (2_000_000,))

    def update(self, state, batch, key):
        return state + jax.random.normal(key, state.shape), {"loss": jnp.float32(0)}


def test_a_full_disk_is_said_and_loses_nothing_that_was_saved(dataset, small_disk, same):
    disk, leave = small_disk(40)
    train(Large(), dataset, Checkpoints(disk, keep=1), steps=2, label="x")
    leave(4_000_000)
    with pytest.raises(OSError, match=r"cannot save in .*make room and start again"):
        train(Large(), dataset, Checkpoints(disk, keep=1), steps=4, label="x")
    (disk / "filler").unlink()
    resumed = train(Large(), dataset, Checkpoints(disk, keep=1), steps=4, label="x")
    assert same(resumed, train(Large(), dataset, steps=4))


def test_importing_the_package_does_not_import_orbax():
    code = "import sys, psec_jax; print('orbax' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "False"


def test_a_signal_while_the_last_state_is_written_or_read_still_ends_the_program(
    learner, dataset, tmp_path
):
    checkpoints = Checkpoints(tmp_path)
    train(learner, dataset, checkpoints)
    checkpoints.stopping = True
    with pytest.raises(Interrupted):
        train(learner, dataset, checkpoints)


def test_its_exit_code_reaches_another_process():
    assert pickle.loads(pickle.dumps(Interrupted())).code == 75


@pytest.mark.parametrize("numbers", [{"every": 0}, {"keep": 0}])
def test_numbers_below_one_are_refused(tmp_path, numbers):
    with pytest.raises(ValueError, match=r"checkpoint.\w+ must be at least 1, not 0"):
        Checkpoints(tmp_path, **numbers)


def test_states_are_saved_so_often(learner, dataset, tmp_path):
    checkpoints = Checkpoints(tmp_path, every=4, keep=10)
    train(learner, dataset, checkpoints)
    (folder,) = tmp_path.iterdir()
    steps = sorted(int(path.name) for path in folder.iterdir())
    np.testing.assert_array_equal(steps, [4, 8, 10])


def test_the_states_of_another_training_are_refused_with_what_differs(
    learner, dataset, tmp_path, same
):
    whole = train(learner, dataset, Checkpoints(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    others = {
        "learner.optimizer.learning_rate: 0.01 now, 0.0003 there": {
            "learner": SkillLearner(learner.policy, learner.adapter, Optimizer(0.01, steps=10))
        },
        "learner.policy.statistics.std: other values": {
            "learner": SkillLearner(
                learner.policy.replace(
                    statistics=learner.policy.statistics.replace(
                        std=learner.policy.statistics.std * 2
                    )
                ),
                learner.adapter,
                learner.optimizer,
            )
        },
        "data: other observations": {"data": shifted(dataset)},
        "key: another": {"key": jax.random.key(4)},
        "batch_size: 6 now, 5 there": {"batch_size": 6},
        "initial state: 34 leaves now, none there": {"state": whole},
    }
    for line, other in others.items():
        options = {"learner": learner, "data": dataset, "checkpoints": Checkpoints(tmp_path)}
        with pytest.raises(OtherTraining) as error:
            train(**{**options, **other})
        words, _, lines = str(error.value).partition("What differs:\n")
        assert line in [found.strip() for found in lines.split("\n")]
        assert len(lines.split("\n")) == (2 if "state" in other else 1)
        assert "'skill'" in words and str(next(tmp_path.iterdir())) in words
        assert "use another label or another folder, or remove that folder" in words
    assert sorted(tmp_path.rglob("*")) == before
    assert same(train(learner, dataset, Checkpoints(tmp_path)), whole)


def shifted(dataset):
    arrays = {**dataset.arrays(), "observations": dataset.observations + np.float32(1)}
    return TransitionDataset(**arrays)


def test_what_does_not_change_the_result_may_differ(learner, dataset, tmp_path, same):
    """Nor columns that the learner does not read."""
    options = {"chunk": 2, "every": 2, "inspect": lambda *_: None}
    train(learner, dataset, Checkpoints(tmp_path, every=2), steps=4, **options)
    with JsonLines(tmp_path / "metrics.jsonl") as writer:
        checkpoints = Checkpoints(tmp_path, every=3, keep=5)
        other = TransitionDataset(**{**dataset.arrays(), "rewards": 1 + dataset.rewards})
        found = train(learner, other, checkpoints, chunk=5, every=4, writer=writer)
    assert same(found, train(learner, dataset))


def test_further_steps_may_begin_with_the_state_that_was_saved(learner, dataset, tmp_path, same):
    half = train(learner, dataset, Checkpoints(tmp_path), steps=4)
    found = train(learner, dataset, Checkpoints(tmp_path), state=half, start=4)
    assert same(found, train(learner, dataset))
    # It is still the training that began at 0.
    assert same(train(learner, dataset, Checkpoints(tmp_path)), found)
    for given in ({"state": half, "start": 4}, {"state": found, "start": 4}):
        with pytest.raises(OtherTraining, match="initial state: 34 leaves now, none there"):
            train(learner, dataset, Checkpoints(tmp_path), **given)


def test_a_given_state_is_part_of_what_made_the_result(learner, dataset, tmp_path, same):
    start = train(learner, dataset, steps=4)
    first = train(learner, dataset, Checkpoints(tmp_path), state=start, start=4)
    assert same(train(learner, dataset, Checkpoints(tmp_path), state=start, start=4), first)
    for given in ({}, {"state": first, "start": 4}, {"state": start, "start": 5}):
        with pytest.raises(OtherTraining, match=r"initial state|start: 5 now, 4 there"):
            train(learner, dataset, Checkpoints(tmp_path), **given)


def test_a_skill_never_carries_a_base_that_did_not_make_it(gaussian, dataset, tmp_path):
    def skill(base, label):
        training = Training(4, 5, label=label, checkpoints=checkpoints)
        return learn_skill(base, dataset, key=KEY, training=training, adapter=Adapter(rank=2))

    checkpoints = Checkpoints(tmp_path)
    other = gaussian.replace(params=jax.tree.map(lambda leaf: leaf + 1, gaussian.params))
    assert skill(gaussian, "a").base == fingerprint(gaussian)
    with pytest.raises(OtherTraining, match=r"learner\.policy\.params: other values"):
        skill(other, "a")
    assert skill(other, "b").base == fingerprint(other)


def test_each_seed_is_compared(learner, dataset, tmp_path, same):
    def of(*seeds):
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return train(learner, dataset, checkpoints, key=keys, label=["seed 0", "seed 1"])

    checkpoints = Checkpoints(tmp_path)
    found = of(0, 1)
    assert all(map(same, found, of(0, 1)))
    with pytest.raises(OtherTraining, match=r"differs:\n  seed 1, key: another$"):
        of(0, 2)
    # One that has both names is not both.
    with pytest.raises(OtherTraining, match="seeds: 1 now, 2 there"):
        shape = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
        train(learner, dataset, checkpoints, state=shape, start=10, label="seed 0 + seed 1")


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("{}")])
def test_states_that_do_not_say_what_made_them_are_refused(learner, dataset, tmp_path, harm):
    """As those of earlier versions do not."""
    train(learner, dataset, Checkpoints(tmp_path))
    (folder,) = tmp_path.iterdir()
    harm(folder / "10" / "_CHECKPOINT_METADATA")
    with pytest.raises(OtherTraining, match=r"does not say what made its states.*remove that"):
        train(learner, dataset, Checkpoints(tmp_path))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Checkpoints("~/states").folder == tmp_path / "states"
