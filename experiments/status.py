"""How far a run is: ``status.json`` in its output folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from psec_jax import storage
from psec_jax.errors import BrokenFile
from psec_jax.training import Interrupted

_NAME = "status.json"


@dataclass
class Status:
    """``state`` is running, finished, interrupted or failed, as what was last known; ``host`` and
    ``process`` had the run."""

    state: str
    host: str
    process: int
    error: str = ""

    @classmethod
    def read(cls, out: Path) -> "Status | None":
        """That of the run in ``out``; None where there is none.

        A run whose process is gone from this host without a word was interrupted.
        """
        if not (out / _NAME).exists():
            return None
        facts = storage.read_json(out / _NAME)
        try:
            status = cls(**facts)
        except TypeError as error:
            raise BrokenFile(f"{out / _NAME} holds no status: {error}") from None
        if status.state == "running" and status.host == socket.gethostname():
            try:
                os.kill(status.process, 0)
            except (ProcessLookupError, PermissionError):
                # Gone, or its number is another user's process by now.
                status.state = "interrupted"
        return status

    @classmethod
    @contextmanager
    def kept(cls, out: Path) -> Iterator["Status"]:
        """The status of this process' run in ``out``, written when it begins and ends."""
        status = cls.read(out)
        if status is None or status.state != "finished":
            status = cls("running", socket.gethostname(), os.getpid())
            status._write(out)
        else:
            yield status
            return
        try:
            yield status
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            status.state = "interrupted" if stopped else "failed"
            status.error = "" if stopped else f"{type(error).__name__}: {error}"
            status._write(out)
            raise
        status.state = "finished"
        status._write(out)

    def _write(self, out: Path) -> None:
        with storage.new_file(out / _NAME) as temporary:
            storage.write_json(temporary, asdict(self))
