"""Learning in two processes of two virtual devices each, together as if they were one host."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from psec_jax import TransitionDataset
from psec_jax.errors import OtherTraining
from psec_jax.training import (
    Checkpoints,
    Interrupted,
    JsonLines,
    Training,
    fit,
    join_processes,
)

SHAPES = {(1, 16): (1, 1, 4), (2, 16): (1, 2, 2), (1, 15): (2, 1, 1)}


@struct.dataclass
class Line:
    """Learns the actions as a noisy linear function of the observations."""

    name = "line"
    columns = ("observations", "actions")

    def init(self, key, example):
        sizes = (example[name].shape[1] for name in self.columns)
        return jax.random.normal(key, tuple(sizes))

    def update(self, state, batch, key):
        noise = jax.random.normal(key, batch["actions"].shape)

        def loss(state):
            return jnp.mean((batch["observations"] @ state - batch["actions"] - noise) ** 2)

        value, gradient = jax.value_and_grad(loss)(state)
        return state - 0.1 * gradient, {"loss": value}


def learn(folder: Path) -> None:
    """Learns with one seed, is stopped on the way and goes on; with two; with a batch that cannot
    be shared. Leaves what this process has learned."""
    last = jax.process_index() == jax.process_count() - 1
    random = np.random.default_rng(0)
    observations, ends = random.normal(size=(60, 5)), np.arange(60) % 20 == 19
    actions, rewards = np.tanh(observations[:, :2]), random.normal(size=60)
    data = TransitionDataset(observations, actions, rewards, ends, np.zeros(60, bool))
    key = jax.random.key(0)

    def learn(batch_size, key=key, **options):
        training = Training(10, batch_size, chunk=5, **options)
        return fit(Line(), data, key=key, training=training)

    checkpoints = Checkpoints(folder / "checkpoints")

    def stop(step, _):
        checkpoints.stopping = last and step == 5

    with JsonLines(folder / "metrics.jsonl") as writer:
        kept = {"label": "one", "checkpoints": checkpoints, "writer": writer, "key": key}
        with pytest.raises(Interrupted):
            learn(16, **kept, every=5, inspect=stop)
        checkpoints.stopping = False
        one = learn(16, **kept)
        # In one of the processes only, but all of them refuse.
        with pytest.raises(OtherTraining, match=r"(key:|what) another"):
            learn(16, jax.random.key(int(last)), **kept)

    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    two = learn(16, keys, label="seed", checkpoints=checkpoints)
    copied = learn(15)
    learned = [one, *two, copied]
    assert all(leaf.devices() == {jax.local_devices()[0]} for leaf in learned)
    np.savez(folder / f"learned_{jax.process_index()}.npz", *map(np.asarray, learned))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def slurm(count: int) -> list[dict[str, str]]:
    """What srun would say to the tasks of a step on one node."""
    shared = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
    }
    return [{**shared, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]


PROGRAM = """
import sys
from pathlib import Path
import jax
from psec_jax.training import join_processes
from psec_jax.training.devices import Layout
sys.path.insert(0, sys.argv[1])
import test_joining_processes
join_processes()
join_processes()
assert jax.process_count() == 2 and jax.local_device_count() == 2
for work, shape in test_joining_processes.SHAPES.items():
    assert Layout.of(*work).mesh.devices.shape == shape
test_joining_processes.learn(Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_processes_learn_stop_and_go_on_as_one_does(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    common = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path)],
            env={**common, **own},
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in slurm(2)
    ]
    alone = tmp_path / "alone"
    alone.mkdir()
    learn(alone)
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    expected = np.load(alone / "learned_0.npz")
    for index in range(2):
        found = np.load(tmp_path / f"learned_{index}.npz")
        assert found.files == expected.files
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 10]


ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "OMPI_COMM_WORLD_SIZE": "2",
}


def test_a_process_within_an_allocation_stays_alone_until_it_is_told_of_others(monkeypatch):
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: pytest.fail("joined"))
    join_processes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "match"),
    [({}, "Number of processes must be defined"),
     ({"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES must be a number, not 'many'")],
)  # fmt: skip
def test_a_process_that_cannot_know_which_one_it_is_says_what_to_set(variables, match):
    alone = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_"))}
    address = {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": "localhost:1"}
    done = join(**alone, **{**address, **variables})
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("psec_jax.errors.NotJoined: ") and match in line
    assert "set JAX_NUM_PROCESSES and JAX_PROCESS_ID, or unset it to run alone" in line


@pytest.mark.slow
def test_a_process_that_waits_in_vain_says_for_whom_and_ends():
    address = f"localhost:{free_port()}"
    told = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": address}
    done = join(**{**os.environ, "JAX_PLATFORMS": "cpu", **told})
    assert done.returncode != 0
    line = done.stderr.splitlines()[0]
    assert line.startswith("JAX_COORDINATOR_ADDRESS: waiting 1 s") and address in line


def join(**environment: str) -> subprocess.CompletedProcess:
    program = "from psec_jax.training import join_processes; join_processes(timeout=1)"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
