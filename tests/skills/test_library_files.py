"""The files of a library: damaged ones are refused, and those of foreign networks are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn

from psec_jax import Bank, GaussianBackbone, Policy, SkillLibrary, storage
from psec_jax.errors import BaseMismatch, BrokenFile
from psec_jax.policies import fingerprint

KEY = jax.random.key(5)

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
    tensors, config = harm(tensors, metadata["adapter_config"])
    storage.write_tensors(file, tensors, {**metadata, "adapter_config": config})
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
        {"format": ["psec-skill"]},
        {"adapter_config": "{}"},
        {"adapter_config": []},
        {"adapter_config": None},
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


@pytest.mark.parametrize("earlier", [False, True])
def test_a_library_of_a_foreign_network_opens_with_that_network_only(
    tmp_path, foreign, observations, same, earlier
):
    """By itself where it is imported; earlier versions stored no import path."""
    SkillLibrary.create(tmp_path / "library", foreign)
    found = [{"network": Foreign()}, {}]
    if earlier:
        config = storage.read_json(tmp_path / "library" / "base" / "config.json")
        del config["description"]
        storage.write_json(tmp_path / "library" / "base" / "config.json", config)
        with pytest.raises(BrokenFile, match=r"'Foreign' is not part .*network=Foreign\(…\)"):
            SkillLibrary.open(tmp_path / "library")
        del found[1]
    with pytest.raises((BrokenFile, BaseMismatch)):
        SkillLibrary.open(tmp_path / "library", network=Foreign(width=9))
    for given in found:
        opened = SkillLibrary.open(tmp_path / "library", **given)
        assert opened.fingerprint == fingerprint(foreign)
        assert same(opened.base.act(KEY, observations), foreign.act(KEY, observations))


def test_the_file_of_a_base_of_ours_is_what_earlier_versions_read(library):
    config = storage.read_json(library.path / "base" / "config.json")
    assert config.keys() == {"backbone", "settings", "network", "network_settings"}
    assert config["backbone"] == "DiffusionBackbone" and config["network"] == "Denoiser"


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
