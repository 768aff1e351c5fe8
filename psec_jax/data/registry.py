"""Datasets by name: those that come along, D4RL's, DSRL's, Minari's, and files."""

import hashlib
import os
import warnings
from importlib import resources
from numbers import Integral
from pathlib import Path

import numpy as np

from psec_jax import storage
from psec_jax.data.checks import check_seed
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.download import download
from psec_jax.data.readers import is_file_name, known_suffix, read_file
from psec_jax.data.recipes import Recipe, read_recipes
from psec_jax.data.references import Reference, closest, find_reference, references
from psec_jax.errors import BrokenFile


def load_dataset(
    name: str | Path, trajectories: int | None = None, seed: int = 0
) -> TransitionDataset:
    """The dataset called ``name``:

    - ``local/walker-stand-expert`` and its like are made on first use and cached; ``trajectories``
      and ``seed`` say how many episodes to roll out and which;
    - ``walker2d-medium-v2`` (D4RL) and ``dsrl/CarRun`` (DSRL) are read from a file on this machine
      or downloaded, ``minari/mujoco/walker2d/medium-v0`` from Minari, and ``path/to/file.hdf5``
      (or a ``Path``) from that file, by the reader of its suffix (``psec_jax.data.read_file``). Of
      these ``trajectories`` takes the first so many.

    Raises ``ValueError`` for an unknown name, with the closest known ones, ``BrokenFile`` for a
    file that is not what it should be, and ``DownloadFailed`` where there is no network.
    """
    seed = check_seed(seed)
    if trajectories is not None and not isinstance(trajectories, Integral):
        raise ValueError(f"trajectories must be an integer, not {trajectories!r}")
    if trajectories is not None and trajectories < 1:
        raise ValueError(f"trajectories must be at least 1, not {trajectories!r}")
    if isinstance(name, str) and name.startswith("local/") and not known_suffix(name):
        return _load_local(name, trajectories, seed)
    data = _load(name)
    return data if trajectories is None else data.take(trajectories)


def local_datasets() -> dict[str, Recipe]:
    """The datasets that are made here, by name: those that come along, and the user's own."""
    recipes = {}
    for folder in (Path(str(resources.files("psec_jax") / "assets" / "behavior")), local_folder()):
        recipes |= {f"local/{name}": recipe for name, recipe in read_recipes(folder)}
    return recipes


def local_folder() -> Path:
    """Where the user's own behavior policies and recipes lie: ``behavior/`` under ``home()``."""
    return home() / "behavior"


def names() -> tuple[str, ...]:
    """The name of every dataset that comes along or is public and known here."""
    return (*local_datasets(), *references())


def fetch(name: str, shown: bool = True) -> Path:
    """The file of a D4RL or DSRL dataset on this machine, downloaded where there is none yet.

    It is sought in ``$D4RL_DATASET_DIR`` (``~/.d4rl/datasets``) or ``$DSRL_DATASET_DIR``
    (``~/.dsrl/datasets``), then in ``datasets/`` under ``home()``. A new file goes to the folder
    that the variable names, and without one under ``home()``. ``shown`` draws a progress bar.
    """
    if name.startswith(("local/", "minari/")):
        raise ValueError(f"{name} comes on first use; only D4RL and DSRL names are fetched")
    reference = _find(name)
    file = local_file(reference)
    if file is not None:
        return file
    folder = _named_folder(reference) or _cache_folder(reference)
    return download(reference.url, folder / reference.file, _check_hdf5, shown)


def local_file(reference: Reference) -> Path | None:
    """Where a public dataset's file lies on this machine, if it does."""
    default = Path.home() / f".{reference.family}" / "datasets"
    for folder in (_named_folder(reference) or default, _cache_folder(reference)):
        if (folder / reference.file).is_file():
            return folder / reference.file
    return None


def home() -> Path:
    """Where datasets are cached: ``$PSEC_JAX_HOME``, or ``~/.cache/psec_jax``."""
    return storage.expanded(os.environ.get("PSEC_JAX_HOME") or "~/.cache/psec_jax")


def _find(name: str) -> Reference:
    try:
        return find_reference(name)
    except ValueError:
        close = " or ".join(closest(name, names()))
        raise ValueError(f"unknown dataset {name!r}; did you mean {close}?") from None


def _named_folder(reference: Reference) -> Path | None:
    folder = os.environ.get(f"{reference.family.upper()}_DATASET_DIR")
    return storage.expanded(folder) if folder else None


def _cache_folder(reference: Reference) -> Path:
    return home() / "datasets" / reference.family


def _load(name: str | Path) -> TransitionDataset:
    if isinstance(name, str) and name.startswith("minari/") and not known_suffix(name):
        from psec_jax.data.minari import read_minari

        return read_minari(name.removeprefix("minari/"))
    if is_file_name(name):
        return read_file(name)
    try:
        reference = _find(str(name))
    except ValueError:
        # Something is there, if nothing that any reader takes.
        if Path(name).exists():
            return read_file(name)
        raise
    return _read_hdf5(fetch(reference.name))


def _check_hdf5(path: Path) -> None:
    with warnings.catch_warnings():
        # Whoever reads the file is told what is clipped.
        warnings.simplefilter("ignore")
        _read_hdf5(path)


def _read_hdf5(path: Path) -> TransitionDataset:
    from psec_jax.data.hdf5 import read_hdf5

    return read_hdf5(path)


def _load_local(name: str, trajectories: int | None, seed: int) -> TransitionDataset:
    known = local_datasets()
    if name not in known:
        close = " or ".join(closest(name, known))
        raise ValueError(f"unknown dataset {name!r}; did you mean {close}?")
    recipe = known[name]
    if trajectories is not None:
        recipe = recipe.of_size(trajectories)
    label = f"{name.removeprefix('local/')}-{recipe.trajectories}-seed{seed}-{recipe.fingerprint}"
    path = home() / "datasets" / f"{label}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (BrokenFile, ValueError) as error:
            warnings.warn(f"cached dataset is damaged and is made again: {error}", stacklevel=3)
    from psec_jax.data.demonstrations import generate

    dataset = generate(recipe, seed)
    _write(path, dataset)
    return dataset


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _write(path: Path, dataset: TransitionDataset) -> None:
    tensors = dataset.arrays()
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
    if _digest(tensors) != metadata.get("sha256"):
        raise BrokenFile(f"{path}: its contents are not what its checksum says")
    try:
        return TransitionDataset(**tensors)
    except TypeError:
        raise BrokenFile(f"{path} holds {sorted(tensors)}, which is not a dataset") from None
