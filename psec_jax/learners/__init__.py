"""Learners: pure functions from data to parameters, one optimisation step at a time."""

from psec_jax.learners.context import ContextLearner
from psec_jax.learners.optimisation import Optimisation, TrainState
from psec_jax.learners.policy import PolicyLearner
from psec_jax.learners.skill import SkillLearner

__all__ = ["ContextLearner", "Optimisation", "PolicyLearner", "SkillLearner", "TrainState"]
