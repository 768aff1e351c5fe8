"""Figures. Each function draws one and writes it to a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from psec_jax import storage
from psec_jax.evaluation import Trace
from psec_jax.evaluation.statistics import Summary

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        f"figures need the extra: pip install 'psec-jax[experiments]' ({error})"
    ) from error

COLORS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222",
    "#332288", "#882255", "#44aa99", "#ddcc77", "#117733", "#999933", "#cc6677",
)  # fmt: skip


def bars(
    path: Path,
    summaries: Mapping[tuple[str, str], Summary],
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
    published: Mapping[str, Mapping[str, float]] | None = None,
    references: Mapping[str, float] | None = None,
    title: str = "",
    ylabel: str = "return",
) -> None:
    """Grouped bars of mean return with 95 % intervals.

    ``published`` numbers are black diamonds, and ``references`` (column → return, such as the
    demonstrators') dashed lines.
    """
    figure, axes = _blank(1.8 + 2.2 * len(columns))
    rows = [row for row in rows if any((row[0], column) in summaries for column in columns)]
    width = 0.8 / max(len(rows), 1)
    marked = drawn = False
    for index, (method, label) in enumerate(rows):
        at = np.arange(len(columns)) + (index - (len(rows) - 1) / 2) * width
        values = [summaries.get((method, column)) for column in columns]
        means = np.array([s.mean if s else np.nan for s in values])
        errors = np.array([[s.mean - s.low, s.high - s.mean] if s else [0, 0] for s in values]).T
        axes.bar(at, means, width * 0.92, yerr=errors, capsize=2, label=label, **_color(index))
        for x, column in zip(at, columns, strict=True):
            if published and column in published.get(method, {}):
                axes.plot(
                    x,
                    published[method][column],
                    "D",
                    color="black",
                    markersize=4,
                    label=None if marked else "paper",
                )
                marked = True
    for x, column in enumerate(columns):
        if references and column in references:
            axes.hlines(
                references[column],
                x - 0.45,
                x + 0.45,
                color="black",
                linestyle="--",
                linewidth=1,
                label="" if drawn else "demonstrations",
            )
            drawn = True
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlim(-0.5, max(len(columns), 1) - 0.5)
    axes.set_ylabel(ylabel)
    _finish(figure, axes, path, title)


def plane(
    path: Path,
    cells: Mapping[tuple[str, str], tuple[Summary, Summary]],
    rows: Sequence[tuple[str, str]],
    task: str,
    title: str = "",
) -> None:
    """Each method's normalized reward against its normalized cost, with 95 % intervals; the
    shaded side is safe."""
    figure, axes = _blank(6.4)
    for index, (method, label) in enumerate(rows):
        if (method, task) in cells:
            reward, cost = cells[method, task]
            axes.errorbar(
                cost.mean,
                reward.mean,
                xerr=[[cost.mean - cost.low], [cost.high - cost.mean]],
                yerr=[[reward.mean - reward.low], [reward.high - reward.mean]],
                fmt="o",
                capsize=2,
                label=label,
                **_color(index),
            )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=-0.1)
    axes.axvspan(-0.1, 1, color="#228833", alpha=0.08, linewidth=0)
    axes.axvline(1, color="black", linewidth=0.5, linestyle="--")
    axes.set_xlabel("normalized cost")
    axes.set_ylabel("normalized reward")
    _finish(figure, axes, path, title)


def lines(
    path: Path,
    curves: Mapping[str, Mapping[float, Summary]],
    xlabel: str,
    published: Mapping[str, Mapping[float, float]] | None = None,
    logarithmic: bool = False,
    title: str = "",
    ylabel: str = "return",
) -> None:
    """Mean return with a 95 % band against any quantity; ``published`` curves are dotted."""
    figure, axes = _blank(6.0)
    for index, (label, curve) in enumerate(curves.items()):
        xs = sorted(curve)
        axes.plot(xs, [curve[x].mean for x in xs], "o-", label=label, **_color(index))
        low, high = [curve[x].low for x in xs], [curve[x].high for x in xs]
        axes.fill_between(xs, low, high, alpha=0.15, linewidth=0, **_color(index))
        if published and label in published:
            xs = sorted(published[label])
            axes.plot(
                xs,
                [published[label][x] for x in xs],
                ":",
                label=f"{label} (paper)",
                **_color(index),
            )
    if logarithmic:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for curve in curves.values() for x in curve})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    _finish(figure, axes, path, title)


def distribution(
    path: Path,
    returns: Float[np.ndarray, "trajectory"],
    costs: Float[np.ndarray, "trajectory"] | None = None,
    title: str = "",
) -> None:
    """How a dataset's trajectories lie: a histogram of returns, or returns against costs."""
    figure, axes = _blank(5.0)
    if costs is None:
        axes.hist(returns, bins=40, **_color(0))
        axes.set_ylabel("trajectories")
    else:
        axes.plot(returns, costs, "o", markersize=3, alpha=0.5, markeredgewidth=0, **_color(0))
        axes.set_ylabel("cost")
    axes.set_xlabel("return")
    axes.set_title(title)
    _save(figure, path, dpi=100)


def weights_over_episode(
    path: Path,
    trace: Trace,
    names: Sequence[str],
    title: str = "",
) -> None:
    """α(s) of each skill at each step of an episode, above reward and cost of that step; where
    there is a cost, the background is shaded. Of an agent that goes home, π₀'s modeled reward lies
    between, with the levels at which it does."""
    switch = trace.switch
    figure = Figure(figsize=(7, 4 if switch is None else 5), layout="constrained")
    heights = (2, 1) if switch is None else (2, 1, 1)
    above, *between, below = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    if switch is not None:
        (middle,) = between
        middle.plot(trace.home_rewards, color="#332288", linewidth=1)
        middle.axhspan(*switch, color="#332288", alpha=0.15, linewidth=0)
        middle.set_ylabel("r̂(s) / usual")
    for index, name in enumerate(names):
        above.plot(trace.weights[:, index], label=name, linewidth=1, **_color(index))
    above.axhline(1.0, color="black", linewidth=0.5, linestyle=":")
    above.axhline(0.0, color="black", linewidth=0.5, linestyle=":")
    above.set_ylabel("weight α(s)")
    above.set_title(title)
    below.plot(trace.rewards, color="#555555", linewidth=1, label="reward")
    below.set_ylabel("reward")
    if trace.costs.any():
        below.plot(trace.costs, color="#cc3311", linewidth=1, label="cost")
        below.set_ylabel("reward, cost")
        below.legend(frameon=False, loc="best", fontsize=8)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], trace.costs > 0, [0]])))
        for index, (start, end) in enumerate(edges.reshape(-1, 2)):
            label = "cost" if index == 0 else None
            above.axvspan(start, end, color="#cc3311", alpha=0.12, linewidth=0, label=label)
    above.legend(frameon=False, loc="best")
    below.set_xlabel("environment step")
    for axes in (above, *between, below):
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path, dpi=150)


def episode_strip(
    trace: Trace, names: Sequence[str], width: int
) -> tuple[UInt8[np.ndarray, "height width 3"], Int[np.ndarray, "step"]]:
    """Weights above rewards over an episode, so many pixels wide, and the column of each step."""
    figure = Figure(figsize=(width / 100, 1.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for index, name in enumerate(names):
        above.plot(trace.weights[:, index], label=name, linewidth=1, **_color(index))
    above.set_ylim(min(0, trace.weights.min()) - 0.05, max(1, trace.weights.max()) + 0.05)
    above.set_ylabel("weight α", fontsize=7)
    above.legend(frameon=False, fontsize=7, loc="center right")
    below.plot(trace.rewards, color="#555555", linewidth=1)
    below.set_ylabel("reward", fontsize=7)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=6)
        axes.margins(x=0)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    steps = np.stack([np.arange(len(trace.weights)), np.zeros(len(trace.weights))], axis=1)
    columns = above.transData.transform(steps)[:, 0].astype(int)
    return pixels, np.clip(columns, 0, width - 1)


def picture_strip(
    path: Path, trace: Trace, names: Sequence[str], count: int = 6, title: str = ""
) -> None:
    """Pictures along an episode, each with its step and the weights of that step."""
    chosen = np.unique(np.linspace(0, len(trace.pictures) - 1, count).round().astype(int))
    figure = Figure(figsize=(2.2 * len(chosen), 2.9), layout="constrained")
    for axes, index in zip(np.atleast_1d(figure.subplots(1, len(chosen))), chosen, strict=True):
        step, picture = trace.pictures[index]
        axes.imshow(picture)
        axes.set_axis_off()
        weights = zip(names, trace.weights[step], strict=True)
        text = "\n".join(f"{name} {weight:.2f}" for name, weight in weights)
        axes.set_title(f"step {step}\n{text}", fontsize=8)
    figure.suptitle(title)
    _save(figure, path, dpi=120)


def _color(index: int) -> dict[str, Any]:
    return {"color": COLORS[index % len(COLORS)]}


def _blank(width: float):
    figure = Figure(figsize=(width, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure, axes, path: Path, title: str) -> None:
    if axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(0, color="black", linewidth=0.5)
    axes.set_title(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path, dpi=150)


def _save(figure: "Figure", path: Path, dpi: int) -> None:
    with storage.new_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
