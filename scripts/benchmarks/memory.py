"""The peak memory of a fit: predicted from shapes, and measured in a process of its own."""

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import psec_jax as psec
from benchmarks.cases import ACTIONS, OBSERVATIONS, RANK, paper_policy
from psec_jax.learners import PolicyLearner, SkillLearner
from psec_jax.training import Checkpoints, fit
from psec_jax.training.fit import Learner
from psec_jax.training.memory import Memory, predicted_memory

STEPS = 4


@dataclass(frozen=True)
class Case:
    learner: str = "pretraining"
    features: int = 256
    batch: int = 256
    seeds: int = 1
    rows: int = 10_000
    checkpoints: bool = False


NOTHING = Case(features=8, batch=8, rows=100)
CASES = (
    Case(),
    Case(features=1024),
    Case(batch=2048),
    Case(seeds=5),
    Case(rows=500_000),
    Case(batch=2048, seeds=5, rows=500_000),
    Case(features=1024, checkpoints=True),
    Case("skill", features=1024, batch=2048),
)


def memory() -> dict:
    """Megabytes (10⁶ bytes); what a process takes for itself is the peak of a fit of hardly
    anything, and the prediction is that and ``predicted_memory``."""
    itself = measured(NOTHING)
    table = {}
    for case in CASES:
        counted = predicted(case).shared_peak
        peak = measured(case)
        table[" ".join(description(case))] = {
            "counted_MB": round(counted / 1e6),
            "predicted_MB": round((itself + counted) / 1e6),
            "measured_MB": round(peak / 1e6),
            "predicted_over_measured": round((itself + counted) / peak, 2),
        }
    return {**table, "megabytes_of_a_process": round(itself / 1e6)}


def description(case: Case) -> list[str]:
    parts = [f"{case.learner}: features {case.features}, batch {case.batch}, seeds {case.seeds},"]
    parts.append(f"{case.rows:,} rows")
    return [*parts, "and checkpoints"] if case.checkpoints else parts


def dataset(rows: int) -> psec.TransitionDataset:
    """Without a second copy of anything."""
    generator = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        array = generator.random(shape, np.float32)
        array.setflags(write=False)
        return array

    ends = np.zeros(rows, bool)
    ends.setflags(write=False)
    observations, actions = numbers(rows, OBSERVATIONS), numbers(rows, ACTIONS)
    return psec.TransitionDataset(observations, actions, numbers(rows), ends, ends)


def learner(case: Case) -> Learner:
    base, optimizer = paper_policy(case.features), psec.Optimizer(steps=STEPS)
    if case.learner == "skill":
        return SkillLearner(base, psec.Adapter(rank=RANK), optimizer)
    return PolicyLearner(base, optimizer)


def predicted(case: Case) -> Memory:
    return predicted_memory(
        learner(case),
        dataset(case.rows).arrays(),
        batch_size=case.batch,
        seeds=case.seeds,
        checkpoints=case.checkpoints,
    )


def measured(case: Case) -> int:
    """Bytes."""
    settings = json.dumps(dataclasses.asdict(case))
    command = [sys.executable, "-m", "benchmarks.memory", settings]
    return int(subprocess.check_output(command, cwd=Path(__file__).parents[1]))


def train(case: Case) -> None:
    data = dataset(case.rows)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder) if case.checkpoints else None
        fit(
            [learner(case) for _ in range(case.seeds)],
            data,
            key=jax.random.split(jax.random.key(0), case.seeds),
            training=psec.Training(
                STEPS, case.batch, label="seed", checkpoints=checkpoints, chunk=2
            ),
        )


if __name__ == "__main__":
    train(Case(**json.loads(sys.argv[1])))
    status = Path("/proc/self/status").read_text()
    print(1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1]))
