"""One environment in a process of its own: run as a file, with the number of a socket.

The first message says how to make the environment: the path of a Python file, a function in it
and its arguments. It is answered by the two spaces, each later one by what the environment
returned; an exception is answered by its words. The process ends with its parent: the socket
closes then.

This file imports nothing of the package, so that JAX is not loaded in every process.
"""

import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment", path)
    assert spec is not None and spec.loader is not None, f"{path} is a file of Python"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Parent:
    """The other end of the socket; where that is gone, this process ends at once."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def receive(self) -> tuple:
        with self._or_end():
            return self._connection.recv()

    def send(self, *message: Any) -> None:
        with self._or_end():
            self._connection.send(message)

    @contextlib.contextmanager
    def _or_end(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            # A simulator may take a second to put away what ends with its process anyway.
            os._exit(0)


def serve(parent: Parent) -> None:
    """Answers ("reset", seed, options), ("step", action) and ("render",)."""
    path, function, arguments = parent.receive()
    env = getattr(load(path), function)(*arguments)
    parent.send("done", (env.observation_space, env.action_space))
    while True:
        kind, *values = parent.receive()
        if kind == "reset":
            seed, options = values
            parent.send("done", env.reset(seed=seed, options=options))
        else:
            parent.send("done", getattr(env, kind)(*values))


def main() -> None:
    # An interrupt reaches the whole group of processes; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = Parent(Connection(int(sys.argv[1])))
    try:
        serve(parent)
    except Exception as error:
        parent.send("raised", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
