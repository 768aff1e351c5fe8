import importlib.util
import re

import pytest

from psec_jax import envs
from psec_jax.data.references import closest, find_reference, installed_d4rl, references

ROBOTS = "halfcheetah", "hopper", "walker2d", "ant"
QUALITIES = "random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"
MUJOCO = {f"d4rl/{robot}-{quality}-v2" for robot in ROBOTS for quality in QUALITIES}
BULLET = {
    f"{robot}{task}" for robot in ("Ant", "Ball", "Car", "Drone") for task in ("Circle", "Run")
}
GOALS = {
    f"{robot}{task}{level}"
    for robot in ("Car", "Point")
    for task in ("Button", "Circle", "Goal", "Push")
    for level in (1, 2)
}
VELOCITY = {f"{r}Velocity" for r in ("Ant", "HalfCheetah", "Hopper", "Swimmer", "Walker2d")}
DRIVING = {f"{a}{b}" for a in ("easy", "medium", "hard") for b in ("sparse", "mean", "dense")}
DSRL = {f"dsrl/{task}" for task in BULLET | GOALS | VELOCITY | DRIVING}

needs_d4rl = pytest.mark.skipif(not installed_d4rl(), reason="the d4rl package is not installed")


@pytest.fixture
def alone(monkeypatch):
    """As if the ``d4rl`` package were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "d4rl" else find(name, *a)
    )
    references.cache_clear()
    yield
    references.cache_clear()


def test_the_names_are_those_of_the_two_benchmarks(alone):
    assert (len(MUJOCO), len(DSRL)) == (24, 38)
    assert references().keys() == MUJOCO | DSRL
    assert installed_d4rl() == {}


def test_every_reference_has_an_address_and_returns_that_rise(alone):
    for name, known in references().items():
        assert known.name == name and known.family == name.split("/")[0]
        assert re.fullmatch(r"https?://.+/[\w.-]+\.hdf5", known.url)
        assert known.low_return < known.high_return
        assert known.horizon >= 100
    files = [(known.family, known.file) for known in references().values()]
    assert len(set(files)) == len(files)


@needs_d4rl
def test_the_table_is_that_of_the_d4rl_package():
    theirs = installed_d4rl()
    for name in MUJOCO:
        known = references()[name]
        ours = known.url, known.low_return, known.high_return
        assert ours == theirs[name.removeprefix("d4rl/")], name


@needs_d4rl
def test_the_d4rl_package_adds_its_other_datasets():
    assert references().keys() == {f"d4rl/{name}" for name in installed_d4rl()} | MUJOCO | DSRL
    for name in ("antmaze-umaze-v2", "kitchen-mixed-v0", "pen-human-v1", "maze2d-large-v1"):
        known = find_reference(name)
        assert known.name == f"d4rl/{name}" and known.environment is None
        assert known.low_return < known.high_return
    addresses = {}
    for known in references().values():
        # A file is kept under its own name, so no two addresses may share one.
        assert addresses.setdefault((known.family, known.file), known.url) == known.url


def test_dsrl_files_carry_the_name_of_their_task():
    for name in DSRL:
        task = name.removeprefix("dsrl/")
        pattern = rf"Safe(ty|MetaDrive-){task}(Gymnasium)?-v\d-\d+-\d+\.hdf5"
        assert re.fullmatch(pattern, references()[name].file)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("walker2d-medium-v2", "d4rl/walker2d-medium-v2"),
        ("d4rl/walker2d-medium-v2", "d4rl/walker2d-medium-v2"),
        ("CarRun", "dsrl/CarRun"),
        ("dsrl/carrun", "dsrl/CarRun"),
        ("Walker2d-Medium-v2", "d4rl/walker2d-medium-v2"),
        ("OfflineCarRun-v0", "dsrl/CarRun"),
        ("dsrl/OfflineCarRun-v0", "dsrl/CarRun"),
        ("OfflineCarButton1Gymnasium-v0", "dsrl/CarButton1"),
        ("OfflineAntVelocityGymnasium-v1", "dsrl/AntVelocity"),
        ("OfflineMetadrive-easymean-v0", "dsrl/easymean"),
        ("dsrl/OfflineMetadrive-harddense-v0", "dsrl/harddense"),
    ],
)
def test_a_dataset_is_found_under_each_of_its_names(alias, name):
    assert find_reference(alias) is references()[name]


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("walker2d-medum-v2", "d4rl/walker2d-medium-v2"),
        ("d4rl/hoper-expert-v2", "d4rl/hopper-expert-v2"),
        ("walker2d-medium-v3", "d4rl/walker2d-medium-v2"),
        ("dsrl/CarRum", "dsrl/CarRun"),
        ("OfflineCarRum-v0", "dsrl/CarRun"),
        ("PointGaol1", "dsrl/PointGoal1"),
        ("dsrl/easymaen", "dsrl/easymean"),
        ("OfflineMetadrive-easymaen-v0", "dsrl/easymean"),
        ("OfflineAntVelocityGymnasum-v1", "dsrl/AntVelocity"),
    ],
)
def test_a_name_with_a_mistake_is_refused_with_the_closest(typo, meant):
    with pytest.raises(ValueError, match=rf"unknown dataset '{typo}'; did you mean .*{meant}\b"):
        find_reference(typo)


@pytest.mark.parametrize("name", ["", "d4rl/", "zzz", "../walker2d-medium-v2", "d4rl/CarRun"])
def test_a_name_that_is_like_none_is_refused_with_some_that_are(name):
    with pytest.raises(ValueError, match=r"unknown dataset '.*'; did you mean (d4rl|dsrl)/"):
        find_reference(name)


def test_the_closest_are_at_most_three_and_each_once():
    found = closest("walker2d-medium", references())
    assert 1 <= len(found) == len(set(found)) <= 3


def test_environments_are_known_ones():
    known = envs.known_ids()
    named = {r.name: r.environment for r in references().values() if r.environment}
    assert set(named.values()) <= set(known)
    tasks = {f"dsrl/{task}" for task in BULLET | DRIVING}
    assert named.keys() == MUJOCO | tasks
    assert named["d4rl/walker2d-medium-v2"] == "mujoco/walker2d-v4"
    assert named["dsrl/CarRun"] == "bullet/carrun"
    assert named["dsrl/easymean"] == "metadrive/easymean"
