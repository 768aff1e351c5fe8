"""Skills and base policies as tensors and JSON metadata: the on-disk format.

A skill follows Hugging Face PEFT's convention where one exists: ``lora_A`` (rank, d_in) and
``lora_B`` (d_out, rank) under ``base_model.model.<layer>``, ``r``, ``lora_alpha = scale * r`` and
``target_modules``. Dense deltas are ``<layer>.delta.weight`` (d_out, d_in).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from psec_jax.backbones import Backbone, check_backbone
from psec_jax.descriptions import build, describe
from psec_jax.errors import BrokenFile, NotImported
from psec_jax.fingerprints import backbone_to_dict, policy_tensors
from psec_jax.imports import OURS, class_at, is_ours
from psec_jax.parameters import by_path, nested
from psec_jax.policies import Policy, Statistics
from psec_jax.skills.bank import Adapter, Skill
from psec_jax.skills.deltas import Delta, Full, LowRank

_PREFIX = "base_model.model."


def skill_tensors(skill: Skill) -> dict[str, np.ndarray]:
    tensors = {}
    for path, delta in skill.deltas.items():
        layer = _PREFIX + path.replace("/", ".")
        if isinstance(delta, LowRank):
            tensors[f"{layer}.lora_A.weight"] = np.asarray(delta.down, np.float32).T
            tensors[f"{layer}.lora_B.weight"] = np.asarray(delta.up, np.float32).T
        else:
            tensors[f"{layer}.delta.weight"] = np.asarray(delta.kernels[0], np.float32).T
    return tensors


def skill_config(skill: Skill) -> dict[str, Any]:
    adapter = skill.adapter
    config = {
        "peft_type": "LORA" if adapter.kind == "low_rank" else "FULL",
        "kind": adapter.kind,
        "r": adapter.rank,
        "scale": adapter.scale,
        "targets": adapter.targets,
        "target_modules": sorted(path.replace("/", ".") for path in skill.deltas),
        "base_fingerprint": skill.base,
        "provenance": dict(skill.provenance),
    }
    if adapter.kind == "low_rank":
        config["lora_alpha"] = adapter.scale * adapter.rank
    return config


def skill_from(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    layers: Mapping[str, tuple[int, int]],
    source: Path,
) -> Skill:
    """The skill in a file's tensors and metadata, checked against the base's dense ``layers``."""
    try:
        adapter = Adapter(
            kind=config["kind"],
            rank=config["r"],
            scale=float(config["scale"]),
            targets=config["targets"],
        )
        base, provenance = str(config["base_fingerprint"]), dict(config["provenance"])
        paths = {path.replace("/", "."): path for path in layers}
        modules = [paths.get(module, str(module)) for module in config["target_modules"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BrokenFile(f"{source}: the adapter configuration is not valid: {error!r}") from None
    rest = dict(tensors)
    deltas = {path: _take_delta(rest, path, adapter, layers, source) for path in modules}
    if rest or not deltas:
        raise BrokenFile(f"{source}: tensors {sorted(rest)} belong to no layer of its base policy")
    return Skill(deltas, adapter, base, provenance)


def _take_delta(rest: dict, path: str, adapter: Adapter, layers: Mapping, source: Path) -> Delta:
    if path not in layers:
        raise BrokenFile(f"{source}: its base policy has no dense layer {path!r}")
    d_in, d_out = layers[path]
    layer = _PREFIX + path.replace("/", ".")

    def take(suffix: str, shape: tuple[int, int]) -> jax.Array:
        value = rest.pop(f"{layer}.{suffix}", None)
        if value is None or value.shape != shape:
            actual = "missing" if value is None else f"of shape {value.shape}"
            raise BrokenFile(f"{source}: tensor {layer}.{suffix} is {actual}, expected {shape}")
        return jnp.asarray(value.T)

    if adapter.kind == "full":
        return Full(take("delta.weight", (d_out, d_in))[None], (1,))
    down = take("lora_A.weight", (adapter.rank, d_in))
    return LowRank(down, take("lora_B.weight", (d_out, adapter.rank)), (adapter.rank,))


def base_config(policy: Policy) -> dict[str, Any]:
    """Raises ``ValueError`` for a backbone that could not be made again.

    A network that cannot be described is left out: it is given where the library is opened.
    """
    backbone = policy.backbone
    config, network = backbone_to_dict(backbone), type(backbone.network)
    if is_ours(type(backbone)) and is_ours(network):
        return config
    if not is_ours(network) and network.__name__ in OURS:
        # Not to be taken for ours of that name.
        config["network_module"] = network.__module__
    try:
        config["description"] = describe(backbone, type(backbone).__name__).node
    except ValueError:
        if not is_ours(type(backbone)):
            raise
    return config


def functions_of(policy: Policy) -> dict[str, Any]:
    """The functions among the settings of a policy's backbone, by import path."""
    try:
        return describe(policy.backbone, type(policy.backbone).__name__).functions
    except ValueError:
        return {}


def base_from(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    source: Path,
    network: nn.Module | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> Policy:
    """The base policy in a file's tensors and metadata.

    ``network`` is given in place of the one described; ``custom_objects`` are those of
    ``psec_jax.load``. Raises ``NotImported`` where the class of neither is known.
    """
    try:
        backbone = _backbone_from(config, network, custom_objects)
        check_backbone(backbone)
        size = int(np.shape(tensors["statistics/mean"])[0])
        fresh = jax.eval_shape(
            lambda: Policy.create(backbone, Statistics.identity(size), jax.random.key(0))
        )
    except NotImported as error:
        raise NotImported(f"{source}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise BrokenFile(
            f"{source}: the base policy's description is not valid: {error}"
        ) from None
    flat = by_path(fresh.params)
    names = {path: "/".join(("params", *path)) for path in flat}
    expected = {names[path]: value.shape for path, value in flat.items()}
    expected |= {"statistics/mean": (size,), "statistics/std": (size,)}
    actual = {name: value.shape for name, value in tensors.items()}
    if actual != expected:
        wrong = sorted(set(actual.items()) ^ set(expected.items()))
        raise BrokenFile(f"{source}: tensors do not fit the described network: {wrong[:4]}")
    params = nested({path: jnp.asarray(tensors[name]) for path, name in names.items()})
    statistics = Statistics(
        jnp.asarray(tensors["statistics/mean"]), jnp.asarray(tensors["statistics/std"])
    )
    return dataclasses.replace(fresh, params=params, statistics=statistics)


def _backbone_from(config, network, custom_objects) -> Backbone:
    kind, module = config["network"], config.get("network_module")
    if "description" in config:
        try:
            backbone = build(config["description"], {}, custom_objects)
        except NotImported:
            if network is None or config["backbone"] not in OURS:
                raise
        else:
            return backbone if network is None else dataclasses.replace(backbone, network=network)
    if network is None:
        if kind not in OURS or module is not None:
            raise ValueError(
                f"network class {kind!r} is not part of psec_jax; open the library with "
                f"network={kind}(…)"
            )
        settings = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config["network_settings"].items()
        }
        network = class_at(kind, {})(**settings)
    if config["backbone"] not in OURS:
        raise ValueError(f"backbone class {config['backbone']!r} is not part of psec_jax")
    return class_at(config["backbone"], {})(network=network, **config["settings"])


__all__ = ["base_config", "base_from", "policy_tensors", "skill_config", "skill_from"]
