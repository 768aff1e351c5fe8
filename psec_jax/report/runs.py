"""Runs, whose measurements are reported together where they differ in nothing but the seed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psec_jax.report.results import Measurement


@dataclass(frozen=True)
class Run:
    """A run's configuration and measurements. Runs of one ``identity``, the part of the
    configuration that decides what is measured, are seeds of one experiment."""

    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    rows: Sequence[Measurement]


def pooled(runs: Sequence[Run]) -> list[Measurement]:
    """All measurements; raises ``ValueError`` where one cell, a method on a task, was measured in
    several configurations."""
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for run in runs:
        # The data's own returns do not depend on the configuration of a method.
        measured = [row for row in run.rows if row.metric != "demonstrations"]
        for cell in dict.fromkeys((row.method, row.task) for row in measured):
            if different := differences(first.setdefault(cell, run.identity), run.identity):
                lines = [f"  {key}: {one} and {other}" for key, (one, other) in different.items()]
                raise ValueError(
                    f"runs of {' on '.join(cell)} are no seeds of one configuration; report on "
                    "each from a folder of its own. They differ in:\n" + "\n".join(lines)
                )
    return [row for run in runs for row in run.rows]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ: the dotted key → its value in each."""
    first, second = _flat(one), _flat(other)
    keys = [key for key in first | second if first.get(key) != second.get(key)]
    return {key: (first.get(key), second.get(key)) for key in keys}


def without(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix: config}
    return {
        name: value
        for key, inner in config.items()
        for name, value in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
