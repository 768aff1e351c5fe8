import json
import subprocess
from dataclasses import replace

import jax
import numpy as np
import pytest
import safetensors.numpy

import psec_jax as psec
from experiments import d3rlpy

needs_d3rlpy = pytest.mark.skipif(
    not (d3rlpy.ENVIRONMENT / "installed").is_file(),
    reason="d3rlpy is not installed: run scripts/install_d3rlpy.sh",
)
OBSERVATION, ACTION = 3, 2
# What holds of a trained actor holds after a few updates, too.
FEW = 4


@pytest.fixture(scope="module")
def data() -> psec.TransitionDataset:
    """200 trajectories of three transitions each, of which a third terminates and the others are
    cut off; the actions follow from the observations, whose scales differ."""
    generator = np.random.default_rng(0)
    n = 600
    normal = generator.normal(size=(n, OBSERVATION))
    mixing = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])
    rows = np.arange(n)
    return psec.TransitionDataset(
        observations=normal * [0.1, 1.0, 20.0] + [0.0, 5.0, -30.0],
        actions=np.tanh(normal @ mixing),
        rewards=generator.normal(size=n),
        terminations=rows % 9 == 8,
        truncations=(rows % 3 == 2) & (rows % 9 != 8),
    )


@pytest.fixture(scope="module", params=d3rlpy.ALGORITHMS)
def algorithm(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def policy(algorithm, data) -> psec.Policy:
    return d3rlpy.train(algorithm, data, steps=FEW, seed=0)


@pytest.fixture(scope="module")
def again(algorithm, data, tmp_path_factory) -> tuple[dict, np.ndarray]:
    """The same training once more, by the program alone: its actor's weights and its actions."""
    folder = tmp_path_factory.mktemp(algorithm)
    arrays, actor, predictions = (folder / name for name in ("data.npz", "actor", "predictions"))
    d3rlpy.save_arrays(arrays, data, psec.Statistics.of(data.observations))
    words = ("--steps", FEW, "--seed", 0, "--predictions", predictions)
    d3rlpy.call(algorithm, arrays, actor, *words)
    assert sorted(folder.iterdir()) == sorted((arrays, actor, predictions))
    actions = safetensors.numpy.load_file(predictions)["actions"]
    return safetensors.numpy.load_file(actor), actions


@needs_d3rlpy
def test_the_policy_acts_as_d3rlpys_own_actor_does(policy, again, data):
    _, expected = again
    # Raw observations on our side, normalised ones on d3rlpy's.
    actions = policy.act(jax.random.key(0), data.observations[: len(expected)])
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert expected.std(axis=0).min() > 1e-3


@needs_d3rlpy
def test_the_same_seed_gives_the_same_policy_and_another_seed_another(
    algorithm, policy, again, data, same
):
    weights, _ = again
    assert same(policy, d3rlpy.as_policy(weights, policy.statistics))
    other = d3rlpy.train(algorithm, data, steps=FEW, seed=1)
    assert not np.allclose(policy.params["mean"]["kernel"], other.params["mean"]["kernel"])


@needs_d3rlpy
def test_td3bc_imitates_where_all_actions_are_worth_the_same(data):
    """Q has no slope in the action then, and the loss is (π(s) − a)²."""
    ended = replace(
        data,
        rewards=np.ones(len(data)),
        terminations=np.ones(len(data)),
        truncations=np.zeros(len(data)),
    )
    policy = d3rlpy.train("td3bc", ended, steps=300, seed=0)
    error = policy.act(jax.random.key(0), data.observations) - data.actions
    unexplained = np.square(error).mean(axis=0) / data.actions.var(axis=0)
    assert unexplained.max() < 0.1


@needs_d3rlpy
def test_terminations_and_truncations_stay_apart(data, tmp_path):
    both = replace(data, truncations=data.terminations | data.truncations)
    d3rlpy.save_arrays(tmp_path / "data.npz", both, psec.Statistics.of(data.observations))
    code = (
        "import json, pathlib, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from d3rlpy_train import read_dataset\n"
        "data = read_dataset(pathlib.Path(sys.argv[2]))\n"
        "ends = [[episode.size(), episode.terminated] for episode in data.episodes]\n"
        "print(json.dumps([ends, data.transition_count]))"
    )
    python = d3rlpy.ENVIRONMENT / "bin" / "python"
    command = [python, "-c", code, d3rlpy.PROGRAM.parent, tmp_path / "data.npz"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    ends, transitions = json.loads(process.stdout.splitlines()[-1])
    terminated = data.terminations[data.ends - 1]
    assert ends == [[3, bool(end)] for end in terminated]
    # All but the last transition of a truncated trajectory.
    assert transitions == len(data) - np.count_nonzero(~terminated)


@needs_d3rlpy
def test_a_failing_program_is_an_error_with_its_last_words(data):
    hopeless = replace(data, rewards=np.full(len(data), 1e38))
    with pytest.raises(RuntimeError, match=r"status 1; its last words:\nerror: cql diverged"):
        d3rlpy.train("cql", hopeless, steps=FEW, seed=0)


def test_a_missing_environment_is_an_error_that_says_what_to_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(d3rlpy, "ENVIRONMENT", tmp_path / "nowhere")
    with pytest.raises(RuntimeError, match=r"nowhere: run scripts/install_d3rlpy\.sh"):
        d3rlpy.train("cql", data, steps=1, seed=0)


@pytest.mark.parametrize(
    ("algorithm", "steps", "message"),
    [("dqn", 1, "algorithm 'dqn' is unknown.*td3bc"), ("cql", 0, "steps must be at least 1")],
)
def test_what_cannot_be_trained_is_refused_before_d3rlpy_is_called(
    data, algorithm, steps, message
):
    with pytest.raises(ValueError, match=message):
        d3rlpy.train(algorithm, data, steps=steps, seed=0)
