"""What a library stores, and what it refuses to."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import Adapter, SkillLibrary, storage
from psec_jax.errors import BaseMismatch, BrokenFile
from psec_jax.policies import fingerprint

KEY = jax.random.key(5)
BAD_NAMES = ["../x", "", ".hidden", "a/b", "x" * 65, "a\n", "a\nb", "/etc", ".."]


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


# What is refused leaves everything as it was.


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


def test_a_library_cannot_be_created_where_something_is(library, tmp_path, unchanged):
    (tmp_path / "file").write_text("x")
    unchanged()
    with pytest.raises(FileExistsError, match="library exists already"):
        SkillLibrary.create(library.path, library.base)
    with pytest.raises(FileExistsError, match="file exists already"):
        SkillLibrary.create(tmp_path / "file", library.base)
    with pytest.raises(OSError, match="file"):
        SkillLibrary.create(tmp_path / "file" / "library", library.base)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["params/in/bias", "statistics/mean", "statistics/std"])
def test_a_base_that_could_not_be_read_again_is_not_stored(
    diffusion, tmp_path, unchanged, name, value
):
    if name.startswith("params"):
        params = jax.tree.map(jnp.asarray, diffusion.params)
        params["in"]["bias"] = params["in"]["bias"].at[0].set(value)
        broken = diffusion.replace(params=params)
    else:
        field = name.removeprefix("statistics/")
        array = getattr(diffusion.statistics, field).at[0].set(value)
        broken = diffusion.replace(statistics=diffusion.statistics.replace(**{field: array}))
    unchanged()
    with pytest.raises(ValueError, match=rf"base policy .* not finite, in \['{name}'\]"):
        SkillLibrary.create(tmp_path / "new", broken)


def test_a_base_of_a_library_carries_no_skills(library, tmp_path, unchanged):
    unchanged()
    with pytest.raises(ValueError, match="a base policy carries no bank; merge it first"):
        SkillLibrary.create(tmp_path / "new", library.base.with_bank(library.bank()))
