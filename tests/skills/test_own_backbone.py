"""A backbone of one's own in a library and in another process (``extending`` trains one)."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import flows
import jax
import numpy as np
import pytest
from flax import linen as nn

import psec_jax as psec
from psec_jax import Policy, SkillLibrary, storage
from psec_jax.composition import NoiseLevel
from psec_jax.errors import BrokenFile, NotImported
from psec_jax.skills.__main__ import main

KEY = jax.random.key(2)
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def flow(statistics):
    return Policy.create(flows.FlowMatching(2, flows.VelocityNetwork((6, 6))), statistics, KEY)


@pytest.fixture
def flow_library(flow, make_skill, tmp_path):
    library = SkillLibrary.create(tmp_path / "library", flow)
    library.add("walk", make_skill(flow, 1))
    return library


OPENS = """
import hashlib, sys
import jax, numpy as np
import psec_jax as psec
if sys.argv[2] == "imported":
    import flows
try:
    library = psec.SkillLibrary.open(sys.argv[1])
except psec.errors.NotImported as error:
    print(error)
else:
    policy = library.base.with_bank(library.bank())
    actions = policy.act(jax.random.key(2), np.ones((4, 5), np.float32))
    print(library.fingerprint, hashlib.sha256(np.asarray(actions).tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["imported", "not imported"])
def test_another_process_opens_its_library_where_it_is_imported(flow_library, how):
    done = subprocess.run(
        [sys.executable, "-c", OPENS, str(flow_library.path), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if how == "imported":
        policy = flow_library.base.with_bank(flow_library.bank())
        actions = policy.act(KEY, np.ones((4, 5), np.float32))
        digest = hashlib.sha256(np.asarray(actions).tobytes()).hexdigest()
        assert done.stdout.split() == [flow_library.fingerprint, digest]
    else:
        sentence = "flows:FlowMatching is needed, and flows is not imported; import flows first"
        assert sentence in done.stdout
        assert "custom_objects={'flows:FlowMatching': …}" in done.stdout


def test_its_library_opens_with_what_is_handed_over(flow_library, monkeypatch, observations):
    monkeypatch.delitem(sys.modules, "flows")
    handed = {
        f"flows:{kind.__name__}": kind
        for kind in (flows.FlowMatching, flows.VelocityNetwork, flows.bent)
    }
    opened = SkillLibrary.open(flow_library.path, custom_objects=handed)
    assert opened.base.backbone == flow_library.base.backbone
    with pytest.raises(NotImported, match="flows:VelocityNetwork is needed"):
        SkillLibrary.open(
            flow_library.path, custom_objects={"flows:FlowMatching": flows.FlowMatching}
        )


def test_a_hostile_library_reaches_nothing(flow_library):
    path = flow_library.path / "base" / "config.json"
    config = storage.read_json(path)
    fields = config["description"]["fields"]
    for node in (
        {"class": "subprocess:Popen", "fields": {"args": "true"}},
        3,
        {"function": "os:"},
    ):
        description = {**config["description"], "fields": {**fields, "network": node}}
        storage.write_json(path, {**config, "description": description})
        with pytest.raises((BrokenFile, NotImported)):
            SkillLibrary.open(flow_library.path)


def test_a_network_is_given_in_place_of_the_one_described(flow, flow_library):
    opened = SkillLibrary.open(flow_library.path, network=flow.backbone.network)
    assert opened.fingerprint == flow_library.fingerprint
    with pytest.raises(ValueError, match="do not fit the described network"):
        SkillLibrary.open(flow_library.path, network=flows.VelocityNetwork((5,)))


# What is no backbone.


@dataclasses.dataclass
class Loose:
    """Not frozen."""

    action_size: int = 2
    network: nn.Module = dataclasses.field(default_factory=flows.VelocityNetwork)

    example = loss = sample = flows.FlowMatching.sample


def test_what_is_no_backbone_is_refused_with_what_it_lacks(statistics):
    with pytest.raises(TypeError, match=r"VelocityNetwork is no backbone: it lacks \['action_siz"):
        Policy.create(flows.VelocityNetwork(), statistics, KEY)
    with pytest.raises(TypeError, match=r"Loose must be a frozen dataclass.*frozen=True"):
        Policy.create(Loose(), statistics, KEY)
    with pytest.raises(TypeError, match=r"FlowMatching.network is None, but must be a flax.linen"):
        Policy.create(flows.FlowMatching(2, None), statistics, KEY)


def test_policies_of_other_processes_are_not_mixed_by_their_predictions(flow, diffusion, gaussian):
    context = psec.networks.ConstantWeights(1)

    def mixed(*parts):
        return psec.composition.ComposedPolicy.of_policies(*parts, context, "noise", KEY)

    assert mixed(flow, [flow]).level == NoiseLevel()
    with pytest.raises(ValueError, match="needs one noise schedule, but the policies have"):
        mixed(flow, [diffusion])
    with pytest.raises(ValueError, match="or give GaussianBackbone a noise_process"):
        mixed(flow, [gaussian])


def test_the_command_line_imports_what_the_base_needs(flow_library, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "flows")
    path = str(flow_library.path)
    with pytest.raises(SystemExit, match="flows:FlowMatching is needed, and flows is not import"):
        main(["list", path])
    with pytest.raises(SystemExit, match=r"--import no\.such: No module named 'no'"):
        main(["list", path, "--import", "no.such"])
    main(["list", path, "--import", "flows"])
    assert flow_library.fingerprint in capsys.readouterr().out
