"""Datasets by name, made or loaded once and cached."""

import difflib
import hashlib
import os
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from psec_jax import storage
from psec_jax.data.dataset import TransitionDataset
from psec_jax.errors import BrokenFile


@dataclass(frozen=True)
class LocalDataset:
    """A dataset that the package makes itself, by rolling out one of its behaviour policies."""

    policy: str
    about: str
    trajectories: int


LOCAL = {
    f"local/{policy}-expert": LocalDataset(
        policy, f"expert demonstrations of dm_control {policy.replace('-', ' ')}", trajectories=100
    )
    for policy in ("walker-stand", "walker-walk", "walker-run")
}


def home() -> Path:
    """Where datasets are cached: ``$PSEC_JAX_HOME``, or ``~/.cache/psec_jax``."""
    return Path(os.environ.get("PSEC_JAX_HOME") or Path.home() / ".cache" / "psec_jax")


def load_dataset(name: str, trajectories: int | None = None, seed: int = 0) -> TransitionDataset:
    """The dataset called ``name``, for example ``local/walker-stand-expert``.

    ``trajectories`` and ``seed`` say how many episodes to roll out and which; the same two give
    the same data. It is made on first use and cached; a damaged cache file is noticed and made
    again. Raises ``ValueError`` for an unknown name, with the closest known ones.
    """
    if name not in LOCAL:
        close = difflib.get_close_matches(name, LOCAL, n=3, cutoff=0.4) or list(LOCAL)
        raise ValueError(f"unknown dataset {name!r}; did you mean {' or '.join(close)}?")
    source = LOCAL[name]
    trajectories = source.trajectories if trajectories is None else trajectories
    if trajectories < 1:
        raise ValueError(f"trajectories must be at least 1, not {trajectories!r}")
    label = name.removeprefix("local/")
    path = home() / "datasets" / f"{label}-{trajectories}-seed{seed}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (BrokenFile, ValueError) as error:
            warnings.warn(f"cached dataset is damaged and is made again: {error}", stacklevel=2)
    from psec_jax.data.demonstrations import BehaviourPolicy, generate

    dataset = generate(BehaviourPolicy.load(source.policy), trajectories, seed)
    _write(path, dataset)
    return dataset


def _tensors(dataset: TransitionDataset) -> dict[str, np.ndarray]:
    return {f.name: getattr(dataset, f.name) for f in fields(dataset)}


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _write(path: Path, dataset: TransitionDataset) -> None:
    tensors = _tensors(dataset)
    metadata = {
        "sha256": _digest(tensors),
        "trajectories": str(len(dataset.ends)),
        "return_mean": f"{dataset.returns.mean():.3f}",
        "return_std": f"{dataset.returns.std():.3f}",
    }
    with storage.new_file(path) as temporary:
        storage.write_tensors(temporary, tensors, metadata)


def _read(path: Path) -> TransitionDataset:
    tensors, metadata = storage.read_tensors(path)
    if set(tensors) != {f.name for f in fields(TransitionDataset)}:
        raise BrokenFile(f"{path} holds {sorted(tensors)}, which is not a dataset")
    if _digest(tensors) != metadata.get("sha256"):
        raise BrokenFile(f"{path}: its contents are not what its checksum says")
    return TransitionDataset(**tensors)
