"""Tables and figures from the results of one or more runs.

    python -m experiments.report sample_efficiency outputs/reproduce/sample_efficiency

Finds every ``results.jsonl`` below the folder, with the ``config.json`` beside it, and writes a
figure and a table named after the study into the folder.
"""

import argparse
import functools
import json
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import dynamics_shift, multi_objective
from experiments.continual import METHODS
from experiments.recording import differences
from experiments.status import Status
from experiments.sweeping import PASSING
from psec_jax import storage
from psec_jax.evaluation.statistics import Summary
from psec_jax.report import figures, published, results
from psec_jax.report.results import Measurement
from psec_jax.report.tables import markdown, published_table, returns_table, safety_table

Run = tuple[dict[str, Any], list[Measurement]]
# In what runs may differ and still be seeds of one cell: how they went, and what else they hold.
APART = (*PASSING, "seeds", "side_by_side", "methods", "task", "other_limits")
CONTINUAL = {name: method.label for name, method in METHODS.items()}
DYNAMICS_SHIFT = {name: method.label for name, method in dynamics_shift.METHODS.items()}
# How a metric is shown: its name, and the digits after the point.
SHOWN = {"return": ("return", 0), "score": ("normalized score", 1)}
LEARNING = {"policies": "Scratch", "full": "Dense skill", "low_rank": "Low-rank skill"}


@dataclass(frozen=True)
class Table:
    """The methods in the paper's layout over all seeds, and what the paper reports; both as bars.

    ``paper(columns)`` is method → column → value; of these ``paper_rows``, or our own, are shown.
    """

    labels: Mapping[str, str]
    paper: Callable[[Sequence[str]], Mapping[str, Mapping[str, float]]]
    source: str = "As the paper reports:"
    metric: str = "return"
    paper_rows: Sequence[tuple[str, str]] = ()

    def __call__(self, runs: list[Run], out: Path, name: str) -> list[Path]:
        rows, columns = _rows(runs, self.labels), _columns(runs, self.metric)
        summaries, paper = results.summaries(_pooled(runs), self.metric), self.paper(columns)
        ylabel, digits = SHOWN[self.metric]
        text = returns_table(summaries, rows, columns, digits)
        if reported := published_table(paper, self.paper_rows or rows, columns):
            text += f"\n{self.source}\n\n{reported}"
        table, figure = out / f"{name}.md", out / f"{name}.png"
        storage.write_text(table, text)
        figures.bars(figure, summaries, rows, columns, paper, ylabel=ylabel)
        return [table, figure]


def training_curves(runs: list[Run], out: Path, name: str) -> list[Path]:
    """Return while a skill or a policy from scratch is learned, before any composition."""
    rows = [row for row in _pooled(runs) if row.metric == "learning_return"]
    if not rows:
        raise ValueError("these runs hold no learning curves; run with evaluation.curve_every=N")
    steps = {
        float(step): [row for row in rows if row.step == step] for step in {r.step for r in rows}
    }
    written = []
    for task in dict.fromkeys(row.task for row in rows):
        curves = _curves(steps, LEARNING, task, "learning_return")
        written += _curve_report(out / f"{name}_{task}", curves, "updates", logarithmic=False)
    return written


def multi_objective_table(runs: list[Run], out: Path, name: str) -> list[Path]:
    """Normalized reward and cost of all tasks in the paper's layout, with the families' means, at
    every cost limit of the runs."""
    rows, tasks = _pooled(runs), _columns(runs, "return")
    present = {row.method for row in rows}
    labels = {name: method.label for name, method in multi_objective.METHODS.items()}
    labels |= {name: f"{name.capitalize()} skill" for name in sorted(present - set(labels))}
    methods = _rows(runs, labels)
    limits = {c["cost_limit"]: None for c, _ in runs}
    limits |= {limit: None for c, _ in runs for limit in c["other_limits"]}
    parts, written = [], []
    for limit in limits:
        cells = multi_objective.score_cells(rows, limit)
        parts.append(f"Limit {limit:g}:\n\n{safety_table(cells, methods, tasks)}")
        for task in tasks:
            figure = out / f"{name}_{task.replace('/', '_')}_{limit:g}.png"
            figures.plane(figure, cells, methods, task, title=task)
            written.append(figure)
    table = out / f"{name}.md"
    parts.append("As the paper reports, on DSRL's data:\n\n" + published.multi_objective(tasks))
    storage.write_text(table, "\n".join(parts))
    return [table, *written]


@dataclass(frozen=True)
class Against:
    """Curves of a metric against one entry of the configuration, ``times`` a factor; runs that
    share it are seeds of one point."""

    key: str
    xlabel: str
    labels: Mapping[str, str]
    metric: str = "return"
    times: float = 1
    paper: Mapping[str, Mapping[float, float]] | None = None

    def __call__(self, runs: list[Run], out: Path, name: str) -> list[Path]:
        points: dict[float, list[Run]] = {}
        for config, rows in runs:
            entry: Any = functools.reduce(operator.getitem, self.key.split("."), config)
            at = self.times * entry
            points.setdefault(at, []).append((config, rows))
        pooled = {at: _pooled(seeds) for at, seeds in points.items()}
        curves = _curves(pooled, self.labels, _columns(runs, self.metric)[0], self.metric)
        return _curve_report(out / name, curves, self.xlabel, self.paper, metric=self.metric)


CONTINUAL_TABLE = Table(CONTINUAL, lambda columns: published.CONTINUAL)
STUDIES: dict[str, Callable[[list[Run], Path, str], list[Path]]] = {
    "continual_table": CONTINUAL_TABLE,
    "context_ablation": CONTINUAL_TABLE,
    "sample_efficiency": Against(
        "data.target_trajectories",
        "target demonstrations",
        CONTINUAL,
        paper={CONTINUAL[name]: curve for name, curve in published.SAMPLE_EFFICIENCY.items()},
    ),
    "training_curves": training_curves,
    "rank_ablation": Against("adapter.rank", "rank", CONTINUAL),
    "dynamics_shift_table": Table(
        DYNAMICS_SHIFT,
        published.dynamics_shift,
        "As the paper reports, read off its bars, on D4RL's data:",
        "score",
        published.DYNAMICS_SHIFT_ROWS,
    ),
    "target_data": Against(
        "target.fraction", "% of the target's data", DYNAMICS_SHIFT, "score", times=100
    ),
    "multi_objective_table": multi_objective_table,
}


def read_runs(folder: Path) -> list[Run]:
    """(configuration, measurements) of every finished run below ``folder``; others are named."""
    paths = sorted(path.parent for path in folder.rglob("results.jsonl"))
    kept = [path for path in paths if _finished(path)]
    if left_out := [path.name for path in paths if path not in kept]:
        print(f"left out, as not finished: {', '.join(left_out)}")
    if not kept:
        raise ValueError(
            f"{folder} holds no results.jsonl of a finished run; give the folder of a run or a "
            "sweep"
        )
    return [
        (json.loads((path / "config.json").read_text()), results.read([path / "results.jsonl"]))
        for path in kept
    ]


def _finished(run: Path) -> bool:
    status = Status.read(run)
    return status is None or status.state == "finished"


def _pooled(runs: list[Run]) -> list[Measurement]:
    """All measurements; raises ``ValueError`` where one cell, a method on a task, was measured in
    several configurations."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for config, rows in runs:
        # What the data themselves return stands in no table.
        shown = [row for row in rows if row.metric != "demonstrations"]
        for cell in dict.fromkeys((row.method, row.task) for row in shown):
            if different := differences(first.setdefault(cell, config), config, APART):
                lines = [
                    f"  {name}: {one} and {other}" for name, (one, other) in different.items()
                ]
                raise ValueError(
                    f"runs of {' on '.join(cell)} are no seeds of one configuration; report on "
                    "each from a folder of its own. They differ in:\n" + "\n".join(lines)
                )
    return [row for _, rows in runs for row in rows]


def _rows(runs: list[Run], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """(method, label) of those that were measured."""
    present = {row.method for _, rows in runs for row in rows}
    return [(name, label) for name, label in labels.items() if name in present]


def _columns(runs: list[Run], metric: str) -> list[str]:
    return list(dict.fromkeys(r.task for _, rows in runs for r in rows if r.metric == metric))


Curves = dict[str, dict[float, Summary]]


def _curves(
    points: Mapping[float, list[Measurement]], labels: Mapping[str, str], task: str, metric: str
) -> Curves:
    """Label → quantity → summary."""
    curves: Curves = {}
    for at in sorted(points):
        summaries = results.summaries(points[at], metric)
        for name, label in labels.items():
            if (name, task) in summaries:
                curves.setdefault(label, {})[at] = summaries[name, task]
    return {label: curves[label] for label in labels.values() if label in curves}


def _curve_report(
    name: Path,
    curves: Curves,
    xlabel: str,
    paper: Mapping[str, Mapping[float, float]] | None = None,
    logarithmic: bool = True,
    metric: str = "return",
) -> list[Path]:
    ylabel, digits = SHOWN[metric]
    xs = sorted({x for curve in curves.values() for x in curve})

    def cell(label: str, column: str) -> str:
        summary = curves[label].get(float(column))
        if summary is None:
            return "–"
        mean, low, high = (f"{x:.{digits}f}" for x in (summary.mean, summary.low, summary.high))
        return f"{mean} [{low}, {high}]"

    table, figure = Path(f"{name}.md"), Path(f"{name}.png")
    rows = [(label, label) for label in curves]
    storage.write_text(table, markdown(rows, [f"{x:g}" for x in xs], cell, corner=xlabel))
    figures.lines(figure, curves, xlabel, paper, logarithmic, ylabel=ylabel)
    return [table, figure]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="folder of a run or of a sweep")
    chosen = parser.parse_args(arguments)
    try:
        written = STUDIES[chosen.study](read_runs(chosen.folder), chosen.folder, chosen.study)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for path in written:
        if path.suffix == ".md":
            print(path.read_text())
        print(path)


if __name__ == "__main__":
    main()
