import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import Adapter, Bank, GaussianBackbone, Policy, SkillLibrary, fingerprint, storage
from psec_jax.errors import BaseMismatch, BrokenFile

KEY = jax.random.key(5)
BAD_NAMES = ["../x", "", ".hidden", "a/b", "x" * 65, "a\n", "a\nb", "/etc", ".."]


@pytest.fixture
def other_library(tmp_path, diffusion):
    """Another library of the same base."""
    return SkillLibrary.create(tmp_path / "other", diffusion)


def refuse(*arguments, **options):
    raise PermissionError(13, "Permission denied")


# What is stored is what was added.


@given(
    kind=st.sampled_from(["low_rank", "full"]),
    rank=st.integers(1, 5),
    scale=st.floats(0.01, 100),
    targets=st.sampled_from([Adapter().targets, ".*", "in", "block_0/(up|down)"]),
)
def test_a_skill_comes_back_bit_for_bit(library, make_skill, same, kind, rank, scale, targets):
    skill = make_skill(library.base, kind=kind, rank=rank, scale=scale, targets=targets)
    library.add("new", skill, steps=7, metrics={"loss": 0.1})
    found = SkillLibrary.open(library.path).get("new")
    library.remove("new")
    assert same(dict(found.deltas), dict(skill.deltas))
    assert found.adapter == skill.adapter
    assert found.base == skill.base
    assert found.provenance == {"dataset": "number-0", "steps": 7, "metrics": {"loss": 0.1}}


def test_files_follow_the_convention_of_peft(library):
    """W + (lora_alpha / r) B A, for the tensors of a file, is merging."""
    folder = library.path / "skills" / "walk"
    tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    layers = {p.replace("/", "."): s for p, s in library.get("walk").deltas.items()}
    assert config["peft_type"] == "LORA"
    assert config["target_modules"] == sorted(layers)
    assert len(tensors) == 2 * len(layers)
    merged = library.base.with_bank(library.bank(["walk"])).merged()
    for module in config["target_modules"]:
        path = module.replace(".", "/")
        d_in, d_out = library.base.dense_layers()[path]
        down = tensors[f"base_model.model.{module}.lora_A.weight"]
        up = tensors[f"base_model.model.{module}.lora_B.weight"]
        assert down.shape == (config["r"], d_in) == (3, d_in)
        assert up.shape == (d_out, config["r"])
        delta = config["lora_alpha"] / config["r"] * up @ down
        kernel, sum_ = library.base.params, merged.params
        for part in path.split("/"):
            kernel, sum_ = kernel[part], sum_[part]
        np.testing.assert_allclose(sum_["kernel"] - kernel["kernel"], delta.T, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"schedule": "cosine", "sampler": "ddim", "sampling_steps": 3}, {"deterministic": False}],
)
def test_a_library_opens_with_the_base_it_was_created_with(
    tmp_path, request, observations, same, settings
):
    policy = request.getfixturevalue("gaussian" if "deterministic" in settings else "diffusion")
    policy = policy.replace(backbone=dataclasses.replace(policy.backbone, **settings))
    SkillLibrary.create(tmp_path / "library", policy)
    opened = SkillLibrary.open(tmp_path / "library")
    assert opened.fingerprint == fingerprint(policy)
    assert opened.base.backbone == policy.backbone
    assert same(opened.base.act(KEY, observations), policy.act(KEY, observations))


def test_names_are_sorted_and_banks_keep_the_order_asked_for(library, make_skill):
    for name in ("b", "a", "c.1"):
        library.add(name, make_skill(library.base))
    assert library.names() == ("a", "b", "c.1", "run", "walk")
    assert library.bank().names == library.names()
    assert library.bank(["walk", "a"]).names == ("walk", "a")


def test_every_name_is_that_of_a_skill_whatever_lies_beside_them(library, tmp_path):
    skills = library.path / "skills"
    (skills / "notes.txt").write_text("x")
    (skills / ".new-interrupted").mkdir()
    (skills / "link").symlink_to(skills / "walk", target_is_directory=True)
    assert library.names() == ("run", "walk")
    assert library.bank().names == ("run", "walk")


# Adding, renaming and removing touch one skill only.


def test_removing_a_skill_restores_exactly_what_was_there(library, make_skill, tree_of, same):
    before, bank = tree_of(library.path), library.bank()
    library.add("new", make_skill(library.base, 9))
    with_new = tree_of(library.path)
    assert before.items() < with_new.items()
    assert library.names() == ("new", "run", "walk")
    library.remove("new")
    assert tree_of(library.path) == before
    assert same(library.bank(), bank)


def test_renaming_moves_one_folder(library, tree_of):
    before = tree_of(library.path)
    library.rename("walk", "stroll")
    after = {
        path.replace("skills/walk", "skills/stroll"): content for path, content in before.items()
    }
    assert tree_of(library.path) == after
    assert library.names() == ("run", "stroll")


@pytest.mark.parametrize("name", ["run", None])
def test_an_exported_skill_is_the_same_skill_in_another_library(
    library, other_library, tmp_path, same, name
):
    file = library.export("walk", tmp_path / "walk.safetensors")
    assert other_library.import_file(file, name) == (name or "walk")
    ours, theirs = library.get("walk"), other_library.get(name or "walk")
    assert same(dict(ours.deltas), dict(theirs.deltas))
    assert (ours.adapter, ours.base, ours.provenance) == (
        theirs.adapter,
        theirs.base,
        theirs.provenance,
    )


# Concurrent writers.


def test_threads_may_add_at_the_same_time(library, make_skill, same):
    skills = {f"skill-{i}": make_skill(library.base, i) for i in range(8)}
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda name: SkillLibrary(library.path, library.base).add(name, skills[name]),
                skills,
            )
        )
    assert library.names() == ("run", *skills, "walk")
    for name, skill in skills.items():
        assert same(dict(library.get(name).deltas), dict(skill.deltas))


def test_of_those_who_want_the_same_name_exactly_one_gets_it(library, make_skill, same, tree_of):
    skills = [make_skill(library.base, i) for i in range(8)]
    before = tree_of(library.path)

    def add(skill):
        try:
            library.add("wanted", skill)
        except FileExistsError as error:
            assert "wanted exists already" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add, skills))
    assert sum(added) == 1
    winner = skills[added.index(True)]
    assert same(dict(library.get("wanted").deltas), dict(winner.deltas))
    library.remove("wanted")
    assert tree_of(library.path) == before


ADD = """
import sys, time
from pathlib import Path
from psec_jax import SkillLibrary
path, mine = sys.argv[1:]
library = SkillLibrary.open(path)
skill = library.get("walk")
library.fingerprint, library._layers
Path(path, mine).touch()
while not Path(path, "start").exists():
    time.sleep(0.005)
for name in (mine, "shared"):
    try:
        library.add(name, skill, by=mine)
        print(name)
    except FileExistsError:
        print("taken")
"""


def test_two_processes_may_add_at_the_same_time(library):
    writers = ("one", "two")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, library.path, name], stdout=subprocess.PIPE, text=True
        )
        for name in writers
    ]
    while not all((library.path / name).exists() for name in writers):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (library.path / "start").touch()
    said = {name: p.communicate()[0].split() for name, p in zip(writers, processes, strict=True)}
    assert [lines[0] for lines in said.values()] == ["one", "two"]
    assert sorted(lines[1] for lines in said.values()) == ["shared", "taken"]
    winner = next(name for name, lines in said.items() if lines[1] == "shared")
    assert library.get("shared").provenance["by"] == winner
    assert library.names() == ("one", "run", "shared", "two", "walk")


# What is refused leaves everything as it was.


@pytest.fixture
def unchanged(tmp_path, tree_of):
    """Asserts when the test ends that nothing under ``tmp_path`` differs from ``unchanged()``."""
    seen = []
    yield lambda: seen.append(tree_of(tmp_path))
    assert tree_of(tmp_path) == seen[-1]


def test_a_skill_of_another_base_is_refused_with_both_hashes(library, make_skill, unchanged):
    other = library.base.replace(params=jax.tree.map(lambda leaf: leaf + 1, library.base.params))
    unchanged()
    with pytest.raises(BaseMismatch, match="learn the skill again") as error:
        library.add("new", make_skill(other))
    assert fingerprint(other) in str(error.value)
    assert library.fingerprint in str(error.value)


def test_a_file_of_another_base_is_refused_with_both_hashes(
    library, gaussian, make_skill, tmp_path, unchanged
):
    theirs = SkillLibrary.create(tmp_path / "theirs", gaussian)
    theirs.add("skill", make_skill(gaussian))
    file = theirs.export("skill", tmp_path / "skill.safetensors")
    unchanged()
    with pytest.raises(BaseMismatch) as error:
        library.import_file(file)
    assert fingerprint(gaussian) in str(error.value)
    assert library.fingerprint in str(error.value)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_leave_the_folder_are_refused(library, make_skill, unchanged, name):
    skill = library.get("walk")
    file = library.export("walk", library.path.parent / "walk.safetensors")
    tensors, metadata = storage.read_tensors(file)
    named = file.with_name("named.safetensors")
    storage.write_tensors(named, tensors, {**metadata, "name": name})
    unchanged()
    for act in (
        lambda: library.add(name, skill),
        lambda: library.get(name),
        lambda: library.remove(name),
        lambda: library.rename("walk", name),
        lambda: library.rename(name, "new"),
        lambda: library.export(name, library.path / "out.safetensors"),
        lambda: library.import_file(file, name),
        lambda: library.import_file(named),
        lambda: library.bank([name]),
    ):
        with pytest.raises(ValueError, match="is not allowed: use 1 to 64 letters"):
            act()


def test_a_name_that_is_taken_is_refused(library, make_skill, unchanged):
    file = library.export("walk", library.path.parent / "walk.safetensors")
    unchanged()
    for act in (
        lambda: library.add("walk", make_skill(library.base, 5)),
        lambda: library.rename("run", "walk"),
        lambda: library.import_file(file),
    ):
        with pytest.raises(FileExistsError, match="walk exists already; remove it or choose"):
            act()


def test_a_skill_that_is_not_there_is_named_beside_those_that_are(library, unchanged):
    unchanged()
    for act in (
        lambda: library.get("fly"),
        lambda: library.remove("fly"),
        lambda: library.rename("fly", "new"),
        lambda: library.export("fly", library.path / "out.safetensors"),
        lambda: library.bank(["walk", "fly"]),
    ):
        with pytest.raises(KeyError, match=r"no skill 'fly' .*'run', 'walk'"):
            act()


def test_a_skill_folder_that_is_a_link_is_not_followed(library, tmp_path, unchanged):
    outside = tmp_path / "outside"
    os.rename(library.path / "skills" / "walk", outside)
    (library.path / "skills" / "walk").symlink_to(outside, target_is_directory=True)
    unchanged()
    for act in (
        lambda: library.get("walk"),
        lambda: library.remove("walk"),
        lambda: library.rename("walk", "new"),
        lambda: library.export("walk", tmp_path / "out.safetensors"),
    ):
        with pytest.raises(KeyError, match="no skill 'walk'"):
            act()


@pytest.mark.parametrize(
    ("path", "index", "value"),
    [("in", "down", np.nan), ("in", "up", np.inf)],
)
def test_a_skill_that_could_not_be_read_again_is_not_stored(
    library, make_skill, unchanged, path, index, value
):
    skill = make_skill(library.base)
    broken = skill.deltas[path].replace(**{index: getattr(skill.deltas[path], index) + value})
    unchanged()
    with pytest.raises(ValueError, match="finite"):
        library.add("new", dataclasses.replace(skill, deltas={**skill.deltas, path: broken}))


def test_a_skill_with_layers_that_the_base_lacks_is_not_stored(library, make_skill, unchanged):
    skill = make_skill(library.base)
    elsewhere = dataclasses.replace(skill, deltas={"elsewhere": skill.deltas["in"]})
    misshapen = dataclasses.replace(skill, deltas={"out": skill.deltas["in"]})
    unchanged()
    with pytest.raises(BrokenFile, match="no dense layer 'elsewhere'"):
        library.add("new", elsewhere)
    with pytest.raises(BrokenFile, match=r"out.lora_A.weight is of shape"):
        library.add("new", misshapen)


def test_provenance_must_be_json(library, make_skill, unchanged):
    unchanged()
    with pytest.raises(TypeError, match="not JSON serializable"):
        library.add("new", make_skill(library.base), dataset=object())


@pytest.mark.parametrize(
    ("act", "module", "function"),
    [
        *((act, os, "rename") for act in ("add", "import_file", "remove", "rename", "create")),
        *((act, tempfile, "mkdtemp") for act in ("add", "import_file", "create")),
    ],
)
def test_without_permission_to_write_nothing_is_half_done(
    library, make_skill, tmp_path, monkeypatch, unchanged, act, module, function
):
    file = library.export("walk", tmp_path / "walk.safetensors")
    skill = make_skill(library.base)
    acts = {
        "add": lambda: library.add("new", skill),
        "import_file": lambda: library.import_file(file, "new"),
        "remove": lambda: library.remove("walk"),
        "rename": lambda: library.rename("walk", "new"),
        "create": lambda: SkillLibrary.create(tmp_path / "new", library.base),
    }
    unchanged()
    monkeypatch.setattr(module, function, refuse)
    with pytest.raises(PermissionError):
        acts[act]()


def test_a_library_cannot_be_created_where_something_is(library, tmp_path, unchanged):
    (tmp_path / "file").write_text("x")
    unchanged()
    with pytest.raises(FileExistsError, match="library exists already"):
        SkillLibrary.create(library.path, library.base)
    with pytest.raises(FileExistsError, match="file exists already"):
        SkillLibrary.create(tmp_path / "file", library.base)
    with pytest.raises(OSError, match="file"):
        SkillLibrary.create(tmp_path / "file" / "library", library.base)


def test_a_base_of_a_library_carries_no_skills(library, tmp_path, unchanged):
    unchanged()
    with pytest.raises(ValueError, match="a base policy carries no bank; merge it first"):
        SkillLibrary.create(tmp_path / "new", library.base.with_bank(library.bank()))


# Damaged files.

A, B = "base_model.model.in.lora_A.weight", "base_model.model.in.lora_B.weight"


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


DAMAGES = {
    "NaN": (
        lambda t, c: ({**t, A: np.full_like(t[A], np.nan)}, c),
        f"{A}' holds values that are not finite",
    ),
    "wrong shape": (
        lambda t, c: ({**t, A: t[A][:, 1:].copy()}, c),
        f"{A} is of shape .*, expected",
    ),
    "transposed": (lambda t, c: ({**t, B: t[B].T.copy()}, c), f"{B} is of shape .*, expected"),
    "missing tensor": (lambda t, c: (without(t, B), c), f"{B} is missing"),
    "extra tensor": (
        lambda t, c: ({**t, "base_model.model.more.lora_A.weight": t[A]}, c),
        "more.lora_A.weight'] belong to no layer",
    ),
    "double precision": (
        lambda t, c: ({**t, A: t[A].astype(float)}, c),
        "float64, expected float32",
    ),
    "other rank": (lambda t, c: (t, {**c, "r": 2}), "is of shape .*, expected"),
    "rank 0": (lambda t, c: (t, {**c, "r": 0}), "configuration is not valid.*not 0"),
    "rank True": (lambda t, c: (t, {**c, "r": True}), "configuration is not valid.*not True"),
    "no rank": (lambda t, c: (t, without(c, "r")), "."),
    "no scale": (lambda t, c: (t, without(c, "scale")), "configuration is not valid.*'scale'"),
    "text scale": (lambda t, c: (t, {**c, "scale": "loud"}), "configuration is not valid.*loud"),
    "infinite scale": (lambda t, c: (t, {**c, "scale": float("inf")}), "not valid.*inf"),
    "other kind": (lambda t, c: (t, {**c, "kind": "dora"}), "configuration is not valid.*dora"),
    "bad regex": (lambda t, c: (t, {**c, "targets": "("}), "configuration is not valid.*regular"),
    "regex of number": (lambda t, c: (t, {**c, "targets": 5}), "configuration is not valid"),
    "no layers": (lambda t, c: (t, {**c, "target_modules": []}), "belong to no layer"),
    "foreign layer": (
        lambda t, c: (t, {**c, "target_modules": [*c["target_modules"], "more"]}),
        "no dense layer 'more'",
    ),
    "layer twice": (
        lambda t, c: (t, {**c, "target_modules": ["in", *c["target_modules"]]}),
        f"{A} is missing",
    ),
    "layers of number": (
        lambda t, c: (t, {**c, "target_modules": 5}),
        "configuration is not valid",
    ),
    "provenance of text": (
        lambda t, c: (t, {**c, "provenance": "me"}),
        "configuration is not valid",
    ),
    "other base": (lambda t, c: (t, {**c, "base_fingerprint": "0" * 16}), "0000000000000000"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_skill_is_refused(library, unchanged, same, damage):
    harm, message = DAMAGES[damage]
    folder, run = library.path / "skills" / "walk", library.get("run")
    tensors, _ = storage.read_tensors(folder / "adapter_model.safetensors")
    tensors, config = harm(tensors, storage.read_json(folder / "adapter_config.json"))
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    storage.write_json(folder / "adapter_config.json", config)
    unchanged()
    with pytest.raises((BrokenFile, BaseMismatch), match=message) as error:
        library.get("walk")
    assert "walk" in str(error.value)
    assert same(dict(library.get("run").deltas), dict(run.deltas))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_not_imported(library, other_library, tmp_path, unchanged, damage):
    harm, message = DAMAGES[damage]
    file = library.export("walk", tmp_path / "walk.safetensors")
    tensors, metadata = storage.read_tensors(file)
    tensors, config = harm(tensors, json.loads(metadata["adapter_config"]))
    metadata["adapter_config"] = json.dumps(config)
    safetensors.numpy.save_file(tensors, file, metadata=metadata)
    unchanged()
    with pytest.raises((BrokenFile, BaseMismatch), match=message) as error:
        other_library.import_file(file)
    assert "walk.safetensors" in str(error.value)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"\x00garbage\xff" * 9, b"[1, 2]", "half"])
def test_a_skill_of_unreadable_files_is_refused(library, unchanged, file, content):
    path = library.path / "skills" / "walk" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(
            path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content
        )
    unchanged()
    with pytest.raises(BrokenFile, match=f"walk/{file}"):
        library.get("walk")


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "other"},
        {"adapter_config": "{"},
        {"adapter_config": "[]"},
        {"adapter_config": ""},
    ],
)
def test_a_file_that_is_no_export_is_not_imported(
    library, other_library, tmp_path, unchanged, metadata
):
    file = library.export("walk", tmp_path / "walk.safetensors")
    tensors, good = storage.read_tensors(file)
    storage.write_tensors(file, tensors, {**good, **metadata})
    unchanged()
    with pytest.raises(BrokenFile, match=r"walk.safetensors"):
        other_library.import_file(file)
    with pytest.raises(BrokenFile, match="is not an exported skill; export it with"):
        other_library.import_file(library.path / "skills" / "walk" / "adapter_model.safetensors")


# Opening.


def edit_json(path, **facts):
    storage.write_json(path, {**storage.read_json(path), **facts})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"backbone": "Flow"}, "description is not valid"),
        ({"backbone": []}, "description is not valid"),
        ({"network": "Transformer"}, r"'Transformer' is not part of psec_jax; .*network=Trans"),
        ({"network": []}, "description is not valid"),
        ({"network_settings": []}, "description is not valid"),
        ({"network_settings": {"depth": 3}}, "description is not valid"),
        ({"network_settings": {"features": "wide"}}, "description is not valid"),
        ({"network_settings": {"features": -1}}, "description is not valid"),
        ({"settings": []}, "description is not valid"),
        ({"settings": {"action_size": 2, "schedule": "sigmoid"}}, "'sigmoid' is unknown"),
        ({"network_settings": {"features": 24}}, "do not fit the described network"),
    ],
)
def test_a_base_that_is_wrongly_described_is_refused(library, unchanged, facts, message):
    edit_json(library.path / "base" / "config.json", **facts)
    unchanged()
    with pytest.raises(BrokenFile, match=message):
        SkillLibrary.open(library.path)


def test_a_base_that_is_not_what_it_was_is_refused_with_both_hashes(library, unchanged):
    file = library.path / "base" / "model.safetensors"
    tensors, _ = storage.read_tensors(file)
    tensors["params/in/bias"] = tensors["params/in/bias"] + 1
    storage.write_tensors(file, tensors)
    params = jax.tree.map(jnp.asarray, library.base.params)
    params["in"]["bias"] = params["in"]["bias"] + 1
    unchanged()
    with pytest.raises(BaseMismatch) as error:
        SkillLibrary.open(library.path)
    assert library.fingerprint in str(error.value)
    assert fingerprint(library.base.replace(params=params)) in str(error.value)


@pytest.mark.parametrize("file", ["base/model.safetensors", "base/config.json", "library.json"])
@pytest.mark.parametrize("content", [None, b"", b"garbage", b"[]"])
def test_a_library_of_unreadable_files_is_refused(library, unchanged, file, content):
    path = library.path / file
    path.unlink() if content is None else path.write_bytes(content)
    unchanged()
    with pytest.raises(BrokenFile, match=path.name):
        SkillLibrary.open(library.path)


def test_a_library_of_a_later_format_is_refused(library, unchanged):
    edit_json(library.path / "library.json", format=2)
    unchanged()
    with pytest.raises(BrokenFile, match="format 2 is not the format 1"):
        SkillLibrary.open(library.path)


# Networks that are not ours.


class Foreign(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, observations):
        h = nn.tanh(nn.Dense(self.width, name="first.layer")(observations))
        return nn.Dense(2, name="mean")(h), nn.Dense(2, name="log_std")(h)


@pytest.fixture
def foreign(statistics):
    return Policy.create(GaussianBackbone(2, Foreign()), statistics, KEY)


def test_a_library_of_a_foreign_network_opens_with_that_network_only(
    tmp_path, foreign, observations, same, unchanged
):
    SkillLibrary.create(tmp_path / "library", foreign)
    unchanged()
    with pytest.raises(BrokenFile, match=r"'Foreign' is not part .*network=Foreign\(…\)"):
        SkillLibrary.open(tmp_path / "library")
    with pytest.raises((BrokenFile, BaseMismatch)):
        SkillLibrary.open(tmp_path / "library", network=Foreign(width=9))
    opened = SkillLibrary.open(tmp_path / "library", network=Foreign())
    assert opened.fingerprint == fingerprint(foreign)
    assert same(opened.base.act(KEY, observations), foreign.act(KEY, observations))


@pytest.mark.parametrize("kind", ["low_rank", "full"])
def test_layers_of_a_foreign_network_may_have_dots_in_their_names(
    tmp_path, foreign, make_skill, observations, kind
):
    library = SkillLibrary.create(tmp_path / "library", foreign)
    skill = make_skill(foreign, kind=kind)
    assert "first.layer" in skill.deltas
    library.add("skill", skill)
    stored, given = (foreign.with_bank(bank) for bank in (library.bank(), Bank.of({"a": skill})))
    np.testing.assert_array_equal(stored.act(KEY, observations), given.act(KEY, observations))
