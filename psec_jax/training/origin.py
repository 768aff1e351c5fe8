"""What made a saved state, in words that another process finds too, and how two such differ.

A fit's result follows from its learner, data, key and batch size. Each is described by name: plain
settings by their value, arrays by a hash of their contents, classes and functions by their names,
and functions by their code besides. The code of classes is not looked at.
"""

import dataclasses
import enum
import functools
import hashlib
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from psec_jax.settings import is_array, python_number
from psec_jax.training.seeds import unstacked

# The description of each part by its name; an array's is its type, its shape and a hash.
Origin = dict[str, Any]

GIVEN = ("start", "initial state")


def origin_of(
    learner: Any,
    columns: Mapping[str, np.ndarray],
    key: jax.Array,
    batch_size: int,
    state: Any = None,
    start: int = 0,
) -> Origin:
    """What a fit's result follows from; ``state`` is None where the learner makes it."""
    origin = dict(_described("learner", learner))
    origin |= {"batch_size": batch_size, "key": _key(key)}
    if state is not None:
        origin |= dict(zip(GIVEN, (start, fingerprint_of(state)), strict=True))
    return origin | {f"data.{name}": _array(values) for name, values in columns.items()}


def fingerprint_of(state: Any) -> list[str]:
    """A hash of a tree's arrays, their places included."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return _hashed("leaves", {jax.tree_util.keystr(path): leaf for path, leaf in leaves})


def differences(now: Origin, there: Origin) -> dict[str, str]:
    """The name of each part that differs → how."""
    changes = {}
    for name in sorted(now.keys() | there.keys(), key=_data_last):
        current, saved = now.get(name, "none"), there.get(name, "none")
        if current == saved:
            continue
        if isinstance(current, list) and isinstance(saved, list) and current[:-1] == saved[:-1]:
            changes[name] = "another" if name == "key" else "other values"
        else:
            changes[name] = f"{_formatted(current)} now, {_formatted(saved)} there"
    return changes


def explained(changes: Mapping[str, str], most: int = 8) -> list[str]:
    """``differences`` in lines, those of the data in one."""
    columns = [name.removeprefix("data.") for name in changes if name.startswith("data.")]
    lines = [f"{name}: {how}" for name, how in changes.items() if not name.startswith("data.")]
    if len(lines) > most:
        lines[most:] = [f"and {len(lines) - most} more"]
    return [*lines, f"data: other {', '.join(columns)}"] if columns else lines


def differences_of(
    labels: Sequence[str], now: Sequence[Origin], there: Sequence[Origin]
) -> list[str]:
    """How the fits of these labels differ from those that saved states, in lines."""
    if len(now) != len(there):
        return [f"seeds: {len(now)} now, {len(there)} there"]
    explanations = [explained(differences(*pair)) for pair in zip(now, there, strict=True)]
    if len(now) == 1:
        return explanations[0]
    return [
        f"{label}, {line}"
        for label, lines in zip(labels, explanations, strict=True)
        for line in lines
    ]


def continues(now: Sequence[Origin], there: Sequence[Origin], step: int, state: Any) -> bool:
    """Whether the fits differ from those that saved ``state`` at ``step`` only in that they were
    given just that to start from."""
    return len(now) == len(there) and all(
        differences(one, other).keys() <= set(GIVEN)
        and [one.get(name) for name in GIVEN] == [step, fingerprint_of(saved)]
        for one, other, saved in zip(now, there, unstacked(state, len(now)), strict=True)
    )


def _formatted(value: Any) -> str:
    return " ".join(value[:-1]) if isinstance(value, list) else str(value)


def _data_last(name: str) -> tuple[bool, str]:
    return name.startswith("data."), name


def _described(name: str, value: Any, within: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each part of ``value`` under its name, with its description."""
    value = python_number(value)
    if id(value) in within:
        yield name, "itself"
        return
    inside = functools.partial(_described, within=(*within, id(value)))
    if isinstance(value, float) and not math.isfinite(value):
        yield name, repr(value)
    elif isinstance(value, enum.Enum):
        yield name, f"{_qualified(type(value))}.{value.name}"
    elif value is None or isinstance(value, bool | int | float | str):
        yield name, value
    elif is_array(value):
        yield name, _array(value)
    elif isinstance(value, Mapping) and _only_arrays(value):
        yield name, _hashed("arrays", value)
    elif isinstance(value, Mapping):
        yield name, f"{len(value)} entries"
        for key, part in value.items():
            yield from inside(f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        yield name, f"{len(value)} entries"
        for index, part in enumerate(value):
            yield from inside(f"{name}[{index}]", part)
    elif isinstance(value, set | frozenset):
        yield name, sorted(repr(dict(inside("", part))) for part in value)
    elif isinstance(value, type):
        yield name, _qualified(value)
    elif isinstance(value, types.FunctionType):
        yield name, f"{_qualified(value)} {_code(value.__code__)}"
        for what, part in _used_by(value).items():
            yield from inside(f"{name}.{what}", part)
    elif isinstance(value, functools.partial):
        yield from inside(name, (value.func, value.args, value.keywords))
    elif isinstance(value, types.MethodType):
        yield from inside(name, (value.__func__, value.__self__))
    elif hasattr(value, "__wrapped__"):
        yield from inside(name, value.__wrapped__)
    elif isinstance(value, types.ModuleType):
        yield name, value.__name__
    elif hasattr(value, "__qualname__"):
        yield name, _qualified(value)
    else:
        yield name, _qualified(type(value))
        parts = _parts(value)
        for part, inner in parts.items():
            yield from inside(f"{name}.{part}", inner)
        if not parts:
            yield f"{name}.value", re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _parts(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        parts = dict(getattr(value, "__dict__", {}))
    if isinstance(value, nn.Module):
        del parts["parent"]
    return parts


def _used_by(function: types.FunctionType) -> dict[str, Any]:
    """What a function was given when it was made, and the plain values that it finds outside."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}
    for index, default in enumerate(function.__defaults__ or ()):
        values[f"default {index}"] = default
    values |= function.__kwdefaults__ or {}
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        value = python_number(function.__globals__[name])
        # A function of another module is known by its name, unless it holds values of its own.
        helper = isinstance(value, functools.partial) or (
            isinstance(value, types.FunctionType)
            and (value.__module__ == function.__module__ or value.__closure__)
        )
        if helper or is_array(value) or isinstance(value, bool | int | float | str | tuple):
            values[name] = value
    return values


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)


def _code(code: types.CodeType) -> str:
    digest = hashlib.sha256(code.co_code + repr(code.co_names).encode())
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            text = _code(part)
        elif isinstance(part, frozenset):
            text = repr(sorted(map(repr, part)))
        else:
            text = repr(part)
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def _qualified(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _only_arrays(value: Mapping) -> bool:
    return bool(value) and all(
        _only_arrays(part) if isinstance(part, Mapping) else is_array(part)
        for part in value.values()
    )


def _hashed(kind: str, value: Mapping) -> list[str]:
    digest, count = hashlib.sha256(), 0
    for name, part in sorted(_flat(value)):
        digest.update(f"{name} {_array(part)}".encode())
        count += 1
    return [f"{count} {kind}", digest.hexdigest()]


def _flat(value: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, Mapping):
            yield from _flat(part, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", part


def _array(value: Any) -> list[str]:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _key(value)
    value = np.ascontiguousarray(value)
    digest = hashlib.sha256(value.reshape(-1).view(np.uint8).data)
    return [f"{value.dtype}{list(value.shape)}", digest.hexdigest()]


def _key(key: jax.Array) -> list[str]:
    # Keys of numbers and typed ones are drawn from alike.
    return [str(jax.random.key_impl(key)), *_array(jax.random.key_data(key))]
