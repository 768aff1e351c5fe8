"""A section's numbers as Markdown."""

from typing import Any


def markdown(section: dict[str, Any]) -> str:
    """A table of the rows in ``section``, or one under each of its names; single numbers follow,
    one a line."""
    rows = {name: row for name, row in section.items() if isinstance(row, dict)}
    single = [f"- {_words(n)}: {v:,}" for n, v in section.items() if not isinstance(v, dict)]
    if any(isinstance(cell, dict) for row in rows.values() for cell in row.values()):
        parts = [_table(name, table) for name, table in rows.items()]
    else:
        parts = [_table("", rows)] if rows else []
    return "\n\n".join([*parts, "\n".join(single)] if single else parts)


def _table(corner: str, rows: dict[str, dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [
        f"| {' | '.join([corner, *map(_words, columns)])} |",
        f"|{' --- |' * (len(columns) + 1)}",
    ]
    for name, row in rows.items():
        cells = [f"{row[column]:,}" if column in row else "" for column in columns]
        lines.append(f"| {' | '.join([_words(name), *cells])} |")
    return "\n".join(lines)


def _words(name: str) -> str:
    return name.replace("_", " ")
