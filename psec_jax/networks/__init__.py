"""Plain Linen modules. They know nothing of skills: deltas are injected from outside."""

from psec_jax.networks.activations import ACTIVATIONS, activation
from psec_jax.networks.actor import GaussianActor
from psec_jax.networks.context import ByLayer, ConstantWeights, ContextNetwork, Homing
from psec_jax.networks.critic import Critic
from psec_jax.networks.denoiser import Denoiser

__all__ = [
    "ACTIVATIONS",
    "ByLayer",
    "ConstantWeights",
    "ContextNetwork",
    "Critic",
    "Denoiser",
    "GaussianActor",
    "Homing",
    "activation",
]
