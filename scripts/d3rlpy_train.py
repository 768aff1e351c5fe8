"""Trains CQL or TD3+BC with d3rlpy on arrays in a file, and writes the actor that was learnt.

    .venv-d3rlpy/bin/python scripts/d3rlpy_train.py td3bc data.npz actor.safetensors --steps 1000

Runs in d3rlpy's own environment (``scripts/install_d3rlpy.sh``), so it imports nothing of
psec_jax; ``experiments.d3rlpy.train`` calls it. The npz file holds n transitions, trajectory after
trajectory: observations (n, obs), normalised; actions (n, act) in [−1, 1]; rewards, terminations
and truncations, each (n,). The actor is a deterministic MLP on normalised observations,
tanh(mean(relu(hidden_1(relu(hidden_0(s)))))), in tensors ``<layer>/kernel`` (in, out) and
``<layer>/bias`` (out,).
"""

import argparse
import contextlib
import io
import logging
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import structlog
import torch
from safetensors.numpy import save_file

with contextlib.redirect_stderr(io.StringIO()):  # gym, which d3rlpy imports, deplores its age
    import d3rlpy

BATCH, HIDDEN = 256, [256, 256]
CHECKED = 256  # how many transitions --predictions tells the actor's actions for
REPORT_EVERY = 60.0  # seconds


def main() -> None:
    words = parse()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(words.threads)
    d3rlpy.seed(words.seed)
    data = read_dataset(words.data)
    algorithm = CONFIGS[words.algorithm]().create(device="cpu")
    algorithm.build_with_dataset(data)
    train(algorithm, data, words.steps, words.algorithm)
    if words.predictions:
        with np.load(words.data) as arrays:
            observations = arrays["observations"][:CHECKED]
        write(words.predictions, {"actions": algorithm.predict(observations)})
    write(words.actor, actor_tensors(algorithm.impl.policy))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("algorithm", choices=CONFIGS)
    parser.add_argument("data", type=Path, help="npz file to read")
    parser.add_argument("actor", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, required=True, help="gradient updates of the critics")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument(
        "--predictions",
        type=Path,
        help=f"safetensors file for d3rlpy's own actions at the first {CHECKED} observations",
    )
    return parser.parse_args()


def read_dataset(path: Path) -> d3rlpy.dataset.ReplayBuffer:
    """The transitions in an npz file as d3rlpy's episodes.

    The successor of an observation is the next row, so d3rlpy leaves out the last transition of a
    truncated trajectory, whose successor no row holds; after a termination it needs none.
    """
    with np.load(path) as arrays:
        terminations = arrays["terminations"]
        return d3rlpy.dataset.MDPDataset(
            observations=arrays["observations"],
            actions=arrays["actions"],
            rewards=arrays["rewards"],
            terminals=terminations.astype(np.float32),
            # d3rlpy wants one reason for an end; that nothing follows is the stronger one.
            timeouts=(arrays["truncations"] & ~terminations).astype(np.float32),
            # Left to itself, d3rlpy takes actions that happen to be whole numbers for discrete.
            action_space=d3rlpy.ActionSpace.CONTINUOUS,
        )


def cql() -> d3rlpy.algos.CQLConfig:
    """As in d3rlpy's ``reproductions/offline/cql.py``, with one hidden layer less: a constant
    weight of the conservative loss, not the Lagrangian one."""
    return d3rlpy.algos.CQLConfig(
        actor_learning_rate=1e-4,
        critic_learning_rate=3e-4,
        temp_learning_rate=1e-4,
        alpha_learning_rate=0.0,
        conservative_weight=5.0,
        n_action_samples=10,
        batch_size=BATCH,
        actor_encoder_factory=d3rlpy.models.VectorEncoderFactory(HIDDEN),
        critic_encoder_factory=d3rlpy.models.VectorEncoderFactory(HIDDEN),
    )


def td3bc() -> d3rlpy.algos.TD3PlusBCConfig:
    """As in d3rlpy's ``reproductions/offline/td3_plus_bc.py``."""
    return d3rlpy.algos.TD3PlusBCConfig(
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        alpha=2.5,
        target_smoothing_sigma=0.2,
        target_smoothing_clip=0.5,
        update_actor_interval=2,
        batch_size=BATCH,
        actor_encoder_factory=d3rlpy.models.VectorEncoderFactory(HIDDEN),
        critic_encoder_factory=d3rlpy.models.VectorEncoderFactory(HIDDEN),
    )


CONFIGS = {"cql": cql, "td3bc": td3bc}


def train(algorithm, data: d3rlpy.dataset.ReplayBuffer, steps: int, name: str) -> None:
    """What ``algorithm.fit`` does, without epochs, of which ``steps`` would have to be a multiple,
    and without files. Ends the program where a loss stops being finite."""
    start = reported = time.monotonic()
    for step in range(1, steps + 1):
        losses = algorithm.update(data.sample_transition_batch(BATCH))
        if not all(map(math.isfinite, losses.values())):
            sys.exit(f"error: {name} diverged at update {step:,}: {losses}")
        now = time.monotonic()
        if step == steps or now - reported > REPORT_EVERY:
            reported = now
            rate = step / (now - start)
            print(f"{name}: {step:,} of {steps:,} updates, {rate:.3g} a second", flush=True)


def actor_tensors(policy: torch.nn.Module) -> dict[str, np.ndarray]:
    """The layers of d3rlpy's actor under our names; a spread that it may have is left out."""
    hidden = [layer for layer in policy._encoder.modules() if isinstance(layer, torch.nn.Linear)]
    mean = policy._mu if isinstance(policy, d3rlpy.models.torch.NormalPolicy) else policy._fc
    layers = {f"hidden_{index}": layer for index, layer in enumerate(hidden)} | {"mean": mean}
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{name}/kernel"] = np.ascontiguousarray(layer.weight.detach().numpy().T)
        tensors[f"{name}/bias"] = layer.bias.detach().numpy()
    return tensors


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".new-{os.getpid()}-{path.name}")
    try:
        save_file(tensors, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
