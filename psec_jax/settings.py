"""Settings and metadata as plain Python data, whether they came from NumPy, JAX or a path.

A setting is compiled into programs and stored as JSON, so it must be hashable, and one that was
written must read back as the same.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def python_number(value: Any) -> Any:
    """A scalar of NumPy or JAX as the Python number it holds; anything else as it is."""
    if isinstance(value, np.generic) or (is_array(value) and value.ndim == 0 and _numeric(value)):
        return value.item()
    return value


def integer_of(name: str, value: Any) -> int:
    """``value`` as an ``int``; raises ``ValueError`` unless it is an integer of at least 1."""
    value = python_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")
    return value


def plain_settings(value: Any, name: str | None = None) -> Any:
    """``value``, a dataclass or Linen module, with Python numbers and tuples among its settings.

    Raises ``ValueError`` naming a setting that cannot be hashed, such as an array.
    """
    name = type(value).__name__ if name is None else name
    value = python_number(value)
    if is_dataclass_instance(value):
        settings = {
            field: plain_settings(getattr(value, field), f"{name}.{field}")
            for field in setting_names(value)
        }
        changed = {field: x for field, x in settings.items() if x is not getattr(value, field)}
        if not changed:
            return value
        if isinstance(value, nn.Module):
            return value.clone(**changed)
        return dataclasses.replace(value, **changed)
    if type(value) in (list, tuple):
        parts = tuple(plain_settings(part, f"{name}[{i}]") for i, part in enumerate(value))
        same = type(value) is tuple and all(a is b for a, b in zip(value, parts, strict=True))
        return value if same else parts
    try:
        hash(value)
    except TypeError:
        kind = f"of shape {value.shape}" if is_array(value) else repr(value)
        raise ValueError(
            f"{name} is a {type(value).__name__} {kind}, which cannot be a setting; use numbers, "
            "strings, or tuples of them"
        ) from None
    return value


def is_dataclass_instance(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def is_frozen_dataclass(kind: type) -> bool:
    # typeshed does not declare what the decorator was given.
    params = "__dataclass_params__"
    return dataclasses.is_dataclass(kind) and getattr(kind, params).frozen


def setting_names(value: Any) -> list[str]:
    """The fields of a dataclass or Linen module that are its settings."""
    linen = ("parent", "name") if isinstance(value, nn.Module) else ()
    return [f.name for f in dataclasses.fields(value) if f.init and f.name not in linen]


def check_plain(name: str, value: Any) -> None:
    """Raise ``ValueError`` for a setting that JSON cannot hold."""
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            check_plain(f"{name}[{index}]", part)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(
            f"{name} is {value!r}, which cannot be stored; use a number, a string, or a tuple of "
            "them"
        )


def json_data(value: Any, name: str) -> Any:
    """``value`` as JSON data; arrays become lists, paths strings.

    Raises ``TypeError`` for what JSON cannot hold and ``ValueError`` for a number that is not
    finite, both naming where.
    """
    value = python_number(value)
    if isinstance(value, np.ndarray) or (is_array(value) and _numeric(value)):
        exact = np.asarray(value)
        # bfloat16 is no type that NumPy makes numbers of.
        floats = jnp.issubdtype(exact.dtype, np.floating)
        value = (exact.astype(np.float64) if floats else exact).tolist()
    if isinstance(value, Mapping):
        return {
            _json_key(key, name): json_data(part, f"{name}.{key}") for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_data(part, f"{name}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, which JSON cannot hold; leave it out or use None")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name} is not JSON serializable: it is of type {type(value).__name__}; use numbers, "
        "strings, lists or dictionaries"
    )


def _json_key(key: Any, name: str) -> str:
    key = python_number(key)
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"{name} is not JSON serializable: its key {key!r} is not a string")
    return str(key)


def _numeric(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.number) or jnp.issubdtype(array.dtype, np.bool_)
