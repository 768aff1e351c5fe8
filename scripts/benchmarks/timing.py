"""How long a call takes."""

import time
from collections.abc import Callable

import jax


def best_seconds(call: Callable[[], object], repeats: int, times: int = 1) -> float:
    """The shortest time of one call, over ``repeats`` batches of ``times`` calls."""
    for _ in range(2):
        jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(times):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / times)
    return min(seconds)
