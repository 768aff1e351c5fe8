"""One run in several processes: all of them decide alike, and the first alone leaves files."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

import jax
import numpy as np

from experiments.config import ConfigError
from psec_jax.training.processes import any_process, leads, meet, of_the_first

# A figure, a lock or another process' W&B run decides nothing.
_LEFT_OUT = shutil.ignore_patterns("checkpoints", "wandb", ".*", "*.png", "*.gif", "*.log")


@contextmanager
def own_folder(out: Path) -> Iterator[Path]:
    """The folder in which this process works: ``out`` itself for one alone.

    Of several the first works in its ``out``, and each other one, silently, in a copy of that,
    which is thrown away at the end: all find what an earlier start left, and nothing of what is
    being written, so that they decide alike. The states of learning alone are common to them.
    Raises ``ConfigError`` where one of them does not see the folder of the first.
    """
    if not jax.distributed.is_initialized():
        yield out
        return
    with tempfile.NamedTemporaryFile(prefix=".shared-", dir=out) as mark:
        there = Path(_path_of_the_first(mark.name))
        if any_process(not there.exists()):
            raise ConfigError(
                f"{there.parent}, where the first process works, is not to be seen from all of "
                "them; start them with one hydra.run.dir=… that their hosts share"
            )
        with nullcontext(out) if leads() else _copy(there.parent) as own:
            meet()
            yield own
            meet()


@contextmanager
def _copy(out: Path) -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory(prefix="psec-") as folder,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
    ):
        own = Path(folder) / out.name
        shutil.copytree(out, own, ignore=_LEFT_OUT)
        (own / "checkpoints").symlink_to(out / "checkpoints")
        yield own


def _path_of_the_first(path: str) -> str:
    padded = os.path.abspath(path).encode().ljust(os.pathconf("/", "PC_PATH_MAX"), b"\0")
    return bytes(of_the_first(np.frombuffer(padded, np.uint8))).rstrip(b"\0").decode()
