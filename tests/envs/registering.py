"""Registers a family and a Gymnasium id when it is imported, as a user's own package would."""

import gymnasium
from cheap import Cheap

from psec_jax import envs

envs.register("late", lambda name: Cheap(), names=["road"])
gymnasium.register("Late-v0", Cheap)
