import os
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


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
    st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)
def test_tensors_come_back_bit_for_bit(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.mktemp("tensors") / "file.safetensors"
    storage.write_tensors(path, {name: value.T for name, value in tensors.items()}, metadata)
    found, facts = storage.read_tensors(path)
    assert facts == metadata
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].T.shape == value.shape
        assert found[name].T.tobytes() == value.tobytes()


WRITE = """
import sys
from pathlib import Path
import numpy as np
from psec_jax import storage
tensors = {name: np.full(2, name == "c", bool if name > "c" else np.float32) for name in "abcde"}
metadata = {name: {inner: name for inner in "xyz"} for name in "abcdef"}
storage.write_tensors(Path(sys.argv[1]), tensors, metadata)
"""


def test_the_bytes_of_a_file_follow_from_what_it_holds_alone(tmp_path):
    """Not from the order of tensors or metadata, nor from the hashes of this process."""
    theirs, mine = tmp_path / "theirs.safetensors", tmp_path / "mine.safetensors"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", WRITE, theirs], env=environment, check=True)
    tensors, metadata = storage.read_tensors(theirs)
    assert len(tensors) == 5 and len(metadata) == 6
    for step in (1, -1):
        storage.write_tensors(
            mine,
            {name: tensors[name] for name in sorted(tensors)[::step]},
            {n: dict(sorted(metadata[n].items())[::step]) for n in sorted(metadata)[::step]},
        )
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt", "by": "others"}])
def test_a_file_of_others_has_no_metadata_for_us(tmp_path, metadata):
    path = tmp_path / "file.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path, metadata=metadata)
    assert storage.read_tensors(path)[1] == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_metadata_that_are_no_json_object_are_refused(file, text):
    ((key, _),) = safetensors.safe_open(file, "numpy").metadata().items()
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, file, metadata={key: text})
    with pytest.raises(BrokenFile, match=r"file.safetensors (holds no valid|must hold a) JSON"):
        storage.read_tensors(file)


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
