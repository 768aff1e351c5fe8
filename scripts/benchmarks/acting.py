"""Actions per second."""

from functools import partial

import jax
import numpy as np
from gymnasium.vector import VectorEnv

import psec_jax as psec
from benchmarks.cases import DIFFUSION_STEPS, paper_policy, random_data
from benchmarks.products import flops, forward, product_seconds
from benchmarks.timing import best_seconds
from psec_jax import envs

STEPS = 200


def acting(repeats: int) -> dict:
    """Actions per second for one and for ten walkers, the policy alone, the simulators
    alone, and an evaluation with both."""
    base, data, key = paper_policy(), random_data(), jax.random.key(0)
    section: dict = {}
    rates = {}
    for walkers in (1, 10):
        observations = data.observations[:walkers]
        seconds = best_seconds(lambda o=observations: base.act(key, o), repeats, STEPS)
        products = DIFFUSION_STEPS * forward(walkers, list(base.dense_layers().values()))
        bare = product_seconds(products, repeats)
        rates[walkers] = walkers / seconds
        section[f"policy_alone_{walkers}"] = {
            "actions_per_second": round(rates[walkers], 1),
            "gflops_per_second": round(flops(products) / seconds / 1e9, 1),
            "same_shape_products_gflops_per_second": round(flops(products) / bare / 1e9, 1),
        }
    section["policy_alone_10_over_1"] = round(rates[10] / rates[1], 2)
    environment = "dm_control/walker-walk-v0"
    for walkers in (1, 10):
        vector = envs.make(environment, walkers)
        seconds = best_seconds(partial(stepped, vector), repeats) / STEPS
        section[f"simulators_alone_{walkers}"] = {"steps_per_second": round(walkers / seconds, 1)}
        call = partial(psec.evaluate, base, vector, episodes=walkers, key=key)
        seconds = best_seconds(call, max(1, repeats // 3))
        vector.close()
        rates[walkers] = walkers * 1000 / seconds
        section[f"with_simulators_{walkers}"] = {"steps_per_second": round(rates[walkers], 1)}
    section["with_simulators_10_over_1"] = round(rates[10] / rates[1], 2)
    return section


def stepped(vector: VectorEnv) -> None:
    """``STEPS`` steps of all copies, from a reset that is much shorter."""
    vector.reset(seed=0)
    actions = np.full(vector.action_space.shape, 0.5, np.float32)
    for _ in range(STEPS):
        vector.step(actions)
