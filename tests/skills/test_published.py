"""Files of exactly the published structure: what is read, what it computes, what is refused."""

import argparse
import functools
import hashlib
import pickle

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from flax.core import freeze

from psec_jax import SkillLibrary, Statistics
from psec_jax.diffusion import vp_schedule
from psec_jax.skills.__main__ import main
from psec_jax.skills.published import SKILLS, import_published

OBSERVATION, ACTION, BLOCKS, RANK, ALPHA = 5, 2, 2, 3, 6
FEATURES, EXPANSION, FOURIER, HIDDEN = 8, 3, 4, 6  # of the network; of the time embedding
ACTIVATIONS = {
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def dense_shapes():
    """Published names of the dense layers, and their kernels' shapes, in forward order."""
    yield "MLP_0/Dense_0", (FOURIER, HIDDEN)
    yield "MLP_0/Dense_1", (HIDDEN, HIDDEN)
    yield "MLPResNet_0/Dense_0", (ACTION + OBSERVATION + HIDDEN, FEATURES)
    for index in range(BLOCKS):
        block = f"MLPResNet_0/MLPResNetBlock_{index}"
        yield f"{block}/Dense_0", (FEATURES, EXPANSION * FEATURES)
        yield f"{block}/Dense_1", (EXPANSION * FEATURES, FEATURES)
    yield "MLPResNet_0/Dense_1", (FEATURES, ACTION)


def lora_name(name):
    """The published name of the LoRA layer on a dense layer."""
    time = name.startswith("MLP_0")
    parts = name.replace("Dense", "LoRALayer").replace("MLPResNetBlock", "LoRAResnetBlock")
    return parts.replace("MLP_0", "LoRA_MLP_0") if time else parts.replace("MLP", "LoRA", 1)


def random_base(seed):
    generator = np.random.default_rng(seed)
    params = {"FourierFeatures_0/kernel": generator.normal(size=(FOURIER // 2, 1))}
    for name, shape in dense_shapes():
        params[f"{name}/kernel"] = generator.normal(size=shape) / shape[0] ** 0.5
        params[f"{name}/bias"] = generator.normal(size=shape[1])
    for index in range(BLOCKS):
        for part in ("scale", "bias"):
            name = f"MLPResNet_0/MLPResNetBlock_{index}/LayerNorm_0/{part}"
            params[name] = generator.normal(size=FEATURES)
    return {name: value.astype(np.float32) for name, value in params.items()}


def random_skill(seed, rank=RANK):
    generator, params = np.random.default_rng(seed), {}
    for name, (d_in, d_out) in dense_shapes():
        params[f"{lora_name(name)}/lora_a"] = generator.normal(size=(d_in, rank)) / 8
        params[f"{lora_name(name)}/lora_b"] = generator.normal(size=(rank, d_out)) / 8
    return {name: value.astype(np.float32) for name, value in params.items()}


def reference(base, lora, activation, actions, time, observations):
    """The published forward pass, dropout off; ``lora`` is None for the pretrained policy."""
    activate = ACTIVATIONS[activation]

    def dense(name, x):
        y = x @ base[f"{name}/kernel"] + base[f"{name}/bias"]
        if lora is not None:
            a, b = (lora[f"{lora_name(name)}/{part}"] for part in ("lora_a", "lora_b"))
            y = y + ALPHA * (x @ a) @ b
        return y

    angles = 2 * np.pi * time[:, None] @ base["FourierFeatures_0/kernel"].T
    embedding = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    embedding = dense("MLP_0/Dense_1", activate(dense("MLP_0/Dense_0", embedding)))
    x = np.concatenate([actions, observations, embedding], axis=-1)
    x = dense("MLPResNet_0/Dense_0", x)
    for index in range(BLOCKS):
        block = f"MLPResNet_0/MLPResNetBlock_{index}"
        centred = x - x.mean(axis=-1, keepdims=True)
        h = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
        h = h * base[f"{block}/LayerNorm_0/scale"] + base[f"{block}/LayerNorm_0/bias"]
        x = x + dense(f"{block}/Dense_1", activate(dense(f"{block}/Dense_0", h)))
    return dense("MLPResNet_0/Dense_1", activate(x))


def agent(networks, array, container, **facts):
    """The state dict of an agent: ``networks`` (name → flat parameters) and numbers beside.

    The network whose average is named ``target`` is stored beside it, with other weights and the
    state of its optimiser.
    """
    state = {"actor": None, "rng": array(np.zeros(2, np.uint32)), "discount": 0.99, **facts}
    for name, flat in networks.items():
        params = traverse_util.unflatten_dict(flat, sep="/")
        average = container(jax.tree.map(array, params))
        state[name] = {"step": 1, "params": average, "opt_state": None}
        other = jax.tree.map(lambda x: jnp.asarray(x + 1), params)
        moments = flax.serialization.to_state_dict(optax.adamw(1e-3).init(other))
        network = {"step": jnp.int32(1), "params": other, "opt_state": moments}
        state[name.replace("target_", "")] = network
    return state


def base_state(base=None, array=np.asarray, container=dict, steps=5):
    networks = {"target_score_model": random_base(0) if base is None else base}
    return agent(networks, array, container, betas=array(1 - vp_schedule(steps).alphas))


def skills_state(reward=None, array=np.asarray, container=dict, base=None):
    reward = random_skill(1) if reward is None else reward
    networks = {"q_target_lora_model": reward, "qc_target_lora_model": random_skill(2)}
    facts = {"alpha_r": array(np.int32(ALPHA)), "pretrain_weights": base or base_state()}
    return agent(networks, array, container, **facts)


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
    loras = {None: None, "reward": random_skill(1), "safety": random_skill(2)}
    base = random_base(0)
    expected = {name: reference(base, loras[name], activation, *inputs) for name in loras}
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
