"""What the policies of a library are for, stored beside them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import linen as nn

from psec_jax import SkillLibrary, load
from psec_jax.agents import provenance
from psec_jax.errors import BrokenFile
from psec_jax.learners import Purpose
from psec_jax.networks import Critic
from psec_jax.policies import Statistics
from psec_jax.skills.__main__ import main

NETWORK = Critic(hidden=(4,))


def make_purpose(base, seed=0):
    params = NETWORK.init(jax.random.key(seed), jnp.zeros((1, base.observation_size)))["params"]
    return Purpose(params, jnp.float32(0.7), base.statistics, NETWORK)


def two_rewards(base):
    network = nn.Dense(2)
    params = network.init(jax.random.key(0), jnp.zeros((1, base.observation_size)))["params"]
    return Purpose(params, jnp.float32(1.0), base.statistics, network)


def alike(one, other):
    assert one.network == other.network
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def metadata_of(file):
    with safetensors.safe_open(file, "numpy") as opened:
        facts = json.loads(opened.metadata()["facts"])
    return {name: value for name, value in facts.items() if name != "checksum"}


def test_purposes_come_back_bit_for_bit_and_change_nothing_else(library):
    of_base, of_skill = make_purpose(library.base, 1), make_purpose(library.base, 2)
    fingerprint, names = library.fingerprint, library.names()
    assert not library.has_purpose() and not library.has_purpose("walk")
    library.add_purpose(of_base, dataset="stand")
    library.add_purpose(of_skill, "walk")
    opened = SkillLibrary.open(library.path)
    assert opened.has_purpose() and opened.has_purpose("walk")
    assert alike(opened.purpose(), of_base) and alike(opened.purpose("walk"), of_skill)
    assert alike(load(library.path / "base" / "purpose"), of_base)
    assert (opened.fingerprint, opened.names()) == (fingerprint, names)


def test_list_says_of_whom_it_is_known(library, capsys):
    main(["list", str(library.path)])
    assert "purpose" not in capsys.readouterr().out
    library.add_purpose(make_purpose(library.base))
    library.add_purpose(make_purpose(library.base), "walk")
    main(["list", str(library.path)])
    lines = capsys.readouterr().out.splitlines()
    known = [line.split()[0] for line in lines if line.endswith("purpose known")]
    assert known == ["base", "walk"] and len(lines) > 2


def test_a_purpose_goes_where_its_skill_goes(library, tmp_path):
    purpose = make_purpose(library.base)
    library.add_purpose(purpose, "walk")
    library.rename("walk", "stroll")
    assert alike(library.purpose("stroll"), purpose)
    file = library.export("stroll", tmp_path / "stroll.safetensors")
    other = SkillLibrary.create(tmp_path / "other", library.base)
    assert other.import_file(file) == "stroll"
    assert alike(other.purpose("stroll"), purpose)
    library.remove("stroll")
    library.import_file(file, "walk")
    assert alike(library.purpose("walk"), purpose)


def test_a_skill_without_a_purpose_is_exported_as_before(library, tmp_path):
    file = library.export("walk", tmp_path / "walk.safetensors")
    assert "purpose" not in metadata_of(file)
    other = SkillLibrary.create(tmp_path / "other", library.base)
    other.import_file(file)
    assert not other.has_purpose("walk")


def test_unknown_and_taken_purposes_are_refused(library):
    with pytest.raises(KeyError, match="does not say what π₀ is for; learn it with learn_purpose"):
        library.purpose()
    with pytest.raises(KeyError, match="does not say what 'walk' is for"):
        library.purpose("walk")
    for ask in (library.purpose, library.has_purpose):
        with pytest.raises(KeyError, match="no skill 'fly'"):
            ask("fly")
    library.add_purpose(make_purpose(library.base, 1))
    with pytest.raises(FileExistsError):
        library.add_purpose(make_purpose(library.base, 2))
    assert alike(library.purpose(), make_purpose(library.base, 1))


def test_what_is_no_purpose_of_this_base_is_refused(library):
    purpose = make_purpose(library.base)
    wrong = {"hidden_0": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}}
    for given, match in (
        (purpose.replace(statistics=Statistics.identity(3)), "normalizes observations otherwise"),
        (purpose.replace(statistics=None), "normalizes observations otherwise"),
        (purpose.replace(params={**purpose.params, **wrong}), "do not fit each other"),
        (purpose.replace(usual=jnp.ones(2)), "do not fit each other"),
        (purpose.replace(usual=jnp.float32(-1.0)), "the purpose's usual reward is -1"),
        (purpose.replace(usual=float("nan")), "the purpose's usual reward is nan"),
        (two_rewards(library.base), r"gives \(2, 2\) for 2 states"),
        (library.get("walk"), "a Skill is no purpose"),
    ):
        with pytest.raises(ValueError, match=match):
            library.add_purpose(given)
        assert not library.has_purpose()


@pytest.mark.parametrize("damage", ["missing", "reshaped", "another class"])
def test_an_exported_file_whose_purpose_is_broken_adds_nothing(library, tmp_path, damage):
    library.add_purpose(make_purpose(library.base), "walk")
    file = library.export("walk", tmp_path / "walk.safetensors")
    tensors, metadata = safetensors.numpy.load_file(file), metadata_of(file)
    kernel = next(name for name in tensors if "purpose" in name and "hidden_0/kernel" in name)
    if damage == "missing":
        del tensors[kernel]
    elif damage == "reshaped":
        tensors[kernel] = np.ascontiguousarray(tensors[kernel][:2])
    else:
        text = json.dumps(metadata["purpose"])
        metadata["purpose"] = json.loads(text.replace('"Purpose"', '"Statistics"'))
    safetensors.numpy.save_file(tensors, file, {"facts": json.dumps(metadata)})
    other = SkillLibrary.create(tmp_path / "other", library.base)
    with pytest.raises(BrokenFile, match=r"walk\.safetensors: "):
        other.import_file(file)
    assert other.names() == ()


def test_what_was_recorded_of_a_purpose_is_exported_with_it(library, tmp_path):
    library.add_purpose(make_purpose(library.base), "walk", dataset="walker", seed=3)
    file = library.export("walk", tmp_path / "walk.safetensors")
    other = SkillLibrary.create(tmp_path / "other", library.base)
    other.import_file(file)
    recorded = provenance(other.path / "skills" / "walk" / "purpose")
    assert recorded == {"dataset": "walker", "seed": 3}


def test_a_skill_and_its_purpose_are_imported_both_or_neither(library, tmp_path, monkeypatch):
    library.add_purpose(make_purpose(library.base), "walk")
    file = library.export("walk", tmp_path / "walk.safetensors")
    other = SkillLibrary.create(tmp_path / "other", library.base)

    def fail(self, path, /, **provenance):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Purpose, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            other.import_file(file)
    assert [*(other.path / "skills").iterdir()] == []
    other.import_file(file)
    assert other.has_purpose("walk")
