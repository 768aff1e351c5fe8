"""The Run and Circle tasks of Bullet-Safety-Gym, whose infos carry a cost.

The cost of a step is 1 where the agent is too fast or outside the bounds of the task, else 0.
Episodes end as in the package: at its horizon of 100 to 500 steps, or where the agent falls over.
"""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from psec_jax.envs.adapter import Adapter
from psec_jax.envs.vector import Factory


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings, and with streams that are files: the package asks for their numbers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if sys.__stdout__ and sys.__stderr__:
            stack.enter_context(contextlib.redirect_stdout(sys.__stdout__))
            stack.enter_context(contextlib.redirect_stderr(sys.__stderr__))
        yield


try:
    with _quietly():
        import bullet_safety_gym  # noqa: F401  (registers the tasks)
except ImportError as error:
    raise ImportError(
        "bullet environments need the extra and one package without its dependencies: "
        "pip install 'psec-jax[bullet]' && pip install --no-deps bullet-safety-gym==1.4.0 "
        f"({error})"
    ) from error


class Reproducible(gymnasium.Wrapper):
    """Episodes that follow from the seed alone.

    The package draws from NumPy's global generator, and its reset keeps the motors' commands, the
    forces and the points of contact of the episode before.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        # The first reset stores the state that all later ones begin with.
        self._reset(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        gymnasium.Env.reset(self.unwrapped, seed=seed)
        simulator: Any = self.unwrapped
        simulator.agent.apply_action(np.zeros(gymnasium.spaces.flatdim(self.action_space)))
        simulator.agent.set_position([0.0, 0.0, 100.0])
        simulator.bc.stepSimulation()
        return self._reset(simulator.np_random.integers(2**32))

    def render(self) -> np.ndarray:
        """A picture with bytes; the package's own default is a window, which needs a display."""
        simulator: Any = self.unwrapped
        return np.asarray(simulator.render(mode="rgb_array"), np.uint8)[..., :3]

    def _reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            return self.env.reset()
        finally:
            np.random.set_state(state)


def factory(name: str) -> Factory:
    """What makes the environment ``<agent><task>``, such as ``carrun``."""
    agent = name.removesuffix("run").removesuffix("circle")
    task = name.removeprefix(agent)
    spec = gymnasium.spec(f"Safety{agent.title()}{task.title()}-v0")

    def make() -> gymnasium.Env:
        with _quietly():
            env = gymnasium.make(spec, disable_env_checker=True)
        return Adapter(Reproducible(env), costs=True)

    return make
