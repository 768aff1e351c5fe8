"""Skill expansion and composition in parameter space."""

from psec_jax.agents import load
from psec_jax.backbones import DiffusionBackbone, GaussianBackbone
from psec_jax.composition import ComposedPolicy
from psec_jax.data import TransitionDataset, concatenate, load_dataset
from psec_jax.data.selection import safe_and_rewarding
from psec_jax.evaluation import Evaluation, evaluate
from psec_jax.learners import AdvantageWeights, Critics, Optimizer, Return
from psec_jax.policies import BestOf, Policy, Statistics, fingerprint
from psec_jax.skills import Adapter, Bank, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.training import Checkpoints, join_processes, stack, unstack
from psec_jax.verbs import compose, compose_policies, improve, learn_skill, learn_skills, pretrain

__all__ = [
    "Adapter",
    "AdvantageWeights",
    "Bank",
    "BestOf",
    "Checkpoints",
    "ComposedPolicy",
    "Critics",
    "DiffusionBackbone",
    "Evaluation",
    "GaussianBackbone",
    "Optimizer",
    "Policy",
    "Return",
    "Skill",
    "SkillLibrary",
    "Statistics",
    "TransitionDataset",
    "compose",
    "compose_policies",
    "concatenate",
    "evaluate",
    "fingerprint",
    "improve",
    "join_processes",
    "learn_skill",
    "learn_skills",
    "load",
    "load_dataset",
    "pretrain",
    "safe_and_rewarding",
    "stack",
    "unstack",
]
