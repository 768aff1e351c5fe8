"""The ids of the environments, without any simulator.

An id is ``<family>/<name>``; those of the family ``mujoco`` may end in factors that shift the
dynamics: ``mujoco/walker2d-v5?gravity=2&friction=0.5``.
"""

import difflib
import math
from collections.abc import Iterable

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
NAMES = {
    "dm_control": tuple(
        f"{domain}-{task}-v0" for domain, tasks in DM_CONTROL.items() for task in tasks.split()
    ),
    "mujoco": tuple(
        f"{robot}-{version}"
        for robot in ("halfcheetah", "walker2d", "hopper", "ant")
        for version in ("v4", "v5")
    ),
    "bullet": tuple(
        agent + task for task in ("run", "circle") for agent in ("ant", "ball", "car", "drone")
    ),
    "metadrive": tuple(
        road + traffic
        for road in ("easy", "medium", "hard")
        for traffic in ("sparse", "mean", "dense")
    ),
}
FACTORS = ("gravity", "friction", "thigh")
EXAMPLES = (
    "expected for example dm_control/walker-walk-v0, mujoco/walker2d-v5, bullet/carrun or "
    "metadrive/easymean; psec_jax.envs.known_ids() has them all"
)


def known_ids() -> tuple[str, ...]:
    """Every id without factors, family by family."""
    return tuple(f"{family}/{name}" for family, names in NAMES.items() for name in names)


def parse(env_id: str) -> tuple[str, str, dict[str, float]]:
    """The family, the name and the factors of an id.

    Raises ``ValueError`` for what is not known, naming the closest that is.
    """
    family, _, rest = env_id.partition("/")
    name, mark, query = rest.partition("?")
    if name not in NAMES.get(family, ()):
        ids = known_ids()
        same_family = [known for known in ids if known.startswith(f"{family}/")]
        word = env_id.partition("?")[0]
        raise ValueError(
            f"unknown environment {env_id!r}; "
            f"{_suggestion(word, same_family) or _suggestion(word, ids) or EXAMPLES}"
        )
    if mark and family != "mujoco":
        raise ValueError(
            f"{env_id!r} has factors, and only mujoco/ environments take them; "
            f"did you mean {family}/{name}?"
        )
    return family, name, _factors(env_id, query.split("&") if mark else [])


def _factors(env_id: str, parts: list[str]) -> dict[str, float]:
    factors: dict[str, float] = {}
    for part in parts:
        key, _, text = part.partition("=")
        if key not in FACTORS:
            raise ValueError(
                f"unknown factor {key!r} in {env_id!r}; expected {', '.join(FACTORS)}, each as "
                f"factor=number; {_suggestion(key, FACTORS) or 'for example gravity=2'}"
            )
        if key in factors:
            raise ValueError(f"the factor {key!r} stands twice in {env_id!r}; expected it once")
        try:
            factors[key] = float(text)
        except ValueError:
            factors[key] = math.nan
        if not 0 < factors[key] < math.inf:
            raise ValueError(
                f"the factor {part!r} in {env_id!r} is no positive, finite number; expected for "
                f"example {key}=2"
            )
    return factors


def _suggestion(word: str, known: Iterable[str]) -> str:
    """What of ``known`` may have been meant, by its last part."""
    ends = {entry.rpartition("/")[2].lower(): entry for entry in known}
    close = difflib.get_close_matches(word.rpartition("/")[2].lower(), ends, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(ends[end] for end in close)}?" if close else ""
