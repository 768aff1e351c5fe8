"""The hash that names a base policy, and what it is the hash of."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from psec_jax.backbones import Backbone
from psec_jax.parameters import by_name
from psec_jax.settings import plain_settings, python_number

if TYPE_CHECKING:
    from psec_jax.policies import Policy


def fingerprint(policy: "Policy") -> str:
    """The hash that names a base policy: its architecture, parameters and statistics."""
    description = json.dumps(backbone_to_dict(policy.backbone), sort_keys=True)
    digest = hashlib.sha256(description.encode())
    for name, value in sorted(policy_tensors(policy).items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def policy_tensors(policy: "Policy") -> dict[str, np.ndarray]:
    """Every array of a base policy under its name on disk, on the host."""
    tensors = {f"params/{name}": np.asarray(a) for name, a in by_name(policy.params).items()}
    tensors["statistics/mean"] = np.asarray(policy.statistics.mean)
    tensors["statistics/std"] = np.asarray(policy.statistics.std)
    return tensors


def backbone_to_dict(backbone: Backbone) -> dict[str, Any]:
    """A backbone's class and settings, and its network's, as plain JSON data."""
    plain: Any = plain_settings(backbone)
    fields = {
        f.name: _plain(getattr(plain, f.name))
        for f in dataclasses.fields(plain)
        if f.name != "network"
    }
    for name, default in (("compute", "float32"), ("noise", "posterior")):
        if fields.get(name) == default:
            # What was saved before there was a choice keeps its fingerprint.
            del fields[name]
    network = plain.network
    settings = {
        f.name: _plain(getattr(network, f.name))
        for f in dataclasses.fields(network)
        if f.name not in ("parent", "name")
    }
    return {
        "backbone": type(plain).__name__,
        "settings": fields,
        "network": type(network).__name__,
        "network_settings": settings,
    }


def _plain(value: Any) -> Any:
    """A setting as JSON: functions and types by name."""
    value = python_number(value)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(_plain(name)): _plain(part) for name, part in value.items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, str | int | float | None):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
