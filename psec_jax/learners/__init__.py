"""Learners: pure functions from data to parameters, one optimisation step at a time."""

from psec_jax.learners.context import ContextLearner
from psec_jax.learners.critics import CriticLearner, Critics, FeasibleFirst
from psec_jax.learners.guided import (
    AdvantageWeights,
    FeasibleWeights,
    FisorWeights,
    Frozen,
    GuidedLearner,
)
from psec_jax.learners.objectives import DiscountedCost, Feasibility, Return
from psec_jax.learners.optimisation import Optimisation, TrainState
from psec_jax.learners.policy import PolicyLearner
from psec_jax.learners.skill import SkillLearner

__all__ = [
    "AdvantageWeights",
    "ContextLearner",
    "CriticLearner",
    "Critics",
    "DiscountedCost",
    "Feasibility",
    "FeasibleFirst",
    "FeasibleWeights",
    "FisorWeights",
    "Frozen",
    "GuidedLearner",
    "Optimisation",
    "PolicyLearner",
    "Return",
    "SkillLearner",
    "TrainState",
]
