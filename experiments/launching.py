"""How a runner starts, and how it ends: what is common to the settings."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import experiments.sweeping  # noqa: F401  (the names of jobs' folders)
from experiments.config import ConfigError, Logger, Setting, parse
from experiments.recording import start_recording
from experiments.sharing import own_folder
from experiments.signals import saving_at_signals
from experiments.status import Status
from psec_jax.data.download import DownloadFailed
from psec_jax.data.registry import home
from psec_jax.errors import BrokenFile, NotJoined, NotSaved
from psec_jax.training import Interrupted, join_processes
from psec_jax.training.processes import leads


def launch(config: DictConfig, schema: type, check: Callable, run: Callable) -> None:
    """Check the configuration, ``run`` it in its output folder, and say where its results are.

    Several processes that one command started share the run; a job of a sweep has one, wherever it
    is. A folder that holds an interrupted run is gone on with, and one that is finished is only
    shown. What the user can mend ends it in one line: a configuration that cannot be run, a folder
    of another one, a missing package, data that are broken or out of reach, a full disk.
    """
    keep_compiled_programs()
    try:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            join_processes()
        with own_folder(Path(HydraConfig.get().runtime.output_dir)) as out:
            launch_in(out, config, schema, check, run)
    except (ConfigError, ImportError, BrokenFile, DownloadFailed, NotJoined, NotSaved) as error:
        sys.exit(f"error: {error}")


def launch_in(out: Path, config: DictConfig, schema: type, check: Callable, run: Callable) -> None:
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
