"""DeepMind Control tasks as Gymnasium environments."""

import difflib
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np

try:
    with warnings.catch_warnings():
        # Without a display, GLFW warns as it is imported; nothing is rendered here.
        warnings.simplefilter("ignore")
        import shimmy
        from dm_control import suite
except ImportError as error:
    raise ImportError(
        f"dm_control environments need the extra: pip install 'psec-jax[dmcontrol]' ({error})"
    ) from error


class FlatObservation(gymnasium.ObservationWrapper):
    """The observation dictionary as one float32 vector, in the dictionary's own order."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        size = sum(int(np.prod(space.shape)) for space in env.observation_space.values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.ravel(v) for v in observation.values()], dtype=np.float32)


def factory(name: str) -> Callable[[], gymnasium.Env]:
    """What makes the environment ``<domain>-<task>-v0``; raises ``ValueError`` if unknown."""
    ids = {f"{domain}-{task}-v0": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in ids:
        close = difflib.get_close_matches(name, ids, n=3, cutoff=0.4)
        raise ValueError(
            f"unknown task dm_control/{name}; did you mean "
            f"{' or '.join('dm_control/' + c for c in close) or 'dm_control/walker-walk-v0'}?"
        )
    domain, task = ids[name]

    def make() -> gymnasium.Env:
        env = FlatObservation(shimmy.DmControlCompatibilityV0(suite.load(domain, task)))
        box = env.action_space
        if (box.low == -1).all() and (box.high == 1).all():
            return env
        return gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)

    return make
