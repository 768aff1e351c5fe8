"""How far a run is: ``status.json`` in its output folder, and a lock while it runs."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, ClassVar

from experiments.config import ConfigError
from psec_jax import storage
from psec_jax.errors import BrokenFile, NotSaved
from psec_jax.training import Interrupted
from psec_jax.training.processes import leads

_LOCK = ".lock"


class Busy(ConfigError):
    """Another process works in the folder."""


@dataclass
class Status:
    """``state`` is running, finished, interrupted or failed, as what was last known; ``host`` and
    ``process`` had the run."""

    FILE: ClassVar[str] = "status.json"

    state: str
    host: str
    process: int
    error: str = ""

    @classmethod
    def read(cls, out: Path) -> "Status | None":
        """That of the run in ``out``; None where there is none.

        A run whose process is gone without a word, from whatever machine, was interrupted: it
        no longer holds its lock. (A file system that keeps locks to one machine shows a run on
        another so, too.)
        """
        # Before the file is read: a run writes how it ended, and only then lets go.
        is_locked = _is_locked(out)
        if not (out / cls.FILE).exists():
            return None
        content = storage.read_json(out / cls.FILE)
        try:
            status = cls(**content)
        except TypeError as error:
            raise BrokenFile(f"{out / cls.FILE} holds no status: {error}") from None
        if status.state == "running" and not is_locked:
            status.state = "interrupted"
        return status

    @classmethod
    @contextmanager
    def kept(cls, out: Path) -> Iterator["Status"]:
        """The status of this process' run in ``out``, written when it begins and ends."""
        status = cls.read(out)
        if status is not None and status.state == "finished":
            yield status
            return
        status = cls("running", socket.gethostname(), os.getpid())
        status._write(out)
        try:
            yield status
            status.state = "finished"
        except (Interrupted, KeyboardInterrupt):
            status.state = "interrupted"
            raise
        except BaseException as error:
            status.state, status.error = "failed", _one_line(error)
            raise
        finally:
            status._write(out)

    @classmethod
    def record_failure(cls, out: Path, error: BaseException) -> None:
        """That the run in ``out`` failed, also where it was refused before it began; that of a
        process which is at work there stays."""
        if not isinstance(error, Busy):
            out.mkdir(parents=True, exist_ok=True)
            cls("failed", socket.gethostname(), os.getpid(), _one_line(error))._write(out)

    def _write(self, out: Path) -> None:
        if not leads():
            return
        try:
            self._write_new(out)
        except NotSaved:
            # On a full disk the old one's room is enough.
            (out / self.FILE).unlink(missing_ok=True)
            self._write_new(out)

    def _write_new(self, out: Path) -> None:
        with storage.new_file(out / self.FILE) as temporary:
            storage.write_json(temporary, asdict(self))


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Refuses to write where another process does; the lock ends with its process."""
    with (out / _LOCK).open("w") as file:
        deadline = time.monotonic() + 1
        while not _try_lock(file, fcntl.LOCK_EX):
            # Who merely looks whether it is held lets go at once.
            if time.monotonic() > deadline:
                raise Busy(
                    f"{out} is being written by another process; wait for it or end it, or choose "
                    "another folder"
                )
            time.sleep(0.05)
        yield


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_locked(out: Path) -> bool:
    """Whether a process is alone in ``out``."""
    try:
        with (out / _LOCK).open() as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except OSError:
        # Where there is no lock, or none can be had, no run is at work.
        return False


def _try_lock(file: IO, kind: int) -> bool:
    """Takes a lock, until ``file`` is closed, where nobody has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
