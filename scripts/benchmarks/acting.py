"""How fast policies act and are evaluated."""

from functools import partial

import jax
import numpy as np
from gymnasium.vector import VectorEnv

import psec_jax as psec
from benchmarks.cases import DIFFUSION_STEPS, paper_policy, random_data
from benchmarks.products import forward, product_seconds
from benchmarks.timing import best_seconds
from psec_jax import envs

STEPS, EPISODE = 200, 1000


def acting(repeats: int) -> dict:
    """Where the milliseconds of an evaluation's step go, for one walker and for ten: the policy
    and the simulators, each timed alone, and what they leave of the whole."""
    one, ten = (milliseconds(walkers, repeats) for walkers in (1, 10))
    return {
        "1 walker": one,
        "10 walkers": ten,
        "actions_per_second_10_over_1": round(10 * one["policy"] / ten["policy"], 2),
        "evaluation_10_over_1": round(ten["steps_per_second"] / one["steps_per_second"], 2),
    }


def milliseconds(walkers: int, repeats: int) -> dict:
    base, key = paper_policy(), jax.random.key(0)
    observations = random_data().observations[:walkers]
    products = DIFFUSION_STEPS * forward(walkers, list(base.dense_layers().values()))
    vector = envs.make("dm_control/walker-walk-v0", walkers)
    parts = {
        "policy": best_seconds(lambda: base.act(key, observations), repeats, STEPS),
        "simulators": best_seconds(partial(stepped, vector), repeats) / STEPS,
    }
    evaluate = partial(psec.evaluate, base, vector, episodes=walkers, key=key)
    whole = best_seconds(evaluate, max(1, repeats // 3)) / EPISODE
    vector.close()
    parts["remainder"] = whole - sum(parts.values())
    return {
        **{name: round(1000 * seconds, 2) for name, seconds in parts.items()},
        "whole_step": round(1000 * whole, 2),
        "products_of_the_policy": round(1000 * product_seconds(products, repeats), 2),
        "steps_per_second": round(walkers / whole, 1),
    }


def stepped(vector: VectorEnv) -> None:
    """``STEPS`` steps of all copies, from a reset that is much shorter."""
    vector.reset(seed=0)
    actions = np.full(vector.action_space.shape, 0.5, np.float32)
    for _ in range(STEPS):
        vector.step(actions)
