"""Learning on eight devices, which are virtual ones of the CPU in a process of their own."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import jax, numpy as np, optax
import psec_jax as psec
from psec_jax.learners import Transformation
from psec_jax.networks import Denoiser
from psec_jax.training import Checkpoints
from psec_jax.training.devices import Layout

used = set()
module = sys.modules["psec_jax.training.fit"]
run_chunk = module._run_chunk


def watched(*arguments, **options):
    state, metrics = run_chunk(*arguments, **options)
    used.update(len(leaf.devices()) for leaf in jax.tree.leaves(state))
    return state, metrics


module._run_chunk = watched
count, batch, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
assert len(jax.local_devices()) == count
random = np.random.default_rng(0)
observations = random.normal(size=(60, 5))
ends = np.arange(60) % 20 == 19
data = psec.TransitionDataset(
    observations, np.tanh(observations[:, :2]), random.normal(size=60), ends, np.zeros(60, bool)
)
seeds = int(sys.argv[4])
backbone = psec.DiffusionBackbone(2, Denoiser(16, 1, time_features=8, time_hidden=8, dropout=0.0))
checkpoints = Checkpoints(folder)


# Adam would make much of a rounding.
descent = Transformation(optax.sgd(3e-3), ema_rate=0.5)


def training(label, batch=batch):
    return psec.Training(10, batch, descent, label, checkpoints=checkpoints, chunk=5)


if seeds > 1:

    def learn(key, label):
        return psec.pretrain(data, key=key, training=training(label), backbone=backbone)

    keys, labels = jax.random.split(jax.random.key(0), seeds), [f"{i}" for i in range(seeds)]
    learned = [policy.params for policy in learn(keys, labels)]
    shape = dict(Layout.of(seeds, batch).mesh.shape)
    assert shape.pop("copy") == 1
    print("devices", used, shape)
    used.clear()
    alone = [learn(key, label).params for key, label in zip(keys, labels, strict=True)]
    for one, other in zip(jax.tree.leaves(learned), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())
    raise SystemExit
keys = jax.random.split(jax.random.key(0), 3)
base = psec.pretrain(data, key=keys[0], training=training("base"), backbone=backbone)
library = psec.SkillLibrary.create(folder + "/library", base)
adapter = psec.Adapter(scale=1.0)
skills, _ = psec.learn_skills(
    base, data, key=keys[1], training=training("skill"), adapter=adapter
)
library.add("skill", skills["skill"])
agent = psec.compose(library, data, key=keys[2], training=training("context"))
mesh = Layout.of(1, batch).mesh
print("devices", used, 1 if mesh is None else mesh.size)
# Another number of devices than what it is put together with.
agent = psec.compose(library, data, key=keys[2], training=training("again", 12))
learned = [base.params, skills["skill"].deltas, agent.context_params]
np.savez(folder + "/learned.npz", *map(np.asarray, jax.tree.leaves(learned)))
acted = agent.sample(jax.random.key(3), observations[:4].astype(np.float32))
np.savez(folder + "/acted.npz", np.asarray(acted))
"""


def start(folder, count, batch, seeds=1):
    folder.mkdir()
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count), str(batch), str(folder), str(seeds)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def run(folder, count, batch):
    words = start(folder, count, batch)
    learned, acted = (np.load(folder / f"{name}.npz") for name in ("learned", "acted"))
    arrays = [file[name] for file in (learned, acted) for name in file.files]
    return words, arrays


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone") / "run", 1, 16)


def test_eight_devices_learn_and_act_as_one_does(alone, tmp_path, close):
    words, expected = alone
    assert words == "devices {1} 1"
    words, found = run(tmp_path / "run", 8, 16)
    assert words == "devices {8} 8"
    close(found, expected)


def test_a_batch_goes_to_as_many_devices_as_divide_it(tmp_path):
    words, _ = run(tmp_path / "run", 8, 15)
    assert words == "devices {5} 5"


@pytest.mark.parametrize(
    ("seeds", "batch", "shape"),
    [(2, 16, {"seed": 2, "batch": 4}), (8, 15, {"seed": 8, "batch": 1})],
)
def test_seeds_are_shared_out_first_and_learn_what_each_learns_alone(
    tmp_path, seeds, batch, shape
):
    assert start(tmp_path / "run", 8, batch, seeds) == f"devices {{8}} {shape}"
