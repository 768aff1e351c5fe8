"""Markdown tables."""

from collections.abc import Callable, Mapping, Sequence

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
        if summary is None:
            return "–"
        mean, low, high = (f"{x:.{digits}f}" for x in (summary.mean, summary.low, summary.high))
        mean = f"**{mean}**" if summary.mean == best[column] else mean
        return f"{mean} [{low}, {high}]"

    return markdown(rows, columns, cell)


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
