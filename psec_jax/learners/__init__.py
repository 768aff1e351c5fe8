"""Learners: pure functions from data to parameters, one optimizer step at a time."""

from psec_jax.learners.actors import (
    ActorLoss,
    AllParameters,
    ContextParameters,
    Deltas,
    Trained,
    imitation,
)
from psec_jax.learners.context import ContextLearner
from psec_jax.learners.cql import CQL
from psec_jax.learners.critics import CriticLearner, Critics, FeasibleFirst, q_ensemble
from psec_jax.learners.guidance import Guidance
from psec_jax.learners.guided import Frozen, GuidedLearner
from psec_jax.learners.optimizer import Optimizer, TrainState, Transformation, descend
from psec_jax.learners.policy import PolicyLearner
from psec_jax.learners.purpose import Purpose, PurposeLearner, rewards_ahead
from psec_jax.learners.rebrac import ReBRAC
from psec_jax.learners.skill import SkillLearner
from psec_jax.learners.td3bc import TD3BC

__all__ = [
    "CQL",
    "TD3BC",
    "ActorLoss",
    "AllParameters",
    "ContextLearner",
    "ContextParameters",
    "CriticLearner",
    "Critics",
    "Deltas",
    "FeasibleFirst",
    "Frozen",
    "Guidance",
    "GuidedLearner",
    "Optimizer",
    "PolicyLearner",
    "Purpose",
    "PurposeLearner",
    "ReBRAC",
    "SkillLearner",
    "TrainState",
    "Trained",
    "Transformation",
    "descend",
    "imitation",
    "q_ensemble",
    "rewards_ahead",
]
