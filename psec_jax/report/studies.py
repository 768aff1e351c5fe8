"""Studies: a table and figures from the measurements of several runs.

A study is called with the runs and a path without suffix, ``folder/name``, from which it names the
files that it writes and returns.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from psec_jax import storage
from psec_jax.evaluation.statistics import Summary
from psec_jax.report import figures, published, results
from psec_jax.report.results import Measurement
from psec_jax.report.runs import Run, pooled
from psec_jax.report.tables import (
    interval,
    markdown,
    published_table,
    returns_table,
    safety_table,
)

# The axis label of a metric, and the digits after the point.
METRICS = {
    "return": ("return", 0),
    "learning_return": ("return", 0),
    "score": ("normalized score", 1),
}
Published = Mapping[str, Mapping[float, float]]
Curves = dict[str, dict[float, Summary]]


class Study(Protocol):
    def __call__(self, runs: Sequence[Run], stem: Path) -> list[Path]: ...


@dataclass(frozen=True)
class ReturnsTable:
    """The methods in the paper's layout over all seeds, and what the paper reports; both as bars.

    ``labels`` are those of methods, in order. ``paper(columns)`` is method → column → value; of
    these ``paper_rows``, or the table's own, are shown.
    """

    labels: Mapping[str, str]
    paper: Callable[[Sequence[str]], Mapping[str, Mapping[str, float]]]
    source: str = "As the paper reports:"
    metric: str = "return"
    paper_rows: Sequence[tuple[str, str]] = ()

    def __call__(self, runs: Sequence[Run], stem: Path) -> list[Path]:
        measurements = pooled(runs)
        rows, columns = _rows(measurements, self.labels), _columns(measurements, self.metric)
        summaries, paper = results.summaries(measurements, self.metric), self.paper(columns)
        ylabel, digits = METRICS[self.metric]
        text = returns_table(summaries, rows, columns, digits)
        if reported := published_table(paper, self.paper_rows or rows, columns):
            text += f"\n{self.source}\n\n{reported}"
        table, figure = Path(f"{stem}.md"), Path(f"{stem}.png")
        storage.write_text(table, text)
        figures.bars(figure, summaries, rows, columns, paper, ylabel=ylabel)
        return [table, figure]


@dataclass(frozen=True)
class SafetyTable:
    """Normalized reward and cost of all tasks in the paper's layout, with the families' means, at
    every cost limit of the runs; and each task's plane. Methods without a label are skills."""

    labels: Mapping[str, str]

    def __call__(self, runs: Sequence[Run], stem: Path) -> list[Path]:
        measurements = pooled(runs)
        tasks = _columns(measurements, "return")
        skills = sorted({row.method for row in measurements} - set(self.labels))
        labels = {**self.labels, **{name: f"{name.capitalize()} skill" for name in skills}}
        methods = _rows(measurements, labels)
        limits = dict.fromkeys(_entry(run, "cost_limit") for run in runs)
        limits |= dict.fromkeys(limit for run in runs for limit in _entry(run, "other_limits"))
        table = Path(f"{stem}.md")
        parts, written = [], [table]
        for limit in limits:
            cells = results.safety_summaries(measurements, limit)
            parts.append(f"Limit {limit:g}:\n\n{safety_table(cells, methods, tasks)}")
            for task in tasks:
                figure = Path(f"{stem}_{task.replace('/', '_')}_{limit:g}.png")
                figures.plane(figure, cells, methods, task, title=task)
                written.append(figure)
        parts.append(
            "As the paper reports, on DSRL's data:\n\n" + published.multi_objective(tasks)
        )
        storage.write_text(table, "\n".join(parts))
        return written


@dataclass(frozen=True)
class Against:
    """Curves of a metric against one entry of the configuration, ``times`` a factor; runs that
    share it are seeds of one point."""

    key: str
    xlabel: str
    labels: Mapping[str, str]
    metric: str = "return"
    times: float = 1
    paper: Published | None = None

    def __call__(self, runs: Sequence[Run], stem: Path) -> list[Path]:
        points: dict[float, list[Run]] = {}
        for run in runs:
            points.setdefault(self.times * _entry(run, self.key), []).append(run)
        measurements = {x: pooled(seeds) for x, seeds in points.items()}
        task = _columns([row for run in runs for row in run.rows], self.metric)[0]
        curves = _curves(measurements, self.labels, task, self.metric)
        return _write_curves(stem, curves, self.xlabel, self.metric, self.paper)


@dataclass(frozen=True)
class LearningCurves:
    """Return while a skill or a policy is learned, before any composition; a figure a task."""

    labels: Mapping[str, str]

    def __call__(self, runs: Sequence[Run], stem: Path) -> list[Path]:
        metric = "learning_return"
        rows = [row for row in pooled(runs) if row.metric == metric]
        if not rows:
            raise ValueError(
                "these runs hold no learning curves; run with evaluation.curve_every=N"
            )
        steps = {float(row.step): [r for r in rows if r.step == row.step] for row in rows}
        written = []
        for task in _columns(rows, metric):
            curves = _curves(steps, self.labels, task, metric)
            written += _write_curves(
                Path(f"{stem}_{task}"), curves, "updates", metric, logarithmic=False
            )
        return written


def _rows(rows: Sequence[Measurement], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """(method, label) of those that were measured."""
    present = {row.method for row in rows}
    return [(name, label) for name, label in labels.items() if name in present]


def _columns(rows: Sequence[Measurement], metric: str) -> list[str]:
    columns = list(dict.fromkeys(row.task for row in rows if row.metric == metric))
    if not columns:
        raise ValueError(f"these runs have no {metric!r} measured; they are of another study")
    return columns


def _entry(run: Run, key: str) -> Any:
    """Of the configuration, by its dotted key."""
    try:
        return functools.reduce(operator.getitem, key.split("."), cast(Any, run.config))
    except (KeyError, TypeError):
        raise ValueError(
            f"these runs have no {key!r} in their configuration; they are of another study"
        ) from None


def _curves(
    points: Mapping[float, Sequence[Measurement]],
    labels: Mapping[str, str],
    task: str,
    metric: str,
) -> Curves:
    """Label → x → summary."""
    curves: Curves = {label: {} for label in labels.values()}
    for x in sorted(points):
        summaries = results.summaries(points[x], metric)
        for name, label in labels.items():
            if (name, task) in summaries:
                curves[label][x] = summaries[name, task]
    return {label: curve for label, curve in curves.items() if curve}


def _write_curves(
    stem: Path,
    curves: Curves,
    xlabel: str,
    metric: str,
    paper: Published | None = None,
    logarithmic: bool = True,
) -> list[Path]:
    ylabel, digits = METRICS[metric]
    columns = {f"{x:g}": x for x in sorted({x for curve in curves.values() for x in curve})}
    text = markdown(
        [(label, label) for label in curves],
        list(columns),
        lambda label, column: interval(curves[label].get(columns[column]), digits),
        corner=xlabel,
    )
    table, figure = Path(f"{stem}.md"), Path(f"{stem}.png")
    storage.write_text(table, text)
    figures.lines(figure, curves, xlabel, paper, logarithmic, ylabel=ylabel)
    return [table, figure]
