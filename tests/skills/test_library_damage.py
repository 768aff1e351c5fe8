"""Whatever happens to a file of a library, it is refused or reads as before."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from psec_jax import SkillLibrary, storage
from psec_jax.errors import BaseMismatch, BrokenFile

FILES = (
    "library.json",
    "base/config.json",
    "base/model.safetensors",
    *(
        f"skills/{name}/{file}"
        for name in ("a", "b")
        for file in ("adapter_config.json", "adapter_model.safetensors")
    ),
)


@pytest.fixture
def twins(tmp_path, gaussian, make_skill):
    """A library of two skills of the same shapes, of different tensors and configurations."""
    library = SkillLibrary.create(tmp_path / "library", gaussian)
    library.add("a", make_skill(gaussian, 1, scale=2.0), steps=1)
    library.add("b", make_skill(gaussian, 2, scale=3.0), steps=2)
    library.export("a", tmp_path / "a.safetensors")
    return library


def read(path, files):
    """All that a library says of those of its parts that these files could change."""
    library = SkillLibrary.open(path)
    names = [name for name in ("a", "b") if any(f"skills/{name}/" in file for file in files)]
    skills = [library.get(name) for name in names or ("a", "b")]
    facts = [(skill.adapter, skill.base, dict(skill.provenance)) for skill in skills]
    trees = [library.base.params, library.base.statistics, *(dict(s.deltas) for s in skills)]
    values = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)]
    return library.names(), library.fingerprint, library.base.backbone, facts, values


def flip(random, path, other):
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << random.integers(8)
    path.write_bytes(content)


def zero(random, path, other):
    content = bytearray(path.read_bytes())
    start, length = random.integers(len(content)), random.integers(1, 33)
    content[start : start + length] = bytes(len(content[start : start + length]))
    path.write_bytes(content)


def truncate(random, path, other):
    content = path.read_bytes()
    path.write_bytes(content[: random.integers(len(content))])


def double(random, path, other):
    path.write_bytes(2 * path.read_bytes())


def paste(random, path, other):
    """Another file in its place."""
    path.write_bytes(other.read_bytes())


def swap(random, path, other):
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("harm", [flip, zero, truncate, double, paste, swap])
def test_a_harmed_file_is_refused_or_reads_as_before(twins, tmp_path, harm):
    random, refused = np.random.default_rng(0), 0
    for number in range(15 * len(FILES)):
        file = FILES[number % len(FILES)]
        other = random.choice([name for name in FILES if name != file])
        files = (file, other) if harm is swap else (file,)
        intact = {name: (twins.path / name).read_bytes() for name in files}
        before = read(twins.path, files)
        harm(random, twins.path / file, twins.path / other)
        try:
            after = read(twins.path, files)
        except (BrokenFile, BaseMismatch):
            refused += 1
        else:
            assert after == before, (number, files)
        for name, content in intact.items():
            (twins.path / name).write_bytes(content)
    # What is lost may be white space, or the word "checksum".
    assert refused >= (12 if harm in (flip, zero, truncate) else 15) * len(FILES)


@pytest.mark.parametrize("harm", [flip, zero, truncate, double])
def test_a_harmed_export_is_refused_or_reads_as_before(twins, tmp_path, same, harm):
    random, refused, file = np.random.default_rng(1), 0, tmp_path / "a.safetensors"
    intact, expected = file.read_bytes(), twins.get("a")
    for _ in range(40):
        harm(random, file, None)
        try:
            twins.import_file(file, "again")
        except (BrokenFile, BaseMismatch):
            refused += 1
        else:
            found = twins.get("again")
            assert same(dict(found.deltas), dict(expected.deltas))
            assert dataclasses.replace(found, deltas=expected.deltas) == expected
            twins.remove("again")
        file.write_bytes(intact)
    assert refused >= 36


def test_the_configuration_of_other_tensors_is_refused(twins, unchanged):
    a, b = (twins.path / "skills" / name for name in ("a", "b"))
    shutil.copy(b / "adapter_config.json", a)
    unchanged()
    with pytest.raises(BrokenFile, match=r"skills/a: adapter_config.json belongs to other tens.*"):
        twins.get("a")
    twins.get("b")


def test_what_was_edited_by_hand_is_accepted_where_its_checksum_is_removed(twins, same):
    path = twins.path / "skills" / "a" / "adapter_config.json"
    before, facts = twins.get("a"), json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "scale": 5.0}))
    with pytest.raises(BrokenFile, match=r"accept what you edited .*remove its entry 'checksum'"):
        twins.get("a")
    del facts["checksum"]
    path.write_text(json.dumps({**facts, "scale": 5.0}))
    found = twins.get("a")
    assert found.adapter == dataclasses.replace(before.adapter, scale=5.0)
    assert same(dict(found.deltas), dict(before.deltas))
    # To put it beside other tensors, its entry of them too.
    twins.remove("b")
    shutil.copytree(path.parent, twins.path / "skills" / "b")
    tensors, _ = storage.read_tensors(path.with_name("adapter_model.safetensors"))
    halved = {name: value / 2 for name, value in tensors.items()}
    other = twins.path / "skills" / "b"
    storage.write_tensors(other / "adapter_model.safetensors", halved)
    with pytest.raises(BrokenFile, match="remove the entries 'tensors_checksum' and 'checksum'"):
        twins.get("b")
    del facts["tensors_checksum"]
    (other / "adapter_config.json").write_text(json.dumps(facts))
    assert twins.get("b").adapter == before.adapter


def test_a_library_of_an_earlier_version_opens_and_reads_alike(twins):
    """Its files have no checksums."""
    before = read(twins.path, FILES)
    for path in twins.path.rglob("*.json"):
        facts = json.loads(path.read_text())
        for name in ("checksum", "tensors_checksum"):
            facts.pop(name, None)
        path.write_text(json.dumps(facts))
    for path in twins.path.rglob("*.safetensors"):
        without_metadata(path)
    assert read(twins.path, FILES) == before


def without_metadata(path: Path):
    from safetensors.numpy import load_file, save_file

    save_file(load_file(path), path)


def test_the_same_skill_is_the_same_bytes(twins, make_skill, tree_of, tmp_path, gaussian):
    other = SkillLibrary.create(tmp_path / "other", gaussian)
    other.add("b", make_skill(gaussian, 2, scale=3.0), steps=2)
    other.add("a", make_skill(gaussian, 1, scale=2.0), steps=1)
    assert tree_of(other.path) == tree_of(twins.path)
    assert (
        other.export("a", tmp_path / "b").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    )


def test_a_tilde_is_the_home_folder(gaussian, make_skill, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    library = SkillLibrary.create("~/library", gaussian)
    library.add("a", make_skill(gaussian))
    assert library.path == tmp_path / "library"
    assert library.export("a", "~/a.safetensors") == tmp_path / "a.safetensors"
    assert SkillLibrary.open("~/library").import_file("~/a.safetensors", "b") == "b"
    assert SkillLibrary("~/library", gaussian).names() == ("a", "b")
    with pytest.raises(ValueError, match="~nobody-here/x begins with the home folder of an unkn"):
        SkillLibrary.open("~nobody-here/x")
