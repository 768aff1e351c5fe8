"""How JAX compiles in a run: what has been compiled once is kept for the next run."""

import jax

from psec_jax.data.registry import home


def keep_compiled_programs() -> None:
    """Cache compiled programs under ``$PSEC_JAX_HOME``, unless JAX was told another place."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(home() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
