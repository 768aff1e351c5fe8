"""Files are read by their suffix, and a user may add to the suffixes."""

import os
from pathlib import Path

import numpy as np
import pytest

from psec_jax import load_dataset
from psec_jax.data import read_file, readers, register_reader
from psec_jax.data.hdf5 import read_hdf5, write_hdf5
from psec_jax.errors import BrokenFile


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PSEC_JAX_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(readers, "READERS", dict(readers.READERS))
    return tmp_path


def write_npz(path, data):
    np.savez_compressed(path.with_suffix(".npz"), **data.arrays())
    path.with_suffix(".npz").rename(path)
    return path


WRITERS = {".hdf5": write_hdf5, ".h5": write_hdf5, ".H5": write_hdf5, ".HDF5": write_hdf5}
WRITERS |= {".npz": write_npz, ".NPZ": write_npz}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_is_read_by_its_suffix_however_its_path_is_given(home, make, equal, suffix):
    data = make([3, 4])
    path = WRITERS[suffix](home / f"my.data{suffix}", data)
    (home / "link.hdf5").symlink_to(path) if "5" in suffix else None
    for name in (path, str(path), path.name, Path(path.name), f"~/{path.name}", f"./{path.name}"):
        assert equal(load_dataset(name), data) and equal(read_file(name), data)
    assert equal(load_dataset(path, trajectories=1), data.take(1))
    if "5" in suffix:
        assert equal(load_dataset("link.hdf5"), data)
        assert equal(read_hdf5(Path("~") / path.name), data)


def test_a_home_folder_can_be_written_to(home, make, equal):
    data = make([3])
    assert write_hdf5("~/new.hdf5", data) == home / "new.hdf5"
    assert equal(load_dataset("new.hdf5"), data)


def test_readers_can_be_added(home, make, equal):
    data, seen = make([3]), []

    def read(path, scale=1):
        seen.append((path, scale))
        return data

    register_reader(".CSV", read)
    register_reader(".tar.gz", read)
    for name in ("x.csv", "local/x.Csv", "minari/x.tar.gz"):
        assert equal(load_dataset(name), data)
    read_file("~/x.csv", scale=2)
    paths = [("x.csv", 1), ("local/x.Csv", 1), ("minari/x.tar.gz", 1), (f"{home}/x.csv", 2)]
    assert seen == [(Path(path), scale) for path, scale in paths]
    with pytest.raises(ValueError, match=r"reader of .csv files refuses its options: .*'keys'"):
        read_file("x.csv", keys={})
    register_reader(".hdf5", read)
    assert equal(load_dataset("nothing.hdf5"), data)


@pytest.mark.parametrize(
    ("suffix", "reader", "said"),
    [
        ("csv", print, "'csv' must be a dot and a word, such as '.csv'"),
        (".", print, "'.' must be a dot and a word"),
        (".a/b", print, "'.a/b' must be a dot and a word"),
        (".csv", "read_csv", "must be a function of a path, not 'read_csv'"),
    ],
)
def test_what_is_no_reader_is_refused(suffix, reader, said):
    with pytest.raises(ValueError, match=said):
        register_reader(suffix, reader)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.csv", "x.csv has the suffix '.csv', which no reader takes"),
        ("data/x.hdf5.gz", "has the suffix '.gz', which no reader takes"),
        ("./x", "x has the suffix '', which no reader takes"),
        ("~/x", "x has the suffix '', which no reader takes"),
        (Path("walker2d-medium"), "has the suffix '', which no reader takes"),
        ("folder", "folder is a folder, which no reader takes"),
        ("walker.d", "walker.d is a folder, which no reader takes"),
    ],
)
def test_what_no_reader_takes_is_said_with_what_is_read(home, name, said):
    """And no dataset is proposed that is called something like it."""
    for folder in ("folder", "walker.d"):
        (home / folder).mkdir()
    with pytest.raises(ValueError, match=said) as error:
        load_dataset(name)
    message = str(error.value)
    assert "end in .hdf5, .h5, .npz, .pkl, .pickle; others need" in message
    assert "did you mean" not in message


@pytest.mark.parametrize("suffix", readers.READERS)
def test_a_missing_file_is_named(home, suffix):
    (home / f"folder{suffix}").mkdir()
    os.symlink(home / "gone", home / f"dangling{suffix}")
    for name in ("none", "folder", "dangling"):
        with pytest.raises(BrokenFile, match=rf"^{name}{suffix} is missing or not a plain file$"):
            load_dataset(f"{name}{suffix}")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x93NUMPY", b"<html>" * 99])
def test_what_is_no_archive_is_refused(home, content):
    (home / "x.npz").write_bytes(content)
    with pytest.raises(BrokenFile, match=r"^x.npz is not a readable NumPy file: .*zip") as error:
        load_dataset("x.npz")
    assert "\n" not in str(error.value)


def test_an_archive_damaged_anywhere_is_refused(home, make, equal):
    """A zip holds checksums of its arrays, if not of their names; so no number changes unseen."""
    data = make([30, 40])
    path = write_npz(home / "x.npz", data)
    content = path.read_bytes()
    for end in np.linspace(0, len(content) - 1, 30).astype(int):
        path.write_bytes(content[:end])
        with pytest.raises(BrokenFile, match=r"x.npz is not a readable NumPy file: "):
            load_dataset("x.npz")
    for place in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        try:
            read = load_dataset("x.npz")
            for name in ("observations", "actions"):
                assert equal({"": getattr(read, name)}, {"": getattr(data, name)})
        except BrokenFile as error:
            assert "\n" not in str(error)


class Marks:
    """What makes a folder where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("marker",)


def test_objects_in_an_archive_are_not_unpickled(home, make, equal):
    data = make([3])
    np.savez(home / "x.npz", infos=np.array([Marks()], object), **data.arrays())
    assert equal(load_dataset("x.npz"), data)
    changed = data.arrays() | {"rewards": np.array([Marks()] * 3, object)}
    np.savez(home / "x.npz", **changed)
    with pytest.raises(BrokenFile, match=r"^x.npz: 'rewards' holds Python objects, which are not"):
        load_dataset("x.npz")
    assert not (home / "marker").exists()


def test_text_in_an_archive_is_no_column(home, make):
    np.savez(home / "x.npz", **make([3]).arrays() | {"terminations": np.array(["False"] * 3)})
    with pytest.raises(BrokenFile, match="numbers for terminations, not an array of dtype <U5"):
        load_dataset("x.npz")


def test_an_archive_in_which_a_folder_is_an_array_is_refused(home, make):
    np.savez(home / "x.npz", **make([3]).arrays() | {"rewards/x": np.zeros(3)})
    with pytest.raises(BrokenFile, match="'rewards/x' lies under what is an array itself"):
        load_dataset("x.npz")
