"""What a file may name: hostile ones reach nothing."""

import collections
import dataclasses
import importlib
import pkgutil
import subprocess
import sys
import types

import flows
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import psec_jax
from psec_jax.descriptions import build, describe
from psec_jax.errors import BrokenFile, NotImported
from psec_jax.imports import OURS, class_at, function_at, is_ours
from psec_jax.training import Checkpoints

REFUSED = (BrokenFile, NotImported)
AROUND = frozenset({"flows", "test_imports", "os", "subprocess"})


def plain(x):
    return x


@jax.jit
def compiled(x):
    return x


@dataclasses.dataclass
class Loose:
    """Not frozen."""

    value: int = 0


@dataclasses.dataclass(frozen=True)
class Outer:
    function: object = None

    @dataclasses.dataclass(frozen=True)
    class Inner:
        value: int = 0

        def method(self):
            """Not to be named."""


renamed = Outer


class Sly(types.ModuleType):
    """Whose attributes run code."""

    touched = False

    def __getattr__(self, name):
        Sly.touched = True
        return Outer


FUNCTIONS = [
    "os:system",
    "posix:system",
    "subprocess:Popen",
    "builtins:eval",
    "builtins:open",
    "shutil:rmtree",
    "pickle:loads",
    "importlib:import_module",
    "numpy:load",
    "numpy:save",
    "numpy:fromfile",
    "jax.numpy:load",
    "jax.numpy:save",
    "jax.numpy:savez",
    "jax.numpy:fromfile",
    "jax.numpy:linalg",
    "jax.numpy:__builtins__",
    "jax.nn:__builtins__",
    "jax.nn:__getattr__",
    "jax.nn:initializers",
    "jax.nn:relu.__call__",
    "jax._src.nn.functions:relu",
    "jax:jit",
    "jax.experimental:io_callback",
    "flax.io:rmtree",
    "flax.linen:relu",
    "flax.linen:Module",
    "flax.linen:jit",
    "psec_jax.storage:write_text",
    "psec_jax.agents:save",
    "psec_jax:load",
    "pytest:main",
    "test_imports:plain.__globals__",
    "test_imports:plain.__code__",
    "test_imports:plain.__init__",
    "test_imports:subprocess.Popen",
    "test_imports:subprocess",
    "test_imports:importlib.import_module",
    "test_imports:describe",
    "test_imports:jnp.save",
    "test_imports:Outer.Inner.method",
    "test_imports:Outer.__init__",
    "test_imports:Outer.__class__",
    "test_imports:Sly.__getattr__",
    "test_imports:FUNCTIONS",
    "test_imports:missing",
    "test_imports:",
    ":plain",
    "test_imports",
    "test_imports:plain:plain",
    "../test_imports:plain",
    "test_imports.plain",
    "test_imports:plain ",
    "",
    None,
    3,
    ["test_imports:plain"],
    {"test_imports": "plain"},
]


@pytest.mark.parametrize("path", FUNCTIONS, ids=str)
def test_no_function_of_others_is_reached(path):
    for node in ({"function": path}, {"partial": [{"function": path}, {"tuple": [1]}, {}]}):
        with pytest.raises(REFUSED):
            build(node, {})
    with pytest.raises(REFUSED):
        function_at(path, {}, AROUND)
    with pytest.raises(REFUSED):
        build({"class": path, "fields": {}}, {})


CLASSES = [
    "subprocess:Popen",
    "builtins:dict",
    "builtins:type",
    "types:SimpleNamespace",
    "pathlib:Path",
    "dataclasses:Field",
    "psec_jax.training.checkpoints:Checkpoints",
    "psec_jax.policies:Policy",
    "jax:Array",
    "flax.linen:Module",
    "flax.linen.linear:Dense",
    "flax.core:FrozenDict",
    "numpy:float32",
    "hypothesis:settings",
    "test_imports:Loose",
    "test_imports:renamed",
    "test_imports:Checkpoints",
    "test_imports:Sly",
    "test_imports:plain",
    "test_imports:collections.OrderedDict",
    "test_imports:Outer.Missing",
]


@pytest.mark.parametrize("path", CLASSES)
def test_no_class_is_made_that_is_not_made_by_its_fields(path):
    with pytest.raises(REFUSED):
        build({"class": path, "fields": {}}, {})


def test_nothing_is_imported_because_a_file_names_it():
    """Neither a module of Python's, nor one that lies beside, nor a part of one's own package."""
    for module in ("this", "antigravity", "colorsys", "published_states", "psec_jax.envs.bullet"):
        was = module in sys.modules
        for node in ({"class": f"{module}:A", "fields": {}}, {"function": f"{module}:a"}):
            with pytest.raises(REFUSED):
                build(node, {})
        assert (module in sys.modules) == was


def test_no_code_of_a_module_runs_when_something_in_it_is_sought(monkeypatch):
    monkeypatch.setitem(sys.modules, "sly", Sly("sly"))
    with pytest.raises(NotImported):
        class_at("sly:Outer", {})
    with pytest.raises(NotImported):
        function_at("sly:plain", {}, frozenset({"sly"}))
    assert not Sly.touched


def test_a_function_is_found_only_in_the_module_of_a_class_around_it():
    assert function_at("test_imports:plain", {}, frozenset({"test_imports"})) is plain
    with pytest.raises(NotImported, match=r"hand it over: custom_objects={'test_imports:plain'"):
        function_at("test_imports:plain", {}, frozenset({"flows"}))
    assert function_at("test_imports:plain", {"test_imports:plain": plain}, frozenset()) is plain
    for own in (plain, compiled):
        assert build(describe(Outer(own), "x").node, {}) == Outer(own)
    held = {"class": "test_imports:Outer", "fields": {"function": {"function": "flows:bent"}}}
    with pytest.raises(NotImported):
        build(held, {})


def test_classes_within_classes_are_found():
    node = describe(Outer.Inner(3), "x").node
    assert node == {"class": "test_imports:Outer.Inner", "fields": {"value": 3}}
    assert build(node, {}) == Outer.Inner(3)


def test_what_is_handed_over_is_made_by_its_fields_too():
    node = {"class": "x", "fields": {"value": 3}}
    assert build(node, {}, {"x": Outer.Inner}) == Outer.Inner(3)
    for other in (Loose, subprocess.Popen, plain, print, dict):
        with pytest.raises(NotImported, match="no class that a file may name"):
            build(node, {}, {"x": other})


@pytest.mark.parametrize(
    "function", [nn.relu, nn.swish, jax.nn.mish, jnp.tanh, jnp.sin, jnp.maximum, jnp.bfloat16]
)
def test_functions_of_jax_are_named_as_users_name_them(function):
    description = describe(function, "activation")
    assert description.node["function"].partition(":")[0] in ("jax.nn", "jax.numpy")
    assert build(description.node, {}) is function


def test_types_of_numpy_and_python_numbers_come_back():
    for value in (np.float32, np.int64, np.dtype("int8")):
        assert build(describe(value, "x").node, {}) == value


def test_a_field_that_a_class_lacks_is_refused():
    with pytest.raises(BrokenFile, match=r"has no \['more'\]"):
        build({"class": "flows:Mixer", "fields": {"skills": 2, "more": 3}}, {})
    with pytest.raises(BrokenFile, match="skills"):
        build({"class": "flows:Mixer", "fields": {}}, {})


def test_our_names_are_those_of_classes_that_a_file_can_hold():
    for name in OURS:
        kind = class_at(name, {})
        assert kind.__qualname__ == name and is_ours(kind)
    assert not is_ours(type("Denoiser", (nn.Module,), {}))
    assert not is_ours(flows.VelocityNetwork)


def test_every_network_of_this_package_has_a_name_in_files():
    """One that is new needs its line in ``psec_jax.imports.OURS``."""
    for module in pkgutil.walk_packages(psec_jax.networks.__path__, "psec_jax.networks."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                assert is_ours(value) or not issubclass(value, nn.Module), value


def test_this_file_imports_what_the_hostile_paths_name():
    """So that none of them is refused because it is not there."""
    assert collections.OrderedDict and Checkpoints and jnp.save


def test_a_file_does_not_choose_the_arguments_of_a_function_of_others():
    """Even where the class around it may have that function as a setting."""
    node = describe(flows.VelocityNetwork(), "network").node
    asked = {"partial": [{"function": "flows:bent"}, {"tuple": [1]}, {"dict": []}]}
    hostile = {**node, "fields": {**node["fields"], "activation": asked}}
    with pytest.raises(REFUSED, match="flows:bent"):
        build(hostile, {})
