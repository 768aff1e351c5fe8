"""Random keys by name."""

import zlib

import jax


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The key for the stage called ``name``.

    It depends on the name alone, so that adding a stage to a run changes no other stage.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
