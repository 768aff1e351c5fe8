"""Composition: mixing a bank's skills by weights, at one of three levels."""

from psec_jax.composition.agent import ComposedPolicy
from psec_jax.composition.composer import Composer
from psec_jax.composition.going_home import home_rewards, homing
from psec_jax.composition.levels import LEVELS, ActionLevel, Level, NoiseLevel, ParameterLevel

__all__ = [
    "LEVELS",
    "ActionLevel",
    "ComposedPolicy",
    "Composer",
    "Level",
    "NoiseLevel",
    "ParameterLevel",
    "home_rewards",
    "homing",
]
