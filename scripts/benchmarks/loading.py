"""Reading a large file."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import psec_jax as psec
from psec_jax.data.hdf5 import write_hdf5

# Run in a process of its own, whose peak memory (VmHWM, of Linux) is then that of loading.
LOAD = """
import json, re, sys, time
import psec_jax as psec
import psec_jax.data.hdf5
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
before, start = peak(), time.perf_counter()
data = psec.load_dataset(sys.argv[1])
print(json.dumps([time.perf_counter() - start, peak() - before, len(data)]))
"""


def loading(size: int = 1_000_000) -> dict:
    """Loading a walker2d-sized file in D4RL's layout: seconds, and peak memory over its size."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "walker2d.hdf5"
        observations = generator.normal(size=(size, 17)).astype(np.float32)
        data = psec.TransitionDataset(
            observations=observations,
            actions=np.tanh(generator.normal(size=(size, 6))),
            rewards=generator.normal(size=size),
            terminations=np.zeros(size, bool),
            truncations=np.arange(size) % 1000 == 999,
        )
        write_hdf5(file, data)
        bytes_in_file = file.stat().st_size
        runs = [
            json.loads(subprocess.check_output([sys.executable, "-c", LOAD, str(file)]))
            for _ in range(3)
        ]
    return {
        "transitions": runs[0][2],
        "file_megabytes": round(bytes_in_file / 1e6, 1),
        "seconds": round(min(seconds for seconds, _, _ in runs), 2),
        "peak_memory_over_file_size": round(max(peak for _, peak, _ in runs) / bytes_in_file, 2),
    }
