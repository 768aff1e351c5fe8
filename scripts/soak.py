"""Kills a small experiment again and again, and compares what comes out with an undisturbed one.

    python scripts/soak.py [--kills 30] [--signal KILL] [--seed 0] [--out FOLDER]

Every start goes on where the last one was killed, at a random moment of its time, also while
something is being saved. The measurements, the metrics, the table and every parameter must be the
same in the end, byte for byte, and no file may be unreadable. A signal other than KILL must make
the run end with exit code 75.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from psec_jax import storage

ROOT = Path(__file__).parents[1]
WORDS = (
    "scale=smoke",
    "chain=walker_walk",
    "methods=[scratch,psec]",
    "seeds=[0,1]",
    "evaluation.episodes=1",
    "pretrain.steps=600",
    "skill.steps=600",
    "checkpoint.every=100",
    "progress=false",
)


def start(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.continual", *WORDS, f"hydra.run.dir={out}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def undisturbed(out: Path) -> float:
    """Runs to the end; returns the seconds that took."""
    started = time.monotonic()
    process = start(out)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"the undisturbed run failed: {errors.decode()[-2000:]}")
    return time.monotonic() - started


def killed_once(out: Path, number: signal.Signals, longest: float) -> bool:
    """Starts and kills at a random moment; returns whether the run had ended before."""
    process = start(out)
    time.sleep(random.uniform(0.1, 0.8) * longest)
    process.send_signal(number)
    _, errors = process.communicate()
    allowed = {0, -signal.SIGKILL} if number == signal.SIGKILL else {0, 75, -number}
    if process.returncode not in allowed:
        sys.exit(f"a start ended with {process.returncode}: {errors.decode()[-2000:]}")
    unreadable(out)
    return process.returncode == 0


def unreadable(out: Path) -> None:
    """Reads every file that carries its final name; raises ``BrokenFile`` for a broken one."""
    finals = [path for path in out.rglob("*") if not any(p.startswith(".") for p in path.parts)]
    for path in finals:
        if "checkpoints" in path.parts:
            continue
        if path.suffix == ".json":
            storage.read_json(path)
        elif path.suffix == ".safetensors":
            storage.read_tensors(path)


def contents(out: Path) -> dict[str, bytes]:
    """What a run must leave behind, byte for byte, by its path."""
    kept = ("*.jsonl", "table.md", "*.csv", "seed_*/library/**/*")
    return {
        str(path.relative_to(out)): path.read_bytes()
        for pattern in kept
        for path in sorted(out.glob(pattern))
        if path.is_file() and not path.name.startswith(".")
    }


def compare(whole: Path, killed: Path) -> int:
    """The number of files that are the same; ends the program if any is not."""
    one, other = contents(whole), contents(killed)
    if different := [name for name in one | other if one.get(name) != other.get(name)]:
        sys.exit(f"{len(different)} files differ in {killed}: {', '.join(different)}")
    return len(one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="keeps the runs here")
    chosen = parser.parse_args()
    random.seed(chosen.seed)
    number = signal.Signals[f"SIG{chosen.signal}"]
    with tempfile.TemporaryDirectory() as temporary:
        out = chosen.out or Path(temporary)
        if out.exists() and any(out.iterdir()):
            sys.exit(f"error: {out} is not empty; choose a new folder")
        longest = undisturbed(out / "whole")
        kills = rounds = 0
        while kills < chosen.kills:
            killed = out / f"killed_{rounds}"
            while kills < chosen.kills and not killed_once(killed, number, longest):
                kills += 1
                print(f"kill {kills} of {chosen.kills}, round {rounds + 1}", flush=True)
            undisturbed(killed)
            files = compare(out / "whole", killed)
            rounds += 1
        print(
            f"{kills} kills by {number.name} in {rounds} runs of {longest:.0f} s; all {files}"
            " files of each are as without, byte for byte"
        )


if __name__ == "__main__":
    main()
