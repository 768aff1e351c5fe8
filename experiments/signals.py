"""Stopping well: a signal saves the state of learning first."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from psec_jax.training import Checkpoints, Interrupted


@contextmanager
def saving_at_signals(checkpoints: Checkpoints) -> Iterator[None]:
    """SIGINT and SIGTERM end the program by ``Interrupted``, within a fit at the next chunk's end;
    a second signal ends it without saving. Either way an evaluation under way is waited for.
    Several processes end only there, where they can together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        together = checkpoints.fitting or jax.distributed.is_initialized()
        if checkpoints.stopping or not together:
            raise Interrupted
        checkpoints.stopping = True
        name = signal.Signals(number).name
        print(f"{name}: saving at the end of this chunk of updates", file=sys.stderr, flush=True)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
