"""Settings and provenance from NumPy, JAX and paths: what can be created can be opened again."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from psec_jax import (
    Adapter,
    DiffusionBackbone,
    GaussianBackbone,
    Optimizer,
    Policy,
    SkillLibrary,
    Statistics,
    Training,
    learn_skill,
    pretrain,
)
from psec_jax.networks import Denoiser, GaussianActor
from psec_jax.policies import fingerprint
from psec_jax.settings import json_data

KEY = jax.random.key(0)

ONE = np.int64(1)
SMALL = {"features": 8, "blocks": 1, "time_features": 8, "time_hidden": 8}
# Each with what it must be equal to.
BACKBONES = {
    "numpy": (
        DiffusionBackbone(
            np.prod((2,)),
            Denoiser(
                **{name: np.int32(n) for name, n in SMALL.items()},
                dropout=np.float32(0.5),
                activation=np.str_("mish"),
            ),
            diffusion_steps=np.int64(3),
            sampler="ddim",
            sampling_steps=np.uint8(2),
        ),
        DiffusionBackbone(
            2,
            Denoiser(**SMALL, dropout=0.5, activation="mish"),
            diffusion_steps=3,
            sampler="ddim",
            sampling_steps=2,
        ),
    ),
    "jax": (
        DiffusionBackbone(
            jnp.int32(2), Denoiser(**{**SMALL, "features": jnp.int32(8), "blocks": np.array(1)})
        ),
        DiffusionBackbone(2, Denoiser(**SMALL)),
    ),
    "lists": (
        GaussianBackbone(
            np.int64(2),
            GaussianActor(2, hidden=[np.int64(8), 8], log_std_bounds=[np.float64(-5), 2.0]),
            deterministic=np.True_,
        ),
        GaussianBackbone(2, GaussianActor(2, hidden=(8, 8))),
    ),
    "default network": (GaussianBackbone(2 * ONE), GaussianBackbone(2)),
}


@pytest.mark.parametrize("kind", BACKBONES)
def test_settings_of_numpy_and_jax_are_those_of_python(kind, tmp_path, statistics, same):
    given, plain = BACKBONES[kind]
    policy, other = (Policy.create(backbone, statistics, KEY) for backbone in (given, plain))
    assert fingerprint(policy) == fingerprint(other)
    assert same(policy, other)
    library = SkillLibrary.create(tmp_path / "library", policy)
    opened = SkillLibrary.open(library.path)
    assert opened.base.backbone == plain and repr(opened.base.backbone) == repr(plain)
    assert opened.fingerprint == fingerprint(policy)
    other_path = SkillLibrary.create(tmp_path / "other", other).path
    for file in ("base/config.json", "base/model.safetensors", "library.json"):
        assert (library.path / file).read_bytes() == (other_path / file).read_bytes()


def test_a_policy_made_of_its_parts_has_the_same_fingerprint(statistics):
    given, plain = BACKBONES["numpy"]
    policy = Policy.create(plain, statistics, KEY)
    assert fingerprint(policy.replace(backbone=given)) == fingerprint(policy)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            lambda: GaussianBackbone(2, GaussianActor(2, hidden=np.array([8, 8]))),
            r"GaussianBackbone.network.hidden is a ndarray of shape \(2,\), which cannot be a",
        ),
        (
            lambda: DiffusionBackbone(2, Denoiser(**{**SMALL, "dropout": {"rate": 0.1}})),
            r"DiffusionBackbone.network.dropout is a dict .* use numbers, strings, or tuples",
        ),
        (
            lambda: DiffusionBackbone(2, Denoiser(**SMALL, dropout=0j)),
            "DiffusionBackbone.network.dropout is 0j, which cannot be stored",
        ),
        (
            lambda: GaussianBackbone(2, GaussianActor(2, hidden=(8, (8, nn.relu)))),
            r"GaussianBackbone.network.hidden\[1\]\[1\] is .*, which cannot be stored",
        ),
        (lambda: GaussianBackbone(2.0), "action_size must be an integer of at least 1, not 2.0"),
        (lambda: DiffusionBackbone(True), "action_size must be an integer of at least 1, not Tr"),
        (lambda: DiffusionBackbone(0), "action_size must be an integer of at least 1, not 0"),
    ],
)
def test_settings_that_cannot_be_stored_are_refused_by_name(dataset, backbone, message):
    with pytest.raises(ValueError, match=message):
        pretrain(dataset, key=KEY, training=Training(1), backbone=backbone())


class Own(nn.Module):
    """A user's network, whose parameters are of a type that it is told."""

    kind: jnp.dtype = jnp.float32
    inner: nn.Module | None = None

    @nn.compact
    def __call__(self, observations):
        h = nn.Dense(4, param_dtype=self.kind, name="first")(observations)
        return nn.Dense(2, name="mean")(h), nn.Dense(2, name="log_std")(h)


def test_parameters_that_are_not_float32_are_refused_by_name(statistics):
    with pytest.raises(ValueError, match=r"'first/(bias|kernel)' of Own is bfloat16.*param_dtype"):
        Policy.create(GaussianBackbone(2, Own(jnp.bfloat16)), statistics, KEY)


def test_numbers_within_a_network_in_a_network_are_pythons(statistics):
    names = [
        fingerprint(Policy.create(GaussianBackbone(2, Own(inner=Denoiser(size))), statistics, KEY))
        for size in (8, np.int64(8), np.int64(9))
    ]
    assert names[0] == names[1] != names[2]


def test_statistics_become_float32(diffusion):
    mean, std = np.linspace(-1, 1, 5), np.ones(5)
    made = Policy.create(diffusion.backbone, Statistics(mean, std), KEY)
    assert made.statistics.mean.dtype == jnp.float32
    plain = Statistics(mean.astype(np.float32), std.astype(np.float32))
    assert fingerprint(made) == fingerprint(Policy.create(diffusion.backbone, plain, KEY))


def test_a_base_of_double_precision_is_not_stored(diffusion, tmp_path):
    doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), diffusion.params)
    with pytest.raises(
        ValueError, match=r"holds tensors that are not float32: .*params/.*float64"
    ):
        SkillLibrary.create(tmp_path / "new", diffusion.replace(params=doubled))
    assert not list(tmp_path.iterdir())


# Networks and backbones of the user's own.


class Named(nn.Module):
    """To be called as one of ours."""

    @nn.compact
    def __call__(self, observations):
        h = nn.sigmoid(nn.Dense(8, name="hidden_0")(observations))
        return nn.Dense(2, name="mean")(h), nn.Dense(2, name="log_std")(h)


def test_a_network_that_is_called_as_ours_is_not_taken_for_it(statistics, tmp_path):
    kind = type("GaussianActor", (Named,), {})
    policy = Policy.create(GaussianBackbone(2, kind()), statistics, KEY)
    SkillLibrary.create(tmp_path / "library", policy)
    with pytest.raises(ValueError, match=r"'GaussianActor' is not part of psec_jax; open .*netw"):
        SkillLibrary.open(tmp_path / "library")
    opened = SkillLibrary.open(tmp_path / "library", network=kind())
    assert type(opened.base.backbone.network) is kind


def test_a_backbone_that_could_not_be_made_again_is_not_stored(denoiser, statistics, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Flow(DiffusionBackbone):
        """A backbone without an import path."""

    policy = Policy.create(Flow(2, denoiser), statistics, KEY)
    with pytest.raises(ValueError, match=r"Flow cannot be stored: .*<locals>.Flow could not be"):
        SkillLibrary.create(tmp_path / "new", policy)
    assert not list(tmp_path.iterdir())


# Adapters and what is trained with.


def test_an_adapter_of_numpys_numbers_is_that_of_pythons(library, make_skill):
    given = {"rank": np.int64(4), "scale": np.float32(4), "targets": np.str_("in")}
    adapter = Adapter(**given)
    assert adapter == Adapter(rank=jnp.int32(4), scale=jnp.float32(4), targets="in")
    assert repr(adapter) == repr(Adapter(rank=4, scale=4, targets="in"))
    library.add("new", make_skill(library.base, **given))
    assert SkillLibrary.open(library.path).get("new").adapter == adapter


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": np.True_}, "rank must be an integer of at least 1, not True"),
        ({"rank": np.float64(4)}, r"rank must be an integer of at least 1, not 4\.0"),
        ({"rank": np.array([4])}, r"rank must be an integer of at least 1, not array\(\[4\]\)"),
        ({"scale": "16"}, "scale must be above 0, not '16', and finite"),
        ({"scale": True}, "scale must be above 0, not True, and finite"),
        ({"scale": np.float32("inf")}, "scale must be above 0, not inf, and finite"),
        ({"targets": b"in"}, "targets must be a string, not b'in'"),
    ],
)
def test_other_adapters_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Adapter(**setting)


def test_numbers_of_steps_may_be_numpys(gaussian, dataset, same):
    def learn(steps, batch_size, rate):
        training = Training(steps, batch_size, Optimizer(rate))
        return learn_skill(gaussian, dataset, key=KEY, training=training, adapter=Adapter(rank=2))

    plain = learn(3, 5, 0.125)
    for other in (
        learn(np.int64(3), np.int32(5), np.float32(0.125)),
        learn(jnp.int32(3), jnp.int32(5), jnp.float32(0.125)),
    ):
        assert same(dict(plain.deltas), dict(other.deltas))
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        learn(3, 5.0, 0.125)


# Provenance.


def test_provenance_of_numpy_and_paths_is_stored_as_json(library, make_skill):
    given = {
        "transitions": np.int64(7),
        "mean": np.float32(0.5),
        "best": np.True_,
        "returns": np.arange(3.0),
        "weights": jnp.ones((1, 2), jnp.bfloat16),
        "seeds": (0, np.uint8(1)),
        "file": Path("/data/walk.hdf5"),
        "by_seed": {np.int64(0): (1, None)},
    }
    skill = dataclasses.replace(make_skill(library.base), provenance={"from": Path("x")})
    library.add("new", skill, **given)
    expected = {
        "from": "x",
        "transitions": 7,
        "mean": 0.5,
        "best": True,
        "returns": [0.0, 1.0, 2.0],
        "weights": [[1.0, 1.0]],
        "seeds": [0, 1],
        "file": "/data/walk.hdf5",
        "by_seed": {"0": [1, None]},
    }
    found = SkillLibrary.open(library.path).get("new").provenance
    assert found == expected and json.dumps(found) == json.dumps(expected, sort_keys=True)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (object(), TypeError, "provenance 'x' is not JSON serializable: it is of type object"),
        ([{"a": {1}}], TypeError, r"provenance 'x'\[0\]\.a is not JSON serializable.*type set"),
        ({(1, 2): 3}, TypeError, r"its key \(1, 2\) is not a string"),
        (np.zeros(1, "datetime64[D]"), TypeError, r"provenance 'x'\[0\] is not JSON serializable"),
        (np.float32("nan"), ValueError, "provenance 'x' is nan, which JSON cannot hold"),
        (np.array([0, np.inf]), ValueError, r"provenance 'x'\[1\] is inf, which JSON cannot"),
    ],
)
def test_provenance_that_json_cannot_hold_is_refused_by_name(
    library, make_skill, tree_of, value, error, message
):
    before = tree_of(library.path)
    with pytest.raises(error, match=message):
        library.add("new", make_skill(library.base), x=value)
    assert tree_of(library.path) == before


def test_json_data_of_json_data_is_itself():
    data = {"a": [1, 2.5, None, True, "x", {"b": []}]}
    assert json_data(data, "data") == data


# Double precision.

CHEAP = Path(__file__).parent / "envs"

X64 = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from gymnasium.vector import SyncVectorEnv
import psec_jax as psec
from psec_jax.learners import Critics
from psec_jax.networks import Denoiser, GaussianActor
from psec_jax.policies import policy_tensors

sys.path.insert(0, sys.argv[3])
from cheap import Cheap

class Calm(Cheap):
    def step(self, action):
        return super().step(0.5 * action)

double, folder = sys.argv[1] == "double", Path(sys.argv[2])
assert jax.config.jax_enable_x64 == double
random = np.random.default_rng(0)
data = psec.TransitionDataset(
    random.normal(size=(40, 2)), random.uniform(-1, 1, (40, 3)), random.normal(size=40),
    np.zeros(40, bool), np.arange(40) % 10 == 9,
)
key = jax.random.key(0)
how = {"key": key, "training": psec.Training(4, 8)}
networks = {
    "diffusion": psec.DiffusionBackbone(
        3, Denoiser(features=8, blocks=1, time_features=4, time_hidden=4)
    ),
    "gaussian": psec.GaussianBackbone(3, GaussianActor(3, hidden=(8,))),
}

def float32(what, tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        kinds = (jnp.float32, jnp.uint8)
        assert leaf.dtype in kinds, (what, jax.tree_util.keystr(path), leaf.dtype)

for name, backbone in networks.items():
    path = folder / name
    if double:
        base = psec.pretrain(data, backbone=backbone, **how)
        library = psec.SkillLibrary.create(path, base)
        low = psec.Adapter(rank=2)
        library.add("low", psec.learn_skill(base, data, adapter=low, **how))
        full = psec.Adapter("full", targets="mean|out")
        skills, critics = psec.learn_skills(base, data, adapter=full, **how)
        library.add("full", skills["skill"])
        float32("critics", critics)
        fresh = psec.Policy.create(backbone, psec.Statistics.identity(2), key)
        float32("fresh", fresh)
    library = psec.SkillLibrary.open(path)
    bank = library.bank()
    policy = library.base.with_bank(bank)
    float32("policy", policy)
    float32("merged", policy.merged(np.array([0.5, 1.0])))
    assert all(value.dtype == np.float32 for value in policy_tensors(library.base).values())
    observations = data.observations[:2]
    for composer in ("context", "constant") if double else ("constant",):
        agent = psec.compose(library, data, composer=composer, **how)
        float32("agent", agent)
        assert np.isfinite(agent.act(key, observations)).all()
        simulators = SyncVectorEnv([Calm] * 2)
        assert np.isfinite(psec.evaluate(agent, simulators, episodes=2, key=key).mean)
    print(name, library.fingerprint)
"""


def test_with_double_precision_everything_stored_is_float32_and_opens_without(tmp_path):
    def run(kind):
        environment = {**os.environ, "JAX_ENABLE_X64": str(int(kind == "double"))}
        command = [sys.executable, "-c", X64, kind, str(tmp_path), str(CHEAP)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert run("double") == run("single")
