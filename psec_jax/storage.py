"""Files of tensors and of metadata: safetensors and JSON, written whole or not at all.

Each carries a checksum of what it holds, which is verified where it is read; files without one, as
of earlier versions, are read as they are. Nothing here unpickles, and no name that comes from a
file or a user becomes a path unchecked.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from psec_jax.errors import BrokenFile, NotSaved

# In every file written so far.
_METADATA = "facts"
_CHECKSUM = "checksum"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str, what: str = "skill") -> str:
    """``name`` if it can safely name a folder; raises ``ValueError`` otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{what} name {name!r} is not allowed: use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    return name


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` as the home folder; raises ``ValueError`` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path} begins with the home folder of an unknown user") from None


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes it when the block ends well.

    Raises ``FileExistsError`` if ``target`` exists by then, also when another process was first.
    """
    _refuse_taken(target)
    with writing_next_to(target):
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        with saving(target):
            yield temporary
            temporary.chmod(0o755)
            move_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(source: Path, target: Path) -> None:
    """Move a folder to a path that is free.

    Raises ``FileExistsError`` if ``target`` exists, also when another process was first.
    """
    _refuse_taken(target)
    try:
        os.rename(source, target)
    except OSError:
        _refuse_taken(target)
        raise


def _refuse_taken(target: Path) -> None:
    if target.exists():
        raise FileExistsError(f"{target} exists already; remove it or choose another name")


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends well."""
    with writing_next_to(target):
        handle, name = tempfile.mkstemp(prefix=".new-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with saving(target):
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def saving(target: Path) -> Iterator[None]:
    """Raises ``NotSaved`` where there is no room for ``target``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NotSaved(
            f"cannot save {target} ({error.strerror}); what was saved before is whole: make room "
            "and start again"
        ) from error


@contextmanager
def writing_next_to(target: Path) -> Iterator[None]:
    """Raises an ``OSError`` that names the folder, or ``NotSaved`` where there is no room."""
    try:
        with saving(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield
    except NotSaved:
        raise
    except OSError as error:
        raise type(error)(
            f"cannot write in {target.parent} ({error.strerror}); choose another folder or change "
            "its permissions"
        ) from error


def write_text(path: Path, text: str) -> None:
    """In place of what was there, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``metadata`` and its checksum, which is the entry ``checksum``."""
    path.write_text(json.dumps(_with_checksum(metadata), indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, without its checksum.

    Raises ``BrokenFile`` if it holds anything else, or not what was written.
    """
    if not path.is_file() or path.is_symlink():
        raise BrokenFile(f"{path} is missing or not a plain file")
    metadata = parse_json(path.read_bytes(), path)
    if not _verify(metadata):
        raise BrokenFile(
            f"{path} is not what was written: its checksum does not match; restore it from a "
            f"copy, or to accept what you edited by hand, remove its entry {_CHECKSUM!r}"
        )
    return metadata


def parse_json(text: bytes | str, source: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{source} holds no valid JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise BrokenFile(f"{source} must hold a JSON object, not {type(metadata).__name__}")
    return metadata


def repair_lines(path: Path) -> None:
    """Cut off a last line that was not written to its end, so that others can be appended."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with new_file(path) as temporary:
                temporary.write_bytes(whole)


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file whose bytes follow from what it holds, not from any order.

    The JSON ``metadata`` is stored under one key, because safetensors shuffles several, with a
    checksum of tensors and metadata.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    header = {_METADATA: json.dumps(_with_checksum(metadata or {}, arrays), sort_keys=True)}
    # Not save_file, whose errors are no OSError where the disk is full.
    path.write_bytes(safetensors.numpy.save(arrays, header))


def read_tensors(
    path: Path, dtypes: Sequence[type] = (np.float32, np.bool_)
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors, of ``dtypes``, and the metadata in a file that ``write_tensors`` wrote.

    Raises ``BrokenFile`` if the file is missing, truncated, garbage, of another type, not what was
    written, or holds values that are not finite.
    """
    if not path.is_file() or path.is_symlink():
        raise BrokenFile(f"{path} is missing or not a plain file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_METADATA, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise BrokenFile(f"{path} is not a readable safetensors file: {error}") from None
    metadata = parse_json(text, path)
    if not _verify(metadata, tensors):
        raise BrokenFile(
            f"{path} is not what was written: its checksum does not match; restore it from a "
            "copy, or make it again"
        )
    for name, value in tensors.items():
        if value.dtype not in dtypes:
            raise BrokenFile(f"{path}: tensor {name!r} is {value.dtype}, expected float32")
        if not np.isfinite(value).all():
            raise BrokenFile(f"{path}: tensor {name!r} holds values that are not finite")
    return tensors, metadata


def checksum(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None) -> str:
    """The SHA-256 of JSON metadata and tensors, whatever their order."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted((tensors or {}).items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return f"sha256:{digest.hexdigest()}"


def _with_checksum(
    metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    # As they will be read: with strings for keys, and lists for tuples.
    read = json.loads(json.dumps(metadata))
    read.pop(_CHECKSUM, None)
    return {**read, _CHECKSUM: checksum(read, tensors)}


def _verify(metadata: dict[str, Any], tensors: Mapping[str, np.ndarray] | None = None) -> bool:
    """Whether the metadata is as it was written; takes its checksum out."""
    expected = metadata.pop(_CHECKSUM, None)
    return expected is None or expected == checksum(metadata, tensors)
