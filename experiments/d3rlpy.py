"""The baselines CQL and TD3+BC, trained by d3rlpy, as policies that act here.

d3rlpy asks for an outdated gymnasium and for torch, so it has an environment of its own
(``scripts/install_d3rlpy.sh``) and is called as a program: arrays go in, the learnt actor comes
back. Its settings stand in ``scripts/d3rlpy_train.py``.
"""

import subprocess
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from psec_jax import GaussianBackbone, Policy, Statistics, TransitionDataset, storage
from psec_jax.networks import GaussianActor

ALGORITHMS = ("cql", "td3bc")
PROGRAM = Path(__file__).parents[1] / "scripts" / "d3rlpy_train.py"
ENVIRONMENT = Path(__file__).parents[1] / ".venv-d3rlpy"

_HIDDEN = (256, 256)
_KINDS = ("kernel", "bias")
_LAST_LINES = 15


def train(
    algorithm: str, data: TransitionDataset, *, steps: int, seed: int, threads: int = 1
) -> Policy:
    """The deterministic actor that d3rlpy's ``algorithm`` learns from ``data`` in ``steps``
    updates on ``threads`` threads; the same seed, data and threads give the same actor.

    Actor and critics see observations normalised by the data's statistics, rewards as they are.
    The last transition of a truncated trajectory is not learnt from (d3rlpy has no place for its
    successor). Raises ``ValueError`` for an unknown algorithm and ``RuntimeError`` where d3rlpy is
    not installed or fails.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} is unknown; expected one of {ALGORITHMS}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    statistics = Statistics.of(data.observations)
    with tempfile.TemporaryDirectory(prefix="d3rlpy-") as folder:
        arrays, actor = Path(folder, "data.npz"), Path(folder, "actor.safetensors")
        save_arrays(arrays, data, statistics)
        call(algorithm, arrays, actor, "--steps", steps, "--seed", seed, "--threads", threads)
        weights, _ = storage.read_tensors(actor)
    return as_policy(weights, statistics)


def save_arrays(path: Path, data: TransitionDataset, statistics: Statistics) -> None:
    """Write what the program reads."""
    np.savez(
        path,
        observations=np.asarray(statistics.normalise(data.observations)),
        actions=data.actions,
        rewards=data.columns(["rewards"])["rewards"],
        terminations=data.terminations,
        truncations=data.truncations,
    )


def call(*words: object) -> None:
    """Run the program with ``words``; its lines of progress appear, and its errors if it fails."""
    check_installed()
    # -I keeps this process's PYTHONPATH, and with it another numpy, out of that environment.
    command = [ENVIRONMENT / "bin" / "python", "-I", PROGRAM, *words]
    process = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    if process.returncode:
        last = "\n".join(process.stderr.strip().splitlines()[-_LAST_LINES:])
        raise RuntimeError(
            f"d3rlpy failed with exit status {process.returncode}; its last words:\n{last}"
        )


def check_installed() -> None:
    """Raise ``RuntimeError`` that says how to make d3rlpy's environment where there is none."""
    # The installation's last act is this file, so a half-made environment counts as none.
    if not (ENVIRONMENT / "installed").is_file():
        raise RuntimeError(
            f"d3rlpy is not installed in {ENVIRONMENT}: run scripts/install_d3rlpy.sh"
        )


def as_policy(weights: dict[str, np.ndarray], statistics: Statistics) -> Policy:
    """A policy that acts as the actor with these weights: by its mean, so that its spread, which
    they do not say, is never asked for and set to 1."""
    spread = {f"log_std/{kind}": np.zeros_like(weights[f"mean/{kind}"]) for kind in _KINDS}
    params = {name: jnp.asarray(value) for name, value in (weights | spread).items()}
    action_size = len(weights["mean/bias"])
    network = GaussianActor(action_size, hidden=_HIDDEN, activation="relu")
    backbone = GaussianBackbone(action_size, network, deterministic=True)
    return Policy(traverse_util.unflatten_dict(params, sep="/"), statistics, None, backbone)
