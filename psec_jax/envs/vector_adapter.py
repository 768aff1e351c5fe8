"""What a vector environment made by others looks like from outside."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from psec_jax.envs.spaces import ActionScaling, observation_box


class VectorAdapter(VectorWrapper):
    """Observations (copies, n) float32 and actions in [−1, 1]; rewards and ends are (copies,).

    Everything else, the way of resetting included, is that of the vector environment. Raises
    ``ValueError`` for one that has been closed, for spaces that a policy cannot be given, and
    where it answers otherwise than Gymnasium's vector environments do.
    """

    def __init__(self, vector: VectorEnv):
        super().__init__(vector)
        if vector.closed:
            raise ValueError(f"{vector} has been closed; make it again")
        box = observation_box(vector.single_observation_space, vector)
        self._scaling = ActionScaling(vector.single_action_space, vector)
        self.single_observation_space, self.single_action_space = box, self._scaling.space
        self.observation_space = batch_space(box, self.num_envs)
        self.action_space = batch_space(self._scaling.space, self.num_envs)
        self._over = np.zeros(self.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        try:
            observations, infos = self.env.reset(seed=seed, options=options)
        except gymnasium.error.Error:
            # Vector environments that are not made of single ones take one seed for all copies.
            if not isinstance(seed, list):
                raise
            observations, infos = self.env.reset(seed=seed[0], options=options)
        return self._observations(observations), infos

    def step(self, actions: np.ndarray):
        observations, *others, infos = self.env.step(self._scaling(actions))
        if not isinstance(infos, dict):
            raise ValueError(
                f"{self.env} returned infos as {type(infos).__name__}; expected a dictionary, as "
                "without gymnasium.wrappers.vector.DictInfoToList"
            )
        rewards, terminations, truncations = (
            self._one_each(values, name)
            for values, name in zip(
                others, ("rewards", "terminations", "truncations"), strict=True
            )
        )
        ends = terminations.astype(bool), truncations.astype(bool)
        self._over = ends[0] | ends[1]
        return self._observations(observations), rewards.astype(float), *ends, infos

    def settle(self) -> None:
        """Step on until no copy is about to reset itself, where the metadata say that they do so
        in the next step.

        Some vector environments, Gymnasium's processes without shared memory among them, would
        still do so after a reset, and so spoil the first step of the next episode. Copies that
        end one after another at every step, for a thousand steps, are left as they are.
        """
        if "autoreset_mode" in self.metadata and autoreset_mode(self) is AutoresetMode.NEXT_STEP:
            for _ in range(1000):
                if not self._over.any():
                    return
                self.step(np.zeros((self.num_envs, *self._scaling.space.shape), np.float32))

    def _observations(self, observations: Any) -> np.ndarray:
        observations = np.asarray(observations, np.float32)
        if observations.shape != self.observation_space.shape:
            raise ValueError(
                f"{self.env} returned observations of shape {observations.shape}; expected "
                f"{self.observation_space.shape} as in its observation_space"
            )
        return observations

    def _one_each(self, values: Any, name: str) -> np.ndarray:
        array = np.asarray(values)
        if array.size != self.num_envs:
            raise ValueError(
                f"{self.env} returned {name} of shape {array.shape}; expected ({self.num_envs},)"
            )
        return array.reshape(self.num_envs)


def autoreset_mode(vector: VectorEnv) -> AutoresetMode:
    """The mode that the metadata name, as a member, its name or its value; Gymnasium's default
    where they name none. Raises ``ValueError`` for another."""
    mode = vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if isinstance(mode, AutoresetMode):
        return mode
    word = str(mode).rpartition(".")[2].replace("_", "").lower()
    for known in AutoresetMode:
        if word == known.value.lower():
            return known
    raise ValueError(
        f"{vector} has the autoreset_mode {mode!r} in its metadata; expected one of "
        f"{', '.join(repr(known.value) for known in AutoresetMode)}"
    )
