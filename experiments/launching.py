"""How a program starts, and how it ends: what is common to the settings."""

import functools
import inspect
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any, cast

import hydra
import jax
import numpy as np
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.config import ConfigError, Setting, parse
from experiments.recording import Recorder, start_recording
from experiments.signals import saving_at_signals
from experiments.status import Status
from experiments.sweeping import Sweep
from psec_jax.data import registry
from psec_jax.data.download import DownloadFailed
from psec_jax.errors import BrokenFile, Diverged, NotJoined, NotSaved
from psec_jax.training import Interrupted, join_processes
from psec_jax.training.processes import all_or_none, any_process, leads, text_of_the_first

CONF = Path(__file__).parents[1] / "conf"
# What the user can fix, or chose: each message says so in one line.
EXPECTED = (ConfigError, ImportError, BrokenFile, DownloadFailed, NotJoined, NotSaved, Diverged)


def command(job: Callable[[DictConfig], float]) -> Callable[[], float | None]:
    """The program that runs ``job`` once, or with ``-m`` once for each job of a sweep.

    Its configuration is the YAML file with its module's name, beside the module or in ``conf``.
    What Hydra's launchers pickle is this function, by its module and name. A single job that fails
    ends the program with exit code 1, in one line where the user can fix it; in a sweep see
    ``attempted``.
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
    Plugins.instance().register(ConfSearchPath)
    file = Path(inspect.getfile(sys.modules[main.__module__])).with_suffix(".yaml").resolve()
    folder = file.parent if file.exists() else CONF
    program = hydra.main(version_base="1.3", config_path=str(folder), config_name=file.stem)(main)
    try:
        program()
    except SystemExit as exit_:
        # Exit code 1 is how Hydra ends a sweep of which a launcher lost a job.
        if exit_.code == 1 and Sweep.started is not None:
            Sweep.started.summarize()
        raise
    if Sweep.started is not None and not Sweep.started.summarize():
        sys.exit(1)


class ConfSearchPath(SearchPathPlugin):
    """Finds the groups in ``conf`` for a program whose YAML file lies elsewhere."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        conf = f"file://{CONF}"
        if all(element.path != conf for element in search_path.get_path()):
            search_path.append("experiments", conf)


def with_home(override: str) -> str:
    """An override with ``~/`` at the begin of a value as the user's home, as a shell has it
    elsewhere."""
    return re.sub(
        r"(?<=[=,\[])(['\"]?)~(?=/)", lambda quote: quote[1] + str(Path.home()), override
    )


class Failed(float):
    """NaN, which a failed job of a sweep returns.

    ``float(…)`` of it raises ``ValueError``: Optuna's sweeper then counts a failed trial, where a
    plain NaN would end its study.
    """

    reason: str

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

    A folder that holds an interrupted run is resumed, and one that is finished is only shown.
    Several processes of one run do all of it alike, in the first one's folder, where the first
    alone writes. A job of a sweep is one process, wherever it is.
    """
    if not in_sweep():
        join_processes()
    with ExitStack() as stack:
        if not leads():
            devnull = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(devnull))
        out = output_folder()
        with all_or_none():
            parsed = parse(config, schema)
            check(parsed)
            resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
            recording = start_recording(
                out, resolved, parsed.logger, parsed.resume, **resolved["checkpoint"]
            )
            recorder = stack.enter_context(recording)
        stack.enter_context(saving_at_signals(recorder.checkpoints))
        try:
            with Status.kept(out) as status:
                if status.state != "finished":
                    run(parsed, out, recorder)
                    for library in sorted(out.glob("seed_*/library")):
                        recorder.library(library)
                    recorder.checkpoints.clear()
        except Interrupted:
            if leads():
                resume_command = command_line(run.__module__, out)
                print(f"interrupted; resume it by: {resume_command}", file=sys.stderr)
            raise
        if leads():
            show(out)
        return outcome(parsed, recorder)


def output_folder() -> Path:
    """That of the first process; raises ``ConfigError`` where one of them does not see it."""
    out = Path(text_of_the_first(HydraConfig.get().runtime.output_dir))
    if any_process(not out.exists()):
        raise ConfigError(
            f"{out}, where the first process writes, cannot be seen from all of them; start them "
            "with one hydra.run.dir=… that their hosts share"
        )
    return out


def show(out: Path) -> None:
    """Print the table, and where everything is."""
    print((out / "table.md").read_text())
    print(f"figures    {', '.join(sorted(str(p) for p in out.glob('*.png')))}")
    print(f"libraries  {', '.join(str(p) for p in sorted(out.glob('seed_*/library')))}")
    print(f"results    {out / 'results.jsonl'}")


def command_line(module: str, out: Path) -> str:
    """What resumes the run in ``out`` of the program ``module``."""
    config = HydraConfig.get()
    sources = config.runtime.config_sources
    folders = [source.path for source in sources if source.provider == "command-line"]
    options = [option for folder in folders for option in ("--config-dir", folder)]
    arguments = [module, *options, *config.overrides.task, f"hydra.run.dir={out}"]
    return f"python -m {shlex.join(arguments)}"


def outcome(config: Setting, recorder: Recorder) -> float:
    """The measurement that ``config.optimize`` names, averaged over seeds and columns."""
    target = config.optimize
    method, metric = target.method or config.methods[-1], target.metric or config.metrics[0]
    values = [
        row.value
        for row in recorder.measurements()
        if (row.method, row.metric) == (method, metric) and target.task in (None, row.task)
    ]
    return float(np.mean(values))


def keep_compiled_programs() -> None:
    """Cache compiled programs under ``$PSEC_JAX_HOME``, unless JAX was told another place."""
    # JAX declares none of its settings.
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(registry.home() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
