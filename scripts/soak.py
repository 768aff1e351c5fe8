"""Kills what should outlive it again and again, and compares with what undisturbed work leaves.

    python scripts/soak.py [experiment|library|sweep] [--kills 30] [--signal KILL] [--seed 0]
        [--out FOLDER]

experiment: one small run, with its seeds side by side. Every start goes on where the last one was
killed, at a random moment of its time, and every second time within a save. The measurements, the
metrics, the table and every parameter must be the same in the end, byte for byte, and no file may
be unreadable. A signal other than KILL must make the run end with exit code 75.

library: two processes add the same skills to one library. A skill whose ``add`` had returned must
be there, every skill that is listed must be whole, and in the end all are.

sweep: twelve jobs, killed with all their processes while some are done and some are not. Jobs that
were done are not touched again, and in the end there are twelve results.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from psec_jax import storage

ROOT = Path(__file__).parents[1]
SMALL = ("scale=smoke", "chain=walker_walk", "evaluation.episodes=1", "progress=false")
RUN = (
    "methods=[scratch,psec]",
    "seeds=[0,1]",
    "pretrain.steps=600",
    "skill.steps=600",
    "checkpoint.every=100",
)
JOBS = 12
SWEEP = (
    "--multirun",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "methods=[scratch]",
    "seeds=" + ",".join(f"[{seed}]" for seed in range(JOBS)),
)
SKILLS = 40
ADD = """
import random, sys
from psec_jax import SkillLibrary
source, library = (SkillLibrary.open(path) for path in sys.argv[1:])
skills = {name: source.get(name) for name in source.names()}
library.fingerprint, library._layers
print(flush=True)
sys.stdin.readline()
for name in random.sample(sorted(skills), len(skills)):
    if name in library.names():
        continue
    try:
        library.add(name, skills[name])
    except FileExistsError:
        continue
    print(name, flush=True)
"""


def start(*overrides: str, new_session: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.continual", *overrides, *SMALL]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
    )


def ended(process: subprocess.Popen, *allowed: int) -> None:
    """Waits for the end; ends this program if it is none of the exit codes ``allowed``."""
    _, errors = process.communicate()
    if process.returncode not in allowed:
        sys.exit(f"a process ended with {process.returncode}: {errors[-2000:]}")


def half_written(out: Path) -> set[Path]:
    """What is being saved at this moment, or was when its process was killed."""
    return {
        Path(folder, name)
        for folder, folders, files in os.walk(out)
        for name in (*folders, *files)
        if name.startswith(".new-") or ".orbax-checkpoint-tmp" in name
    }


# One experiment.


def experiment(out: Path, kills: int, number: signal.Signals) -> str:
    began = time.monotonic()
    undisturbed(out / "whole")
    longest = time.monotonic() - began
    done = saving = rounds = 0
    while done < kills:
        killed = out / f"killed_{rounds}"
        while done < kills:
            within_save = killed_once(killed, number, longest, within_a_save=done % 2 == 0)
            if within_save is None:
                break
            done, saving = done + 1, saving + within_save
            print(f"kill {done} of {kills}, round {rounds + 1}", flush=True)
        undisturbed(killed)
        files = compare(out / "whole", killed)
        rounds += 1
    return (
        f"{done} kills by {number.name}, {saving} of them within a save, in {rounds} runs of "
        f"{longest:.0f} s; all {files} files of each are as without, byte for byte"
    )


def undisturbed(out: Path) -> None:
    ended(start(*RUN, f"hydra.run.dir={out}"), 0)


def killed_once(
    out: Path, number: signal.Signals, longest: float, within_a_save: bool
) -> bool | None:
    """Starts and kills at a random moment; returns whether that was within a save, or None if the
    run had ended before."""
    before = half_written(out)
    process = start(*RUN, f"hydra.run.dir={out}")
    time.sleep(random.uniform(0.1, 0.4 if within_a_save else 0.8) * longest)
    now = half_written(out)
    while within_a_save and process.poll() is None and half_written(out) <= now:
        time.sleep(0.001)
    process.send_signal(number)
    ended(process, 0, -number, *([] if number == signal.SIGKILL else [75]))
    unreadable(out)
    return None if process.returncode == 0 else not half_written(out) <= before


def unreadable(out: Path) -> None:
    """Reads every file that carries its final name; raises ``BrokenFile`` for a broken one."""
    for path in finals(out):
        if "checkpoints" in path.relative_to(out).parts:
            continue
        if path.suffix == ".json":
            storage.read_json(path)
        elif path.suffix == ".safetensors":
            storage.read_tensors(path)


def finals(out: Path, pattern: str = "**/*") -> list[Path]:
    """The files under ``out`` that neither are nor lie in anything hidden."""
    return [
        path
        for path in sorted(out.glob(pattern))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(out).parts)
    ]


def contents(out: Path) -> dict[str, bytes]:
    """What a run must leave behind, byte for byte, by its path."""
    patterns = ("*.jsonl", "table.md", "*.csv", "seed_*/library/**/*")
    return {
        str(path.relative_to(out)): path.read_bytes()
        for pattern in patterns
        for path in finals(out, pattern)
    }


def compare(whole: Path, killed: Path) -> int:
    """The number of files that are the same; ends the program if any is not."""
    one, other = contents(whole), contents(killed)
    if different := [name for name in one | other if one.get(name) != other.get(name)]:
        sys.exit(f"{len(different)} files differ in {killed}: {', '.join(different)}")
    return len(one)


# Two processes at one library.


def library(out: Path, kills: int) -> str:
    import jax

    from psec_jax import Adapter, GaussianBackbone, Policy, Skill, SkillLibrary, Statistics

    base = Policy.create(GaussianBackbone(6), Statistics.identity(24), jax.random.key(0))
    source = SkillLibrary.create(out / "source", base)
    adapter, layers = Adapter(rank=128), base.dense_layers()
    for number in range(SKILLS):
        deltas = adapter.fresh(jax.random.key(number), layers)
        source.add(f"skill-{number}", Skill(deltas, adapter, source.fingerprint))

    done = saving = rounds = 0
    while done < kills:
        target, reported = SkillLibrary.create(out / f"library_{rounds}", base), set()
        while done < kills and len(target.names()) < SKILLS:
            added, killed = add_by_two(source.path, target.path, kill=True)
            reported, done = reported | added, done + killed
            missing_or_broken(source, SkillLibrary.open(target.path), reported)
            print(
                f"kill {done} of {kills}, round {rounds + 1}: {len(reported)} skills", flush=True
            )
        saving += len(half_written(target.path))
        add_by_two(source.path, target.path, kill=False)
        missing_or_broken(source, SkillLibrary.open(target.path), set(source.names()))
        rounds += 1
    return (
        f"{done} kills, {saving} of them within a save, in {rounds} libraries; all {SKILLS} skills"
        " of each are as they were put in, byte for byte"
    )


def add_by_two(source: Path, path: Path, kill: bool) -> tuple[set[str], int]:
    """Two processes add all skills that are missing; returns those of which ``add`` returned, and
    how many processes were killed before their end."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, source, path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    reported, killed = set(), 0
    for worker in workers if kill else ():
        reported |= {worker.stdout.readline().strip() for _ in range(random.randint(0, 3))}
        time.sleep(random.uniform(0, 0.02))
        worker.kill()
    for worker in workers:
        reported |= set(worker.stdout.read().split())
        ended(worker, 0, -signal.SIGKILL)
        killed += worker.returncode != 0
    return reported - {""}, killed


def missing_or_broken(source, target, expected: set[str]) -> None:
    """Ends the program if a skill of ``expected`` is not in the library ``target``, or one there
    is not what it is in ``source``."""
    if lost := expected - set(target.names()):
        sys.exit(f"{target.path} has lost {sorted(lost)}")
    for name in target.names():
        target.get(name)
        one, other = (finals(library.path / "skills" / name) for library in (source, target))
        if [(p.name, p.read_bytes()) for p in one] != [(p.name, p.read_bytes()) for p in other]:
            sys.exit(f"{target.path}: {name} is not what was put in")


# A sweep.


def sweep(out: Path, kills: int) -> str:
    overrides = [*SWEEP, f"hydra.sweep.dir={out}"]
    written: dict[Path, int] = {}
    for at in sorted(random.sample(range(1, JOBS), kills)):
        process = start(*overrides, new_session=True)
        while process.poll() is None and len(done_files(out)) < 2 * at:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        ended(process, 0, -signal.SIGKILL)
        written = untouched(written, out)
        print(f"killed: {state_of(out)}", flush=True)
    began = time.monotonic()
    ended(start(*overrides), 0)
    untouched(written, out)
    rows = [path.read_text().count('"metric": "return"') for path in out.glob("*/results.jsonl")]
    if (state := state_of(out)) != f"{JOBS} done" or rows != [1] * JOBS:
        sys.exit(f"{state}; measurements of each: {rows}")
    return (
        f"{kills} kills; the last start took {time.monotonic() - began:.0f} s, and there are "
        f"{JOBS} results of {JOBS} jobs, none of which was run again after its end"
    )


def state_of(out: Path) -> str:
    """How many jobs of the sweep are in which state, as ``scripts/sweep_status`` says it."""
    environment = {**os.environ, "PYTHON": sys.executable}
    command = [ROOT / "scripts" / "sweep_status", out]
    process = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return process.stdout.splitlines()[-1].removeprefix(f"{out}: ")


def done_files(out: Path) -> dict[Path, int]:
    """The state and measurements of every job that is done, and when they were written."""
    return {
        path: path.stat().st_mtime_ns
        for status in out.glob("*/status.json")
        if storage.read_json(status)["state"] == "finished"
        for path in (status, status.with_name("results.jsonl"))
    }


def untouched(written: dict[Path, int], out: Path) -> dict[Path, int]:
    """``done_files`` of now; ends the program if one of those before was written since."""
    now = done_files(out)
    if again := [path for path, when in written.items() if now.get(path) != when]:
        sys.exit(f"written again: {', '.join(map(str, again))}")
    return now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what", nargs="?", default="experiment", choices=["experiment", "library", "sweep"]
    )
    parser.add_argument("--kills", type=int, help="30; for sweep 3, at most 11")
    parser.add_argument(
        "--signal", default="KILL", choices=["KILL", "TERM", "INT"], help="for experiment"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="keeps the runs here")
    chosen = parser.parse_args()
    kills = (3 if chosen.what == "sweep" else 30) if chosen.kills is None else chosen.kills
    if kills < 1 or (chosen.what == "sweep" and kills >= JOBS):
        parser.error(f"--kills must be at least 1, and for sweep at most {JOBS - 1}, not {kills}")
    random.seed(chosen.seed)
    with tempfile.TemporaryDirectory() as temporary:
        out = (chosen.out or Path(temporary)).absolute()
        if out.exists() and any(out.iterdir()):
            sys.exit(f"error: {out} is not empty; choose a new folder")
        if chosen.what == "experiment":
            number = signal.Signals[f"SIG{chosen.signal}"]
            print(experiment(out, kills, number))
        elif chosen.what == "library":
            print(library(out, kills))
        else:
            print(sweep(out, kills))


if __name__ == "__main__":
    main()
