"""Skill expansion and composition in parameter space."""

from psec_jax import backbones, learners, networks
from psec_jax.agents import load
from psec_jax.backbones import DiffusionBackbone, GaussianBackbone
from psec_jax.composition import ComposedPolicy, Composer
from psec_jax.data import TransitionDataset, concatenate, load_dataset
from psec_jax.data.selection import safe_and_rewarding
from psec_jax.evaluation import Evaluation, evaluate
from psec_jax.learners import Critics, Guidance, Optimizer, objectives, weights
from psec_jax.policies import BestOf, Policy, Statistics, fingerprint
from psec_jax.skills import Adapter, Bank, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.training import Checkpoints, Training, join_processes, stack, unstack
from psec_jax.verbs import compose, improve, learn_skill, learn_skills, pretrain

__all__ = [
    "Adapter",
    "Bank",
    "BestOf",
    "Checkpoints",
    "ComposedPolicy",
    "Composer",
    "Critics",
    "DiffusionBackbone",
    "Evaluation",
    "GaussianBackbone",
    "Guidance",
    "Optimizer",
    "Policy",
    "Skill",
    "SkillLibrary",
    "Statistics",
    "Training",
    "TransitionDataset",
    "backbones",
    "compose",
    "concatenate",
    "evaluate",
    "fingerprint",
    "improve",
    "join_processes",
    "learn_skill",
    "learn_skills",
    "learners",
    "load",
    "load_dataset",
    "networks",
    "objectives",
    "pretrain",
    "safe_and_rewarding",
    "stack",
    "unstack",
    "weights",
]
