"""What the command lines share."""

import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def printing() -> Iterator[None]:
    """Printing results to a reader that may stop early, such as ``head``, which is no error.

    Warnings are one line each on the standard error.
    """

    def show(message, category, filename, lineno, file=None, line=None):
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            try:
                yield
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes once more when it exits, and that has to go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def import_modules(names: Iterable[str], option: str = "--import") -> None:
    """Import what ``option`` names; raises ``ImportError`` that says which failed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"{option} {name}: {error}") from error
