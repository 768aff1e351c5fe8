"""The vector environments of a run: made once, used by every evaluation, closed together."""

from contextlib import ExitStack

from gymnasium.vector import VectorEnv

from experiments.config import ConfigError
from psec_jax import envs


class Simulators(ExitStack):
    """A context in which ``of(id)`` gives the same ``num_envs`` copies each time.

    Raises ``ConfigError`` for an unknown id.
    """

    def __init__(self, num_envs: int):
        super().__init__()
        self.num_envs = num_envs
        self._vectors: dict[str, VectorEnv] = {}

    def of(self, env_id: str) -> VectorEnv:
        if env_id not in self._vectors:
            try:
                vector = envs.make(env_id, self.num_envs)
            except ValueError as error:
                raise ConfigError(f"environment {env_id}: {error}") from None
            self._vectors[env_id] = vector
            self.callback(vector.close)
        return self._vectors[env_id]
