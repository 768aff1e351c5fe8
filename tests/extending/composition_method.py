"""A composition method of your own: weights by how near a state is to each skill's prototypes.

In Python:

    agent = psec.compose(library, data, composer=NearestPrototypes(2), key=key, training=training)

In an experiment, by ``conf/composer/prototypes.yaml``:

    python -m experiments.continual --config-dir conf composer=prototypes

Any Linen module from normalized observations (batch, observation) to weights will do: (batch,
skill), (skill,) where they are constant, or by layer (``psec_jax.skills.weights``).
"""

import jax.numpy as jnp
from flax import linen as nn


class NearestPrototypes(nn.Module):
    """softmax over skills of −d² / temperature, d being the distance to a skill's nearest
    prototype; the prototypes are what is learned."""

    skills: int
    prototypes: int = 4
    temperature: float = 1.0

    @nn.compact
    def __call__(self, observations):
        shape = self.skills, self.prototypes, observations.shape[-1]
        prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape)
        distances = jnp.square(observations[:, None, None] - prototypes).sum(axis=-1)
        return nn.softmax(-distances.min(axis=-1) / self.temperature)
