"""Skill expansion and composition in parameter space."""

from psec_jax import backbones, composition, data, envs, learners, networks, training
from psec_jax.agents import load
from psec_jax.backbones import DiffusionBackbone, GaussianBackbone
from psec_jax.composition import Composer, homing
from psec_jax.data import TransitionDataset, concatenate, load_dataset
from psec_jax.evaluation import evaluate
from psec_jax.learners import Guidance, Optimizer, objectives, weights
from psec_jax.policies import BestOf, Policy, Statistics
from psec_jax.skills import Adapter, Bank, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.training import Checkpoints, Training, stack, unstack
from psec_jax.verbs import (
    compose,
    improve,
    learn_purpose,
    learn_skill,
    learn_skills,
    pretrain,
)

__all__ = [
    "Adapter",
    "Bank",
    "BestOf",
    "Checkpoints",
    "Composer",
    "DiffusionBackbone",
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
    "composition",
    "concatenate",
    "data",
    "envs",
    "evaluate",
    "homing",
    "improve",
    "learn_purpose",
    "learn_skill",
    "learn_skills",
    "learners",
    "load",
    "load_dataset",
    "networks",
    "objectives",
    "pretrain",
    "stack",
    "training",
    "unstack",
    "weights",
]
