"""What a policy needs of an environment's spaces, and the one place where actions are scaled."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from jaxtyping import Float

# A bound of this size or more stands for none: simulators write 1e10, or their type's largest.
UNBOUNDED = 1e9


class ActionScaling:
    """A policy's actions in [−1, 1] as actions of a ``Box``, one dimension at a time.

    −1 and 1 become the bounds exactly, and what lies beyond them is clipped. The result has the
    shape and type of the space; integers are rounded. A box that is [−1, 1] already gets the
    actions as they are.

    Raises ``ValueError`` for another space than a box, and where a bound is missing: nobody but
    the environment's author knows which action 1 should mean there.
    """

    def __init__(self, space: gymnasium.Space, env: gymnasium.Env | VectorEnv):
        wrappers = _wrappers(env)
        if not isinstance(space, Box):
            raise ValueError(
                f"{env} has actions {space}, but policies act by vectors in [-1, 1]; expected a "
                f"Box, which {wrappers}.TransformAction can give the environment"
            )
        size = int(np.prod(space.shape))
        low, high = (np.ravel(bound).astype(float) for bound in (space.low, space.high))
        missing = np.flatnonzero(np.maximum(abs(low), abs(high)) >= UNBOUNDED)
        if missing.size:
            first = missing[0]
            raise ValueError(
                f"{env} has no finite bounds for {missing.size} of the {size} dimensions of its "
                f"actions, the first of them {first} with [{low[first]:g}, {high[first]:g}], so a "
                "policy's [-1, 1] cannot be scaled to them; wrap it to say what 1 means: "
                f"{wrappers}.TransformAction(env, lambda action: 1.0 * action, "
                f"{'single_' * isinstance(env, VectorEnv)}action_space=gymnasium.spaces.Box("
                f"-1.0, 1.0, {space.shape})). ClipAction hides an environment's bounds and is not "
                "needed here"
            )
        self.space = Box(-1.0, 1.0, (size,), np.float32)
        self._target, self._shape, self._type = space, space.shape, space.dtype
        self._low, self._high = space.low / 2, space.high / 2
        self._rounds = np.issubdtype(space.dtype, np.integer)
        self._scales = bool((low != -1).any() or (high != 1).any()) or self._rounds

    def __call__(self, actions: Float[np.ndarray, "*batch size"]) -> np.ndarray:
        target = self._target
        if len(self._shape) != 1:
            actions = actions.reshape(actions.shape[:-1] + self._shape)
        if self._scales:
            actions = self._low * (1 - actions) + self._high * (1 + actions)
            actions = np.clip(
                np.rint(actions) if self._rounds else actions, target.low, target.high
            )
        return np.asarray(actions, self._type)


def observation_box(space: gymnasium.Space, env: gymnasium.Env | VectorEnv) -> Box:
    """The float32 box of a one-dimensional one, whatever its type.

    Raises ``ValueError`` for any other space, naming the wrapper that makes one of it.
    """
    if not isinstance(space, Box) or len(space.shape) != 1:
        wrappers = _wrappers(env)
        advice = (
            f"{wrappers}.FlattenObservation makes one of it"
            if space.is_np_flattenable
            else f"{wrappers}.TransformObservation can make one of it"
        )
        raise ValueError(
            f"{env} has observations {space}, but policies take vectors; expected a Box of one "
            f"dimension: {advice}"
        )
    return Box(-np.inf, np.inf, space.shape, np.float32)


def _wrappers(env: gymnasium.Env | VectorEnv) -> str:
    return f"gymnasium.wrappers{'.vector' * isinstance(env, VectorEnv)}"
