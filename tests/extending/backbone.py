"""A backbone of your own: flow matching (Lipman et al., 2023).

In Python:

    base = psec.pretrain(data, backbone=FlowMatching(data.action_size), key=key, training=training)

In an experiment, by ``conf/backbone/flow.yaml``:

    python -m experiments.continual --config-dir conf backbone=flow

A library or an agent of it opens wherever this module was imported before; on a command line by
``--import extending.backbone``.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn


class VelocityNetwork(nn.Module):
    """The velocity at a point of the path, at a time in [0, 1], for an observation.

    Skills go into its dense layers from outside.
    """

    hidden: tuple[int, ...] = (256, 256)

    @nn.compact
    def __call__(self, point, time, observations):
        x = jnp.concatenate([point, time[:, None], observations], axis=-1)
        for width in self.hidden:
            x = nn.swish(nn.Dense(width)(x))
        return nn.Dense(point.shape[-1])(x)


@dataclass(frozen=True)
class FlowMatching:
    """Straight paths from noise to actions, followed in ``steps`` steps of Euler's method."""

    action_size: int
    network: nn.Module = field(default_factory=VelocityNetwork)
    steps: int = 5

    # Predictions that mean the same can be mixed at the noise level. Leave this out where they
    # cannot: skills then mix at the parameter and action levels.
    noise_process = "straight paths from N(0, I)"

    def example(self, observation_size):
        """Inputs of the network for a batch of one, observations last."""
        return jnp.zeros((1, self.action_size)), jnp.zeros(1), jnp.zeros((1, observation_size))

    def loss(self, predict, observations, actions, key):
        """‖v(x_t, t, s) − (a − x_0)‖² with x_t = x_0 + t (a − x_0), for each sample."""
        time_key, noise_key = jax.random.split(key)
        time = jax.random.uniform(time_key, actions.shape[:1])
        noise = jax.random.normal(noise_key, actions.shape)
        point = noise + time[:, None] * (actions - noise)
        velocity = predict(point, time, observations)
        return jnp.square(velocity - (actions - noise)).sum(axis=-1)

    def sample(self, predict, key, observations):
        """Actions in [−1, 1]."""
        point = jax.random.normal(key, (len(observations), self.action_size))
        for step in range(self.steps):
            time = jnp.full(len(observations), step / self.steps)
            point = point + predict(point, time, observations) / self.steps
        return jnp.clip(point, -1, 1)
