import os
import string
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from psec_jax import storage
from psec_jax.errors import BrokenFile

LETTERS = string.ascii_letters + string.digits

ALLOWED = st.builds(
    str.__add__,
    st.sampled_from(LETTERS),
    st.text(LETTERS + "._-", max_size=63),
)


@given(ALLOWED)
def test_an_allowed_name_names_a_visible_child_of_its_folder(name):
    folder = Path("/library/skills")
    child = Path(os.path.normpath(folder / storage.check_name(name)))
    assert child.parent == folder
    assert child.name == name
    assert not name.startswith(".")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "../x",
        "a/b",
        "a\\b",
        "/x",
        "x" * 65,
        "a\n",
        "a b",
        "é",
        "-r",
        5,
        None,
    ],
)
def test_other_names_are_refused_with_the_rule(name):
    with pytest.raises(ValueError, match=r"skill name .* is not allowed: use 1 to 64 letters"):
        storage.check_name(name)


def test_a_new_folder_appears_whole_when_the_block_ends(tmp_path):
    target = tmp_path / "parent" / "target"
    with storage.new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert [p.name for p in target.parent.iterdir()] == ["target"]
    assert (target / "file").read_text() == "x"


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        storage.new_folder(tmp_path / "target") as folder,
    ):
        (folder / "file").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_folder_that_is_taken_stays_as_it_is(tmp_path, when, tree_of):
    def take():
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "theirs").write_text("theirs")

    if when == "before":
        take()
    with (
        pytest.raises(FileExistsError, match="target exists already; remove it or choose"),
        storage.new_folder(tmp_path / "target") as folder,
    ):
        (folder / "mine").write_text("mine")
        if when == "meanwhile":
            take()
    assert tree_of(tmp_path) == {"target": None, "target/theirs": b"theirs"}


def test_a_folder_that_may_not_be_renamed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError), storage.new_folder(tmp_path / "target"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_replaces_the_old_one_whole_or_not_at_all(tmp_path, monkeypatch, tree_of):
    target = tmp_path / "file.txt"
    with storage.new_file(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), storage.new_file(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert tree_of(tmp_path) == {"file.txt": b"old"}
    with storage.new_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert tree_of(tmp_path) == {"file.txt": b"new"}
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError), storage.new_file(target) as temporary:
        temporary.write_text("newer")
    assert tree_of(tmp_path) == {"file.txt": b"new"}


def refuse(*arguments):
    raise PermissionError(13, "Permission denied")


@given(
    st.dictionaries(
        st.text("abc/.", min_size=1, max_size=8),
        arrays.arrays(
            np.float32,
            arrays.array_shapes(min_dims=0, max_dims=3, max_side=4),
            elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
        ),
        min_size=1,
        max_size=4,
    ),
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
)
def test_tensors_come_back_bit_for_bit(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.mktemp("tensors") / "file.safetensors"
    storage.write_tensors(path, {name: value.T for name, value in tensors.items()}, metadata)
    found, facts = storage.read_tensors(path)
    assert facts == metadata
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].T.tobytes() == value.tobytes()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.safetensors"
    storage.write_tensors(path, {"a": np.arange(6, dtype=np.float32)}, {"k": "v"})
    return path


@given(st.data())
def test_a_truncated_file_is_refused_wherever_it_is_cut(file, data):
    whole = file.read_bytes()
    cut = file.with_name("cut.safetensors")
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BrokenFile, match=r"cut.safetensors is not a readable safetensors file"):
        storage.read_tensors(cut)


@given(st.binary(max_size=200))
def test_garbage_is_refused(tmp_path, garbage):
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(garbage)
    with pytest.raises(BrokenFile, match=r"garbage.safetensors is not a readable safetensors"):
        storage.read_tensors(path)
    path.write_bytes(b"{" + garbage)
    with pytest.raises(BrokenFile, match=r"garbage.safetensors holds no valid JSON"):
        storage.read_json(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1, np.nan], np.float32), "'a' holds values that are not finite"),
        (np.array([1, np.inf], np.float32), "'a' holds values that are not finite"),
        (np.ones(2), "'a' is float64, expected float32"),
        (np.ones(2, np.int32), "'a' is int32, expected float32"),
    ],
)
def test_tensors_that_no_policy_can_use_are_refused(tmp_path, value, message):
    path = tmp_path / "file.safetensors"
    safetensors.numpy.save_file({"a": value}, path)
    with pytest.raises(BrokenFile, match=message):
        storage.read_tensors(path)


@pytest.mark.parametrize("read", [storage.read_json, storage.read_tensors])
@pytest.mark.parametrize("kind", ["missing", "folder", "link"])
def test_only_plain_files_are_read(file, read, kind):
    path = file.with_name("other")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(file)
    with pytest.raises(BrokenFile, match="other is missing or not a plain file"):
        read(path)


@pytest.mark.parametrize("text", ["[1, 2]", "5", '"text"', "null"])
def test_json_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(BrokenFile, match=r"facts.json must hold a JSON object, not"):
        storage.read_json(tmp_path / "facts.json")
