"""Vector environments whose copies each have a process of their own."""

import contextlib
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from psec_jax.envs.vector import EpisodeVectorEnv

WORKER = Path(__file__).with_name("worker.py")


class ProcessVectorEnv(EpisodeVectorEnv):
    """``num_envs`` copies of what ``function(*arguments)`` of the file ``path`` makes.

    The processes are fresh interpreters that load that file alone. Nothing is forked, which JAX's
    threads would not survive, and the program's main script is not run again in each of them, as
    ``multiprocessing`` would.

    Raises ``RuntimeError``, here and at each reset and step, where a copy raises or its process
    dies; every process has ended then. They also end with this process, however it ends.
    """

    def __init__(
        self, env_id: str, path: str | Path, function: str, arguments: tuple, num_envs: int
    ):
        self.env_id, self.num_envs = env_id, num_envs
        self._failure: str | None = None
        self._processes: list[subprocess.Popen] = []
        self._connections = []
        for _ in range(num_envs):
            local, remote = Pipe()
            self._connections.append(local)
            with remote:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", str(WORKER), str(remote.fileno())],
                        pass_fds=[remote.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                )
        spaces = self._exchange({i: (str(path), function, arguments) for i in range(num_envs)})
        super().__init__(num_envs, *spaces[0])

    def reset_copies(self, seeds: dict[int, int | None], options: dict | None) -> dict:
        return self._exchange({i: ("reset", one, options) for i, one in seeds.items()})

    def step_copies(self, actions: dict[int, np.ndarray]) -> dict:
        return self._exchange({i: ("step", action) for i, action in actions.items()})

    def render(self) -> tuple[np.ndarray, ...]:
        """A picture of each copy."""
        return tuple(self._exchange({i: ("render",) for i in range(self.num_envs)}).values())

    def close_extras(self, **_: Any) -> None:
        self._failure = self._failure or f"{self.env_id} has been closed; make it again"
        self._stop(patience=5.0)

    def _exchange(self, messages: dict[int, tuple]) -> dict[int, Any]:
        """The answers of copies to their messages; after any failure the processes are ended."""
        if self._failure is not None:
            raise RuntimeError(self._failure)
        try:
            for index, message in messages.items():
                with self._alive(index):
                    self._connections[index].send(message)
            return {index: self._answer(index) for index in messages}
        except BaseException:
            # Even an interrupt ends them: an answer still under way would be taken for the next.
            self._failure = self._failure or f"{self.env_id} was interrupted; make it again"
            self._stop(patience=0.0)
            raise

    def _answer(self, index: int) -> tuple:
        with self._alive(index):
            kind, value = self._connections[index].recv()
        if kind == "raised":
            self._failure = f"{self._name(index)}: {value}"
            raise RuntimeError(self._failure)
        return value

    @contextlib.contextmanager
    def _alive(self, index: int):
        try:
            yield
        except (EOFError, ConnectionError):
            process = self._processes[index]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
            self._failure = (
                f"{self._name(index)}: its process ended with exit code {process.poll()}; what it "
                "said stands above, and without any word the system may have been out of memory"
            )
            raise RuntimeError(self._failure) from None

    def _name(self, index: int) -> str:
        return f"{self.env_id}, copy {index + 1} of {self.num_envs}"

    def _stop(self, patience: float) -> None:
        """Ends the processes, which have ``patience`` seconds to end by themselves."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            process.kill()
            process.wait()
