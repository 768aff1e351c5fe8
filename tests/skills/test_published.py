"""Files of exactly the published structure: what is read, what it computes, what is refused."""

import argparse
import functools
import hashlib
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from published_states import (
    ACTION,
    ALPHA,
    OBSERVATION,
    RANK,
    agent,
    base_state,
    dense_shapes,
    lora_name,
    random_base,
    random_skill,
    reference,
    skills_state,
)

from psec_jax import SkillLibrary, Statistics
from psec_jax.skills.__main__ import main
from psec_jax.skills.published import SKILLS, import_published

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path):
    """Writes a pretrained file and a skills file, and gives the arguments that import them."""

    def write(base, skills, activation="swish"):
        for name, state in (("base", base), ("skills", skills)):
            data = state if isinstance(state, bytes) else pickle.dumps(state)
            (tmp_path / f"{name}.pickle").write_bytes(data)
        sources = (f"--{name}={tmp_path / name}.pickle" for name in ("base", "skills"))
        return ["import-psec", str(tmp_path / "new"), *sources, "--activation", activation]

    return write


@pytest.mark.parametrize(
    ("array", "container", "activation"),
    [
        (np.asarray, dict, "mish"),
        (np.asarray, freeze, "swish"),
        (jnp.asarray, dict, "swish"),
        (jnp.asarray, freeze, "mish"),
    ],
)
def test_imported_networks_compute_what_the_published_ones_do(
    array, container, activation, files, tmp_path
):
    base = base_state(array=array, container=container)
    main(files(base, skills_state(array=array, container=container), activation))
    library = SkillLibrary.open(tmp_path / "new")
    generator = np.random.default_rng(3)
    actions, observations = generator.normal(size=(5, ACTION)), generator.normal(size=(5, 5))
    inputs = actions, np.arange(5.0), observations
    loras = {None: [], "reward": [random_skill(1)], "safety": [random_skill(2)]}
    base = random_base(0)
    expected = {
        name: reference(base, lora, [ALPHA] * len(lora), activation, *inputs)
        for name, lora in loras.items()
    }
    found = {None: library.base.predict()(*map(jnp.float32, inputs))}
    for name in library.names():
        policy = library.base.with_bank(library.bank([name]))
        found[name] = policy.predict(jnp.ones(1))(*map(jnp.float32, inputs))
    assert expected.keys() == found.keys() == {None, "reward", "safety"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)
    assert np.abs(expected["reward"] - expected["safety"]).max() > 0.1
    assert np.abs(expected["reward"] - expected[None]).max() > 0.1


def test_what_is_not_an_array_is_recorded(files, tmp_path, capsys, same):
    main(files(base_state(steps=7), skills_state(base=base_state(steps=7))))
    library = SkillLibrary.open(tmp_path / "new")
    assert capsys.readouterr().out.startswith(f"base {library.fingerprint}, 2 skill(s)")
    backbone = library.base.backbone
    assert (backbone.schedule, backbone.diffusion_steps) == ("vp", 7)
    assert backbone.network.activation == "swish"
    assert same(library.base.statistics, Statistics.identity(OBSERVATION))
    for name, entry in SKILLS.items():
        skill = library.get(name)
        assert (skill.adapter.rank, skill.adapter.scale) == (RANK, ALPHA)
        assert skill.deltas.keys() == library.base.dense_layers().keys()
        digest = hashlib.sha256((tmp_path / "skills.pickle").read_bytes()).hexdigest()
        facts = {"file": "skills.pickle", "sha256": digest, "entry": entry}
        assert facts.items() < skill.provenance.items()
        assert "2502.05932" in skill.provenance["source"]


def in_one_row(skill):
    """A LoRA tree whose layers are numbered through in the order of the forward pass."""
    names = [lora_name(name) for name, _ in dense_shapes()]
    row = [f"LoRA_MLP_0/LoRALayer_{i}" for i in range(2)]
    row += [f"LoRAResNet_0/LoRALayer_{i}" for i in range(len(names) - 2)]
    return {
        f"{new}/{part}": skill[f"{name}/{part}"]
        for name, new in zip(names, row, strict=True)
        for part in ("lora_a", "lora_b")
    }


def with_capital_n(skill):
    return {name.replace("LoRAResnetBlock", "LoRAResNetBlock"): v for name, v in skill.items()}


@pytest.mark.parametrize("form", [in_one_row, with_capital_n])
def test_other_forms_of_the_lora_tree_give_the_same_skill(form, files, tmp_path, same):
    main(files(base_state(), skills_state(form(random_skill(2)))))
    library = SkillLibrary.open(tmp_path / "new")
    reward, safety = (dict(library.get(name).deltas) for name in ("reward", "safety"))
    assert form(random_skill(2)).keys() != random_skill(2).keys()
    assert same(reward, safety)


def test_a_base_alone_makes_a_library_and_the_scale_of_rank_8_is_16(files, tmp_path):
    skills = agent({entry: random_skill(1, 8) for entry in SKILLS.values()}, np.asarray, dict)
    command, path, base, _, *activation = files(base_state(), skills)
    main([command, path, base, *activation])
    assert SkillLibrary.open(path).names() == ()
    paths = (tmp_path / name for name in ("other", "base.pickle"))
    library = import_published(*paths, "mish", tmp_path / "skills.pickle")
    assert library.get("safety").adapter.scale == 16


def changed(state, path, value):
    """``state`` with another ``value`` at ``path``; None stands for nothing at all."""
    *folders, last = path.split("/")
    functools.reduce(dict.__getitem__, folders, state)[last] = value
    return state


ZEROS, NAN = np.zeros((4, 4), np.float32), np.full((3, 8), np.nan, np.float32)
POLICY, SAFETY = "target_score_model/params", "qc_target_lora_model/params"
NET, LORA = f"{POLICY}/MLPResNet_0", f"{SAFETY}/LoRAResNet_0"
WRONG_PARTS = [
    ("base", f"{NET}/MLPResNetBlock_0/LayerNorm_0", None, "are not those.*LayerNorm_0/bias'"),
    ("base", f"{NET}/Dense_2", {"kernel": ZEROS}, r"unknown \['MLPResNet_0/Dense_2/kernel'\]"),
    ("base", f"{NET}/Dense_0/kernel", ZEROS, r"not fit together: .*kernel is .*, expected \("),
    ("base", f"{NET}/Dense_1/kernel", ZEROS[0], r"Dense_1/kernel is float32 of shape \(4,\)"),
    ("base", f"{NET}/Dense_1/bias", np.zeros(ACTION), "Dense_1/bias is float64"),
    ("base", f"{NET}/Dense_1/bias", NAN[0, :ACTION], "bias holds values .*not finite"),
    ("base", "betas", np.linspace(1e-4, 2e-2, 5), "betas are not the paper's vp schedule of 5"),
    ("skills", f"{LORA}/LoRALayer_1/lora_b", ZEROS, r"lora_b is \(4, 4\), expected \(3, 2\)"),
    ("skills", f"{LORA}/LoRAResnetBlock_1", None, r"LoRA layers of a base of 2 block.*\['LoRAR"),
    ("skills", f"{LORA}/LoRALayer_2", {"lora_a": ZEROS}, "they hold .*LoRALayer_2/lora_a'"),
    ("skills", f"{LORA}/LoRALayer_0/lora_b", NAN, "lora_b holds values that are not finite"),
    ("skills", "alpha_r", None, "records no α for its skills of rank 3"),
    ("skills", "alpha_r", ZEROS, "records no α"),
    ("skills", "config", argparse.Namespace(a=1), "asks for 'argparse.Namespace'; nothing in it"),
]


@pytest.fixture
def refused(files, tmp_path, tree_of):
    """Asserts that importing two states ends in one line, and changes nothing on disk."""

    def refused(base, skills, message):
        arguments = files(base, skills)
        before = tree_of(tmp_path)
        with pytest.raises(SystemExit, match=f"error: .*{message}") as stop:
            main(arguments)
        assert "\n" not in str(stop.value)
        assert tree_of(tmp_path) == before

    return refused


@pytest.mark.parametrize(("which", "path", "value", "message"), WRONG_PARTS)
def test_wrong_parts_are_named_and_nothing_is_left(which, path, value, message, refused):
    states = {"base": base_state(), "skills": skills_state()}
    states[which] = changed(states[which], path, value)
    refused(**states, message=message)


def test_wrong_files_are_named_and_nothing_is_left(refused):
    base, skills = base_state(), skills_state()
    refused(skills, skills, r"base.pickle holds no target_.*\['alpha_r', 'disc")
    refused(base, base, "skills.pickle holds no q_target_lora_model/params")
    refused(base, pickle.dumps(skills)[:-99], "skills.pickle is no pickle of arrays")
    other = base_state(random_base(9))
    refused(other, skills, r"skills.pickle belongs to .* but the given base is \w+")


def test_a_library_that_is_there_stays_as_it_is(files, library, unchanged):
    _, _, *sources = files(base_state(), skills_state())
    unchanged()
    with pytest.raises(SystemExit, match="library exists already"):
        main(["import-psec", str(library.path), *sources])


def test_a_library_is_written_whole_or_not_at_all(refused, monkeypatch):
    add = SkillLibrary.add

    def fail_at_the_second(library, name, skill):
        if library.names():
            raise OSError("disk full")
        add(library, name, skill)

    monkeypatch.setattr(SkillLibrary, "add", fail_at_the_second)
    refused(base_state(), skills_state(), "disk full")
