"""Agents as files: policies, mixtures, best-of-N acting, critics and purposes, at any depth.

A saved agent is a folder of ``agent.json``, which describes it (``psec_jax.descriptions``), and
``tensors.safetensors``. Both carry checksums, the JSON that of the tensors too and the fingerprint
of each policy within; nothing is pickled.
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from psec_jax import storage
from psec_jax.descriptions import DTYPES, Description, build, describe
from psec_jax.errors import BaseMismatch, BrokenFile
from psec_jax.fingerprints import fingerprint
from psec_jax.imports import class_at
from psec_jax.settings import json_data

if TYPE_CHECKING:
    from psec_jax.composition import ComposedPolicy
    from psec_jax.learners import Critics, Purpose
    from psec_jax.policies import BestOf, Policy

    Agent = Policy | ComposedPolicy | BestOf | Critics | Purpose

FORMAT = 2
AGENTS = ("Policy", "ComposedPolicy", "BestOf", "Critics", "Purpose")
_KIND, _DESCRIPTION, _TENSORS = "psec-agent", "agent.json", "tensors.safetensors"
_BELONGS = "tensors_checksum"
_NEEDED = {"agent", "policies", "provenance", _BELONGS}


def save(agent: "Agent", path: str | Path, /, **provenance: Any) -> None:
    """Store ``agent`` in a new folder ``path``, whole or not at all.

    ``provenance`` is JSON data, which ``provenance(path)`` reads; NumPy's numbers, arrays, tuples
    and paths become such. Classes of your own (networks, backbones, scorers) are stored by import
    path and settings. Raises ``FileExistsError`` if ``path`` is taken, and before anything is
    written ``ValueError`` naming what cannot be stored and ``TypeError`` for other provenance.
    """
    path = storage.expanded(path)
    metadata, described = _described(agent)
    recorded = {"provenance": json_data(provenance, "provenance"), "versions": _versions()}
    try:
        again = _restored(metadata, described.tensors, described.functions, "this agent")
    except BrokenFile as error:
        raise ValueError(f"{type(agent).__name__} could not be loaded again: {error}") from error
    if _described(again)[0] != metadata:
        raise ValueError(
            f"{type(agent).__name__} would not be the same when it is loaded: some class within "
            "changes its fields when it is made, or keeps what is no field"
        )
    with storage.new_folder(path) as folder:
        storage.write_tensors(folder / _TENSORS, described.tensors)
        storage.write_json(folder / _DESCRIPTION, metadata | recorded)


def load(path: str | Path, *, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The agent that was saved in ``path``: the same actions, bit for bit.

    Classes of your own are found if what defines them is imported; else, or where they have moved,
    ``custom_objects`` maps the import path in the file to the class: ``{"mine.nets:Net": Net}``.
    A file never makes this import anything.

    Raises ``BrokenFile`` if the folder is no agent, damaged, or of a later format,
    ``BaseMismatch`` if a policy is not the one that was saved, and ``NotImported`` naming what to
    import.
    """
    path = storage.expanded(path)
    metadata, tensors = _read(path)
    try:
        return _restored(metadata, tensors, custom_objects or {}, str(path))
    except BrokenFile as error:
        raise BrokenFile(f"{path}: {error}") from error


def provenance(path: str | Path) -> dict[str, Any]:
    """What was recorded beside a saved agent; raises as ``load``."""
    return _read_metadata(storage.expanded(path))["provenance"]


def is_saved(agent: "Agent", path: str | Path) -> bool:
    """Whether ``path`` holds just this agent, whatever the provenance."""
    path = storage.expanded(path)
    if not path.exists():
        return False
    try:
        there, _ = _read(path)
    except BrokenFile:
        return False
    here, _ = _described(agent)
    return all(there.get(name) == value for name, value in here.items())


def _described(agent: "Agent") -> tuple[dict[str, Any], Description]:
    kind = type(agent).__name__
    if not isinstance(agent, _classes()):
        raise ValueError(f"{kind} is no agent that can be saved; expected one of {AGENTS}")
    described = describe(agent, kind)
    metadata = {
        "kind": _KIND,
        "format": FORMAT,
        "agent": described.node,
        "policies": _fingerprints(agent),
        _BELONGS: storage.checksum({}, described.tensors),
    }
    return metadata, described


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise BrokenFile(f"there is no agent {path}; expected the folder that save wrote")
    if (path / "library.json").is_file():
        raise BrokenFile(f"{path} is a skill library: open it with psec.SkillLibrary.open")
    if not (path / _DESCRIPTION).is_file():
        raise BrokenFile(f"{path} is no saved agent: it has no {_DESCRIPTION}")
    metadata = storage.read_json(path / _DESCRIPTION)
    version, is_agent = metadata.get("format"), metadata.get("kind") == _KIND
    if is_agent and isinstance(version, int) and version > FORMAT:
        raise BrokenFile(
            f"{path} is of format {version}, and this version reads {FORMAT}: upgrade psec-jax"
        )
    if not is_agent or version not in (1, FORMAT) or not metadata.keys() >= _NEEDED:
        raise BrokenFile(f"{path / _DESCRIPTION} does not describe an agent")
    if version == 1:
        metadata = metadata | {"format": FORMAT, "agent": _with_level_objects(metadata["agent"])}
    return metadata


def _with_level_objects(node: Any) -> Any:
    """What format 1 described: there a level was a name, and ``base_enters`` stood beside it."""
    if isinstance(node, list):
        return [_with_level_objects(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {name: _with_level_objects(part) for name, part in node.items()}
    fields = node.get("fields")
    if node.get("class") == "ComposedPolicy" and isinstance(fields, dict):
        entering = {"base_enters": fields.pop("base_enters", True)}
        levels = {
            "parameter": {"class": "ParameterLevel", "fields": {}},
            "noise": {"class": "NoiseLevel", "fields": entering},
            "action": {"class": "ActionLevel", "fields": entering},
        }
        fields["level"] = levels.get(str(fields.get("level")))
    return node


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    metadata = _read_metadata(path)
    tensors, _ = storage.read_tensors(path / _TENSORS, DTYPES)
    if metadata[_BELONGS] != storage.checksum({}, tensors):
        raise BrokenFile(
            f"{path}: {_DESCRIPTION} belongs to other tensors than those in {_TENSORS}; restore "
            "both from one copy"
        )
    return metadata, tensors


def _restored(metadata, tensors, custom_objects, source: str) -> Any:
    agent = build(metadata["agent"], tensors, custom_objects)
    if not isinstance(agent, _classes()):
        raise BrokenFile(f"it describes a {type(agent).__name__}; expected one of {AGENTS}")
    try:
        jax.eval_shape(_act, agent)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise BrokenFile(f"its parts do not fit each other: {first}") from error
    expected, actual = metadata["policies"], _fingerprints(agent)
    if actual != expected:
        raise BaseMismatch(source, str(expected), "what its files describe", str(actual))
    return agent


def _act(agent: Any) -> jax.Array:
    """What an agent is for, to be traced."""
    if hasattr(agent, "sample"):
        return agent.sample(jax.random.key(0), jnp.zeros((2, agent.observation_size), jnp.float32))
    scores = agent.reward if hasattr(agent, "reward") else agent.value
    return scores(jnp.zeros((2, len(agent.statistics.mean)), jnp.float32))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("psec-jax", "jax", "flax")}


def _fingerprints(agent: "Agent") -> list[str]:
    """Of each policy within."""
    policy = class_at("Policy", {})
    parts = jax.tree.leaves(agent, is_leaf=lambda part: isinstance(part, policy))
    fingerprints = []
    for part in parts:
        if isinstance(part, policy):
            base = fingerprint(part)
            fingerprints.append(base)
            if part.bank is not None and part.bank.base != base:
                skills = f"the bank {list(part.bank.names)}"
                raise BaseMismatch(skills, part.bank.base, "the policy that carries it", base)
    return fingerprints


def _classes() -> tuple[type, ...]:
    return tuple(class_at(name, {}) for name in AGENTS)
