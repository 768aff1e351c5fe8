"""Objects as JSON and tensors: what a policy, a network or a backbone is, in a file.

A description is JSON data: numbers, strings and None as they are, and one-entry dictionaries for
everything else: arrays by the name of a tensor, containers, dataclasses and Linen modules by
their class and fields, functions by their import path. ``describe`` makes one, ``build`` makes the
object again. ``psec_jax.imports`` decides which classes and functions a description may name.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict

from psec_jax.errors import BrokenFile, NotImported
from psec_jax.imports import class_at, function_at, path_of
from psec_jax.settings import is_array, is_dataclass_instance

DTYPES = (np.bool_, np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64)
DTYPES += (np.uint8, np.uint16, np.uint32, np.uint64)
_SEQUENCES = {"tuple": tuple, "list": list}
_MAPPINGS = {"dict": dict, "frozen_dict": FrozenDict}


@dataclass(frozen=True)
class Description:
    """``node`` is the JSON data, ``tensors`` are its arrays by name, and ``functions`` those that
    it names, by import path."""

    node: Any
    tensors: dict[str, np.ndarray]
    functions: dict[str, Any]


def describe(value: Any, name: str) -> Description:
    """The description of ``value``; raises ``ValueError`` naming the part of ``name`` that cannot
    be stored."""
    writer = _Writer()
    return Description(writer.node(value, name, ""), writer.tensors, writer.functions)


def build(
    node: Any, tensors: Mapping[str, np.ndarray], custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """The object that ``describe`` described.

    Raises ``NotImported`` for a class or function of others that is not imported, nor handed over
    in ``custom_objects`` under its import path, and ``BrokenFile`` for what is no description.
    """
    try:
        return _Reader(tensors, custom_objects or {}).of(node, frozenset())
    except RecursionError:
        raise BrokenFile("the description is nested too deeply") from None


class _Writer:
    def __init__(self):
        self.tensors: dict[str, np.ndarray] = {}
        self.functions: dict[str, Any] = {}
        # Policies may share parameters. The array is kept, so that its id stays its own.
        self._seen: dict[int, tuple[Any, dict]] = {}

    def node(self, value: Any, name: str, path: str) -> Any:
        """``name`` is for messages, ``path`` names tensors."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if is_array(value) or isinstance(value, np.generic):
            return self._array(value, name, path)
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        for word, container in _SEQUENCES.items():
            if kind is container:
                return {word: [self._part(p, name, path, i) for i, p in enumerate(value)]}
        for word, container in _MAPPINGS.items():
            if kind is container:
                return {word: [self._item(key, p, name, path) for key, p in value.items()]}
        if kind is functools.partial:
            parts = value.func, value.args, value.keywords
            return {"partial": [self._part(part, name, path, i) for i, part in enumerate(parts)]}
        if is_dataclass_instance(value):
            return {"class": path_of(kind, name), "fields": self._fields(value, name, path)}
        import_path = path_of(value, name)
        if not isinstance(value, type):
            self.functions[import_path] = value
        return {"function": import_path}

    def _part(self, value, name, path, index):
        return self.node(value, f"{name}[{index}]", f"{path}/{index}")

    def _item(self, key, value, name, path):
        return [self.node(key, f"a key of {name}", path), self._part(value, name, path, key)]

    def _fields(self, value: Any, name: str, path: str) -> dict[str, Any]:
        fields = {}
        for field in dataclasses.fields(value):
            part = getattr(value, field.name, None)
            linen = isinstance(value, nn.Module) and field.name in ("parent", "name")
            if not field.init or (linen and (field.name == "parent" or part is None)):
                continue
            try:
                inner = self.node(part, f"{name}.{field.name}", f"{path}/{field.name}")
            except ValueError:
                # An initializer, say, that the class makes as its default, and will again.
                if part is not field.default:
                    raise
                continue
            fields[field.name] = inner
        return fields

    def _array(self, value: Any, name: str, path: str) -> dict[str, Any]:
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        if value.dtype not in DTYPES:
            raise ValueError(f"{name} is an array of {value.dtype}, which cannot be stored")
        array = np.asarray(value)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite, so it is not stored")
        tensor = path.strip("/") or "value"
        while tensor in self.tensors:
            tensor += "'"
        self.tensors[tensor] = array
        node = {"array": tensor}
        if not isinstance(value, jax.Array):
            node["numpy"] = "array" if isinstance(value, np.ndarray) else "number"
        self._seen[id(value)] = value, node
        return node


class _Reader:
    def __init__(self, tensors: Mapping[str, np.ndarray], custom_objects: Mapping[str, Any]):
        self._tensors, self._custom = tensors, custom_objects
        self._arrays: dict[str, Any] = {}

    def of(self, node: Any, modules: frozenset[str]) -> Any:
        """``modules`` are those of the classes around ``node``."""
        if node is None or isinstance(node, bool | int | float | str):
            return node
        word = next(iter(node.keys() & _READ.keys()), None) if isinstance(node, dict) else None
        if word is None:
            raise BrokenFile(f"{str(node)[:80]!r} is no description")
        try:
            return _READ[word](self, node, modules)
        except (BrokenFile, NotImported):
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BrokenFile(f"the description of {str(node[word])[:80]!r}: {error}") from error

    def _array(self, node, modules):
        name = node["array"]
        if name not in self._tensors:
            raise BrokenFile(f"the tensor {name!r} is missing")
        # What was shared is shared again.
        if name not in self._arrays:
            self._arrays[name] = _ARRAYS[node.get("numpy")](self._tensors[name])
            if (kind := self._arrays[name].dtype) != self._tensors[name].dtype:
                raise BrokenFile(
                    f"the tensor {name!r} is {self._tensors[name].dtype}, which JAX makes {kind}: "
                    "set jax_enable_x64 first"
                )
        return self._arrays[name]

    def _sequence(self, word, node, modules):
        return _SEQUENCES[word](self.of(part, modules) for part in node[word])

    def _mapping(self, word, node, modules):
        pairs = ((self.of(key, modules), self.of(part, modules)) for key, part in node[word])
        return _MAPPINGS[word](pairs)

    def _partial(self, node, modules):
        function, *given = node["partial"]
        arguments, keywords = (self.of(part, modules) for part in given)
        # A file may choose the arguments only of functions that do no more than compute.
        function = self.of(function, frozenset())
        return functools.partial(function, *arguments, **keywords)

    def _instance(self, node, modules):
        kind = class_at(node["class"], self._custom)
        inside = modules | {kind.__module__}
        fields = {name: self.of(part, inside) for name, part in node["fields"].items()}
        known = {field.name for field in dataclasses.fields(kind) if field.init}
        if unknown := sorted(fields.keys() - known):
            raise BrokenFile(f"{node['class']} has no {unknown}; a later version may have made it")
        return kind(**fields)

    def _function(self, node, modules):
        return function_at(node["function"], self._custom, modules)


_ARRAYS = {None: jnp.asarray, "array": np.array, "number": lambda tensor: tensor[()]}
_READ = {
    "array": _Reader._array,
    "float": lambda reader, node, _: float(node["float"]),
    "dtype": lambda reader, node, _: np.dtype(str(node["dtype"])),
    "tuple": lambda reader, *rest: reader._sequence("tuple", *rest),
    "list": lambda reader, *rest: reader._sequence("list", *rest),
    "dict": lambda reader, *rest: reader._mapping("dict", *rest),
    "frozen_dict": lambda reader, *rest: reader._mapping("frozen_dict", *rest),
    "partial": _Reader._partial,
    "class": _Reader._instance,
    "function": _Reader._function,
}
