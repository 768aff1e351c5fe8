"""The ids of the environments, without any simulator.

An id is ``<family>/<name>``, with factors where the family has them, as in
``mujoco/walker2d-v5?gravity=2&friction=0.5``, or an id of Gymnasium's registry. In front of either
``module:`` imports the module that registers it.
"""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

import gymnasium

from psec_jax.envs.families import FAMILIES, GYMNASIUM, Family

EXAMPLES = (
    "expected for example dm_control/walker-walk-v0, mujoco/walker2d-v5, bullet/carrun or "
    "metadrive/easymean; psec_jax.envs.known_ids() has them all, and gymnasium.registry those of "
    "Gymnasium, which work as well. Environments of your own are known once what registers them "
    "is imported, by 'module:id' for example"
)


def known_ids() -> tuple[str, ...]:
    """Every id without factors, family by family; those of Gymnasium's registry are not listed."""
    return tuple(f"{family}/{name}" for family, row in FAMILIES.items() for name in row.names)


def parse(env_id: str) -> tuple[str, str, dict[str, Any]]:
    """The family, the name and the factors of an id.

    The family of an id of Gymnasium's registry is ``"gymnasium"``, and its name the id.
    Raises ``ValueError`` for what is not known, naming the closest that is, and ``ImportError``
    where the module in front of an id cannot be imported.
    """
    word, mark, query = _imported(env_id).partition("?")
    family, slash, name = word.partition("/")
    row = FAMILIES.get(family)
    if row is not None and slash and (name in row.names or (name and not row.names)):
        return family, name, _factors(env_id, row, word, query.split("&") if mark else [])
    if word in gymnasium.registry:
        if mark:
            raise ValueError(
                f"{env_id!r} has factors, and ids of Gymnasium take none; use a function that "
                f"makes the environment instead, such as lambda: gymnasium.make({word!r}, …)"
            )
        return GYMNASIUM, word, {}
    ids = dict.fromkeys((*known_ids(), *gymnasium.registry))
    same_family = [known for known in ids if known.startswith(f"{family}/")]
    raise ValueError(
        f"unknown environment {env_id!r}; "
        f"{_suggestion(word, same_family) or _suggestion(word, ids) or EXAMPLES}"
    )


def _imported(env_id: str) -> str:
    """The id without the module in front of it, which has been imported."""
    module, mark, rest = env_id.partition(":")
    if not mark or not all(part.isidentifier() for part in module.split(".")):
        return env_id
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the module {module!r} of the environment {env_id!r} cannot be imported: {error}"
        ) from error
    return rest


def _factors(env_id: str, row: Family, word: str, parts: list[str]) -> dict[str, Any]:
    if parts and not row.factors:
        able = ", ".join(f"{family}/" for family, other in FAMILIES.items() if other.factors)
        raise ValueError(
            f"{env_id!r} has factors, and only {able} environments take them; did you mean {word}?"
        )
    factors: dict[str, Any] = {}
    for part in parts:
        key, _, text = part.partition("=")
        if key not in row.factors:
            hint = _suggestion(key, row.factors) or f"for example {next(iter(row.factors))}=2"
            raise ValueError(
                f"unknown factor {key!r} in {env_id!r}; expected {', '.join(row.factors)}, each "
                f"as factor=value; {hint}"
            )
        if key in factors:
            raise ValueError(f"the factor {key!r} stands twice in {env_id!r}; expected it once")
        try:
            factors[key] = row.factors[key](text)
        except ValueError as error:
            raise ValueError(f"the factor {part!r} in {env_id!r} is wrong: {error}") from error
    return factors


def _suggestion(word: str, known: Iterable[str]) -> str:
    """What of ``known`` may have been meant, by its last part."""
    ends: dict[str, list[str]] = {}
    for entry in known:
        ends.setdefault(entry.rpartition("/")[2].lower(), []).append(entry)
    close = difflib.get_close_matches(word.rpartition("/")[2].lower(), ends, n=3, cutoff=0.6)
    matches = [entry for end in close for entry in ends[end]][:4]
    return f"did you mean {' or '.join(matches)}?" if matches else ""
