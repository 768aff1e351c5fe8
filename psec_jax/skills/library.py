"""A library of skills on disk: one base policy and the skills that were learned on it."""

import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import linen as nn

from psec_jax import agents, reprs, storage
from psec_jax.composition import ComposedPolicy
from psec_jax.composition.going_home import check_purpose_of
from psec_jax.descriptions import build, describe
from psec_jax.errors import BaseMismatch, BrokenFile, NotImported
from psec_jax.fingerprints import fingerprint
from psec_jax.imports import is_ours
from psec_jax.policies import Policy
from psec_jax.settings import json_data
from psec_jax.skills import format
from psec_jax.skills.bank import Bank, Skill
from psec_jax.skills.folding import folded_agent, refactored

if TYPE_CHECKING:
    from psec_jax.learners import Purpose

FORMAT = 1
_TENSORS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
# The entry of a configuration that says which tensors it belongs to.
_BELONGS = "tensors_checksum"
# The folder, and the entries in an exported file, of what a policy is for.
_PURPOSE, _PURPOSE_PROVENANCE = "purpose", "purpose_provenance"


class SkillLibrary:
    """The skills of one base policy, in a folder.

    ``base/`` holds π₀, ``skills/<name>/`` one skill each, ``library.json`` the format and the
    base's fingerprint; what a policy is for, where it is known, lies in its ``purpose/``. The
    folder of skills is the only list of them, and every write is a rename, so processes may add to
    one library at the same time.
    """

    def __init__(self, path: str | Path, base: Policy):
        self.path = storage.expanded(path)
        self.base = base

    @classmethod
    def create(cls, path: str | Path, base: Policy) -> "SkillLibrary":
        """A new library around ``base``.

        Raises ``FileExistsError`` if ``path`` is taken, and ``ValueError`` for a base that carries
        a bank, holds values that are not finite or not float32, or could not be opened again.
        """
        path = storage.expanded(path)
        if base.bank is not None:
            raise ValueError("a base policy carries no bank; merge it first or leave it out")
        tensors = format.policy_tensors(base)
        _refuse_unreadable("the base policy", tensors)
        config = format.base_config(base)
        given = None if is_ours(type(base.backbone.network)) else base.backbone.network
        functions = format.functions_of(base)
        opened = format.base_from(tensors, config, path, given, functions)
        if fingerprint(opened) != fingerprint(base):
            raise ValueError(
                "the base policy would not be the same when it is opened: its description is "
                f"{config}; use plain numbers, strings and tuples as settings"
            )
        with storage.new_folder(path) as folder:
            (folder / "base").mkdir()
            (folder / "skills").mkdir()
            storage.write_tensors(folder / "base" / "model.safetensors", tensors)
            storage.write_json(folder / "base" / "config.json", config)
            metadata = {"format": FORMAT, "base_fingerprint": fingerprint(base)}
            storage.write_json(folder / "library.json", metadata)
        return cls(path, base)

    @classmethod
    def open(
        cls,
        path: str | Path,
        network: nn.Module | None = None,
        custom_objects: Mapping[str, Any] | None = None,
    ) -> "SkillLibrary":
        """The library in ``path``.

        A network or backbone of your own is found if what defines it is imported; else hand it
        over in ``custom_objects``, as to ``psec_jax.load``, or a network as ``network``. Raises
        ``NotImported`` where neither is so, and ``BrokenFile`` if the folder is no library or its
        base is not what it was.
        """
        path = storage.expanded(path)
        if not (path / "library.json").is_file():
            raise BrokenFile(f"{path} is not a skill library: it has no library.json")
        metadata = storage.read_json(path / "library.json")
        if metadata.get("format") != FORMAT:
            raise BrokenFile(
                f"{path}: library format {metadata.get('format')!r} is not the format {FORMAT} "
                "that this version reads"
            )
        tensors, _ = storage.read_tensors(path / "base" / "model.safetensors")
        config = storage.read_json(path / "base" / "config.json")
        base = format.base_from(tensors, config, path / "base", network, custom_objects)
        expected, actual = metadata.get("base_fingerprint"), fingerprint(base)
        if actual != expected:
            raise BaseMismatch(f"{path}", str(expected), "its base/", actual)
        return cls(path, base)

    @reprs.brief
    def __repr__(self):
        yield str(self.path)
        yield f"skills {reprs.listed(self.names())}"
        yield f"base {type(self.base.backbone).__name__}"
        yield reprs.parameters(self.base.params)
        yield reprs.fingerprint(self.base)

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.base)

    @functools.cached_property
    def _layers(self) -> dict[str, tuple[int, int]]:
        return self.base.dense_layers()

    def names(self) -> tuple[str, ...]:
        """The names of the skills, in alphabetical order."""
        folder = self.path / "skills"
        return tuple(sorted(p.name for p in folder.iterdir() if _is_skill(p)))

    def add(
        self,
        name: str,
        skill: Skill | ComposedPolicy | Policy,
        *,
        rank: int | None = None,
        **provenance: Any,
    ) -> None:
        """Store ``skill`` under ``name``, with ``provenance`` beside what it already records.

        In place of a skill it may be a mixture of skills at fixed weights: a composed policy at
        the parameter level with constant weights, or a policy with a bank. It becomes one skill of
        the same actions, low-rank where all its parts are. ``rank`` stores the closest low-rank
        skill of that rank instead, and records its ``relative_error`` (``skills.folding``).

        Provenance is JSON data; NumPy's numbers, arrays, tuples and paths become such. Raises
        ``BaseMismatch`` for a skill of another base, ``FileExistsError`` for a name that is taken,
        ``ValueError`` for one that is not allowed, for weights that depend on the state and for
        provenance that is not finite, and ``TypeError`` for other provenance.
        """
        storage.check_name(name)
        if not isinstance(skill, Skill):
            skill = folded_agent(skill, self._layers)
        if rank is not None:
            skill = refactored(skill, rank)
        provenance = {**skill.provenance, **provenance}
        self._store(name, dataclasses.replace(skill, provenance=provenance))

    def _store(
        self,
        name: str,
        skill: Skill,
        purpose: "Purpose | None" = None,
        purpose_provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """A skill and what it is for, both or neither."""
        target = self._folder(name)
        if skill.base != self.fingerprint:
            raise BaseMismatch(f"skill {name!r}", skill.base, "this library's", self.fingerprint)
        provenance = {
            key: json_data(value, f"provenance {key!r}") for key, value in skill.provenance.items()
        }
        skill = dataclasses.replace(skill, provenance=provenance)
        config, tensors = format.skill_config(skill), format.skill_tensors(skill)
        format.skill_from(tensors, config, self._layers, target)
        _refuse_unreadable(f"skill {name!r}", tensors)
        config[_BELONGS] = storage.checksum({}, tensors)
        with storage.new_folder(target) as folder:
            storage.write_tensors(folder / _TENSORS, tensors)
            storage.write_json(folder / _CONFIG, config)
            if purpose is not None:
                purpose.save(folder / _PURPOSE, **(purpose_provenance or {}))

    def get(self, name: str) -> Skill:
        """The skill called ``name``; raises ``KeyError`` if there is none."""
        folder = self._existing(name)
        tensors, _ = storage.read_tensors(folder / _TENSORS)
        config = storage.read_json(folder / _CONFIG)
        skill = self._checked(tensors, config, folder)
        if config.get(_BELONGS, actual := storage.checksum({}, tensors)) != actual:
            raise BrokenFile(
                f"{folder}: {_CONFIG} belongs to other tensors than those in {_TENSORS}; restore "
                f"both from one copy, or to use them together, remove the entries {_BELONGS!r} "
                f"and 'checksum' of {_CONFIG}"
            )
        return skill

    def description(self, name: str) -> str:
        """What the file of a skill records, as JSON; raises as ``get``."""
        self.get(name)
        return (self._folder(name) / _CONFIG).read_text()

    def remove(self, name: str) -> None:
        """Delete a skill; π₀ and the other skills stay as they are."""
        with self._taking_away(name) as folder:
            grave = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
            try:
                os.rename(folder, grave / "skill")
            finally:
                shutil.rmtree(grave)

    def rename(self, name: str, new: str) -> None:
        """Give a skill another name; raises ``FileExistsError`` if that is taken."""
        with self._taking_away(name) as folder:
            storage.move_folder(folder, self._folder(new))

    def bank(self, names: Sequence[str] | None = None) -> Bank:
        """The named skills side by side, in the order given; all of them where None."""
        names = self.names() if names is None else names
        return Bank.of({name: self.get(name) for name in names})

    def add_purpose(self, purpose: "Purpose", skill: str | None = None, **provenance: Any) -> None:
        """Store what π₀ is for, or a skill (``learn_purpose``).

        A skill's is exported, renamed and removed with it. Raises ``KeyError`` for an unknown
        skill, ``FileExistsError`` where it is known already, and ``ValueError`` for a purpose that
        does not fit π₀.
        """
        folder = self._purpose_folder(skill)
        check_purpose_of(self.base, purpose)
        purpose.save(folder, **provenance)

    def purpose(self, skill: str | None = None) -> "Purpose":
        """What π₀ is for, or a skill; raises ``KeyError`` where that is not known."""
        folder = self._purpose_folder(skill)
        if not folder.is_dir():
            raise KeyError(
                f"{self.path} does not say what {'π₀' if skill is None else repr(skill)} is for; "
                "learn it with learn_purpose and store it with add_purpose"
            )
        purpose = agents.load(folder)
        check_purpose_of(self.base, purpose)
        return purpose

    def has_purpose(self, skill: str | None = None) -> bool:
        """Whether it is known what π₀ is for, or a skill."""
        return self._purpose_folder(skill).is_dir()

    def _purpose_folder(self, skill: str | None) -> Path:
        return (self.path / "base" if skill is None else self._existing(skill)) / _PURPOSE

    def export(self, name: str, file: str | Path) -> Path:
        """Write one skill, and what it is for, as one safetensors file that another machine can
        import."""
        skill = self.get(name)
        file = storage.expanded(file)
        config = format.skill_config(skill)
        tensors = format.skill_tensors(skill)
        metadata = {"format": "psec-skill", "name": name, "adapter_config": config}
        if self.has_purpose(name):
            described = describe(self.purpose(name), _PURPOSE)
            metadata[_PURPOSE] = described.node
            metadata[_PURPOSE_PROVENANCE] = agents.provenance(self._purpose_folder(name))
            tensors |= {f"{_PURPOSE}/{part}": value for part, value in described.tensors.items()}
        with storage.new_file(file) as temporary:
            storage.write_tensors(temporary, tensors, metadata)
        return file

    def import_file(self, file: str | Path, name: str | None = None) -> str:
        """Add a skill that ``export`` wrote, and what it is for, under its own or another
        ``name``; returns it."""
        file = storage.expanded(file)
        tensors, metadata = storage.read_tensors(file)
        config = metadata.get("adapter_config")
        provenance = metadata.get(_PURPOSE_PROVENANCE, {})
        described = isinstance(config, dict) and isinstance(provenance, dict)
        if metadata.get("format") != "psec-skill" or not described:
            raise BrokenFile(f"{file} is not an exported skill; export it with `export NAME FILE`")
        name = storage.check_name(metadata.get("name", "") if name is None else name)
        prefix = f"{_PURPOSE}/"
        of_purpose = {
            part.removeprefix(prefix): tensors.pop(part)
            for part in [*tensors]
            if part.startswith(prefix)
        }
        skill = self._checked(tensors, config, file)
        purpose = None
        if _PURPOSE in metadata:
            try:
                purpose = build(metadata[_PURPOSE], of_purpose)
                check_purpose_of(self.base, purpose)
            except NotImported:
                raise
            except ValueError as error:
                raise BrokenFile(f"{file}: {error}") from error
        self._store(name, skill, purpose, provenance)
        return name

    def _checked(self, tensors, config, source: Path) -> Skill:
        if (other := config.get("base_fingerprint")) != self.fingerprint:
            raise BaseMismatch(f"{source}", str(other), "this library's", self.fingerprint)
        return format.skill_from(tensors, config, self._layers, source)

    def _folder(self, name: str) -> Path:
        return self.path / "skills" / storage.check_name(name)

    def _existing(self, name: str) -> Path:
        folder = self._folder(name)
        if not _is_skill(folder):
            raise KeyError(f"no skill {name!r} in {self.path}; it holds {list(self.names())}")
        return folder

    @contextmanager
    def _taking_away(self, name: str) -> Iterator[Path]:
        """The folder of a skill; ``KeyError`` also if another process took it away meanwhile."""
        folder = self._existing(name)
        try:
            yield folder
        except FileNotFoundError:
            self._existing(name)
            raise


def _refuse_unreadable(what: str, tensors: Mapping[str, np.ndarray]) -> None:
    if other := {n: str(value.dtype) for n, value in tensors.items() if value.dtype != np.float32}:
        raise ValueError(f"{what} holds tensors that are not float32: {other}")
    if bad := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
        raise ValueError(f"{what} holds values that are not finite, in {bad}")


def _is_skill(folder: Path) -> bool:
    named = storage.NAME.fullmatch(folder.name)
    return bool(named) and folder.is_dir() and not folder.is_symlink()
