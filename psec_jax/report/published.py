"""Numbers that the paper reports, to stand beside ours (ICLR 2025, arXiv 2502.05932)."""

from collections.abc import Iterable, Sequence

from psec_jax.report.tables import markdown

# Returns in the continual setting, 10 target demonstrations: method → column → return.
CONTINUAL = {
    "scratch": {"S→W": 58.9, "S→R": 25.5, "S+W→R": 25.5},
    "asec": {"S→W": 65.7, "S→R": 24.3, "S+W→R": 30.8},
    "nsec": {"S→W": 320.9, "S→R": 38.5, "S+W→R": 39.4},
    "psec_mlp": {"S→W": 424.1, "S→R": 143.3, "S+W→R": 194.5},
    "psec": {"S→W": 688.0, "S→R": 221.0, "S+W→R": 247.0},
    "asec_fixed": {"S→W": 48.0},
    "nsec_fixed": {"S→W": 190.0},
    "psec_fixed": {"S→W": 540.0},
}

# Approximate returns on S→W by the number of target demonstrations, read off a figure.
SAMPLE_EFFICIENCY: dict[str, dict[float, float]] = {
    "psec": {10: 690, 30: 860, 50: 935, 100: 975},
    "nsec": {10: 320, 30: 750, 50: 905, 100: 975},
    "scratch": {10: 60, 30: 410, 50: 850, 100: 910},
    "asec": {10: 65, 30: 450, 50: 720, 100: 820},
}

# Normalized scores under dynamics shift, read off bars: robot and data → shift → PSEC's, and the
# best of the baselines (BC, IQL, CQL, MOPO, DOGE, TSRL, joint training) whatever the shift.
DYNAMICS_SHIFT = {
    "halfcheetah medium": {"friction": 40, "thigh": 41, "gravity": 41, "best": 43},
    "halfcheetah medium-replay": {"friction": 31, "thigh": 32, "gravity": 29, "best": 28},
    "halfcheetah medium-expert": {"friction": 42, "thigh": 44, "gravity": 42, "best": 40},
    "walker2d medium": {"friction": 61, "thigh": 64, "gravity": 57, "best": 50},
    "walker2d medium-replay": {"friction": 21, "thigh": 25, "gravity": 27, "best": 26},
    "walker2d medium-expert": {"friction": 75, "thigh": 71, "gravity": 72, "best": 55},
}
DYNAMICS_SHIFT_ROWS = (("psec", "PSEC"), ("best_baseline", "Best of its baselines"))


def dynamics_shift(columns: Iterable[str]) -> dict[str, dict[str, float]]:
    """Method → column → score, for columns such as ``walker2d medium, gravity``.

    The local ``medium-good`` data stand where D4RL has ``medium-expert``.
    """
    table: dict[str, dict[str, float]] = {}
    for column in columns:
        data, _, shift = column.partition(", ")
        scores = DYNAMICS_SHIFT.get(data.replace("-good", "-expert"), {})
        if shift in scores:
            table.setdefault("psec", {})[column] = scores[shift]
            table.setdefault("best_baseline", {})[column] = scores["best"]
    return table


# Normalized reward and cost (limit 10) on DSRL's data: the means of each family by method, and
# PSEC's by task.
SAFETY_MEANS = {
    "MetaDrive": {
        "BC": (0.40, 3.21), "CDT": (0.25, 1.45), "CPQ": (-0.06, 0.24), "COptiDICE": (0.63, 10.26),
        "FISOR": (0.36, 0.25), "ASEC": (0.67, 2.02), "NSEC": (0.53, 0.76), "PSEC": (0.50, 0.03),
    },
    "BulletGym": {
        "BC": (0.72, 10.58), "CDT": (0.63, 2.09), "CPQ": (0.32, 5.28), "COptiDICE": (0.55, 7.64),
        "FISOR": (0.39, 0.10), "ASEC": (0.58, 3.20), "NSEC": (0.62, 4.24), "PSEC": (0.41, 0.33),
    },
}  # fmt: skip
SAFETY = {
    "metadrive/easysparse": (0.55, 0.02),
    "metadrive/easymean": (0.37, 0.00),
    "metadrive/easydense": (0.51, 0.01),
    "metadrive/mediumsparse": (0.76, 0.03),
    "metadrive/mediummean": (0.61, 0.01),
    "metadrive/mediumdense": (0.66, 0.02),
    "metadrive/hardsparse": (0.34, 0.04),
    "metadrive/hardmean": (0.39, 0.07),
    "metadrive/harddense": (0.34, 0.07),
    "bullet/antrun": (0.59, 0.33),
    "bullet/ballrun": (0.15, 0.95),
    "bullet/carrun": (0.83, 0.00),
    "bullet/dronerun": (0.47, 0.87),
    "bullet/antcircle": (0.20, 0.00),
    "bullet/ballcircle": (0.34, 0.22),
    "bullet/carcircle": (0.36, 0.20),
    "bullet/dronecircle": (0.33, 0.07),
}


def multi_objective(tasks: Sequence[str]) -> str:
    """A table of what the paper reports: PSEC on ``tasks``, and every method's family means."""
    methods = list(SAFETY_MEANS["MetaDrive"])
    families = {"metadrive/": "MetaDrive", "bullet/": "BulletGym"}
    names = [name for start, name in families.items() if any(t.startswith(start) for t in tasks)]

    def cell(row: str, method: str) -> str:
        only = {"PSEC": SAFETY.get(row)}
        pair = SAFETY_MEANS[row].get(method) if row in SAFETY_MEANS else only.get(method)
        return "–" if pair is None else f"{pair[0]:.2f} / {pair[1]:.2f}"

    rows = [(task, task) for task in tasks] + [(name, f"{name} mean") for name in names]
    return markdown(rows, methods, cell, corner="reward / cost, reported")
