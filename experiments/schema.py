"""From plain data to objects: the schema of a configuration is the classes that it describes.

A mapping becomes the class that its place asks for: a dataclass or Linen module of the library, or
of a setting. Where a place asks for a protocol, ``kind`` chooses the class: a name in ``KINDS``, or
an import path, so that a class of your own comes in by configuration alone.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flax import linen as nn

import psec_jax as psec
from psec_jax import learners, networks, objectives, weights

T = TypeVar("T")
Known = Mapping[str, Any]
KINDS: dict[str, Callable] = {
    "diffusion": psec.DiffusionBackbone,
    "gaussian": psec.GaussianBackbone,
    "denoiser": networks.Denoiser,
    "gaussian_actor": networks.GaussianActor,
    "context": networks.ContextNetwork,
    "return": objectives.Return,
    "cost": objectives.DiscountedCost,
    "feasibility": objectives.Feasibility,
    "advantage": weights.AdvantageWeights,
    "feasible": weights.FeasibleWeights,
    "fisor": weights.FisorWeights,
    "td3bc": learners.TD3BC,
    "cql": learners.CQL,
    "rebrac": learners.ReBRAC,
}


class ConfigError(ValueError):
    """A configuration that cannot be run."""


@dataclass(frozen=True)
class Later(Generic[T]):
    """A ``T`` of which something is unknown until there are data: ``later(action_size=6)``.

    What is given goes to each class, at any depth, that needs a value of this name and has none.
    """

    hint: Any
    value: Any
    key: str

    def __call__(self, **known: Any) -> T:
        return build(self.hint, self.value, self.key, known)


def build(hint: Any, value: Any, key: str = "", known: Known = {}) -> Any:  # noqa: B006
    """``value`` as a ``hint``; raises ``ConfigError``, with the whole ``key``, where it is none."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin is Any:
        return value
    if origin is Later:
        return Later(parts[0], value, key)
    hints = parts if origin in (Union, UnionType) else (hint,)
    if isinstance(value, Mapping):
        maps = [each for each in hints if get_origin(each) in (dict, Mapping)]
        if maps and "kind" not in value:
            inner = get_args(maps[0])[1]
            return {name: build(inner, x, _at(key, name), known) for name, x in value.items()}
        return _instance([each for each in hints if each not in maps], value, key, known)
    if len(hints) == 1:
        return _plain(hint, value, key, known)
    for each in hints:
        try:
            return build(each, value, key, known)
        except ConfigError:
            continue
    raise _unfit(hints, value, key)


def _plain(hint: Any, value: Any, key: str, known: Known) -> Any:
    """Numbers, strings, functions, and sequences of anything."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin is Literal and value in parts:
        return value
    if origin in (tuple, list, Sequence) and isinstance(value, list):
        fixed = origin is tuple and parts[-1] is not ...
        each = parts if fixed else parts[:1] * len(value)
        if len(each) == len(value):
            pairs = enumerate(zip(each, value, strict=True))
            built = [build(inner, x, f"{key}[{i}]", known) for i, (inner, x) in pairs]
            return built if origin is list else tuple(built)
    if origin is Callable and isinstance(value, str):
        return _imported(value, key)
    if origin is float and type(value) is int:
        return float(value)
    if type(value) is origin:
        return value
    raise _unfit([hint], value, key)


def _instance(hints: Sequence[Any], value: Known, key: str, known: Known) -> Any:
    """What a mapping describes: an object of its ``kind``, or of the first class among ``hints``."""
    given = {name: x for name, x in value.items() if not _is_missing(x)}
    classes = [hint for hint in hints if _is_class(hint)]
    if "kind" in given and not any("kind" in _parameters(each) for each in classes):
        kind = _imported(given.pop("kind"), _at(key, "kind"))
    elif classes:
        kind = classes[0]
    else:
        raise _unfit(hints, dict(value), key)
    parameters = _parameters(kind)
    if unknown := [name for name in given if name not in parameters]:
        raise ConfigError(f"{_at(key, unknown[0])} is unknown; {_nearest(unknown[0], parameters)}")
    types = get_type_hints(kind.__init__ if isinstance(kind, type) else kind)
    arguments = {
        name: build(types.get(name, Any), x, _at(key, name), known) for name, x in given.items()
    }
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty or _is_missing(parameter.default):
            if name not in arguments and name not in known:
                raise ConfigError(f"{_at(key, name)} is missing")
            arguments.setdefault(name, known.get(name))
    try:
        made = kind(**arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}" if key else str(error)) from None
    if not any(_fits(made, hint) for hint in hints):
        raise _unfit(hints, made, key)
    return made


def _parameters(kind: Callable) -> dict[str, inspect.Parameter]:
    """Those of a constructor or function, without what Linen adds."""
    linen = ("parent", "name") if isinstance(kind, type) and issubclass(kind, nn.Module) else ()
    parameters = inspect.signature(kind).parameters
    return {name: each for name, each in parameters.items() if name not in linen}


def _imported(path: Any, key: str) -> Any:
    """What ``KINDS`` calls so, or what is at an import path."""
    if path in KINDS:
        return KINDS[path]
    module, _, name = str(path).rpartition(".")
    if not module:
        raise ConfigError(
            f"{key} {path!r} is unknown; {_nearest(path, KINDS)}, or an import path such as "
            "my_package.MyClass"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key} {path!r} cannot be imported: {error}") from None


def _is_missing(value: Any) -> bool:
    """Whether it is OmegaConf's word for what must be given."""
    return isinstance(value, str) and value == "???"


def _is_protocol(hint: Any) -> bool:
    return getattr(hint, "_is_protocol", False)


def _is_class(hint: Any) -> bool:
    """Whether a mapping without a ``kind`` can be one."""
    plain = isinstance(hint, type) and hint.__module__ != "builtins"
    return plain and not _is_protocol(hint) and hint is not nn.Module


def _fits(made: Any, hint: Any) -> bool:
    if _is_protocol(hint):
        members = {*vars(hint), *hint.__annotations__}
        return all(hasattr(made, name) for name in members if not name.startswith("_"))
    if get_origin(hint) is Callable:
        return callable(made)
    return hint is Any or isinstance(made, hint)


def _unfit(hints: Sequence[Any], value: Any, key: str) -> ConfigError:
    names = " or ".join(dict.fromkeys(map(_named, hints)))
    return ConfigError(f"{key} must be {names}, not {value!r}")


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if _is_protocol(hint) or hint is nn.Module:
        return f"a {hint.__name__} with a kind: one of {list(KINDS)}, or an import path"
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)


def _nearest(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {list(known)}"


def _at(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
