"""Whole agents of the published structure: what they compute and how they act, in plain NumPy."""

import argparse
import pickle

import jax
import numpy as np
import pytest
from published_states import (
    ACTION,
    ALPHA,
    OBSERVATION,
    base_state,
    critic_networks,
    dynamic_composition_state,
    dynamic_skill_state,
    mlp,
    q_values,
    random_base,
    random_context,
    random_q,
    random_skill,
    random_value,
    reference,
    safe_composition_state,
    safe_skills_state,
)

from psec_jax import BestOf, SkillLibrary
from psec_jax.composition import ComposedPolicy
from psec_jax.diffusion import vp_schedule
from psec_jax.errors import BaseMismatch, BrokenFile
from psec_jax.policies import fingerprint
from psec_jax.skills.__main__ import main
from psec_jax.skills.published import (
    import_published,
    read_agent,
    read_base,
    read_critics,
    read_skills,
)

pytestmark = pytest.mark.slow

KEY = jax.random.key(5)
STATES = {
    "base": base_state,
    "skills": safe_skills_state,
    "composition": safe_composition_state,
    "dynamic": lambda: dynamic_skill_state(2, alpha=5),
    "dynamic_composition": dynamic_composition_state,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    paths = {name: folder / f"{name}.pickle" for name in STATES}
    for name, path in paths.items():
        path.write_bytes(pickle.dumps(STATES[name]()))
    return paths


@pytest.fixture(scope="module")
def inputs():
    generator = np.random.default_rng(3)
    shapes = ((5, ACTION), (5,), (5, OBSERVATION))
    actions, _, observations = (generator.normal(size=s).astype(np.float32) for s in shapes)
    return actions, np.arange(5, dtype=np.float32), observations


def predicted(policy, actions, time, observations):
    """The noise that a composed policy predicts at its own weights."""
    return policy.base.predict(policy.weights(observations))(actions, time, observations)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_composition_computes_what_the_published_one_does(files, inputs):
    """All of it from one file: π₀, both skills, the context network and the critics."""
    found = read_agent(files["composition"])
    actions, _, observations = inputs
    assert isinstance(found, BestOf)
    assert found.names == ("reward", "safety")
    alphas = mlp(random_context(5), "OutputVDense", observations)
    close(ALPHA * found.weights(observations), alphas)
    loras = random_skill(1), random_skill(2)
    expected = reference(random_base(0), loras, alphas.T, "swish", *inputs)
    close(predicted(found.policy, *inputs), expected)
    close(found.scorer(observations, actions), -q_values(random_q(12), *inputs[::-2]).max(axis=0))


def test_the_second_skill_of_the_branch_dynamic_comes_from_its_own_file(files, inputs):
    """With an α of its own; the composition's critics are the ones that were trained with it."""
    found = read_agent(files["dynamic_composition"], files["dynamic"])
    actions, _, observations = inputs
    assert found.names == ("lora0", "target")
    assert found.candidates == 3
    alphas = mlp(random_context(6), "OutputVDense", observations)
    close(found.weights(observations) * np.float32([ALPHA, 5]), alphas)
    loras = random_skill(1), random_skill(2)
    expected = reference(random_base(0), loras, alphas.T, "mish", *inputs)
    close(predicted(found.policy, *inputs), expected)
    close(found.scorer(observations, actions), q_values(random_q(33), *inputs[::-2]).min(axis=0))


@pytest.mark.parametrize(("skill", "seed"), [("reward", 1), ("safety", 2)])
def test_a_skill_of_the_safe_setting_acts_alone_by_the_best_of_its_candidates(
    skill, seed, files, inputs
):
    found = read_agent(skills=files["skills"], skill=skill)
    actions, _, observations = inputs
    expected = reference(random_base(0), [random_skill(seed)], [ALPHA], "swish", *inputs)
    close(predicted(found.policy, *inputs), expected)
    assert (found.names, found.candidates) == ((skill,), 64)
    close(found.scorer(observations, actions), -q_values(random_q(12), *inputs[::-2]).max(axis=0))
    assert read_agent(skills=files["skills"], skill=skill, candidates=8).candidates == 8


def test_a_skill_of_the_branch_dynamic_acts_alone_by_its_first_candidate(files, inputs):
    found = read_agent(skills=files["dynamic"])
    assert isinstance(found, ComposedPolicy)
    assert found.names == ("target",)
    expected = reference(random_base(0), [random_skill(2)], [5], "mish", *inputs)
    close(predicted(found, *inputs), expected)
    best = read_agent(skills=files["dynamic"], candidates=2)
    actions, _, observations = inputs
    assert best.candidates == 2
    close(best.scorer(observations, actions), q_values(random_q(32), *inputs[::-2]).min(axis=0))


def test_another_activation_may_be_asked_for(files, inputs):
    found = read_agent(skills=files["dynamic"], activation="swish")
    expected = reference(random_base(0), [random_skill(2)], [5], "swish", *inputs)
    close(predicted(found, *inputs), expected)


def sampled(key, observations, predict):
    """The published sampler, with the random numbers that ours draws from ``key``."""
    schedule = vp_schedule(5)
    keys = jax.random.split(key, 6)
    actions = np.asarray(jax.random.normal(keys[0], (len(observations), ACTION)))
    for time, step_key in zip(range(4, -1, -1), keys[1:], strict=True):
        alpha, bar = schedule.alphas[time], schedule.alpha_bars[time]
        noise = predict(actions, np.full(len(actions), time), observations)
        actions = (actions - (1 - alpha) / np.sqrt(1 - bar) * noise) / np.sqrt(alpha)
        z = np.asarray(jax.random.normal(step_key, actions.shape))
        actions = np.clip(actions + (time > 0) * np.sqrt(1 - alpha) * z, -1, 1)
    return actions


def test_acting_is_the_published_sampler_and_the_choice_of_the_least_cost(files):
    """Noise of variance β_t, weights held through the steps, N candidates as recorded."""
    found = read_agent(files["composition"])
    assert found.candidates == 4
    observations = np.random.default_rng(4).normal(size=(16, OBSERVATION)).astype(np.float32)
    alphas = mlp(random_context(5), "OutputVDense", observations)
    loras = random_skill(1), random_skill(2)

    def predict(*inputs):
        return reference(random_base(0), loras, alphas.T, "swish", *inputs)

    keys = jax.random.split(KEY, 4)
    candidates = np.stack([sampled(key, observations, predict) for key in keys])
    costs = np.stack([q_values(random_q(12), observations, c).max(axis=0) for c in candidates])
    best = np.argmin(costs, axis=0)
    expected = candidates[best, np.arange(16)]
    # Rounding must not choose between different actions.
    near = costs < costs.min(axis=0) + 0.01
    sure = ~np.any(near[..., None] & (np.abs(candidates - expected) > 1e-6), axis=(0, 2))
    assert len(set(best[sure])) > 1
    assert np.sum(np.abs(expected[sure]) < 1) > 3
    acted = found.act(KEY, observations)
    np.testing.assert_allclose(acted[sure], expected[sure], atol=2e-3)


@pytest.mark.parametrize("file", ["skills", "composition"])
def test_trained_critics_are_read_with_their_values(file, files, inputs):
    """Those of a composition are its first skills': its own are as they were initialized."""
    actions, _, observations = inputs
    critics = read_critics(files[file])
    networks = critic_networks(10)
    assert critics.keys() == {"reward", "safety"}
    for aim, q, value in (("reward", "target_critic", "value"), ("safety", *list(networks)[2:])):
        close(critics[aim].qs(observations, actions), q_values(networks[q], *inputs[::-2]))
        expected = mlp(networks[value], "OutputVDense", observations)[:, 0]
        close(critics[aim].value(observations), expected)
    assert critics["reward"].greater_is_better
    assert not critics["safety"].greater_is_better


def test_a_value_without_a_norm_needs_no_network_of_its_own(files, inputs):
    critics = read_critics(files["dynamic"])["reward"]
    assert critics.value_network is None
    expected = mlp(random_value(42, norm=False), "OutputVDense", inputs[2])[:, 0]
    close(critics.value(inputs[2]), expected)


def test_a_library_of_a_composition_alone_is_that_of_its_files(files, tmp_path, same):
    """One file holds π₀ and both skills; given again in their own files they are the same."""
    composition = files["composition"]
    alone = import_published(tmp_path / "a", None, "swish", composition=composition)
    parts = import_published(tmp_path / "b", files["base"], "swish", files["skills"])
    whole = import_published(tmp_path / "c", files["base"], "swish", files["skills"], composition)
    for library in (alone, parts, whole):
        opened = SkillLibrary.open(library.path)
        assert opened.fingerprint == alone.fingerprint
        assert opened.names() == ("reward", "safety")
        for name in opened.names():
            assert same(dict(opened.get(name).deltas), dict(alone.get(name).deltas))
    assert alone.get("safety").provenance["entry"] == "lora0/qc_target_lora_model"
    agent = read_agent(composition)
    assert agent.policy.base.bank.base == alone.fingerprint


def test_skills_of_the_branch_dynamic_get_names_in_a_library(files, tmp_path):
    library = import_published(tmp_path / "a", files["base"], "mish", files["dynamic"])
    assert library.names() == ("target",)
    assert library.get("target").adapter.scale == 5
    assert library.get("target").provenance["entry"] == "target_score_model"
    other = import_published(
        tmp_path / "b", None, "mish", files["dynamic"], files["dynamic_composition"]
    )
    assert other.names() == ("lora0", "target")
    assert other.get("lora0").provenance["entry"] == "lora0/target_score_model"
    first = import_published(
        tmp_path / "c", None, "mish", composition=files["dynamic_composition"]
    )
    assert first.names() == ("lora0",)


@pytest.mark.parametrize(("options", "noise"), [({}, "beta"), ({"noise": "posterior"},) * 2])
def test_an_imported_base_adds_the_noise_of_the_published_sampler(options, noise, files, tmp_path):
    noise = noise if isinstance(noise, str) else noise["noise"]
    library = import_published(tmp_path / "a", files["base"], "mish", **options)
    assert SkillLibrary.open(library.path).base.backbone.noise == noise
    base = read_base(files["base"], "mish", noise)
    assert fingerprint(base) == library.fingerprint


def test_what_was_taken_and_what_was_left_out_is_said(files, tmp_path, capsys):
    """A line each; together they name every entry of the file, and none twice."""
    sources = [f"--composition={files['composition']}", "--activation=swish"]
    main(["import-psec", str(tmp_path / "new"), *sources])
    first, reward, safety, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("2 skill(s)")
    assert (reward.split()[0], safety.split()[0]) == ("reward", "safety")
    heads = ["taken", "for read_agent and read_critics", "left out"]
    named = []
    for line, head in zip(lines, heads, strict=True):
        start = f"{files['composition']}: {head}: "
        assert line.startswith(start)
        named.append(line.removeprefix(start).split(", "))
    taken, readable, left_out = map(set, named)
    assert {"pretrain_weights/target_score_model", "lora0/qc_target_lora_model"} <= taken
    assert {"value", "lora0/safe_target_critic", "N"} <= readable
    assert {"rng", "safe_target_critic", "target_lora_model", "lora0/discount"} <= left_out
    assert sum(map(len, named)) == len(taken | readable | left_out)
    for container, state in (("", safe_composition_state()), ("lora0/", safe_skills_state())):
        kept = {f"{container}{name}" for name, value in state.items() if value is not None}
        kept -= {f"{container}{name}" for name in ("pretrain_weights", "lora0")}
        assert kept <= taken | readable | left_out


def altered(state, **changes):
    """``state`` with other values at paths whose parts are joined by two underscores."""
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = state
        for folder in folders:
            place = place[folder]
        place[last] = value
    return state


def score_composition_state():
    """A composition of noise: the layout of skills, with two weights where V would be."""
    state = safe_skills_state()
    return altered(state, value=safe_composition_state()["value"])


def with_critic_of(size, entry="safe_target_critic"):
    state = safe_composition_state()
    kernel = np.zeros((2, size, 7), np.float32)
    first = state["lora0"][entry]["params"]["VmapStateActionValue_0"]["MLP_0"]["Dense_0"]
    first["kernel"] = kernel
    return state


def with_normed_context():
    state = safe_composition_state()
    norm = {"scale": np.ones(OBSERVATION, np.float32), "bias": np.zeros(OBSERVATION, np.float32)}
    state["value"]["params"]["MLP_0"]["LayerNorm_0"] = norm
    return state


def with_wide_context():
    state = safe_composition_state()
    output = {"kernel": np.zeros((6, 3), np.float32), "bias": np.zeros(3, np.float32)}
    state["value"]["params"]["OutputVDense"] = output
    return state


def on_another_base():
    state = safe_composition_state()
    state["lora0"]["pretrain_weights"] = base_state(random_base(7))
    return state


SEVEN = 1 - vp_schedule(7).alphas
WRONG = {
    "no file": ({}, {}, ValueError, "give the file of a composition, or of skills"),
    "skill of a composition": (
        {"composition": safe_composition_state},
        {"skill": "reward"},
        ValueError,
        "give composition or skill='reward', not both",
    ),
    "which skill": (
        {"skills": safe_skills_state},
        {},
        ValueError,
        r"skill None is not in .*skills.pickle; .* from \['reward', 'safety'\]",
    ),
    "unknown skill": (
        {"skills": safe_skills_state},
        {"skill": "walk"},
        ValueError,
        r"skill 'walk' is not in .*\['reward', 'safety'\]",
    ),
    "skills for a composition": (
        {"composition": safe_skills_state},
        {},
        BrokenFile,
        "composition.pickle is not the file of a composition: it holds no agent 'lora0'",
    ),
    "composition for skills": (
        {"skills": safe_composition_state},
        {},
        BrokenFile,
        "skills.pickle is the file of a composition, .*; give it as composition",
    ),
    "composition of noise": (
        {"skills": score_composition_state},
        {"skill": "reward"},
        BrokenFile,
        "is a composition of noise or of actions: .*; give the file of the skills",
    ),
    "second skill": (
        {"composition": dynamic_composition_state},
        {},
        ValueError,
        r"mixes the skills \['lora0', 'target'\] and does not hold \['target'\]; give the file",
    ),
    "different skills": (
        {
            "composition": safe_composition_state,
            "skills": lambda: altered(safe_skills_state(), alpha_r=np.int32(7)),
        },
        {},
        ValueError,
        "skills.pickle and .*composition.pickle hold different skills 'reward'",
    ),
    "temperature": (
        {"composition": lambda: altered(safe_composition_state(), ddpm_temperature=0.5)},
        {},
        BrokenFile,
        "ddpm_temperature is 0.5; only agents that sample at temperature 1",
    ),
    "steps": (
        {"skills": lambda: altered(safe_skills_state(), betas=SEVEN)},
        {"skill": "reward"},
        BrokenFile,
        "betas are those of 7 diffusion steps, but the policy was pretrained with 5",
    ),
    "schedule": (
        {"skills": lambda: altered(safe_skills_state(), alpha_hats=np.ones(5, np.float32))},
        {"skill": "reward"},
        BrokenFile,
        "alpha_hats are not the paper's vp schedule of 5 steps",
    ),
    "another base": (
        {"composition": on_another_base},
        {},
        BaseMismatch,
        r"composition.pickle \(lora0\) belongs to the base policy",
    ),
    "no base": (
        {"skills": lambda: altered(safe_skills_state(), pretrain_weights=None)},
        {"skill": "reward"},
        BrokenFile,
        "holds no pretrain_weights/target_score_model; give the pretrained file too",
    ),
    "context with a norm": (
        {"composition": with_normed_context},
        {},
        BrokenFile,
        "value/params are not those of a published context network: .*LayerNorm_0/bias",
    ),
    "context of three": (
        {"composition": with_wide_context},
        {},
        BrokenFile,
        r"value/params do not fit together: OutputVDense/.* is .*3.*, expected ",
    ),
    "critic of another size": (
        {"composition": lambda: with_critic_of(9)},
        {},
        BrokenFile,
        "lora0/safe_target_critic takes 9 numbers and lora0/safe_value 5, .*action, 7,",
    ),
    "critic of a state alone": (
        {"composition": lambda: with_critic_of(5, "target_critic")},
        {},
        BrokenFile,
        "lora0/target_critic takes 5 numbers",
    ),
    "no candidates": (
        {"composition": lambda: safe_composition_state(0)},
        {},
        BrokenFile,
        "records 0.0 as N, the number of candidates",
    ),
    "no number of candidates": (
        {"composition": lambda: altered(safe_composition_state(), N=None)},
        {},
        BrokenFile,
        "records None as N, .*; give candidates",
    ),
    "no critics": (
        {"skills": lambda: altered(dynamic_skill_state(1), value=None)},
        {"candidates": 2},
        ValueError,
        "holds no critics to choose the best of 2 candidates by",
    ),
    "what is no array": (
        {"composition": lambda: altered(safe_composition_state(), lora0__x=argparse.Namespace())},
        {},
        BrokenFile,
        "asks for 'argparse.Namespace'; nothing in it was run",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_make_an_agent_is_refused(case, tmp_path):
    states, options, error, message = WRONG[case]
    paths = {}
    for name, state in states.items():
        paths[name] = tmp_path / f"{name}.pickle"
        paths[name].write_bytes(pickle.dumps(state()))
    with pytest.raises(error, match=message) as refusal:
        read_agent(**paths, **options)
    assert "\n" not in str(refusal.value)


def test_skills_are_not_read_from_a_composition_of_noise(files, tmp_path):
    """Its own LoRA weights are as they were initialized, and would silently be no skills."""
    path = tmp_path / "score.pickle"
    path.write_bytes(pickle.dumps(score_composition_state()))
    base = read_base(files["base"], "swish")
    assert read_skills(files["skills"], base).keys() == {"reward", "safety"}
    with pytest.raises(BrokenFile, match="composition of noise or of actions"):
        read_skills(path, base)


def test_a_damaged_critic_is_not_imported_around(tmp_path, capsys):
    path = tmp_path / "composition.pickle"
    path.write_bytes(pickle.dumps(with_critic_of(9)))
    with pytest.raises(SystemExit, match="lora0/safe_target_critic takes 9 numbers"):
        main(["import-psec", str(tmp_path / "x"), f"--composition={path}", "--activation=mish"])
    assert [p.name for p in tmp_path.iterdir()] == ["composition.pickle"]


def test_an_import_of_nothing_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="give at least one file: base, skills or composition"):
        main(["import-psec", str(tmp_path / "x"), "--activation=mish"])
    assert not list(tmp_path.iterdir())
