"""What a fit will need is counted without computing, and is what a process of its own takes."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from psec_jax import Adapter, Optimizer
from psec_jax.learners import PolicyLearner, SkillLearner
from psec_jax.training.memory import predicted_memory

pytestmark = pytest.mark.slow

PROGRAM = """
import re
import jax, numpy as np
import psec_jax as psec
from psec_jax.learners import PolicyLearner
from psec_jax.networks import Denoiser
from psec_jax.policies import Policy
from psec_jax.training import Training, fit
from psec_jax.training.memory import predicted_memory


def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status)[1])


def learner(features, seed):
    backbone = psec.DiffusionBackbone(2, Denoiser(features, blocks=2))
    policy = Policy.create(backbone, psec.Statistics.identity(5), jax.random.key(seed))
    return PolicyLearner(policy, psec.Optimizer(steps=2))


random = np.random.default_rng(0)
observations = random.random((2000, 5), np.float32)
ends = np.arange(2000) % 20 == 19
data = psec.TransitionDataset(
    observations, observations[:, :2] / 2, observations[:, 0], ends, np.zeros(2000, bool)
)


def train(features):
    learners = [learner(features, seed) for seed in range(2)]
    keys = jax.random.split(jax.random.key(0), 2)
    fit(learners, data, key=keys, training=Training(2, 256))


train(8)
before = peak()
counted = predicted_memory(learner(512, 0), data.arrays(), batch_size=256, seeds=2, chunk=2)
train(512)
print(before, counted.shared_peak, peak())
"""


def phases(learner, dataset, **options):
    memory = predicted_memory(
        learner, dataset.arrays(), **{"batch_size": 4, "chunk": 2, **options}
    )
    return memory.device


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_fit_takes_about_what_was_predicted():
    """Within a fifth says ``bench.py memory``, on a machine that does nothing else."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, counted, peak = map(int, done.stdout.split())
    assert counted > before / 2
    assert before + counted == pytest.approx(peak, rel=0.3)


def test_a_state_is_four_copies_of_what_is_learned_for_each_seed(diffusion, dataset):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(diffusion.params))
    learner = PolicyLearner(diffusion, Optimizer(steps=2))
    one, three = (phases(learner, dataset, seeds=seeds)["updates"]["state"] for seeds in (1, 3))
    assert three == 3 * one
    assert one == pytest.approx(4 * size, abs=16)


def test_a_first_state_counts_only_what_the_learner_does_not_hold_already(diffusion, dataset):
    whole = phases(PolicyLearner(diffusion, Optimizer(steps=2)), dataset)["updates"]
    assert whole["their first states"] == pytest.approx(whole["state"] / 2, abs=16)
    skill = phases(SkillLearner(diffusion, Adapter(rank=2), Optimizer(steps=2)), dataset)
    deltas = skill["updates"]
    assert deltas["their first states"] == pytest.approx(3 / 4 * deltas["state"], abs=16)


def test_data_and_learner_may_be_shapes_and_rows_cost_what_they_are(diffusion, dataset):
    learner = PolicyLearner(diffusion, Optimizer(steps=2))
    shapes = jax.eval_shape(lambda: learner)
    arrays = {
        name: jax.ShapeDtypeStruct((10**9, *array.shape[1:]), array.dtype)
        for name, array in dataset.arrays().items()
    }
    found = predicted_memory(shapes, arrays, batch_size=4, chunk=2)
    row = 4 * (dataset.observation_size + dataset.action_size)
    assert found.device["updates"]["data"] == 10**9 * row
    assert found.host["updates"]["dataset"] > 10**9 * row
    assert found.device_peak > 10**9 * row


def test_a_state_that_is_being_saved_is_one_more(diffusion, dataset):
    learner = PolicyLearner(diffusion, Optimizer(steps=2))
    saved = phases(learner, dataset, checkpoints=True)["updates"]
    bare = phases(learner, dataset)["updates"]
    assert sum(saved.values()) - sum(bare.values()) == bare["state"]


def test_a_state_that_is_shown_is_one_more_and_for_several_seeds_two(diffusion, dataset):
    learner = PolicyLearner(diffusion, Optimizer(steps=2))
    for seeds, copies in ((1, 1), (3, 2)):
        shown = phases(learner, dataset, seeds=seeds, inspected=True)["updates"]
        bare = phases(learner, dataset, seeds=seeds)["updates"]
        assert sum(shown.values()) - sum(bare.values()) == copies * bare["state"]


def test_a_larger_batch_takes_more_for_its_activations(diffusion, dataset):
    learner = PolicyLearner(diffusion, Optimizer(steps=2))
    small, large = (phases(learner, dataset, batch_size=b)["updates"] for b in (64, 1024))
    activations = (1024 - 64) * np.float32().itemsize * diffusion.backbone.network.features
    assert large["program"] - small["program"] > activations
