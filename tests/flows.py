"""What a user defines in a package of their own: a backbone, a network, a scorer, a function."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from extending import backbone
from flax import linen as nn
from flax import struct


def bent(x):
    return x / (1 + jnp.abs(x))


class VelocityNetwork(nn.Module):
    """The velocity at a point of the path, at a time, for an observation."""

    hidden: tuple[int, ...] = (8,)
    activation: Callable = bent
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, point, time, observations):
        x = jnp.concatenate([point, time[:, None], observations], axis=-1)
        for width in self.hidden:
            x = self.activation(nn.Dense(width, self.dtype, kernel_init=self.kernel_init)(x))
        return nn.Dense(point.shape[-1])(x)


@dataclass(frozen=True)
class FlowMatching(backbone.FlowMatching):
    """With a function among its settings."""

    network: nn.Module = field(default_factory=VelocityNetwork)
    squash: Callable = jnp.tanh

    def sample(self, predict, key, observations):
        return self.squash(super().sample(predict, key, observations))


@struct.dataclass
class Nearness:
    """A scorer: how near an action is to ``target``, in units of ``width``."""

    target: jax.Array
    width: float = struct.field(pytree_node=False, default=1.0)

    def __call__(self, observations, actions):
        return -jnp.square((actions - self.target) / self.width).sum(axis=-1)


class Mixer(nn.Module):
    """A context network of one's own."""

    skills: int

    @nn.compact
    def __call__(self, observations):
        return nn.softmax(nn.Dense(self.skills)(observations))


class Routed(nn.Module):
    """A source of weights of one's own, which asks each layer of what it sees."""

    skills: int

    @nn.compact
    def __call__(self, observations):
        scales = self.param("scales", nn.initializers.normal(), (self.skills,))
        return jax.tree_util.Partial(routed, scales)


def routed(scales, path, x):
    return nn.softmax(x.mean(axis=-1, keepdims=True) * scales)[..., None]


@dataclass(frozen=True)
class Switching:
    """A level of one's own: near the action of the skill of the largest weight."""

    sharpness: float = 1.0
    nearness: Callable = bent

    mixes_policies = True

    def check(self, policies):
        if any(policy.action_size != policies[0].action_size for policy in policies):
            raise ValueError("Switching needs actions of one size")

    def loss(self, mixture, batch, key, weights):
        actions = self.sample(mixture, key, batch["observations"], weights)
        return self.nearness(jnp.square(actions - batch["actions"]).sum(axis=-1))

    def sample(self, mixture, key, observations, weights):
        actions = jnp.stack([part.sample(key, observations) for part in mixture.parts], axis=1)
        shares = nn.softmax(self.sharpness * jnp.broadcast_to(weights, actions.shape[:2]))
        return jnp.einsum("bk,bka->ba", shares, actions)
