"""Which classes and functions a file may name, and how they are found.

A file is data: it must not make its reader import or call just anything. So nothing is imported
because a file names it, and what it names is one of

- a class of this package, by the name in ``OURS``;
- a Linen module of ``flax.linen``, and the compiled functions and types of ``jax.numpy``,
  ``jax.nn`` and ``jax.nn.initializers``, which do no more than compute;
- a Linen module or frozen dataclass of others, from a module that is imported already, and a
  function that stands in the module of such a class around it;
- what the reader hands over in ``custom_objects``, under the path in the file.

Nothing of Python's own library, and no name that a module has only imported itself, is found.
"""

import importlib
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from psec_jax.errors import BrokenFile, NotImported
from psec_jax.settings import is_frozen_dataclass

OURS = {
    "Policy": "psec_jax.policies",
    "BestOf": "psec_jax.policies",
    "Statistics": "psec_jax.policies",
    "ComposedPolicy": "psec_jax.composition.agent",
    "ParameterLevel": "psec_jax.composition.levels",
    "NoiseLevel": "psec_jax.composition.levels",
    "ActionLevel": "psec_jax.composition.levels",
    "Bank": "psec_jax.skills.bank",
    "LowRank": "psec_jax.skills.deltas",
    "Full": "psec_jax.skills.deltas",
    "Critics": "psec_jax.learners.critics",
    "FeasibleFirst": "psec_jax.learners.critics",
    "Purpose": "psec_jax.learners.purpose",
    "DiffusionBackbone": "psec_jax.backbones",
    "GaussianBackbone": "psec_jax.backbones",
    "Denoiser": "psec_jax.networks.denoiser",
    "FourierFeatures": "psec_jax.networks.denoiser",
    "TimeEmbedding": "psec_jax.networks.denoiser",
    "ResidualBlock": "psec_jax.networks.denoiser",
    "GaussianActor": "psec_jax.networks.actor",
    "ContextNetwork": "psec_jax.networks.context",
    "ConstantWeights": "psec_jax.networks.context",
    "ByLayer": "psec_jax.networks.context",
    "Homing": "psec_jax.networks.context",
    "Critic": "psec_jax.networks.critic",
}
# Where jax's functions stand for everyone; they are defined in modules that come and go.
_JAX = ("jax.nn", "jax.numpy", "jax.nn.initializers")
_COMPILED = (type(jnp.tanh), type(jnp.maximum), type(jnp.float32))
_FUNCTIONS = (types.FunctionType, type(jnp.tanh), type(nn.relu))
_PATH = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_NEVER = {*sys.stdlib_module_names, "psec_jax", "jax", "jaxlib", "flax", "numpy"} - {"__main__"}


def is_ours(kind: type) -> bool:
    """Whether a class is this package's, and made again from its name and settings alone."""
    return OURS.get(kind.__qualname__) == kind.__module__


def path_of(value: Any, name: str) -> str:
    """How a file names a class or function, which is called ``name`` in messages.

    Raises ``ValueError`` for what could not be found again.
    """
    if isinstance(value, type) and is_ours(value):
        return value.__qualname__
    word = getattr(value, "__name__", None)
    for place in ("flax.linen", *_JAX, "numpy"):
        if isinstance(word, str) and _public(place, word) is value:
            return f"{place}:{word}"
    if isinstance(value, (type, *_FUNCTIONS)):
        path = f"{value.__module__}:{value.__qualname__}"
        try:
            _defined(path, value.__module__)
            return path
        except NotImported as error:
            raise ValueError(
                f"{name} cannot be stored: {path} could not be found again ({error}); define it "
                "at the top of a module of your own"
            ) from None
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    function = getattr(value, "func", None)
    around = f" of {getattr(function, '__qualname__', function)}" if function else ""
    raise ValueError(
        f"{name} cannot be stored: it is a {kind}{around}; use numbers, strings, arrays, "
        "containers of them, Linen modules, and frozen or flax.struct dataclasses (a scorer of "
        "your own is a flax.struct dataclass with __call__)"
    )


def class_at(path: Any, custom_objects: Mapping[str, Any]) -> type:
    """The dataclass or Linen module that a file calls ``path``."""
    if isinstance(path, str) and path in custom_objects:
        kind = custom_objects[path]
    elif isinstance(path, str) and path in OURS:
        kind = getattr(importlib.import_module(OURS[path]), path)
    elif isinstance(path, str) and path.startswith("flax.linen:"):
        kind = _public("flax.linen", path.partition(":")[2])
    else:
        module = _parts(path)[0]
        kind = _defined(path, module)
    if not _is_described(kind):
        raise NotImported(
            f"{path} is no class that a file may name: expected a Linen module or a frozen "
            "dataclass"
        )
    return kind


def function_at(path: Any, custom_objects: Mapping[str, Any], modules: frozenset[str]) -> Any:
    """The function or class that a file calls ``path``, as a setting of classes of ``modules``."""
    if isinstance(path, str) and path in custom_objects:
        return custom_objects[path]
    if isinstance(path, str) and path in OURS:
        return class_at(path, {})
    module, name = _parts(path)
    if module in ("flax.linen", "numpy", *_JAX):
        if (value := _public(module, name)) is None:
            raise NotImported(f"{path} is nothing that a file may name")
        return value
    value = _defined(path, module)
    if _is_described(value) or (isinstance(value, _FUNCTIONS) and module in modules):
        return value
    raise NotImported(
        f"a file may not name {path}, which is no function of the module of a class around it; if "
        f"you know what it is, hand it over: custom_objects={{{path!r}: …}}"
    )


def _parts(path: Any) -> tuple[str, str]:
    match = _PATH.fullmatch(path) if isinstance(path, str) else None
    if match is None:
        raise BrokenFile(f"{str(path)[:80]!r} is no import path")
    return match["module"], match["name"]


def _defined(path: str, module: str) -> Any:
    """What a module that is imported defines itself, without running any code of it."""
    try:
        name = _parts(path)[1]
    except BrokenFile:
        raise NotImported(f"{path!r} is no import path") from None
    if module.partition(".")[0] in _NEVER:
        raise NotImported(f"{path} is nothing that a file may name")
    loaded = sys.modules.get(module)
    if not isinstance(loaded, types.ModuleType):
        raise NotImported(
            f"{path} is needed, and {module} is not imported; import {module} first, or hand it "
            f"over: custom_objects={{{path!r}: …}}"
        )
    # Neither a module's __getattr__ is asked, nor anything but a class for what is inside.
    *outer, last = name.split(".")
    inside: Mapping = object.__getattribute__(loaded, "__dict__")
    for part in outer:
        inside = vars(owner) if isinstance(owner := inside.get(part), type) else {}
    value = inside.get(last)
    is_defined = isinstance(value, type) or (isinstance(value, _FUNCTIONS) and not outer)
    if value is None or not is_defined or (value.__module__, value.__qualname__) != (module, name):
        raise NotImported(
            f"{module} defines no class or function {name!r}; where it has moved, hand it over: "
            f"custom_objects={{{path!r}: …}}"
        )
    return value


def _is_described(kind: Any) -> bool:
    """Whether a class is made by its fields: a Linen module, or a frozen dataclass."""
    if not isinstance(kind, type):
        return False
    if issubclass(kind, nn.Module):
        return kind is not nn.Module
    return is_frozen_dataclass(kind)


def _public(place: str, word: str) -> Any:
    """What a public module of flax, jax or numpy calls ``word``; None where a file may not."""
    value = None if word.startswith("_") else vars(importlib.import_module(place)).get(word)
    if place == "flax.linen":
        is_module = isinstance(value, type) and issubclass(value, nn.Module)
        return value if is_module and _is_described(value) else None
    if place == "numpy":
        return value if isinstance(value, type) and issubclass(value, np.generic) else None
    if place == "jax.numpy" and not isinstance(value, _COMPILED):
        # Its plain functions read and write files, among others.
        return None
    return value if callable(value) else None
