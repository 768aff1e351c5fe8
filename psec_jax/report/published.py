"""Numbers that the paper reports, to stand beside ours (ICLR 2025, arXiv 2502.05932)."""

from collections.abc import Iterable

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
SAMPLE_EFFICIENCY = {
    "psec": {10: 690, 30: 860, 50: 935, 100: 975},
    "nsec": {10: 320, 30: 750, 50: 905, 100: 975},
    "scratch": {10: 60, 30: 410, 50: 850, 100: 910},
    "asec": {10: 65, 30: 450, 50: 720, 100: 820},
}

# Normalised scores under dynamics shift, read off bars: robot and data → shift → PSEC's, and the
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
    found: dict[str, dict[str, float]] = {}
    for column in columns:
        data, _, shift = column.partition(", ")
        scores = DYNAMICS_SHIFT.get(data.replace("-good", "-expert"), {})
        if shift in scores:
            found.setdefault("psec", {})[column] = scores[shift]
            found.setdefault("best_baseline", {})[column] = scores["best"]
    return found
