"""DeepMind Control tasks as Gymnasium environments."""

import warnings
from typing import Any

import gymnasium
import numpy as np

from psec_jax.envs.adapter import Adapter
from psec_jax.envs.spaces import UNBOUNDED
from psec_jax.envs.vector import Factory

try:
    with warnings.catch_warnings():
        # Without a display, GLFW warns as it is imported, also where nothing will be rendered.
        warnings.simplefilter("ignore")
        import mujoco
        from dm_control import suite
except ImportError as error:
    raise ImportError(
        f"dm_control environments need the extra: pip install 'psec-jax[dmcontrol]' ({error})"
    ) from error


class Task(gymnasium.Env):
    """A task; its observation dictionary laid flat in the dictionary's own order.

    Controls without bounds, which the lqr tasks have, are [−1, 1] here. For ``render``
    without a display, MUJOCO_GL=egl (or osmesa) must be set before dm_control is imported.
    """

    render_mode = "rgb_array"

    def __init__(self, domain: str, task: str):
        self._random = np.random.RandomState()
        self.simulator = suite.load(domain, task, task_kwargs={"random": self._random})
        rate = round(1 / self.simulator.control_timestep())
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": rate}
        shapes = [spec.shape for spec in self.simulator.observation_spec().values()]
        size = sum(int(np.prod(shape)) for shape in shapes)
        actions = self.simulator.action_spec()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        low = np.broadcast_to(actions.minimum, actions.shape)
        high = np.broadcast_to(actions.maximum, actions.shape)
        bounded = np.maximum(abs(low), abs(high)) < UNBOUNDED
        self.action_space = gymnasium.spaces.Box(
            np.where(bounded, low, -1.0), np.where(bounded, high, 1.0), dtype=np.float64
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed)
        return _flat(self.simulator.reset().observation), {}

    def step(self, action: np.ndarray):
        step = self.simulator.step(action)
        terminated = step.last() and step.discount == 0
        truncated = step.last() and not terminated
        return _flat(step.observation), step.reward, terminated, truncated, {}

    def render(self) -> np.ndarray:
        """The first camera's picture, (240, 320, 3) with bytes."""
        try:
            return self.simulator.physics.render(240, 320, camera_id=0)
        # mujoco's stubs leave it out.
        except (mujoco.FatalError, RuntimeError) as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise RuntimeError(
                f"dm_control cannot render here ({error}); without a display, set MUJOCO_GL=egl "
                "or MUJOCO_GL=osmesa in the environment variables"
            ) from error

    def close(self) -> None:
        self.simulator.close()


def _flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()], dtype=np.float32)


def factory(name: str) -> Factory:
    """What makes the environment ``<domain>-<task>-v0``."""
    domain, task = name.removesuffix("-v0").split("-")
    return lambda: Adapter(Task(domain, task))
