"""Agents as files: what comes back is what was saved, and whatever else is refused."""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import flows
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import psec_jax as psec
from psec_jax import BestOf, Policy, agents, storage
from psec_jax.composition import ComposedPolicy, NoiseLevel
from psec_jax.descriptions import build
from psec_jax.errors import BaseMismatch, BrokenFile, NotImported
from psec_jax.learners import Critics, FeasibleFirst
from psec_jax.networks import ContextNetwork, Critic

KEY = jax.random.key(7)
TESTS = Path(__file__).parent


def composed(policy, level, context=None):
    """With weights that do depend on the state."""
    context = ContextNetwork(policy.bank.size, hidden=(4,)) if context is None else context
    made = ComposedPolicy.create(policy, context, level, KEY)
    params = jax.tree.map(lambda leaf: leaf + 0.1, made.context_params)
    return made.with_context(params)


def critics(statistics, better=True, **options):
    network, size = Critic(hidden=(4,)), len(statistics.mean)
    states, actions = jnp.zeros((1, size)), jnp.zeros((1, 2))
    q = jax.vmap(lambda key: network.init(key, states, actions)["params"])(jax.random.split(KEY))
    value = options.get("value_network", network).init(KEY, states)["params"]
    return Critics(value, q, statistics, network, better, **options)


@pytest.fixture(scope="module")
def kinds(diffusion, gaussian, statistics, make_bank):
    """One agent of every kind, by name."""
    banked = diffusion.with_bank(make_bank(diffusion))
    acting = gaussian.with_bank(make_bank(gaussian))
    flow = Policy.create(flows.FlowMatching(2), statistics, KEY)
    carrying = flow.with_bank(make_bank(flow, ({"rank": 2}, {"kind": "full"})))
    plain = critics(statistics)
    normed = critics(statistics, False, value_network=Critic(hidden=(3,), input_norm=True))
    fixed = composed(acting, "action").with_fixed(np.float32([0.2, 0.3, -0.1]))
    weighed = composed(acting, "parameter")
    return {
        "policy": diffusion,
        "policy with a bank": banked,
        "parameter level": composed(banked, "parameter"),
        "noise level without π₀": composed(banked, NoiseLevel(base_enters=False)),
        "fixed weights at the action level": fixed,
        "best of": BestOf(gaussian, plain, 3),
        "best of a mixture, feasible first": BestOf(weighed, FeasibleFirst(normed, plain), 2),
        "critics": normed,
        "own backbone": carrying,
        "own backbone, noise level, own context": composed(carrying, "noise", flows.Mixer(2)),
        "own scorer": BestOf(BestOf(gaussian, plain, 2), flows.Nearness(jnp.ones(2), 0.5), 3),
    }


NAMES = [
    "policy",
    "policy with a bank",
    "parameter level",
    "noise level without π₀",
    "fixed weights at the action level",
    "best of",
    "best of a mixture, feasible first",
    "critics",
    "own backbone",
    "own backbone, noise level, own context",
    "own scorer",
]


def behavior(agent, observations):
    """The bytes of what an agent gives."""
    if isinstance(agent, Critics):
        actions = np.tanh(observations[:, :2])
        return b"".join(
            np.asarray(part).tobytes()
            for part in (agent.value(observations), agent(observations, actions))
        )
    return np.asarray(agent.act(KEY, observations)).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_is_what_was_saved(kinds, tmp_path, observations, same, name):
    agent = kinds[name]
    agent.save(tmp_path / "agent", dataset="walk", steps=np.int64(3))
    loaded = psec.load(tmp_path / "agent")
    assert same(loaded, agent)
    assert repr(loaded) == repr(agent)
    assert type(loaded) is type(agent)
    assert behavior(loaded, observations) == behavior(agent, observations)
    assert agents.provenance(tmp_path / "agent") == {"dataset": "walk", "steps": 3}
    assert {path.name for path in (tmp_path / "agent").iterdir()} == {
        "agent.json",
        "tensors.safetensors",
    }


LOADS = """
import hashlib, sys
import flows, jax, numpy as np
from test_agents import behavior
import psec_jax as psec
observations = np.load(sys.argv[1])
for path in sys.argv[2:]:
    print(hashlib.sha256(behavior(psec.load(path), observations)).hexdigest())
"""
MAKES = """
import hashlib, sys
import jax, numpy as np
from test_agents import behavior
import psec_jax as psec
from psec_jax.networks import ContextNetwork, Denoiser
observations = np.load(sys.argv[1])
backbone = psec.DiffusionBackbone(2, Denoiser(8, 1, time_features=4, time_hidden=4))
statistics = psec.Statistics.of(observations)
base = psec.Policy.create(backbone, statistics, jax.random.key(0))
skill = psec.Skill(psec.Adapter(rank=2).fresh(jax.random.key(1), base.dense_layers()),
                   psec.Adapter(rank=2), psec.policies.fingerprint(base))
policy = base.with_bank(psec.Bank.of({"a": skill}))
context, key = ContextNetwork(1, (4,)), jax.random.key(2)
agent = psec.composition.ComposedPolicy.create(policy, context, "parameter", key)
for path, one in zip(sys.argv[2:], (policy, agent), strict=True):
    one.save(path)
    print(hashlib.sha256(behavior(one, observations)).hexdigest())
"""


def python(code, *arguments, **environment):
    """The lines that a fresh process prints, in which JAX computes as in this one."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_a_fresh_process_loads_the_same_behavior(kinds, tmp_path, observations):
    np.save(tmp_path / "observations.npy", observations)
    paths = [tmp_path / str(number) for number in range(len(kinds))]
    for path, agent in zip(paths, kinds.values(), strict=True):
        agent.save(path)
    expected = [
        hashlib.sha256(behavior(agent, observations)).hexdigest() for agent in kinds.values()
    ]
    assert python(LOADS, tmp_path / "observations.npy", *paths) == expected


def test_so_does_one_with_jax_enable_x64(tmp_path, observations):
    np.save(tmp_path / "observations.npy", observations)
    arguments = tmp_path / "observations.npy", tmp_path / "policy", tmp_path / "agent"
    made = python(MAKES, *arguments, JAX_ENABLE_X64="1")
    assert python(LOADS, *arguments, JAX_ENABLE_X64="1") == made
    assert {len(line) for line in made} == {64}


def test_parameters_that_policies_share_are_stored_once(kinds, tmp_path):
    """Of the policies that are mixed at the noise level, all but what the skills adapt."""
    agent = kinds["own backbone, noise level, own context"]
    agent.save(tmp_path / "agent")
    tensors, _ = storage.read_tensors(tmp_path / "agent" / "tensors.safetensors")
    arrays = {id(leaf): leaf for leaf in jax.tree.leaves(agent)}
    assert len(tensors) == len(arrays) < len(jax.tree.leaves(agent))


def test_an_agent_is_told_from_others(kinds, tmp_path):
    agent, other = kinds["best of"], kinds["own scorer"]
    assert not agents.is_saved(agent, tmp_path / "agent")
    agent.save(tmp_path / "agent", seed=1)
    assert agents.is_saved(agent, tmp_path / "agent")
    assert not agents.is_saved(other, tmp_path / "agent")
    assert not agents.is_saved(dataclasses.replace(agent, candidates=4), tmp_path / "agent")


def test_where_something_is_nothing_is_saved(kinds, tmp_path, tree_of):
    kinds["policy"].save(tmp_path / "agent")
    before = tree_of(tmp_path)
    with pytest.raises(FileExistsError, match="agent exists already; remove it or choose another"):
        kinds["best of"].save(tmp_path / "agent")
    assert tree_of(tmp_path) == before


# What cannot be stored.


def score(target, observations, actions):
    return -jnp.sum(jnp.square(actions - target), axis=-1)


@flows.struct.dataclass
class Bound:
    """Holds something."""

    of: object = flows.struct.field(pytree_node=False)

    def __call__(self, observations, actions):
        return actions.sum(axis=-1)


@flows.struct.dataclass
class Leaf:
    """Holds what may be traced."""

    of: object

    def __call__(self, observations, actions):
        return actions.sum(axis=-1)


def local():
    @flows.struct.dataclass
    class Inside(Bound):
        pass

    return Inside(1)


UNSTORABLE = {
    "Partial": (
        lambda: jax.tree_util.Partial(score, jnp.ones(2)),
        r"BestOf.scorer cannot be stored: it is a jax.*Partial of score; .*flax.struct dataclass",
    ),
    "lambda": (lambda: Bound(lambda x: x), r"BestOf.scorer.of cannot be stored: .*<lambda>"),
    "local class": (local, r"BestOf.scorer cannot be stored: .*<locals>.Inside .*top of a module"),
    "method": (lambda: Bound("".join), r"BestOf.scorer.of cannot be stored: it is a builtins"),
    "object": (lambda: Bound((1, object())), r"BestOf.scorer.of\[1\] cannot be stored: .*object"),
    "module": (lambda: Bound({"m": (os,)}), r"BestOf.scorer.of\[m\]\[0\] cannot be stored"),
    "system": (lambda: Bound(os.system), r"BestOf.scorer.of cannot be stored: it is a builtins"),
    "library": (lambda: Bound(shutil.rmtree), r"shutil:rmtree could not be found again"),
    "key": (lambda: Bound(KEY), r"BestOf.scorer.of is an array of key<fry>"),
    "bfloat16": (lambda: Bound(jnp.ones(2, "bfloat16")), r"scorer.of is an array of bfloat16"),
    "NaN": (lambda: flows.Nearness(jnp.full(2, np.nan)), r"scorer.target holds .* not finite"),
    "misfit": (lambda: flows.Nearness(jnp.ones(3)), r"could not be loaded again: its parts do no"),
}


@pytest.mark.parametrize("what", UNSTORABLE)
def test_what_cannot_be_stored_is_named_before_anything_is_written(gaussian, tmp_path, what):
    scorer, message = UNSTORABLE[what]
    with pytest.raises(ValueError, match=message):
        BestOf(gaussian, scorer(), 2).save(tmp_path / "new" / "agent")
    assert not list(tmp_path.iterdir())


@flows.struct.dataclass
class Growing(Leaf):
    """Is not made again by its fields."""

    def __post_init__(self):
        object.__setattr__(self, "of", self.of + 1)


def test_what_would_not_be_the_same_is_not_saved(gaussian, tmp_path):
    with pytest.raises(ValueError, match="would not be the same when it is loaded: some class"):
        BestOf(gaussian, Growing(1), 2).save(tmp_path / "agent")
    assert not list(tmp_path.iterdir())


def test_provenance_is_json(kinds, tmp_path):
    with pytest.raises(TypeError, match=r"provenance.dataset is not JSON"):
        kinds["policy"].save(tmp_path / "agent", dataset=object())
    with pytest.raises(ValueError, match="Skill is no agent that can be saved; expected one of"):
        agents.save(psec.Skill({}, psec.Adapter(), "0"), tmp_path / "agent")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "setting",
    [
        nn.relu,
        nn.swish,
        jnp.tanh,
        jax.nn.mish,
        flows.bent,
        functools.partial(nn.leaky_relu, negative_slope=0.2),
        nn.Dense,
        flows.Mixer,
        nn.Sequential((nn.Dense(3, name="first"), nn.relu)),
        jnp.float32,
        np.float32,
        float("inf"),
        "",
        ((1, 2.5), (None, True), "x"),
        nn.FrozenDict({"b": 1, "a": 2}),
    ],
)
def test_settings_come_back_as_they_were(gaussian, tmp_path, setting):
    BestOf(gaussian, Bound(setting), 2).save(tmp_path / "agent")
    functions = {"flows:bent": flows.bent}
    found = psec.load(tmp_path / "agent", custom_objects=functions).scorer.of
    assert type(found) is type(setting)
    assert repr(found) == repr(setting)
    if callable(setting) and not isinstance(setting, nn.Module | functools.partial):
        assert found is setting


@pytest.mark.parametrize(
    "array",
    [np.arange(3), np.array(True), jnp.arange(4, dtype="uint8"), np.float16([0.1]), np.int8(3)],
    ids=str,
)
def test_arrays_of_other_types_come_back_as_they_were(gaussian, tmp_path, array):
    given = {"b": [array, array], "a": {2: array, 0: 1}}
    BestOf(gaussian, Leaf(given), 2).save(tmp_path / "agent")
    found = psec.load(tmp_path / "agent").scorer.of
    assert repr(found) == repr(given)
    for leaf in (*found["b"], found["a"][2]):
        assert type(leaf) is type(array)
        assert leaf.dtype == array.dtype


def test_double_precision_is_not_lost_silently():
    with pytest.raises(BrokenFile, match="is float64, which JAX makes float32: set jax_enable_x6"):
        build({"array": "x"}, {"x": np.zeros(2)})


def test_arrays_that_are_shared_are_shared_again(gaussian, tmp_path):
    array = jnp.arange(2.0)
    BestOf(gaussian, Leaf((array, [array])), 2).save(tmp_path / "agent")
    one, (other,) = psec.load(tmp_path / "agent").scorer.of
    assert one is other


# Files that are not what was saved.


@pytest.fixture
def saved(kinds, tmp_path):
    kinds["best of"].save(tmp_path / "agent")
    return tmp_path / "agent"


def edited(path, **facts):
    storage.write_json(path / "agent.json", {**storage.read_json(path / "agent.json"), **facts})


@pytest.mark.parametrize("file", ["agent.json", "tensors.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x00garbage\xff" * 9, b"[1, 2]", "half", "bit"])
def test_damaged_files_are_refused(saved, file, content):
    path = saved / file
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    elif content == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "bit":
        at = whole.index(b"relu") if file == "agent.json" else len(whole) - 5
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    else:
        path.write_bytes(content)
    with pytest.raises(BrokenFile, match=r"agent"):
        psec.load(saved)


@pytest.mark.parametrize("file", ["agent.json", "tensors.safetensors"])
def test_files_of_two_agents_are_refused(saved, kinds, tmp_path, file):
    other = jax.tree.map(lambda leaf: leaf + 1, kinds["best of"])
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / file, saved / file)
    with pytest.raises(BrokenFile, match="belongs to other tensors than those in"):
        psec.load(saved)


def test_a_policy_that_is_not_the_one_that_was_saved_is_refused_with_both_hashes(saved, kinds):
    node = storage.read_json(saved / "agent.json")["agent"]
    node["fields"]["policy"]["fields"]["backbone"]["fields"]["deterministic"] = False
    edited(saved, agent=node)
    own = psec.policies.fingerprint(kinds["best of"].policy)
    with pytest.raises(BaseMismatch, match=own):
        psec.load(saved)


def test_a_later_format_is_refused(saved):
    edited(saved, format=3)
    with pytest.raises(BrokenFile, match="of format 3, and this version reads 2: upgrade psec-j"):
        psec.load(saved)


def test_a_setting_of_a_later_version_is_refused(saved):
    node = storage.read_json(saved / "agent.json")["agent"]
    node["fields"]["temperature"] = 1.0
    edited(saved, agent=node)
    with pytest.raises(BrokenFile, match=r"BestOf has no \['temperature'\]; a later version may"):
        psec.load(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy", 3),
        ("policy", {"class": "Statistics", "fields": {}}),
        ("scorer", None),
        ("candidates", 0),
        ("candidates", {"array": "nothing"}),
        ("candidates", {"tuple": 3}),
        ("candidates", {"dict": [[{"list": []}, 1]]}),
        ("candidates", {"what": 3}),
        ("candidates", [3]),
        ("candidates", {}),
        ("candidates", functools.reduce(lambda node, _: {"tuple": [node]}, range(250), 1)),
    ],
)
def test_descriptions_of_what_is_no_agent_are_refused(saved, field, value):
    node = storage.read_json(saved / "agent.json")["agent"]
    node["fields"][field] = value
    edited(saved, agent=node)
    with pytest.raises(BrokenFile, match=str(saved)):
        psec.load(saved)


@pytest.mark.parametrize("node", [3, "Policy", None, {"class": "Statistics", "fields": {}}])
def test_whatever_is_no_agent_is_refused(saved, node):
    edited(saved, agent=node)
    with pytest.raises(BrokenFile, match=str(saved)):
        psec.load(saved)


def test_what_is_not_there_or_something_else_is_said(tmp_path, library):
    with pytest.raises(BrokenFile, match=r"there is no agent .*nothing; expected the"):
        psec.load(tmp_path / "nothing")
    with pytest.raises(BrokenFile, match=r"is a skill library: open it with psec.SkillLibrary"):
        psec.load(library.path)
    with pytest.raises(BrokenFile, match=r"is no saved agent: it has no agent.json"):
        psec.load(tmp_path)


# Classes of others.


def test_a_class_that_is_not_imported_is_named(kinds, tmp_path, monkeypatch):
    kinds["own scorer"].save(tmp_path / "agent")
    monkeypatch.delitem(sys.modules, "flows")
    with pytest.raises(
        NotImported, match=r"flows:Nearness is needed, and flows is not imported; import flows fi"
    ):
        psec.load(tmp_path / "agent")
    assert "flows" not in sys.modules
    handed = {"flows:Nearness": flows.Nearness}
    loaded = psec.load(tmp_path / "agent", custom_objects=handed)
    assert repr(loaded) == repr(kinds["own scorer"])


def test_a_class_that_has_moved_is_handed_over(kinds, tmp_path, observations):
    agent = kinds["own scorer"]
    agent.save(tmp_path / "agent")
    text = (tmp_path / "agent" / "agent.json").read_text().replace("flows:Near", "flows:Far")
    facts = json.loads(text)
    del facts["checksum"]
    storage.write_json(tmp_path / "agent" / "agent.json", facts)
    with pytest.raises(NotImported, match="flows defines no class or function 'Farness'; where"):
        psec.load(tmp_path / "agent")
    loaded = psec.load(tmp_path / "agent", custom_objects={"flows:Farness": flows.Nearness})
    assert behavior(loaded, observations) == behavior(agent, observations)


def test_what_a_class_makes_by_itself_needs_no_import_path(statistics, tmp_path):
    """Such as an initializer among its defaults."""
    policy = Policy.create(flows.FlowMatching(2), statistics, KEY)
    policy.save(tmp_path / "agent")
    text = (tmp_path / "agent" / "agent.json").read_text()
    assert "kernel_init" not in text and "flows:bent" in text
    other = flows.VelocityNetwork(kernel_init=nn.initializers.he_normal())
    with pytest.raises(ValueError, match=r"backbone.network.kernel_init cannot be stored"):
        Policy.create(flows.FlowMatching(2, other), statistics, KEY).save(tmp_path / "other")


def test_every_setting_is_in_the_file(diffusion, tmp_path):
    """So that defaults of a later version change no agent of an earlier one."""
    diffusion.save(tmp_path / "agent")
    node = storage.read_json(tmp_path / "agent" / "agent.json")["agent"]["fields"]["backbone"]
    settings = dataclasses.asdict(diffusion.backbone)
    assert {**node["fields"], "network": None} == {**settings, "network": None}


def test_a_bank_on_parameters_that_it_does_not_belong_to_is_not_saved(
    gaussian, make_bank, tmp_path
):
    carrying = gaussian.with_bank(make_bank(gaussian))
    moved = carrying.replace(params=jax.tree.map(lambda leaf: leaf + 1, carrying.params))
    with pytest.raises(BaseMismatch, match="the policy that carries it"):
        moved.save(tmp_path / "agent")
    assert not list(tmp_path.iterdir())
