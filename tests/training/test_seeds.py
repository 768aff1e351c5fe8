"""Several seeds at once are one after another, to float tolerance, in one program."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import struct

import psec_jax as psec
from psec_jax.errors import Diverged
from psec_jax.learners import PolicyLearner, Transformation
from psec_jax.learners.objectives import Return
from psec_jax.networks import Denoiser
from psec_jax.training import Checkpoints, Interrupted, JsonLines, fit
from psec_jax.training.seeds import groups, named_key, shapes, stacked, unstacked

pytestmark = pytest.mark.slow

BACKBONE = psec.DiffusionBackbone(2, Denoiser(16, 1, time_features=8, time_hidden=8, dropout=0.0))
DESCENT = Transformation(optax.sgd(3e-3), ema_rate=0.5)
SEEDS = (0, 1, 2)
KEYS = jnp.stack([jax.random.key(seed) for seed in SEEDS])


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


TARGETS = [data_of(3 + seed, seed) for seed in SEEDS]


def run(folder, seeds, keys, targets, **options):
    """The stages of a run; each seed has a target of its own, of another size. One seed is given
    as such, several as lists."""
    several = isinstance(targets, list)
    names = [f"(seed {seed})" for seed in seeds]

    def stage(name):
        label = [f"{name} {one}" for one in names] if several else f"{name} {names[0]}"
        training = psec.Training(25, 16, DESCENT, label=label, chunk=10, **options)
        return {"key": named_key(keys, name), "training": training}

    base = psec.pretrain(SOURCE, backbone=BACKBONE, **stage("base"))
    of = lambda target: psec.Guidance({"return": Return.scaled_to(target)}, optimizer=DESCENT)  # noqa: E731
    guidance = [of(target) for target in targets] if several else of(targets)
    skill = {"guidance": guidance, "adapter": psec.Adapter(scale=1.0), **stage("skill")}
    skills, critics = psec.learn_skills(base, targets, **skill)
    each = zip(seeds, base, skills, strict=True) if several else [(seeds[0], base, skills)]
    library = []
    for seed, one, learned in each:
        library.append(psec.SkillLibrary.create(folder / str(seed), one))
        library[-1].add("skill", learned["skill"])
    agent = psec.compose(library if several else library[0], targets, **stage("compose"))
    found = (base, skills, critics, agent)
    return [parts(*one) for one in (zip(*found, strict=True) if several else [found])]


def parts(base, skills, critics, agent):
    deltas = dict(skills["skill"].deltas)
    return base.params, deltas, critics["return"].q_params, agent.context_params


@pytest.fixture
def programs(monkeypatch):
    """The numbers of seeds of the programs that ran."""
    module, counts = sys.modules["psec_jax.training.fit"], []
    run = module._run

    def noting(seeds, *others):
        counts.append(len(seeds))
        return run(seeds, *others)

    monkeypatch.setattr(module, "_run", noting)
    return counts


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return [
        run(folder, [seed], KEYS[index], TARGETS[index])[0] for index, seed in enumerate(SEEDS)
    ]


def test_three_seeds_are_one_program_a_stage_and_learn_what_each_learns_alone(
    alone, programs, tmp_path, close
):
    found = run(tmp_path, SEEDS, KEYS, TARGETS)
    assert programs == [3, 3, 3]
    close(found, alone)


def test_one_seed_in_a_list_is_that_seed_bit_for_bit(alone, tmp_path):
    found = run(tmp_path, SEEDS[1:2], KEYS[1:2], TARGETS[1:2])
    jax.tree.map(np.testing.assert_array_equal, found, alone[1:2])


def test_seeds_that_cannot_be_one_program_are_refused():
    learners = []
    for features in (16, 8):
        network = Denoiser(features, 1, time_features=8, time_hidden=8, dropout=0.0)
        backbone = psec.DiffusionBackbone(2, network)
        policy = psec.Policy.create(backbone, psec.Statistics.identity(5), KEYS[0])
        learners.append(PolicyLearner(policy, psec.Optimizer(steps=3)))
    with pytest.raises(ValueError, match=r"policy \[1\] cannot be trained in one program with"):
        fit(learners, SOURCE, key=KEYS[:2], training=psec.Training(3, 4))


@pytest.mark.parametrize("given", ["data", "label"])
def test_lists_of_another_length_are_refused(given):
    data = [SOURCE] * 2 if given == "data" else SOURCE
    label = ["one", "two"] if given == "label" else None
    with pytest.raises(ValueError, match=f"{given} is a list of 2, but there are keys of 3 seed"):
        training = psec.Training(3, 4, label=label)
        psec.pretrain(data, key=KEYS, training=training, backbone=BACKBONE)


def test_keys_of_more_axes_are_refused():
    keys = jax.random.split(jax.random.key(0), (2, 2))
    with pytest.raises(ValueError, match=r"keys of shape \(2, 2\) are neither one key nor \(n,\)"):
        psec.pretrain(SOURCE, key=keys, training=psec.Training(3), backbone=BACKBONE)


def test_metrics_of_each_seed_have_its_label(tmp_path):
    def learn(path, key, label):
        with JsonLines(path) as writer:
            training = psec.Training(15, 16, label=label, writer=writer, chunk=5)
            psec.pretrain(SOURCE, key=key, training=training, backbone=BACKBONE)
        return [json.loads(row) for row in path.read_text().splitlines()]

    together = learn(tmp_path / "all.jsonl", key=KEYS, label=[f"base {s}" for s in SEEDS])
    losses = []
    for seed in SEEDS:
        rows = [row for row in together if row["label"] == f"base {seed}"]
        expected = learn(tmp_path / f"{seed}.jsonl", key=KEYS[seed], label=f"base {seed}")
        assert [row["step"] for row in rows] == [row["step"] for row in expected] == [5, 10, 15]
        for row, other in zip(rows, expected, strict=True):
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        losses.append(rows[-1]["loss"])
    assert len(set(losses)) == len(losses)


def test_inspect_is_shown_a_list():
    seen = []
    training = psec.Training(6, 16, every=2, inspect=lambda *shown: seen.append(shown))
    psec.pretrain(SOURCE, key=KEYS, training=training, backbone=BACKBONE)
    assert [(step, len(policies)) for step, policies in seen] == [(2, 3), (4, 3), (6, 3)]
    assert all(isinstance(policy, psec.Policy) for policy in seen[0][1])


def test_interrupted_and_resumed_is_bit_for_bit_what_it_would_have_been(tmp_path):
    whole = run(tmp_path / "a", SEEDS, KEYS, TARGETS, checkpoints=Checkpoints(tmp_path / "w", 10))
    checkpoints = Checkpoints(tmp_path / "pieces", every=10)
    for number, stopping in enumerate(("skill", "compose")):

        class Stopping:
            """Asks for the end at a stage's first metrics, as a signal does."""

            def write(self, label, step, metrics, stage=stopping):
                if label.startswith(stage):
                    checkpoints.stopping = True

            def rewind(self, label, step):
                pass

        with pytest.raises(Interrupted):
            folder = tmp_path / f"b{number}"
            run(folder, SEEDS, KEYS, TARGETS, checkpoints=checkpoints, writer=Stopping())
        checkpoints.stopping = False
    pieces = run(tmp_path / "c", SEEDS, KEYS, TARGETS, checkpoints=checkpoints)
    jax.tree.map(np.testing.assert_array_equal, pieces, whole)


def diverging():
    data = [data_of(3)] * 3
    wild = {**data[1].arrays(), "observations": data[1].observations * 1e30}
    data[1] = psec.TransitionDataset(**wild)
    return psec.pretrain(
        data,
        key=KEYS,
        training=psec.Training(5, label=[f"base (seed {seed})" for seed in SEEDS]),
        backbone=BACKBONE,
        statistics=psec.Statistics.of(SOURCE.observations),
    )


def test_the_seed_that_diverges_is_named_and_caught_where_it_is_called():
    with pytest.raises(Diverged, match=r"^base \(seed 1\)") as caught:
        diverging()
    assert "diverging" in [entry.name for entry in caught.traceback]
    try:
        diverging()
    except Diverged:
        found = "caught"
    assert found == "caught"


def test_a_context_around_one_verb_does_not_reach_another():
    seen = []

    class Seeing(nn.Module):
        @nn.compact
        def __call__(self, observations):
            seen.append(jax.config.jax_default_matmul_precision)
            return nn.Dense(2)(observations), nn.Dense(2)(observations)

    def learn():
        seen.clear()
        backbone = psec.GaussianBackbone(2, Seeing())
        psec.pretrain(SOURCE, key=KEYS, training=psec.Training(2, 4), backbone=backbone)
        return set(seen)

    with jax.default_matmul_precision("float32"):
        assert learn() == {"float32"}
    assert learn() == {None}


def test_stacked_trees_come_apart_again():
    trees = [{"a": np.full(3, i), "b": (np.float32(i),)} for i in range(4)]
    apart = unstacked(stacked(trees), 4)
    jax.tree.map(np.testing.assert_array_equal, apart, trees)
    assert stacked(trees[:1]) is trees[0] and unstacked(trees[0], 1) == [trees[0]]
    jax.tree.map(np.testing.assert_array_equal, psec.unstack(psec.stack(trees)), trees)
    with pytest.raises(ValueError, match="one first axis in common"):
        psec.unstack({"a": np.zeros(2), "b": np.zeros(3)})


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
