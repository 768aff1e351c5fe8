"""How far the jobs of sweeps are.

    python -m experiments.sweep_status SWEEP_FOLDER [...]

Prints each job's state, then how many there are of each: done, running, interrupted (start the
sweep again), failed (with the error), missing (not begun yet).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from experiments.status import Status
from experiments.sweeping import planned
from psec_jax.command_line import printing

WORDS = {"finished": "done"}


def states(sweep: Path) -> dict[str, tuple[str, str]]:
    """Each job's folder → its state, and the error of a failed one."""
    found = {path.parent.name: Status.read(path.parent) for path in sweep.glob("*/status.json")}
    told = {
        name: (WORDS.get(status.state, status.state), " ".join(status.error.split()))
        for name, status in found.items()
        if status is not None
    }
    missing = {name: ("missing", "") for name in planned(sweep) if name not in told}
    return dict(sorted({**told, **missing}.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="SWEEP_FOLDER")
    for sweep in parser.parse_args().sweeps:
        if not (sweep / "multirun.yaml").exists():
            sys.exit(f"error: {sweep} is no sweep's folder: it has no multirun.yaml")
        jobs = states(sweep)
        for name, (state, error) in jobs.items():
            print(f"{state:12}{name}" + (f"  {error}" if error else ""))
        counts = Counter(state for state, _ in jobs.values())
        print(f"{sweep}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))


if __name__ == "__main__":
    with printing():
        main()
