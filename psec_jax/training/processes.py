"""One program in several processes, joined by ``jax.distributed``: what they say to each other."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from psec_jax.errors import NotJoined


def join_processes(timeout: int = 300) -> None:
    """Make one set of the devices of all processes of this program, by
    ``jax.distributed.initialize()``, where ``JAX_COORDINATOR_ADDRESS`` (a host:port of the first
    process) is set; nothing otherwise, nor a second time.

    To be called before JAX touches a device. How many processes there are, and which one this is,
    JAX learns from SLURM or Open MPI, or is told by ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.
    Raises ``NotJoined`` where it cannot learn it; where the others do not come in ``timeout``
    seconds, JAX aborts the program.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address or jax.distributed.is_initialized():
        return
    # Its handler would take SIGTERM away from the program.
    jax.config.update("jax_enable_preemption_service", False)
    print(
        f"JAX_COORDINATOR_ADDRESS: waiting {timeout} s at most for the other processes at "
        f"{address}; unset it to run alone",
        file=sys.stderr,
        flush=True,
    )
    try:
        jax.distributed.initialize(
            num_processes=_number("JAX_NUM_PROCESSES"),
            process_id=_number("JAX_PROCESS_ID"),
            initialization_timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise NotJoined(
            f"JAX_COORDINATOR_ADDRESS is {address}, but JAX cannot join the processes ({error}); "
            "set JAX_NUM_PROCESSES and JAX_PROCESS_ID, or unset it to run alone"
        ) from error


def leads() -> bool:
    """Whether this process is the first of its program, the one that writes."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process; all of them must ask."""
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def meet() -> None:
    """Wait until all processes are here."""
    any_process(False)


@contextmanager
def all_or_none() -> Iterator[None]:
    """Where the block fails in one process, it fails in all: with ``NotJoined`` in the others."""
    try:
        yield
    except Exception:
        any_process(True)
        raise
    if any_process(False):
        raise NotJoined("another process of this program failed; see what it printed")


def of_the_first(value: Any) -> np.ndarray:
    """The first process' ``value``, an array of the same shape in all; all of them must ask."""
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(value))


def text_of_the_first(text: str) -> str:
    """The first process' ``text``; all of them must ask."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(of_the_first(len(content)))
    return of_the_first(np.resize(content, size)).astype(np.uint8).tobytes().decode()


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value and not value.isdigit():
        raise ValueError(f"{name} must be a number, not {value!r}")
    return int(value) if value else None
