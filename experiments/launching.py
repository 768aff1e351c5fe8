"""How a program starts, and how it ends: what is common to the settings."""

import functools
import math
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hydra
import jax
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.config import ConfigError, Logger, Setting, parse
from experiments.recording import start_recording
from experiments.sharing import own_folder
from experiments.signals import saving_at_signals
from experiments.status import Status
from experiments.sweep_summary import Sweep
from experiments.sweeping import with_home
from psec_jax.data.download import DownloadFailed
from psec_jax.data.registry import home
from psec_jax.errors import BrokenFile, Diverged, NotJoined, NotSaved
from psec_jax.report import results
from psec_jax.training import Interrupted, join_processes
from psec_jax.training.processes import leads

CONF = Path(__file__).parents[1] / "conf"
# What the user can fix, or chose: each message says so in one line.
EXPECTED = (ConfigError, ImportError, BrokenFile, DownloadFailed, NotJoined, NotSaved, Diverged)


def command(job: Callable[[DictConfig], float]) -> Callable[[], None]:
    """The program that runs ``job`` once, or with ``-m`` once for each job of a sweep.

    Its configuration is the YAML file with its module's name. What Hydra's launchers pickle is
    this function, by its module and name. A single job that fails ends the program with exit
    code 1, in one line where the user can fix it; in a sweep see ``attempted``.
    """

    @functools.wraps(job)
    def main(config: DictConfig | None = None) -> float | None:
        if config is None:
            return run_command(main)
        keep_compiled_programs()
        if in_sweep():
            return attempted(job, config)
        try:
            return job(config)
        except EXPECTED as error:
            sys.exit(f"error: {error}")

    return main


def run_command(main: Callable) -> None:
    """The command line; after a sweep, exit code 1 and a list if any of its jobs is not done."""
    sys.argv[1:] = map(with_home, sys.argv[1:])
    name = main.__module__.rpartition(".")[2]
    program = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(main)
    try:
        program()
    except SystemExit as ended:
        # Exit code 1 is how Hydra ends a sweep of which a launcher lost a job.
        if ended.code == 1 and Sweep.started is not None:
            Sweep.started.summarize()
        raise
    if Sweep.started is not None and not Sweep.started.summarize():
        sys.exit(1)


class Failed(float):
    """NaN, which a failed job of a sweep returns.

    ``float(…)`` of it raises ``ValueError``: Optuna's sweeper then counts a failed trial, where a
    plain NaN would end its study.
    """

    def __new__(cls, reason: str):
        self = super().__new__(cls, math.nan)
        self.reason = reason
        return self

    def __reduce__(self):
        return Failed, (self.reason,)

    def __float__(self) -> float:
        raise ValueError(f"the job failed: {self.reason}")


def attempted(job: Callable[[DictConfig], float], config: DictConfig) -> float:
    """What ``job`` returns. If it fails, the error is printed and kept in its folder's status, and
    NaN is returned: an exception, or an exit, would end the whole sweep on some launchers."""
    out = Path(HydraConfig.get().runtime.output_dir)
    try:
        return job(config)
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        if not isinstance(error, EXPECTED):
            traceback.print_exc()
        print(f"error: {error} (in {out})", file=sys.stderr, flush=True)
        with suppress(OSError):
            Status.record_failure(out, error)
        return Failed(str(error))


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def launch(config: DictConfig, schema: type, check: Callable, run: Callable) -> float:
    """Check the configuration, ``run`` it in its output folder, say where its results are, and
    return the measurement that ``optimize`` names.

    Several processes that one command started share the run; a job of a sweep has one, wherever it
    is. A folder that holds an interrupted run is gone on with, and one that is finished is only
    shown.
    """
    if not in_sweep():
        join_processes()
    with own_folder(Path(HydraConfig.get().runtime.output_dir)) as out:
        return launch_in(out, config, schema, check, run)


def launch_in(
    out: Path, config: DictConfig, schema: type, check: Callable, run: Callable
) -> float:
    try:
        parsed = parse(config, schema)
        check(parsed)
        refuse_to_resume(parsed, out)
        resolved = OmegaConf.to_container(config, resolve=True)
        checkpoint = dict(resolved["checkpoint"])
        logger = parsed.logger if leads() else Logger("local")
        with (
            start_recording(out, resolved, logger, **checkpoint) as recorder,
            saving_at_signals(recorder.checkpoints),
            Status.kept(out) as status,
        ):
            if status.state != "finished":
                run(parsed, out, recorder)
                for library in sorted(out.glob("seed_*/library")):
                    recorder.library(library)
                recorder.checkpoints.clear()
    except Interrupted:
        words = shlex.join(HydraConfig.get().overrides.task)
        if leads():
            print(
                f"interrupted; goes on with: python -m experiments.{HydraConfig.get().job.name} "
                f"{words} hydra.run.dir={shlex.quote(str(out))}",
                file=sys.stderr,
            )
        raise
    print((out / "table.md").read_text())
    print(f"figures    {', '.join(sorted(str(p) for p in out.glob('*.png')))}")
    print(f"libraries  {', '.join(str(p) for p in sorted(out.glob('seed_*/library')))}")
    print(f"results    {out / 'results.jsonl'}")
    return outcome(parsed, out)


def outcome(config: Setting, out: Path) -> float:
    """The measurement that ``config.optimize`` names, averaged over seeds and columns."""
    wanted = config.optimize
    method, metric = wanted.method or config.methods[-1], wanted.metric or config.metrics[0]
    found = [
        row.value
        for row in results.read([out / "results.jsonl"])
        if (row.method, row.metric) == (method, metric) and wanted.task in (None, row.task)
    ]
    return float(np.mean(found))


def refuse_to_resume(config: Setting, out: Path) -> None:
    if not config.resume and (out / "config.json").exists():
        raise ConfigError(
            f"{out} holds a run already; go on with it (resume=true), remove it, or choose another"
            " folder (hydra.run.dir=…)"
        )


def keep_compiled_programs() -> None:
    """Cache compiled programs under ``$PSEC_JAX_HOME``, unless JAX was told another place."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(home() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
