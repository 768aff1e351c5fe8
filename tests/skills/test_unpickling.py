"""Only arrays in plain containers are read; whatever else a file asks for is never run."""

import contextlib
import functools
import os
import pickle
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from jax._src.array import _reconstruct_array

from psec_jax.errors import BrokenFile
from psec_jax.skills import unpickling
from psec_jax.skills.unpickling import read_state


@pytest.fixture
def read(tmp_path):
    """Reads a file that holds these bytes, or this object pickled."""

    def read(content, protocol=4):
        file = tmp_path / "file.pickle"
        data = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
        file.write_bytes(data)
        return read_state(file)

    return read


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("code", ["float32", ">f8", "int64", "uint32", "bool"])
def test_what_was_pickled_is_what_is_read(code, protocol, read):
    row = np.arange(12).reshape(3, 4).astype(code)
    arrays = {
        "c": row,
        "fortran": np.asfortranarray(row),
        "strided": row[::2, 1:],
        "none": row[:0],
    }
    scalars = {"scalar": row[1, 1], "zero_d": np.array(row[1, 1])}
    found = read({"a": {"b": arrays}, **scalars}, protocol)
    expected = {f"a/b/{name}": value for name, value in arrays.items()} | scalars
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, strict=isinstance(value, np.ndarray))


def test_jax_arrays_mappings_and_states_of_optimizers_are_read_as_plain_ones(read):
    params = {"kernel": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(7)}
    state = optax.adamw(optax.cosine_decay_schedule(1e-3, 10)).init(params)
    nested = {"params": freeze(params), "opt_state": state, "rest": OrderedDict(d=2, e=None)}
    found = read({**nested, "adam": state[0], "name": "x", "list": [1.0]})
    assert found.keys() == {"params/kernel", "params/step", "rest/d"}
    np.testing.assert_array_equal(found["params/kernel"], params["kernel"], strict=True)
    assert (found["params/step"], found["rest/d"]) == (7, 2)


def test_names_of_numpy_1_and_2_are_both_known(read):
    data = pickle.dumps({"a": np.arange(3.0), "b": np.float32(2)}, protocol=3)
    new, old = b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"
    assert new in data
    for content in (data, data.replace(new, old)):
        found = read(content)
        np.testing.assert_array_equal(found["a"], np.arange(3.0))
        assert found["b"] == 2


class Asks:
    """Pickles as the call of a function; unpickling it calls the function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# What leaves a marker when pickle itself loads it, and the name that is to be refused.
PAYLOADS = {
    "posix.mkdir": lambda marker: Asks(os.mkdir, marker),
    "builtins.eval": lambda marker: Asks(eval, f"__import__('os').mkdir({marker!r})"),
    "functools.partial": lambda marker: Asks(functools.partial(os.mkdir, marker)),
    "numpy.memmap": lambda marker: Asks(np.memmap, marker, "uint8", "w+", 0, (1,)),
    "numpy.save": lambda marker: Asks(np.save, f"{marker}.npy", np.zeros(1)),
    "posix.mkdir as jax array": lambda marker: Asks(_reconstruct_array, os.mkdir, (marker,), 0, 0),
}
PLACES = {
    "value": lambda payload: {"a": np.zeros(3), "b": {"c": payload}},
    "ignored": lambda payload: {"a": np.zeros(3), "b": [(payload,)]},
    "in an array": lambda payload: {"a": np.array([payload, 0], dtype=object)},
    "in a scalar": lambda payload: {"a": Asks(np.float32(1).__reduce__()[0], OBJECT, payload)},
    "whole": lambda payload: payload,
}
OBJECT = np.dtype(object)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", PAYLOADS)
def test_nothing_that_a_file_asks_for_is_run(name, place, read, tmp_path):
    content = PLACES[place](PAYLOADS[name](str(tmp_path / "marker")))
    refused = "object dtype" if "in a" in place else f"asks for '{name.split()[0]}'"
    with pytest.raises(
        BrokenFile, match=f"file.pickle is no .*{refused}.*; nothing in it was run"
    ):
        read(content)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pickle"]
    with contextlib.suppress(Exception):
        pickle.loads((tmp_path / "file.pickle").read_bytes())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("asked", unpickling._STANDS_FOR)
@pytest.mark.parametrize("state", [b"}\x8c\x04evilK\x01s", b"N}\x8c\x04evilK\x01s\x86"])
def test_what_names_stand_for_cannot_be_changed(asked, state, read):
    """Pickle's BUILD sets attributes of whatever it is applied to, from a dict or from slots."""
    module, _, name = asked.rpartition(".")
    with pytest.raises(BrokenFile, match="no pickle of arrays"):
        read(f"c{module}\n{name}\n".encode() + state + b"b.")
    assert not hasattr(unpickling._STANDS_FOR[asked], "evil")


def test_a_name_is_refused_before_it_is_looked_up(read):
    for asked in ("no_such_module\nf", "numpy\nndarray.dump", "os\npath.join"):
        with pytest.raises(BrokenFile, match="asks for '"):
            read(f"c{asked}\n)R.".encode())


def test_the_beginning_of_a_file_is_refused(read):
    data = pickle.dumps({"a": np.zeros(3), "b": {"c": jnp.ones(2)}}, protocol=4)
    assert len(read(data)) == 2
    for end in (*range(0, len(data), 9), len(data) - 1):
        with pytest.raises(BrokenFile, match="no pickle of arrays"):
            read(data[:end])


ENDLESS, SHARED = {}, {"a": 1}
ENDLESS["b"] = {"c": ENDLESS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage", "no pickle of arrays"),
        ([np.zeros(3)], "it holds a list, expected a dict"),
        ({1: np.zeros(3)}, "1 at '' is not a name"),
        ({"two\nlines": 1}, r"'two\\nlines' at '' is not a name"),
        ({"a": {"b/c": 1}}, "'b/c' at 'a' is not a name"),
        (ENDLESS, "it holds the dict at 'b/c' in two places"),
        ({"a": SHARED, "b": SHARED}, "it holds the dict at '[ab]' in two places"),
        ({"a": np.zeros(3, "f4,i4")}, "an array of dtype 'V8', expected numbers"),
        ({"a": np.array(["text"])}, "an array of dtype 'U4', expected numbers"),
        ({"a": np.zeros(2, complex)}, "an array of dtype 'c16', expected numbers"),
        ({"a": jnp.zeros(2, jnp.bfloat16)}, "asks for 'ml_dtypes.bfloat16'"),
        ({"a": Asks(_reconstruct_array, np.dtype, (), (), {})}, "not made of a NumPy array"),
    ],
)
def test_what_is_no_state_of_numbers_is_refused(content, message, read):
    with pytest.raises(BrokenFile, match=message) as refusal:
        read(content)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BrokenFile, match="none is missing or not a plain file"):
        read_state(tmp_path / "none")
