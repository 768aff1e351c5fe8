"""Numbers that the paper reports, to stand beside ours (ICLR 2025, arXiv 2502.05932)."""

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
