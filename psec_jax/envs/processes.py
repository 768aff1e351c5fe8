"""Vector environments whose copies each have a process of their own."""

import contextlib
import copy
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from psec_jax.envs.in_process import Seeds, checked_actions, one_seed_each, still

WORKER = Path(__file__).with_name("worker.py")


class ProcessVectorEnv(VectorEnv):
    """``num_envs`` copies of what ``function(*arguments)`` of the file ``path`` makes.

    The processes are fresh interpreters that load that file alone. Nothing is forked, which JAX's
    threads would not survive, and the program's main script is not run again in each of them, as
    ``multiprocessing`` would. An episode that has ended stays where it is until the next reset:
    its steps do nothing, reward nothing and take no time.

    Raises ``RuntimeError``, here and at each reset and step, where a copy raises or its process
    dies; every process has ended then. They also end with this process, however it ends.
    """

    def __init__(self, env_id: str, path: Path, function: str, arguments: tuple, num_envs: int):
        self.env_id = env_id
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._failure: str | None = None
        self._processes: list[subprocess.Popen] = []
        self._connections = []
        for _ in range(num_envs):
            own, other = Pipe()
            self._connections.append(own)
            with other:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", str(WORKER), str(other.fileno())],
                        pass_fds=[other.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                )
        spaces = self._exchange({i: (str(path), function, arguments) for i in range(num_envs)})
        self.single_observation_space, self.single_action_space = spaces[0]
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        seeds = one_seed_each(seed, self.num_envs)
        answers = self._exchange({i: ("reset", one, options) for i, one in enumerate(seeds)})
        infos: dict[str, Any] = {}
        for i, (_, info) in answers.items():
            infos = self._add_info(infos, info, i)
        self._observations = np.array([observation for observation, _ in answers.values()])
        self._over = np.zeros(self.num_envs, bool)
        self._still = still(infos, self.num_envs)
        return self._observations, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = checked_actions(actions, self.action_space)
        answers = self._exchange({i: ("step", actions[i]) for i in np.flatnonzero(~self._over)})
        observations, rewards = self._observations.copy(), np.zeros(self.num_envs)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        infos = copy.deepcopy(self._still)
        for i, answer in answers.items():
            observations[i], rewards[i], terminations[i], truncations[i], info = answer
            infos = self._add_info(infos, info, i)
        self._over |= terminations | truncations
        self._observations = observations
        return observations, rewards, terminations, truncations, infos

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
