"""What programs print, and who reads it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unread_output() -> Iterator[None]:
    """Ends the block quietly where nobody reads what it prints any more, as in ``… | head``."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would say at its end that it cannot write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
