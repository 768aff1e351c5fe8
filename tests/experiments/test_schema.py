"""The schema: what a mapping becomes, and how what does not fit is refused."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optax
import pytest
from flax import linen as nn
from flows import FlowMatching, VelocityNetwork
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import psec_jax as psec
from experiments import continual, dynamics_shift, multi_objective
from experiments.config import parse
from experiments.schema import KINDS, ConfigError, Later, build
from experiments.settings import Continual, DynamicsShift, MultiObjective
from psec_jax.backbones import Backbone
from psec_jax.learners import ReBRAC
from psec_jax.learners.objectives import DiscountedCost, Feasibility, Objective, Return
from psec_jax.learners.weights import Weigh
from psec_jax.settings import setting_names
from psec_jax.training.fit import Learner

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "continual": (Continual, continual),
    "dynamics_shift": (DynamicsShift, dynamics_shift),
    "multi_objective": (MultiObjective, multi_objective),
}


def composed(setting: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose(setting, list(overrides)), resolve=True)


def whole(setting: str, data: dict[str, Any]) -> Any:
    """``data`` as the setting, with all that waits for data."""
    config = build(SETTINGS[setting][0], data)
    config.backbone(action_size=2)
    config.composer(skills=2)
    config.checkpoint(folder=".")
    for plan in getattr(config, "baselines", {}).values():
        plan.backbone(action_size=2)
        plan.learner(trained=None)
    return config


def places(data: Any, key: str = ""):
    """The key of each mapping and of each value that is none."""
    if isinstance(data, dict):
        if key:
            yield key, True
        for name, inner in data.items():
            yield from places(inner, f"{key}.{name}" if key else name)
    elif not isinstance(data, list):
        yield key, False


def choices() -> list[tuple[str, str]]:
    """Each choice of each group, with each setting that has the group."""
    known = []
    for setting in SETTINGS:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            chosen = compose(setting, return_hydra_config=True).hydra.runtime.choices
        groups = {group for group in chosen if "/" not in group}
        known += [
            (setting, f"{group}={path.stem}")
            for group in sorted(groups)
            for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
            # What critics value is another question in each setting.
            if group != "guidance" or (path.stem == "iql") == (setting == "dynamics_shift")
        ]
    for path in sorted((ROOT / "conf" / "study").glob("*.yaml")):
        known.append((path.read_text().split("\n# ")[1].split(":")[0], f"+study={path.stem}"))
    for path in sorted((ROOT / "conf" / "target").glob("*.yaml")):
        known.append(("dynamics_shift", f"+target={path.stem}"))
    return known


@pytest.mark.parametrize(("setting", "word"), choices())
def test_every_choice_becomes_objects_that_say_what_it_says(setting, word):
    data = composed(setting, word, "methods=[psec]")
    config = whole(setting, data)
    SETTINGS[setting][1].check(config)
    assert list(differing(config, data)) == []


def differing(made: Any, data: Any, key: str = ""):
    """Keys at which an object is not what the mapping says."""
    known = {"action_size": 2, "skills": 2, "trained": None, "folder": "."}
    made = made(**known) if isinstance(made, Later) else made
    for name, inner in data.items():
        part = made[name] if isinstance(made, dict) else getattr(made, name, KINDS)
        if part is KINDS and name == "kind":
            assert type(made) is KINDS[inner]
        elif isinstance(inner, dict):
            yield from differing(part, inner, f"{key}.{name}")
        elif not isinstance(inner, list) and part != inner:
            yield f"{key}.{name}"


@pytest.mark.parametrize("setting", SETTINGS)
def test_whatever_does_not_fit_is_refused_with_its_whole_key(setting):
    """An unknown key in every mapping, and another type in place of every value."""
    data = composed(setting, "scale=smoke")
    whole(setting, data)
    for key, is_mapping in places(data):
        *path, last = [*key.split("."), "unheard_of"] if is_mapping else key.split(".")
        changed = OmegaConf.to_container(OmegaConf.create(data))
        at = changed
        for name in path:
            at = at[name]
        at[last] = {"deeper": 1} if is_mapping else [None]
        with pytest.raises(ConfigError) as error:
            whole(setting, changed)
        assert (f"{key}.unheard_of" if is_mapping else key) in str(error.value)


@dataclass(frozen=True)
class Part:
    sizes: tuple[int, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    mode: Literal["a", "b"] = "a"
    scale: float | None = None

    def __post_init__(self):
        if min(self.sizes) < 1:
            raise ValueError(f"sizes must be at least 1, not {self.sizes}")


@dataclass
class Whole:
    part: Part
    parts: dict[str, Part] = field(default_factory=dict)
    names: str | list[str] = "all"


ONE = {"sizes": [1]}


@pytest.mark.parametrize(
    ("data", "made"),
    [
        ({"part": {"sizes": [1, 2]}}, Whole(Part((1, 2)))),
        ({"part": {**ONE, "bounds": [0, 2]}}, Whole(Part((1,), (0.0, 2.0)))),
        ({"part": {**ONE, "scale": 3}}, Whole(Part((1,), scale=3.0))),
        ({"part": ONE, "parts": {"x": ONE}}, Whole(Part((1,)), {"x": Part((1,))})),
        ({"part": ONE, "names": ["p", "q"]}, Whole(Part((1,)), {}, ["p", "q"])),
    ],
)
def test_a_mapping_becomes_the_class_that_its_place_asks_for(data, made):
    assert build(Whole, data) == made


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "part is missing"),
        ({"part": {"sizes": "???"}}, "part.sizes is missing"),
        ({"part": {"sizes": [1, "x"]}}, r"part.sizes\[1\] must be int, not 'x'"),
        ({"part": {"sizes": [True]}}, r"part.sizes\[0\] must be int, not True"),
        (
            {"part": {"sizes": [1], "bounds": [0, 1, 2]}},
            r"part.bounds must be tuple\[float, float\]",
        ),
        ({"part": {"sizes": [1], "mode": "c"}}, "part.mode must be 'a' or 'b', not 'c'"),
        ({"part": {"sizes": [1], "modes": "a"}}, "part.modes is unknown; did you mean mode"),
        ({"part": {"sizes": [1], "scale": "x"}}, "part.scale must be float or null, not 'x'"),
        ({"part": {"sizes": [0]}}, r"part: sizes must be at least 1, not \(0,\)"),
        ({"part": {"sizes": [1]}, "parts": {"x": {}}}, "parts.x.sizes is missing"),
        ({"part": [1]}, r"part must be Part, not \[1\]"),
    ],
)
def test_what_does_not_fit_is_said(data, message):
    with pytest.raises(ConfigError, match=message):
        build(Whole, data)


def test_classes_of_ones_own_come_in_by_their_import_path():
    network = {"kind": "flows.VelocityNetwork", "hidden": [4], "activation": "jax.nn.tanh"}
    later = build(Later[Backbone], {"kind": "flows.FlowMatching", "steps": 2, "network": network})
    made = later(action_size=3)
    assert made == FlowMatching(3, VelocityNetwork((4,), nn.tanh), steps=2)
    training = {"steps": 1, "optimizer": {"kind": "optax.sgd", "learning_rate": 0.1}}
    assert isinstance(build(psec.Training, training).optimizer, optax.GradientTransformation)


@pytest.mark.parametrize(
    ("hint", "data", "message"),
    [
        (Backbone, {"kind": "gausian"}, "kind 'gausian' is unknown; did you mean gaussian"),
        (Backbone, {"kind": "flows.Flow"}, "kind 'flows.Flow' cannot be imported"),
        (Backbone, {"kind": "return"}, "must be a Backbone by its kind .*, not Return"),
        (Backbone, {"network": None}, "must be a Backbone by its kind"),
        (Objective, {"kind": "diffusion", "action_size": 1}, "must be a Objective by its kind"),
        (Weigh, {"kind": "return"}, "must be a function by its import path, or a callable"),
    ],
)
def test_a_kind_that_does_not_fit_its_place_is_refused(hint, data, message):
    with pytest.raises(ConfigError, match=message):
        build(hint, data)


def test_what_is_known_later_goes_to_every_class_that_needs_it_and_to_no_other():
    data = {"kind": "gaussian", "network": {"kind": "gaussian_actor", "hidden": [4]}}
    made = build(Later[Backbone], data)(action_size=3, skills=2)
    assert (made.action_size, made.network.action_size) == (3, 3)
    with pytest.raises(ConfigError, match="action_size is missing"):
        build(Later[Backbone], data)(skills=2)
    learner = build(Later[Learner], {"kind": "rebrac", "objective": {"kind": "cost"}})
    assert learner(trained=None) == ReBRAC(None, DiscountedCost())


@pytest.mark.parametrize("value", [Return(0.9), Feasibility(0.9, 2.0), psec.Adapter("full", 2)])
def test_a_class_is_its_fields(value):
    data = {name: getattr(value, name) for name in setting_names(value)}
    assert build(type(value), data) == value


def test_a_backbone_of_ones_own_is_a_choice_like_others(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "flow.yaml").write_text(
        "kind: flows.FlowMatching\nnetwork: {kind: flows.VelocityNetwork, hidden: [4]}\n"
    )
    overrides = [
        "scale=smoke",
        "backbone=flow",
        f"hydra.searchpath=[{tmp_path}]",
        "backbone.steps=2",
    ]
    overrides[-1] = "+backbone.steps=2"
    config = build(Continual, composed("continual", *overrides))
    continual.check(config)
    assert config.backbone(action_size=6) == FlowMatching(6, VelocityNetwork((4,)), steps=2)


def test_a_module_to_import_first_that_cannot_be_is_named():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("continual", ["imports=[no.such]"])
    with pytest.raises(ImportError, match=r"imports no\.such: No module named 'no'"):
        parse(config, Continual)


def test_an_interpolation_that_leads_nowhere_is_refused():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("continual", ["adapter.targets=${nowhere}"])
    with pytest.raises(ConfigError, match=r"adapter.targets.*nowhere"):
        parse(config, Continual)
