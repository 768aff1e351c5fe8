"""Markdown tables."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from psec_jax.evaluation.statistics import Summary


def markdown(
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
    cell: Callable[[str, str], str],
    corner: str = "",
) -> str:
    """A table; ``rows`` are (key, label) and ``cell(key, column)`` fills it."""
    lines = [[corner, *columns], ["---"] * (len(columns) + 1)]
    lines += [[label, *(cell(key, column) for column in columns)] for key, label in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def interval(summary: Summary | None, digits: int = 0, bold: bool = False) -> str:
    """``mean [low, high]`` to so many ``digits`` after the point, the mean ``bold``; a dash for
    None."""
    if summary is None:
        return "–"
    mean, low, high = (f"{x:.{digits}f}" for x in (summary.mean, summary.low, summary.high))
    return f"**{mean}** [{low}, {high}]" if bold else f"{mean} [{low}, {high}]"


def returns_table(
    summaries: Mapping[tuple[str, str], Summary],
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
    digits: int = 0,
) -> str:
    """Mean return (or score) and its 95 % interval, to so many ``digits`` after the point; the
    best mean of each column is bold."""
    best = {
        column: max(
            (summaries[key, column].mean for key, _ in rows if (key, column) in summaries),
            default=None,
        )
        for column in columns
    }

    def cell(method: str, column: str) -> str:
        summary = summaries.get((method, column))
        is_best = summary is not None and summary.mean == best[column]
        return interval(summary, digits, bold=is_best)

    return markdown(rows, columns, cell)


Cells = Mapping[tuple[str, str], tuple[Summary, Summary]]
FAMILIES = {"metadrive": "MetaDrive mean", "bullet": "BulletGym mean"}


def safety_table(
    cells: Cells,
    rows: Sequence[tuple[str, str]],
    tasks: Sequence[str],
    intervals: bool = False,
) -> str:
    """Normalized reward / normalized cost: a line for each task and for the mean of a family of
    several, a column for each method of ``rows``.

    ``cells`` maps (method, task) to the summaries of both. A mean cost of at most 1 is safe and
    bold; the best safe reward of a line is marked by *.
    """
    lines = []
    for task in tasks:
        summaries = {key: cells[key, task] for key, _ in rows if (key, task) in cells}
        means = {key: (reward.mean, cost.mean) for key, (reward, cost) in summaries.items()}
        lines.append((task, means, summaries))
    for family, label in FAMILIES.items():
        family_means = [means for task, means, _ in lines if task.startswith(f"{family}/")]
        if len(family_means) > 1:
            shared = [key for key, _ in rows if all(key in means for means in family_means)]
            means = {key: tuple(np.mean([m[key] for m in family_means], axis=0)) for key in shared}
            lines.append((f"{label} ({len(family_means)} tasks)", means, {}))
    by_name = {
        name: _safety_cells(means, summaries, intervals) for name, means, summaries in lines
    }
    methods = {label: key for key, label in rows}
    return markdown(
        [(name, name) for name in by_name],
        list(methods),
        lambda name, label: by_name[name].get(methods[label], "–"),
        corner="reward / cost",
    )


def _safety_cells(means, summaries, intervals) -> dict[str, str]:
    safe = {key: reward for key, (reward, cost) in means.items() if cost <= 1}
    cells = {}
    for key, (reward, cost) in means.items():
        numbers = [f"{reward:.2f}", f"{cost:.2f}"]
        if intervals and key in summaries:
            pairs = zip(numbers, summaries[key], strict=True)
            numbers = [f"{number} [{one.low:.2f}, {one.high:.2f}]" for number, one in pairs]
        text = " / ".join(numbers)
        if key in safe:
            text = f"**{text}**" + ("*" if reward == max(safe.values()) else "")
        cells[key] = text
    return cells


def published_table(
    numbers: Mapping[str, Mapping[str, float]],
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
) -> str:
    """The paper's own numbers for the same rows and columns; empty if it has none of them."""
    rows = [row for row in rows if row[0] in numbers]
    if not rows:
        return ""

    def cell(method: str, column: str) -> str:
        value = numbers.get(method, {}).get(column)
        return "–" if value is None else f"{value:g}"

    return markdown(rows, columns, cell)
