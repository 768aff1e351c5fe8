"""Sweeps: each job's folder follows from its overrides, so that the same sweep resumes in it.

    python -m experiments.sweeping SWEEP_FOLDER [...]

Prints each job's state, then how many there are of each: done, running, interrupted (start the
sweep again), failed (with the error), missing (not begun yet).
"""

import argparse
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.status import Status
from psec_jax.command_line import printing

# A sweep may say these differently the second time.
VOLATILE = ("progress", "logger", "resume", "checkpoint", "optimize")


class Sweep(Callback):
    """The sweep that this process started, if any.

    Hydra makes it and tells it of the start. How it ends is asked for by ``launching``, as Hydra
    tells of no end where a launcher lost a job.
    """

    started: ClassVar["Sweep | None"] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a sweep that has one job twice: both would be at work in one folder."""
        names = job_folders(config.hydra)
        if duplicates := [name for name, count in Counter(names).items() if count > 1]:
            sys.exit(
                f"error: the sweep has a job twice: {', '.join(duplicates)}; name each value once"
            )
        self.folder, self.names = Path(config.hydra.sweep.dir), names
        # Hydra's own sweeper writes the same; others write none.
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, self.folder / "multirun.yaml")
        self.before = self._written()
        Sweep.started = self

    def summarize(self) -> bool:
        """Whether all jobs are done; those that are not are printed, one a line."""
        jobs = self._jobs()
        unfinished = {name: job for name, job in jobs.items() if job[0] != "done"}
        if not unfinished:
            return True
        if all(state == "missing" for state, _ in jobs.values()):
            print(f"none of the {len(jobs)} jobs of {self.folder} has begun", file=sys.stderr)
            return False
        print(f"\n{len(unfinished)} of {len(jobs)} jobs are not done:", file=sys.stderr)
        for name, (state, error) in unfinished.items():
            print(f"{state:12}{self.folder / name}  {error}".rstrip(), file=sys.stderr)
        if self.names:
            print("the same command runs these again, and no others", file=sys.stderr)
        return False

    def _jobs(self) -> dict[str, tuple[str, str]]:
        """The states of this sweep's jobs, of which an older one may have left others there. Where
        a sweeper makes them up they are those that were written to."""
        written = self._written()
        names = self.names or [n for n in written if written[n] != self.before.get(n)]
        return {name: job for name, job in states(self.folder).items() if name in names}

    def _written(self) -> dict[str, int]:
        statuses = self.folder.glob(f"*/{Status.FILE}")
        return {path.parent.name: path.stat().st_mtime_ns for path in statuses}


def states(sweep: Path) -> dict[str, tuple[str, str]]:
    """Each job's folder → its state, and the error of a failed one."""
    jobs = {name: ("missing", "") for name in planned(sweep)}
    for path in sweep.glob(f"*/{Status.FILE}"):
        if (status := Status.read(path.parent)) is not None:
            state = "done" if status.state == "finished" else status.state
            jobs[path.parent.name] = state, " ".join(status.error.split())
    return dict(sorted(jobs.items()))


def planned(sweep: Path) -> list[str]:
    """The names of all jobs' folders of the sweep that was last started in ``sweep``."""
    return job_folders(OmegaConf.load(sweep / "multirun.yaml").hydra)


def job_folders(config: DictConfig) -> list[str]:
    """The names of all jobs' folders by Hydra's own configuration of a sweep; none where its
    sweeper, such as Optuna's, makes jobs up, or where the user names their folders."""
    subdir = cast(dict[str, Any], OmegaConf.to_container(config.sweep))["subdir"]
    if not config.sweeper._target_.endswith(".BasicSweeper") or "job_folder" not in str(subdir):
        return []
    # A study's own overrides come before those of the command line.
    study = [f"{key}={value}" for key, value in (config.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*study, *config.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [job_folder(job) for job in jobs]


def job_folder(overrides: Sequence[str]) -> str:
    """The name of the folder of the job with these overrides, in whatever order.

    Readable as far as it goes, and different for different overrides.
    """
    stable = sorted(override for override in overrides if _key(override) not in VOLATILE)
    readable = re.sub(r"[^A-Za-z0-9=.+-]+", "_", ",".join(stable)).strip("_")[:80] or "defaults"
    return f"{readable}-{hashlib.sha256(str(stable).encode()).hexdigest()[:6]}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0]


def launcher(target: str, install: str) -> str:
    """The class ``target``; where it is missing, the program ends in one line that says how to
    ``install`` it."""
    try:
        import_module(target.rpartition(".")[0])
    except ImportError:
        sys.exit(f"error: this launcher is not installed: {install}")
    return target


# ``subdir: ${job_folder:${hydra.overrides.task}}``; here, as launchers' own processes need it too.
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
# ``_target_: ${launcher:…}`` in conf/hydra/launcher.
OmegaConf.register_new_resolver("launcher", launcher, replace=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
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
