import subprocess
import sys

import pytest

from psec_jax import envs
from psec_jax.envs.dm_control import suite
from psec_jax.envs.ids import parse


def test_every_known_id_is_parsed_to_itself():
    ids = envs.known_ids()
    assert len(set(ids)) == len(ids) == len(suite.ALL_TASKS) + 8 + 8 + 9
    for env_id in ids:
        family, name, factors = parse(env_id)
        assert (f"{family}/{name}", factors) == (env_id, {})


def test_the_tasks_of_dm_control_are_those_of_its_suite():
    known = {env_id for env_id in envs.known_ids() if env_id.startswith("dm_control/")}
    assert known == {f"dm_control/{domain}-{task}-v0" for domain, task in suite.ALL_TASKS}


def test_factors_are_numbers_in_any_order_and_combination():
    assert parse("mujoco/ant-v4?thigh=2&gravity=0.5")[2] == {"thigh": 2.0, "gravity": 0.5}
    assert parse("mujoco/ant-v5?friction=1e-2")[2] == {"friction": 0.01}


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("dm_control/walker-wlak-v0", "did you mean dm_control/walker-walk-v0"),
        ("dm_control/walker-walk", "did you mean dm_control/walker-walk-v0"),
        ("dm_control/zzz", "for example dm_control/walker-walk-v0"),
        ("walker-walk-v0", "did you mean dm_control/walker-walk-v0"),
        ("dmcontrol/walker-walk-v0", "did you mean dm_control/walker-walk-v0"),
        ("Walker2d-v6", "did you mean mujoco/walker2d-v5 or Walker2d-v5 or mujoco/walker2d-v4"),
        ("Pendulm-v1", r"did you mean Pendulum-v1 or .*\?$"),
        ("Pendulum", "did you mean Pendulum-v1 or "),
        ("pendulum-v1", "did you mean Pendulum-v1 or "),
        ("gymnasium/Pendulum-v1", "did you mean Pendulum-v1 or "),
        ("mujoco/walker2d-v3", "did you mean mujoco/walker2d-v"),
        ("mujoco/walker2d-v3?gravity=2", "did you mean mujoco/walker2d-v"),
        ("bullet/CarRun", "did you mean bullet/carrun"),
        ("metadrive/easymeen", "did you mean metadrive/easymean"),
        ("", r"known_ids\(\) has them all"),
    ],
)
def test_unknown_ids_are_refused_with_close_or_exemplary_ones(env_id, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(env_id, 1)
    assert f"unknown environment {env_id!r}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("gravty=2", "unknown factor 'gravty'.*gravity, friction, thigh.*did you mean gravity"),
        ("", "unknown factor ''.*gravity, friction, thigh.*for example gravity=2"),
        ("gravity=2&", "unknown factor ''"),
        ("gravity", "'gravity' .*no positive, finite number; expected for example gravity=2"),
        ("gravity=0", "'gravity=0' .*no positive, finite number"),
        ("friction=-0.5", "'friction=-0.5' .*no positive, finite number"),
        ("thigh=inf", "'thigh=inf' .*no positive, finite number"),
        ("thigh=nan", "'thigh=nan' .*no positive, finite number"),
        ("thigh=two", "'thigh=two' .*no positive, finite number"),
        ("thigh=2&thigh=3", "'thigh' stands twice"),
    ],
)
def test_bad_factors_are_refused(query, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(f"mujoco/hopper-v5?{query}", 1)
    assert f"'mujoco/hopper-v5?{query}'" in str(error.value)


def test_only_mujoco_takes_factors():
    with pytest.raises(ValueError, match=r"only mujoco/ .*did you mean bullet/carrun"):
        envs.make("bullet/carrun?gravity=2", 1)


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_environment_is_made(count):
    with pytest.raises(ValueError, match=f"num_envs must be at least 1, not {count}"):
        envs.make("dm_control/walker-walk-v0", count)


BLOCKED = {
    "dm_control/walker-walk-v0": ("dm_control", "pip install 'psec-jax[dmcontrol]'"),
    "mujoco/ant-v5": ("mujoco", "pip install 'psec-jax[mujoco]'"),
    "bullet/carrun": (
        "bullet_safety_gym",
        "pip install 'psec-jax[bullet]' && pip install --no-deps bullet-safety-gym==1.4.0",
    ),
    "bullet/antrun": ("pybullet", "pip install 'psec-jax[bullet]' && pip install --no-deps"),
    "metadrive/easymean": ("metadrive", "pip install 'psec-jax[metadrive]'"),
}


def test_without_a_simulator_only_its_environments_fail_naming_what_to_install():
    """Known ids and wrong ones are told apart all the same."""
    code = f"""
import sys
for name in {[package for package, _ in BLOCKED.values()]}:
    sys.modules[name] = None
from psec_jax import envs
print(len(envs.known_ids()))
for env_id in {list(BLOCKED)}:
    try:
        envs.make(env_id, 1)
    except ImportError as error:
        print(error)
try:
    envs.make("metadrive/easymeen", 1)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    count, *messages, wrong = done.stdout.splitlines()
    assert int(count) == len(envs.known_ids())
    for message, (_, command) in zip(messages, BLOCKED.values(), strict=True):
        assert command in message
    assert "did you mean metadrive/easymean" in wrong


def test_importing_the_environments_imports_no_simulator():
    simulators = {"mujoco", "dm_control", "pybullet", "bullet_safety_gym", "metadrive"}
    code = f"import sys, psec_jax.envs; print(sorted(set(sys.modules) & {simulators}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
