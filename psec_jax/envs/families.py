"""The table of environment families: what their ids are and how their copies are made.

An id is ``<family>/<name>``, and may end in the family's factors. A row imports its simulator only
when copies are made. ``register`` adds a row from outside the package.
"""

import functools
import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv

from psec_jax.envs.in_process import InProcessVectorEnv, adapted_copies
from psec_jax.envs.vector_adapter import VectorAdapter

DM_CONTROL = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse three_poles two_poles",
    "cheetah": "run",
    "dog": "fetch run stand trot walk",
    "finger": "spin turn_easy turn_hard",
    "fish": "swim upright",
    "hopper": "hop stand",
    "humanoid": "run run_pure_state stand walk",
    "humanoid_CMU": "run stand walk",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "escape fetch run walk",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer15 swimmer6",
    "walker": "run stand walk",
}

# Makes so many copies of the environment of a name and factors.
Vector = Callable[[str, dict[str, Any], int], VectorEnv]


@dataclass(frozen=True)
class Family:
    """``vector(name, factors, num_envs)`` makes the copies of one of its environments.

    Without ``names`` any name is handed to ``vector``. ``factors`` are those that an id may have,
    each with the function that reads its text and raises ``ValueError``. ``most()`` is how many
    copies are worth having at once.
    """

    vector: Vector
    names: tuple[str, ...] = ()
    factors: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    most: Callable[[], int] = lambda: 50


def register(
    prefix: str,
    factory: Callable[..., gymnasium.Env],
    *,
    names: Iterable[str] = (),
    factors: Mapping[str, Callable[[str], Any]] | None = None,
) -> None:
    """Add a family of environments: the ids ``prefix/name`` and ``prefix/name?factor=value``.

    ``factory(name, **factors)`` makes one ``gymnasium.Env`` each time it is called, in this
    process; its actions are scaled to its bounds and its costs read from ``info["cost"]``, as for
    any environment handed to ``evaluate``. ``names`` are all that there are; without them every
    name reaches the factory. ``factors`` maps each factor to what reads its text, for example
    ``{"wind": float}``. A second call with the same prefix replaces the first.

        psec.envs.register("mine", MyEnv, factors={"wind": float})
        psec.evaluate(agent, "mine/hill?wind=2", episodes=10, key=key)  # MyEnv("hill", wind=2.0)

    Raises ``ValueError`` for a prefix that is built in or cannot be part of an id.
    """

    def vector(name: str, values: dict[str, Any], num_envs: int) -> VectorEnv:
        return adapted_copies(functools.partial(factory, name, **values), num_envs)

    _add(prefix, factory, vector, names, factors)


def register_vector(
    prefix: str,
    factory: Callable[..., VectorEnv],
    *,
    names: Iterable[str] = (),
    factors: Mapping[str, Callable[[str], Any]] | None = None,
) -> None:
    """As ``register``, for simulators that step all copies at once.

    ``factory(name, num_envs=…, **factors)`` makes one ``gymnasium.vector.VectorEnv`` of so many
    copies, of any autoreset mode.
    """

    def vector(name: str, values: dict[str, Any], num_envs: int) -> VectorEnv:
        made = factory(name, num_envs=num_envs, **values)
        if not isinstance(made, VectorEnv) or made.num_envs != num_envs:
            raise TypeError(
                f"the factory of {prefix}/ made {made!r}; expected a gymnasium.vector.VectorEnv "
                f"of num_envs={num_envs}"
            )
        return VectorAdapter(made)

    _add(prefix, factory, vector, names, factors)


def _add(
    prefix: str,
    factory: Any,
    vector: Vector,
    names: Iterable[str],
    factors: Mapping[str, Callable[[str], Any]] | None,
) -> None:
    if prefix in BUILT_IN or prefix == GYMNASIUM:
        raise ValueError(f"the prefix {prefix!r} is built in; choose another")
    if not prefix or set(prefix) & set("/?&:= "):
        raise ValueError(
            f"the prefix {prefix!r} cannot start an id; expected letters, digits, '_', '-' or '.'"
        )
    if not callable(factory):
        raise TypeError(f"factory must be callable as factory(name, **factors), not {factory!r}")
    FAMILIES[prefix] = Family(vector, tuple(names), dict(factors or {}))


def _in_process(module: str) -> Vector:
    """Copies of what the ``factory`` of a module of this package makes."""

    def vector(name: str, factors: dict[str, Any], num_envs: int) -> VectorEnv:
        family = importlib.import_module(f"psec_jax.envs.{module}")
        return InProcessVectorEnv(family.factory(name, **factors), num_envs)

    return vector


def _metadrive(name: str, factors: dict[str, Any], num_envs: int) -> VectorEnv:
    from psec_jax.envs import metadrive, processes

    metadrive.check_installed()
    arguments = f"metadrive/{name}", metadrive.__file__, "Drive", (name,), num_envs
    return processes.ProcessVectorEnv(*arguments)


def _gymnasium(name: str, factors: dict[str, Any], num_envs: int) -> VectorEnv:
    spec = gymnasium.spec(name)
    kind = spec.entry_point
    kind = load_env_creator(kind) if isinstance(kind, str) else kind
    # Where pictures can be had, they can be asked for later: rendering costs nothing until then.
    pictures = "rgb_array" in getattr(kind, "metadata", {}).get("render_modes", ())
    options = {"render_mode": "rgb_array"} if pictures else {}
    return adapted_copies(functools.partial(gymnasium.make, name, **options), num_envs)


def _four_a_core() -> int:
    """For copies that are processes: those whose episode has ended leave their core to others."""
    if hasattr(os, "sched_getaffinity"):
        return 4 * len(os.sched_getaffinity(0))
    return 4 * (os.cpu_count() or 1)


def _positive(factor: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise ValueError(f"no positive, finite number; expected for example {factor}=2")
        return value

    return read


BUILT_IN = {
    "dm_control": Family(
        _in_process("dm_control"),
        tuple(
            f"{domain}-{task}-v0" for domain, names in DM_CONTROL.items() for task in names.split()
        ),
    ),
    "mujoco": Family(
        _in_process("mujoco"),
        tuple(
            f"{robot}-{version}"
            for robot in ("halfcheetah", "walker2d", "hopper", "ant")
            for version in ("v4", "v5")
        ),
        {factor: _positive(factor) for factor in ("gravity", "friction", "thigh")},
    ),
    "bullet": Family(
        _in_process("bullet"),
        tuple(
            agent + task for task in ("run", "circle") for agent in ("ant", "ball", "car", "drone")
        ),
    ),
    "metadrive": Family(
        _metadrive,
        tuple(
            road + traffic
            for road in ("easy", "medium", "hard")
            for traffic in ("sparse", "mean", "dense")
        ),
        most=_four_a_core,
    ),
}
FAMILIES = dict(BUILT_IN)

# What ``parse`` calls the family of the ids in Gymnasium's own registry, which have no prefix.
GYMNASIUM = "gymnasium"


def family(prefix: str) -> Family:
    """The row of a prefix that ``parse`` returned."""
    return Family(_gymnasium) if prefix == GYMNASIUM else FAMILIES[prefix]
