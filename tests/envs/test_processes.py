import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cheap import Cheap
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from psec_jax.envs.in_process import InProcessVectorEnv
from psec_jax.envs.processes import ProcessVectorEnv

CHEAP = Path(__file__).with_name("cheap.py")


def make(*arguments, count=3, name="Cheap"):
    return ProcessVectorEnv("family/name", CHEAP, name, arguments, count)


@pytest.fixture(scope="module")
def processes():
    vector = make()
    yield vector
    vector.close()


def gone(pid):
    """Neither running nor waiting to be reaped; a minute is far more than a busy machine needs."""
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("costs", [True, False])
def test_copies_answer_as_those_of_gymnasium_in_one_process_and_in_several(costs):
    """Until the end of each copy's episode, and then they stay as they are until a reset."""
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (8, 3, 3)).astype(np.float32)
    reference = SyncVectorEnv([lambda: Cheap(costs)] * 3)
    for vector in (InProcessVectorEnv(lambda: Cheap(costs), 3), make(costs)):
        assert vector.single_observation_space == reference.single_observation_space
        assert vector.single_action_space == reference.single_action_space
        assert vector.observation_space == reference.observation_space
        assert vector.action_space == reference.action_space
        assert vector.metadata["autoreset_mode"] == AutoresetMode.DISABLED
        for seed in ([3, 8, 6], 4):
            np.testing.assert_equal(vector.reset(seed=seed), reference.reset(seed=seed))
            steps = list(map(vector.step, actions))
            expected = list(map(reference.step, actions))
            for copy in range(3):
                ends = [step[2][copy] or step[3][copy] for step in expected]
                length = ends.index(True) + 1
                assert length < len(actions)
                for step, other in zip(steps[:length], expected, strict=False):
                    for mine, theirs in zip(step[:4], other[:4], strict=True):
                        np.testing.assert_array_equal(mine[copy], theirs[copy])
                    assert ("cost" in step[4]) == ("cost" in other[4]) == costs
                    if costs:
                        assert step[4]["cost"][copy] == other[4]["cost"][copy]
                for observations, *others, infos in steps[length:]:
                    np.testing.assert_array_equal(observations[copy], steps[length - 1][0][copy])
                    assert not any(part[copy] for part in others)
                    assert not costs or infos["cost"][copy] == 0
        vector.close()


def test_what_copies_have_answered_does_not_change_with_the_next_step(processes):
    for vector in (InProcessVectorEnv(Cheap, 3), processes):
        answers = [vector.reset(seed=0)] + [vector.step(np.zeros((3, 3))) for _ in range(2)]
        assert [answer[0][0, 1] for answer in answers] == [0, 1, 2]


def test_costs_are_floats_after_every_step_and_zero_for_copies_that_are_through(processes):
    _, infos = processes.reset(seed=[0, 0, 1])
    np.testing.assert_array_equal(infos["cost"], [0, 0, 0])
    for expected in ([0.5, 0.5, 0.5], [1, 1, 1], [0, 0, 1.5]):
        infos = processes.step(np.zeros((3, 3)))[-1]
        assert infos["cost"].dtype == np.float64
        np.testing.assert_array_equal(infos["cost"], expected)


def test_a_copy_that_is_through_is_not_stepped(processes):
    """Its actions would make it fail."""
    for vector in (processes, InProcessVectorEnv(Cheap, 3)):
        vector.reset(seed=[0, 1, 3])
        actions = np.zeros((3, 3))
        for _ in range(2):
            vector.step(actions)
        actions[0] = 1
        observations = vector.step(actions)[0]
        np.testing.assert_array_equal(observations[:, 1], [2, 3, 3])


def test_copies_left_out_of_a_reset_stay_as_they_were_and_over_where_never_reset():
    for vector in (make(), InProcessVectorEnv(Cheap, 3)):
        actions = np.zeros((3, 3))
        actions[2] = 1  # would make it fail
        observations, infos = vector.reset(
            seed=[2, 3, 4], options={"reset_mask": np.array([True, True, False])}
        )
        np.testing.assert_array_equal(observations[:, 0], [2, 3, 0])
        np.testing.assert_array_equal(infos["cost"], [0, 0, 0])
        for _ in range(3):
            *_, infos = vector.step(actions)
        np.testing.assert_array_equal(infos["cost"], [1.5, 1.5, 0])
        observations, _ = vector.reset(
            seed=[5, 5, 5], options={"reset_mask": np.array([True, False, False])}
        )
        np.testing.assert_array_equal(observations[:, :2], [[5, 0], [3, 3], [0, 0]])
        np.testing.assert_array_equal(vector.step(actions)[0][:, 1], [1, 4, 0])
        vector.close()


def test_pictures_are_of_the_moment_and_change_nothing(processes):
    processes.reset(seed=[2, 3, 4])
    first = processes.step(np.zeros((3, 3)))[0]
    pictures = processes.render()
    assert [picture.shape for picture in pictures] == [(2, 2, 3)] * 3
    assert all((picture == 1).all() for picture in pictures)
    np.testing.assert_array_equal(first[:, 1], [1, 1, 1])
    np.testing.assert_array_equal(processes.step(np.zeros((3, 3)))[0][:, 1], [2, 2, 2])


def test_no_process_loads_jax_or_this_package():
    vector = make(name="Modules", count=1)
    vector.reset(seed=[0])
    assert vector.step(np.zeros((1, 3)))[1] == [0]
    vector.close()


def test_a_killed_process_is_one_clear_error_and_nothing_is_left():
    vector = make(count=4)
    vector.reset(seed=0)
    pids = [process.pid for process in vector._processes]
    os.kill(pids[1], signal.SIGKILL)
    message = r"family/name, copy 2 of 4: its process ended with exit code -9; .*memory"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            vector.step(np.zeros((4, 3)))
    with pytest.raises(RuntimeError, match=message):
        vector.reset(seed=1)
    vector.close()
    assert all(gone(pid) for pid in pids)


def test_a_process_killed_between_two_steps_of_others_is_noticed_by_a_reset():
    vector = make(count=2)
    os.kill(vector._processes[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"family/name, copy 1 of 2: .* exit code -9"):
        vector.reset(seed=0)
    vector.close()


def test_an_exception_in_a_process_is_shown_with_its_id():
    vector = make()
    vector.reset(seed=0)
    actions = np.zeros((3, 3))
    actions[2] = 1
    message = "family/name, copy 3 of 3: ZeroDivisionError: the road ends"
    with pytest.raises(RuntimeError, match=message):
        vector.step(actions)
    vector.close()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("at birth", "family/name, copy 1 of 2: FileNotFoundError: no road here"),
        ("exit", "family/name, copy 1 of 2: its process ended with exit code 3"),
    ],
)
def test_a_copy_that_cannot_be_made_is_an_error_of_making_them(failure, message):
    with pytest.raises(RuntimeError, match=message):
        make(True, failure, count=2)


def test_processes_end_with_a_parent_that_is_killed_and_its_script_is_not_run_again():
    """The script has no guard against being imported, and says that it runs only once."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(CHEAP.parents[2])!r})
from psec_jax.envs.in_process import InProcessVectorEnv
from psec_jax.envs.processes import ProcessVectorEnv
vector = ProcessVectorEnv("family/name", {str(CHEAP)!r}, "Cheap", (), 2)
print(*[process.pid for process in vector._processes], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert all(gone(int(pid)) for pid in lines[0].split())


def test_closing_ends_every_process_and_twice_is_once():
    vector = make(count=2)
    pids = [process.pid for process in vector._processes]
    assert not any(process.poll() for process in vector._processes)
    vector.close()
    vector.close()
    assert all(gone(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="family/name has been closed; make it again"):
        vector.reset(seed=0)


def test_wrong_numbers_of_seeds_and_actions_are_refused_and_do_no_harm(processes):
    for vector in (processes, InProcessVectorEnv(Cheap, 3)):
        before, _ = vector.reset(seed=7)
        with pytest.raises(ValueError, match="expected 3 seeds, one for each copy, not 2"):
            vector.reset(seed=[1, 2])
        with pytest.raises(ValueError, match=r"actions of shape \(3, 3\), not \(2, 3\)"):
            vector.step(np.zeros((2, 3)))
        for same in (7, np.int64(7), np.array([7, 8, 9]), [7, 8, 9]):
            np.testing.assert_array_equal(vector.reset(seed=same)[0], before)
