"""Minari datasets, by their ids: reading them, and writing any of ours as one."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from psec_jax.data.actions import scaled
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.notices import notice
from psec_jax.errors import BrokenFile

try:
    import minari
    from minari.data_collector import EpisodeBuffer
except ImportError as error:
    raise ImportError(
        f"Minari datasets need the extra: pip install 'psec-jax[minari]' ({error})"
    ) from error


_ID = re.compile(r"(\w[\w-]+/)*\w[\w-]*-v\d+", re.ASCII)


def read_minari(dataset_id: str) -> TransitionDataset:
    """The Minari dataset ``dataset_id``, such as ``mujoco/walker2d/medium-v0``.

    It is taken from ``$MINARI_DATASETS_PATH`` (``~/.minari/datasets``) or, where it is not there,
    downloaded with Minari's own means. Observations that are dictionaries become vectors in the
    order of their space; actions are scaled from their space's bounds to [−1, 1]; costs are those
    in ``infos["cost"]``, where every episode has them. Warns of actions that are clipped and of
    costs that are left out. Raises ``BrokenFile`` for data that are not vectors of numbers.
    """
    source = _open(dataset_id)
    box = source.action_space
    flat = isinstance(box, gymnasium.spaces.Box) and len(box.shape) == 1
    if not flat or not box.is_bounded():
        raise BrokenFile(
            f"{dataset_id} has actions in {box}; expected a bounded Box of one dimension"
        )
    try:
        episodes = [_columns(e, source.observation_space) for e in source.iterate_episodes()]
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AssertionError) as error:
        raise BrokenFile(f"{dataset_id} is damaged: {error!r}; download it again") from None
    if not episodes:
        raise BrokenFile(f"{dataset_id} is empty: it holds no episode")
    names = set.intersection(*(set(columns) for columns in episodes))
    if lacking := sum("costs" not in columns for columns in episodes) % len(episodes):
        notice(
            f"{dataset_id}: {lacking} of {len(episodes)} episodes have no costs, which are left "
            "out of all"
        )
    try:
        columns = {name: np.concatenate([c[name] for c in episodes]) for name in names}
        columns["actions"] = scaled(columns["actions"], (box.low, box.high), dataset_id)
        return TransitionDataset(**columns)
    except ValueError as error:
        raise BrokenFile(f"{dataset_id}: {error}") from None


def write_minari(
    dataset_id: str, data: TransitionDataset, description: str = "", **metadata: Any
) -> Path:
    """Write ``data`` as the local Minari dataset ``dataset_id``; returns its folder.

    ``metadata`` goes to Minari (``author``, ``algorithm_name``, …). Raises ``FileExistsError`` if
    the id is taken, and ``ValueError`` for data whose next observations are not those that follow.
    """
    _check_id(dataset_id)
    folder = _root() / dataset_id
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or choose another id")
    if data.rewards is None:
        raise ValueError(
            "these data have no rewards, which Minari keeps of every step; convert them to HDF5"
        )
    last = data.terminations | data.truncations
    following = data.columns(["next_observations"])["next_observations"]
    jumps = (following[:-1] != data.observations[1:]).any(axis=1) & ~last[:-1]
    if jumps.any():
        raise ValueError(
            f"transition {int(jumps.argmax())} does not lead to the observation after it, so the "
            "data are no episodes, which is all that Minari keeps; convert them to HDF5"
        )
    try:
        with warnings.catch_warnings():
            # Minari warns of any metadata that is not given.
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                dataset_id,
                [_episode(part) for part in data.trajectories()],
                observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (data.observation_size,)),
                action_space=gymnasium.spaces.Box(-1.0, 1.0, (data.action_size,)),
                description=description or None,
                data_format="hdf5",
                **metadata,
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _open(dataset_id: str) -> minari.MinariDataset:
    _check_id(dataset_id)
    try:
        if (_root() / dataset_id).is_dir():
            return minari.load_dataset(dataset_id)
        return minari.load_dataset(dataset_id, download=True)
    except Exception as error:
        # Minari lets through whatever its storage and its network libraries raise.
        raise BrokenFile(
            f"the Minari dataset {dataset_id!r} is neither a sound one in {_root()} nor could it "
            f"be downloaded ({str(error).splitlines()[0] if str(error) else error!r}); see "
            "`minari list remote`, or put its folder there"
        ) from None


def _root() -> Path:
    from minari.storage.datasets_root_dir import get_dataset_path

    return Path(get_dataset_path())


def _check_id(dataset_id: str) -> None:
    if not _ID.fullmatch(dataset_id):
        raise ValueError(
            f"{dataset_id!r} is no Minari id; expected [namespace/]name-v0, for example "
            "mujoco/walker2d/medium-v0"
        )


def _columns(episode: Any, space: gymnasium.Space) -> dict:
    observations = _vectors(episode.observations, space)
    steps = len(episode.rewards)
    truncations = np.array(episode.truncations, bool)
    truncations[-1] |= not episode.terminations[-1]
    columns = {
        "observations": observations[:steps],
        "next_observations": observations[1 : steps + 1],
        "actions": np.asarray(episode.actions, np.float32),
        "rewards": episode.rewards,
        "terminations": episode.terminations,
        "truncations": truncations,
    }
    if "cost" in (episode.infos or {}):
        # The reset gives an info too, so there may be one more cost than steps.
        costs = np.asarray(episode.infos["cost"])[-steps:]
        columns["costs"] = costs[:, 0] if costs.shape[1:] == (1,) else costs
    return columns


def _vectors(observations: Any, space: gymnasium.Space) -> np.ndarray:
    if isinstance(space, gymnasium.spaces.Dict):
        parts = [_vectors(observations[key], part) for key, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, gymnasium.spaces.Tuple):
        parts = [_vectors(o, part) for o, part in zip(observations, space.spaces, strict=True)]
        return np.concatenate(parts, axis=1)
    return np.asarray(observations, np.float32).reshape(len(observations), -1)


def _episode(part: TransitionDataset) -> EpisodeBuffer:
    infos = None
    if part.costs is not None:
        infos = {"cost": np.append(np.float32(0), part.costs)}
    following = part.columns(["next_observations"])["next_observations"]
    # Minari declares lists, and takes arrays.
    arrays: dict[str, Any] = dict(
        observations=np.concatenate([part.observations, following[-1:]]),
        actions=part.actions,
        rewards=part.rewards,
        terminations=part.terminations,
        truncations=part.truncations,
    )
    return EpisodeBuffer(**arrays, infos=infos)
