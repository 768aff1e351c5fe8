"""Reading arrays out of a pickle without running anything that the pickle asks for.

A pickle is a program: loading one looks up whatever names it holds and calls them. This reader
has nothing to offer such a program. Each name that arrays and plain containers need stands for
``dict`` or for an inert class of this module, which does no more than keep bytes, a dtype and a
shape; any other name is refused before it is looked up. So the file calls no function of NumPy,
JAX, Flax or optax; this module makes the arrays, with ``np.frombuffer`` and dtypes of numbers
alone. Only ``psec_jax.skills.published_file`` and ``psec_jax.data.pickles`` use it; nothing else
in psec_jax reads pickles.
"""

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from psec_jax.errors import BrokenFile

Leaf = np.ndarray | int | float


def read_state(path: Path) -> dict[str, Leaf]:
    """The arrays and numbers in a pickled state dict, by their path: ``{"a/b/kernel": array}``.

    Whatever else a plain container may hold (``None``, strings, lists) is left out. Raises
    ``BrokenFile`` for a file that is missing, damaged, no nested dict, or that asks for anything
    but arrays of numbers and plain containers.
    """
    return _read(path, _leaves)


def read_tree(path: Path) -> dict[str, Any]:
    """The arrays in a pickled dict, or list of dicts, as nested dicts: ``{"0": {"x": array}}``.

    A list of dicts is a dict by number; numbers and lists of numbers are arrays too, and whatever
    else there may be is left out. Raises ``BrokenFile`` as ``read_state`` does.
    """
    return _read(path, _tree)


def _read(path: Path, convert: Callable[[Any], Any]) -> Any:
    if not path.is_file():
        raise BrokenFile(f"{path} is missing or not a plain file")
    data = path.read_bytes()
    try:
        return convert(_ArraysOnly(io.BytesIO(data)).load())
    except Exception as error:  # a damaged pickle may raise any of them
        raise BrokenFile(
            f"{path} is no pickle of arrays in plain containers: {str(error) or repr(error)}; "
            "nothing in it was run"
        ) from None


def _leaves(state: Any) -> dict[str, Leaf]:
    leaves, seen, waiting = {}, set(), [("", state)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            if id(value) in seen:  # it may be endless
                _refuse(f"it holds the dict at {path!r} in two places")
            seen.add(id(value))
            for key, part in value.items():
                _check_name(key, path)
                waiting.append((f"{path}/{key}" if path else key, part))
        elif not path:
            _refuse(f"it holds a {type(value).__name__}, expected a dict")
        elif isinstance(value, _Array):
            leaves[path] = value.array
        elif isinstance(value, int | float):
            leaves[path] = value
    return leaves


def _check_name(key: Any, path: str) -> None:
    if not isinstance(key, str) or "/" in key or not key.isprintable():
        _refuse(f"{key!r} at {path!r} is not a name")


def _tree(state: Any) -> dict[str, Any]:
    tree = _branch(state, "", set())
    if not isinstance(tree, dict):
        kind = type(state).__name__.strip("_").lower()
        _refuse(f"it holds one {kind}, expected a dict or a list of dicts")
    return tree


def _branch(value: Any, path: str, seen: set[int]) -> Any:
    if isinstance(value, list | tuple) and any(isinstance(part, dict) for part in value):
        if not all(isinstance(part, dict) for part in value):
            _refuse(f"the list at {path!r} holds dicts and other things")
        value = {str(number): part for number, part in enumerate(value)}
    if isinstance(value, dict):
        branches = {}
        for key, part in value.items():
            _check_name(key, path)
            if isinstance(part, dict | list):
                if id(part) in seen:  # it may be endless
                    _refuse(f"it holds what is at {path}/{key} in two places")
                seen.add(id(part))
            if (branch := _branch(part, f"{path}/{key}", seen)) is not None:
                branches[key] = branch
        return branches
    return _numbers(value)


def _numbers(value: Any, depth: int = 2) -> np.ndarray | None:
    """An array of an array, a number, or a list of them or of rows of them; None of the rest."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if isinstance(value, list | tuple) and value and depth:
        parts = [_numbers(part, depth - 1) for part in value]
        arrays = [part for part in parts if part is not None]
        if len(arrays) == len(parts) and len({array.shape for array in arrays}) == 1:
            return np.stack(arrays)
    return None


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(what)


class _Inert:
    """What the file makes instead of what it names: on its own it forgets everything.

    ``__setstate__`` is defined because pickle would otherwise set any attribute that the file
    tells it to, of these classes themselves as well.
    """

    __slots__ = ()

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        _refuse(f"it gives a state to what has none: {type(self).__name__}")


class _Dtype(_Inert):
    """``numpy.dtype(code, align, copy)``, of booleans, integers and floats only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf][1248]", code):
            what = "object dtype" if code.startswith("O") else f"dtype {code!r}"
            _refuse(f"it holds an array of {what}, expected numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(_Inert):
    """An array as NumPy pickles it: made empty, then given (version, shape, dtype, …, bytes)."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, data = state
        self._fill(data, dtype, shape, "F" if fortran_order else "C")

    def _fill(self, data: bytes, dtype: _Dtype, shape: tuple, order: Literal["C", "F"]) -> None:
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


class _BufferArray(_Array):
    """A contiguous array as NumPy pickles it by protocol 5."""

    __slots__ = ()

    def __init__(
        self, data: bytes, dtype: _Dtype, shape: tuple, order: Literal["C", "F"], *_: Any
    ):
        self._fill(data, dtype, shape, order)


class _Scalar(_Array):
    """A NumPy scalar."""

    __slots__ = ()

    def __init__(self, dtype: _Dtype, data: bytes):
        self._fill(data, dtype, (), "C")


class _JaxArray(_Array):
    """An array as JAX pickles it: how NumPy would make it, and its state."""

    __slots__ = ()

    def __init__(self, make: Any, _: tuple, state: tuple, *__: Any):
        if make is not _Array:
            _refuse("it holds a JAX array that is not made of a NumPy array")
        self.__setstate__(state)


_STANDS_FOR = {
    "collections.OrderedDict": dict,
    "flax.core.frozen_dict.FrozenDict": dict,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "jax._src.array._reconstruct_array": _JaxArray,
    "optax._src.base.EmptyState": _Inert,
    "optax._src.transform.ScaleByAdamState": _Inert,
    "optax._src.transform.ScaleByScheduleState": _Inert,
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _STANDS_FOR[f"{_core}.multiarray._reconstruct"] = _Array
    _STANDS_FOR[f"{_core}.multiarray.scalar"] = _Scalar
    _STANDS_FOR[f"{_core}.numeric._frombuffer"] = _BufferArray


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        qualified_name = f"{module}.{name}"
        if qualified_name not in _STANDS_FOR:
            _refuse(f"it asks for {qualified_name!r}")
        return _STANDS_FOR[qualified_name]
