"""How a runner starts, and how it ends: what is common to the settings."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.config import ConfigError, parse
from experiments.recording import start_recording
from psec_jax.data.registry import home


def launch(config: DictConfig, schema: type, check: Callable, run: Callable) -> None:
    """Check the configuration, ``run`` it in its output folder, and say where its results are.

    What the user can mend ends it in one line: a configuration that cannot be run, a folder of
    another one, a missing package.
    """
    out = Path(HydraConfig.get().runtime.output_dir)
    keep_compiled_programs()
    try:
        parsed = parse(config, schema)
        check(parsed)
        resolved = OmegaConf.to_container(config, resolve=True)
        with start_recording(out, resolved, parsed.logger) as recorder:
            run(parsed, out, recorder)
    except (ConfigError, ImportError) as error:
        sys.exit(f"error: {error}")
    print((out / "table.md").read_text())
    print(f"figures    {', '.join(sorted(str(p) for p in out.glob('*.png')))}")
    print(f"libraries  {', '.join(str(p) for p in sorted(out.glob('seed_*/library')))}")
    print(f"results    {out / 'results.jsonl'}")


def keep_compiled_programs() -> None:
    """Cache compiled programs under ``$PSEC_JAX_HOME``, unless JAX was told another place."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(home() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
