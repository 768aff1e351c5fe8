"""``python -m psec_jax.evaluate``."""

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
from PIL import Image, ImageSequence

import psec_jax as psec
from psec_jax.evaluation import film
from psec_jax.evaluation.__main__ import main
from psec_jax.fingerprints import fingerprint
from psec_jax.networks import ConstantWeights, GaussianActor
from psec_jax.report import videos
from psec_jax.skills.deltas import Full

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def agent():
    backbone = psec.GaussianBackbone(2, GaussianActor(2, (4,)), deterministic=False)
    return psec.Policy.create(backbone, psec.Statistics.identity(3), KEY)


@pytest.fixture
def saved(agent, tmp_path):
    agent.save(tmp_path / "agent")
    return str(tmp_path / "agent")


SEEN = ("parade/seen", "--import", "parade")


def test_the_numbers_are_those_of_evaluate(agent, saved, capsys):
    main([saved, *SEEN, "--episodes", "7", "--seed", "5"])
    (line,) = capsys.readouterr().out.splitlines()
    expected = psec.evaluate(agent, "parade/seen", episodes=7, key=jax.random.key(5))
    assert line.startswith(f"parade/seen: {expected} (") and ", cost " in line
    main([saved, *SEEN, "--episodes", "7", "--seed", "5", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["returns"] == expected.returns.tolist()
    assert facts["lengths"] == expected.lengths.tolist()
    assert facts["costs"] == expected.costs.tolist()
    assert facts["mean_return"] == expected.mean and facts["mean_cost"] == expected.costs.mean()
    assert (facts["agent"], facts["environment"]) == (saved, "parade/seen")
    assert (facts["episodes"], facts["seed"]) == (7, 5)


def test_there_are_fifty_episodes_of_seed_0_unless_it_is_told_otherwise(agent, saved, capsys):
    main([saved, *SEEN, "--json"])
    facts = json.loads(capsys.readouterr().out)
    expected = psec.evaluate(agent, "parade/seen", episodes=50, key=jax.random.key(0))
    assert facts["returns"] == expected.returns.tolist() and len(facts["returns"]) == 50


def test_both_modules_are_the_command(saved):
    """From the folder in which one's own module lies."""
    found = []
    for module in ("psec_jax.evaluate", "psec_jax.evaluation"):
        done = subprocess.run(
            [sys.executable, "-m", module, saved, *SEEN, "--episodes", "2", "--json"],
            cwd=HERE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        facts = json.loads(done.stdout)
        del facts["seconds"]
        found.append(facts)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}x", *SEEN], "there is no agent .*agentx; expected the folder that save wrote"),
        (["{}", "dm_control/walkr-walk-v0"], "unknown environment .*did you mean dm_control/wal"),
        (["{}", "Pendulum-v1"], r"Pendulum-v1 has \(observation, action\) sizes \(3, 1\), but"),
        (["{}", *SEEN, "--episodes", "0"], "episodes must be an integer of at least 1, not 0"),
        (["{}", "parade/seen", "--import", "no.such"], "--import no.such: No module named 'no"),
        (["{}", *SEEN, "--video", "a.mp4"], "a.mp4 is no file that --video writes; expected FIL"),
        (
            ["{}", "parade/unseen", "--import", "parade", "--video", "{}.gif"],
            "rendering .* gave no picture",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(saved, arguments, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as error:
        main([argument.format(saved) for argument in arguments])
    assert "\n" not in str(error.value)


def test_critics_do_not_act(tmp_path):
    network = psec.networks.Critic(())
    value = network.init(KEY, np.zeros((1, 3)))["params"]
    q = jax.vmap(lambda k: network.init(k, np.zeros((1, 5)))["params"])(jax.random.split(KEY))
    psec.learners.Critics(value, q, psec.Statistics.identity(3), network, True).save(
        tmp_path / "critics"
    )
    with pytest.raises(SystemExit, match="critics holds Critics, which do not act"):
        main([str(tmp_path / "critics"), *SEEN])


def test_a_film_has_ten_pictures_a_second(saved, tmp_path, agent, capsys):
    """Of an episode whose second has twenty steps, every other."""
    main([saved, *SEEN, "--episodes", "1", "--video", str(tmp_path / "film.gif")])
    pictures = film(agent, "parade/seen", key=jax.random.key(0))
    shades = [int(picture[0, 0, 0]) for picture in pictures]
    assert shades == list(range(30, 30 * 2 * len(shades), 60)) and len(shades) > 1
    with Image.open(tmp_path / "film.gif") as file:
        frames = [
            (frame.info["duration"], np.asarray(frame.convert("RGB"))[0, 0, 0])
            for frame in ImageSequence.Iterator(file)
        ]
    assert [duration for duration, _ in frames] == [100] * len(shades)
    np.testing.assert_allclose([shade for _, shade in frames], shades, atol=4)
    assert f"{len(shades)} pictures" in capsys.readouterr().err


def test_of_a_composed_policy_the_film_shows_its_weights(tmp_path, agent, monkeypatch):
    composed = psec.composition.ComposedPolicy.of_policies(
        agent, (agent,), psec.networks.ConstantWeights(1, start=0.25), "action", KEY, ("walk",)
    )
    composed.save(tmp_path / "composed")
    traces = []
    drawn = videos.with_weights
    monkeypatch.setattr(videos, "with_weights", lambda *a: traces.append(a) or drawn(*a))
    main([str(tmp_path / "composed"), *SEEN, "--episodes", "1", "--video", f"{tmp_path}/film.gif"])
    ((trace, names),) = traces
    assert names == ("walk",) and (trace.weights == 0.25).all()
    assert [step for step, _ in trace.pictures] == list(range(0, len(trace.rewards), 2))
    with Image.open(tmp_path / "film.gif") as file:
        assert file.size == (200, 150 + 180) and file.n_frames == len(trace.pictures)


class AsksEachLayer(nn.Module):
    @nn.compact
    def __call__(self, observations):
        return lambda path, x: jnp.ones((1, 1))


@pytest.mark.parametrize(
    ("context", "is_taller"), [(ConstantWeights(1), True), (AsksEachLayer(), False)]
)
def test_a_film_shows_weights_where_they_follow_from_the_state(
    agent, tmp_path, context, is_taller
):
    layers = {path: jnp.zeros(shape) for path, shape in agent.dense_layers().items()}
    skill = psec.Skill(
        {path: Full(kernel[None], (1,)) for path, kernel in layers.items()},
        psec.Adapter("full"),
        fingerprint(agent),
        {},
    )
    carrying = agent.with_bank(psec.Bank.of({"walk": skill}))
    mixture = psec.composition.ComposedPolicy.create(carrying, context, "parameter", KEY)
    mixture.save(tmp_path / "mixture")
    file = tmp_path / "film.gif"
    main([str(tmp_path / "mixture"), *SEEN, "--episodes", "1", "--video", str(file)])
    (picture, *_) = film(agent, "parade/seen", key=KEY)
    with Image.open(file) as opened:
        assert (opened.height > len(picture)) is is_taller


@pytest.mark.parametrize(
    "imports",
    [
        "import psec_jax.evaluate",
        "import psec_jax.evaluation, psec_jax.evaluate",
        "import importlib; importlib.import_module('psec_jax.evaluate')",
        "from psec_jax import evaluate; import psec_jax.evaluate as e; assert e is evaluate",
        "import psec_jax.evaluation.__main__, psec_jax.evaluation.evaluate",
    ],
)
def test_evaluate_stays_the_function_whatever_is_imported(imports):
    code = f"{imports}\nimport psec_jax\nassert psec_jax.evaluate.__name__ == 'evaluate'\n"
    code += "assert psec_jax.evaluation.evaluate is psec_jax.evaluate\n"
    code += "assert callable(psec_jax.evaluate)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
