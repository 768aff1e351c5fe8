"""Skill expansion and composition in parameter space."""

from psec_jax.backbones import DiffusionBackbone, GaussianBackbone
from psec_jax.composition import ComposedPolicy
from psec_jax.data import TransitionDataset, concatenate, load_dataset
from psec_jax.evaluation import Evaluation, evaluate
from psec_jax.learners import Optimisation
from psec_jax.policies import BestOf, Policy, Statistics, fingerprint
from psec_jax.skills import Adapter, Bank, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.verbs import compose, compose_policies, learn_skill, pretrain

__all__ = [
    "Adapter",
    "Bank",
    "BestOf",
    "ComposedPolicy",
    "DiffusionBackbone",
    "Evaluation",
    "GaussianBackbone",
    "Optimisation",
    "Policy",
    "Skill",
    "SkillLibrary",
    "Statistics",
    "TransitionDataset",
    "compose",
    "compose_policies",
    "concatenate",
    "evaluate",
    "fingerprint",
    "learn_skill",
    "load_dataset",
    "pretrain",
]
