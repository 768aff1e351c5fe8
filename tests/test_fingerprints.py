"""Fingerprints that earlier versions gave: libraries on disk are named by them."""

import jax
import jax.numpy as jnp
import pytest

from psec_jax import DiffusionBackbone, GaussianBackbone, Policy, Statistics
from psec_jax.fingerprints import fingerprint
from psec_jax.networks import Denoiser, GaussianActor

BACKBONES = {
    "diffusion": DiffusionBackbone(2, Denoiser(4, 1, time_features=4, time_hidden=4)),
    "ddim": DiffusionBackbone(
        2, Denoiser(4, 1, time_features=4, time_hidden=4), sampler="ddim", compute="bfloat16"
    ),
    "gaussian": GaussianBackbone(2, GaussianActor(2, hidden=(4,))),
}


FINGERPRINTS = {
    "diffusion": "df10aea7b74bd1d7",
    "ddim": "b550611b4e4b8a37",
    "gaussian": "b889c3bb318a80b0",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_fingerprint_of_a_known_policy_is_what_it_always_was(name):
    made = jax.eval_shape(
        lambda: Policy.create(BACKBONES[name], Statistics.identity(3), jax.random.key(0))
    )
    policy = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.25, jnp.float32), made)
    assert fingerprint(policy) == FINGERPRINTS[name]
