"""From plain data to objects: the schema of a configuration is the classes that it describes.

A mapping becomes the class that its place asks for: a dataclass or Linen module, of the library or
of a setting. Where a place asks for a protocol, ``kind`` chooses the class: a name in ``KINDS``,
or an import path, so that a class of your own comes in by configuration alone.
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
from psec_jax import composition, learners, networks, objectives, weights

T = TypeVar("T")
KINDS: dict[str, Callable] = {
    "diffusion": psec.DiffusionBackbone,
    "gaussian": psec.GaussianBackbone,
    "denoiser": networks.Denoiser,
    "gaussian_actor": networks.GaussianActor,
    "context": networks.ContextNetwork,
    "parameter": composition.ParameterLevel,
    "noise": composition.NoiseLevel,
    "action": composition.ActionLevel,
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
# What OmegaConf has for a value that must be given.
MISSING = "???"


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


def build(hint: Any, value: Any, key: str = "", known: Mapping[str, Any] | None = None) -> Any:
    """``value`` as a ``hint``; raises ``ConfigError`` with the whole key of what does not fit."""
    if hint is Any:
        return value
    if get_origin(hint) is Later:
        return Later(get_args(hint)[0], value, key)
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, Mapping):
        maps = [each for each in hints if get_origin(each) in (dict, Mapping)]
        if maps and "kind" not in value:
            inner = get_args(maps[0])[1]
            return {n: build(inner, x, _join(key, n), known) for n, x in value.items()}
        return _construct([each for each in hints if each not in maps], value, key, known or {})
    for each in hints:
        origin, parts = get_origin(each) or each, get_args(each)
        if isinstance(value, list):
            fixed = origin is tuple and ... not in parts
            if origin in (tuple, list, Sequence) and (not fixed or len(parts) == len(value)):
                inner = parts if fixed else parts[:1] * len(value)
                pairs = enumerate(zip(inner, value, strict=True))
                items = [build(part, x, f"{key}[{i}]", known) for i, (part, x) in pairs]
                return items if origin is list else tuple(items)
        elif type(value) is origin or (origin is Literal and value in parts):
            return value
        elif origin is float and type(value) is int:
            return float(value)
        elif origin is Callable and isinstance(value, str):
            return _resolve(value, key)
    raise _mismatch(hints, value, key)


def _construct(hints: Sequence[Any], value: Mapping, key: str, known: Mapping[str, Any]) -> Any:
    """The object of the mapping's ``kind``, or of the first class among ``hints``."""
    settings = {name: x for name, x in value.items() if not _is_missing(x)}
    classes = [hint for hint in hints if _is_class(hint)]
    if "kind" in settings and not any("kind" in _parameters(each) for each in classes):
        kind = _resolve(settings.pop("kind"), _join(key, "kind"))
    elif classes:
        kind = classes[0]
    else:
        raise _mismatch(hints, dict(value), key)
    parameters = _parameters(kind)
    for name in settings:
        if name not in parameters:
            raise ConfigError(f"{_join(key, name)} is unknown; {_suggestion(name, parameters)}")
    types = get_type_hints(kind.__init__ if isinstance(kind, type) else kind)
    arguments = {n: build(types.get(n, Any), x, _join(key, n), known) for n, x in settings.items()}
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty or _is_missing(parameter.default)
        if needed and name not in arguments:
            if name not in known:
                raise ConfigError(f"{_join(key, name)} is missing")
            arguments[name] = known[name]
    try:
        instance = kind(**arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}" if key else str(error)) from None
    if not any(_matches(instance, hint) for hint in hints):
        raise _mismatch(hints, instance, key)
    return instance


def _parameters(kind: Callable) -> dict[str, inspect.Parameter]:
    """Those of a constructor or function, without what Linen adds."""
    linen = ("parent", "name") if isinstance(kind, type) and issubclass(kind, nn.Module) else ()
    parameters = inspect.signature(kind).parameters
    return {name: each for name, each in parameters.items() if name not in linen}


def _resolve(path: Any, key: str) -> Any:
    """What ``KINDS`` calls so, or what is at an import path."""
    module, _, name = str(path).rpartition(".")
    if str(path) in KINDS:
        return KINDS[path]
    if not module:
        raise ConfigError(
            f"{key} {path!r} is unknown; {_suggestion(path, KINDS)}, or an import path"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key} {path!r} cannot be imported: {error}") from None


def _is_missing(value: Any) -> bool:
    return isinstance(value, str) and value == MISSING


def _is_protocol(hint: Any) -> bool:
    return getattr(hint, "_is_protocol", False)


def _is_class(hint: Any) -> bool:
    """Whether a mapping without a ``kind`` can be one."""
    is_own_class = isinstance(hint, type) and hint.__module__ != "builtins"
    return is_own_class and not _is_protocol(hint) and hint is not nn.Module


def _matches(instance: Any, hint: Any) -> bool:
    if _is_protocol(hint):
        members = {*vars(hint), *hint.__annotations__}
        return all(hasattr(instance, name) for name in members if not name.startswith("_"))
    return callable(instance) if get_origin(hint) is Callable else isinstance(instance, hint)


def _mismatch(hints: Sequence[Any], value: Any, key: str) -> ConfigError:
    names = " or ".join(dict.fromkeys(map(_type_name, hints)))
    return ConfigError(f"{key} must be {names}, not {value!r}")


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if _is_protocol(hint) or hint is nn.Module:
        return f"a {hint.__name__} by its kind ({', '.join(KINDS)}, or an import path)"
    if get_origin(hint) is Callable:
        return "a function by its import path, or a callable object by its kind"
    return "null" if hint is NoneType else str(hint) if get_args(hint) else hint.__name__


def _suggestion(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {near[0]}" if near else f"expected one of {list(known)}"


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
