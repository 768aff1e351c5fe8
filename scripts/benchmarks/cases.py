"""What is measured: the paper's denoiser, skills and compositions of it, and random data."""

import jax
import numpy as np

import psec_jax as psec
from psec_jax.networks import ContextNetwork, Denoiser
from psec_jax.policies import Policy

OBSERVATIONS, ACTIONS, DIFFUSION_STEPS, RANK = 24, 6, 5, 8


def paper_policy(features: int = 256) -> Policy:
    """The paper's denoiser at ``features`` = 256, fresh."""
    backbone = psec.DiffusionBackbone(ACTIONS, Denoiser(features, dropout=0.0))
    return Policy.create(backbone, psec.Statistics.identity(OBSERVATIONS), jax.random.key(0))


def random_data(size: int = 20_000) -> psec.TransitionDataset:
    generator = np.random.default_rng(0)
    return psec.TransitionDataset(
        observations=generator.normal(size=(size, OBSERVATIONS)),
        actions=np.tanh(generator.normal(size=(size, ACTIONS))),
        rewards=np.zeros(size),
        terminations=np.zeros(size, bool),
        truncations=np.zeros(size, bool),
    )


def random_skill(base: Policy, rank: int, seed: int) -> psec.Skill:
    key = jax.random.key(seed)
    adapter = psec.Adapter(rank=rank)
    deltas = jax.tree.map(
        lambda leaf: 0.01 * jax.random.normal(key, leaf.shape),
        adapter.fresh(key, base.dense_layers()),
    )
    return psec.Skill(deltas, adapter, psec.policies.fingerprint(base))


def with_skills(base: Policy, count: int, rank: int = RANK) -> Policy:
    skills = {f"skill-{i}": random_skill(base, rank, i) for i in range(count)}
    return base.with_bank(psec.Bank.of(skills))


def composed(base: Policy, count: int) -> psec.composition.ComposedPolicy:
    policy = with_skills(base, count)
    return psec.composition.ComposedPolicy.create(
        policy, ContextNetwork(count), "parameter", jax.random.key(0)
    )
