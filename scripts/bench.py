"""Speed on this machine, as JSON on standard output.

    python scripts/bench.py [learning acting composition stepping loading] [--repeats 5]

Learning, acting and composition are those of the paper's denoiser. Every rate is the best of a few
repeats. Beside each learner's arithmetic rate stands the rate at which this machine computes the
very matrix products that the learner needs, with nothing between them: their ratio is the share of
the time that is not overhead.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv

import psec_jax as psec
from psec_jax import envs
from psec_jax.data.hdf5 import write_hdf5
from psec_jax.learners import (
    ContextLearner,
    CriticLearner,
    GuidedLearner,
    PolicyLearner,
    SkillLearner,
)
from psec_jax.networks import ContextNetwork, Denoiser
from psec_jax.policies import Policy
from psec_jax.training import fit

OBSERVATIONS, ACTIONS, DIFFUSION_STEPS = 24, 6, 5
Product = tuple[int, int, int]


def best_seconds(call: Callable[[], object], repeats: int, times: int = 1) -> float:
    """The shortest time of one call, over ``repeats`` batches of ``times`` calls."""
    for _ in range(2):
        jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(times):
            result = call()
        jax.block_until_ready(result)
        found.append((time.perf_counter() - start) / times)
    return min(found)


def product_seconds(products: list[Product], repeats: int) -> float:
    """How long the matrix products (rows, inner, columns) take, one after another."""
    key = jax.random.key(0)
    pairs = [
        (jax.random.normal(key, (rows, inner)), jax.random.normal(key, (inner, columns)))
        for rows, inner, columns in products
    ]

    @jax.jit
    def program(pairs):
        done = []
        for left, right in pairs:
            # The barrier keeps a product from starting before the one in front of it ends.
            left, done = jax.lax.optimization_barrier((left, done))
            done = [*done, left @ right]
        return done

    return best_seconds(partial(program, pairs), repeats, 20)


def flops(products: list[Product]) -> int:
    return sum(2 * rows * inner * columns for rows, inner, columns in products)


def forward(batch: int, layers: list[tuple[int, int]]) -> list[Product]:
    return [(batch, d_in, d_out) for d_in, d_out in layers]


def input_gradient(batch: int, layers: list[tuple[int, int]]) -> list[Product]:
    return [(batch, d_out, d_in) for d_in, d_out in layers]


def kernel_gradient(batch: int, layers: list[tuple[int, int]]) -> list[Product]:
    return [(d_in, batch, d_out) for d_in, d_out in layers]


def factors(layers: list[tuple[int, int]], rank: int) -> list[tuple[int, int]]:
    return [pair for d_in, d_out in layers for pair in ((d_in, rank), (rank, d_out))]


def learner_products(policy: Policy, batch: int, rank: int, skills: int) -> dict[str, list]:
    """The matrix products of one update of each learner."""
    dense = policy.dense_layers()
    every = list(dense.values())
    adapted = [shape for path, shape in dense.items() if not path.startswith("time/")]
    context = [(OBSERVATIONS, 256), (256, 256), (256, skills)]
    one, bank = factors(adapted, rank), factors(adapted, rank * skills)
    skill = (
        forward(batch, every)
        + input_gradient(batch, adapted[1:])
        + forward(batch, one)
        + input_gradient(batch, one[1:])
        + kernel_gradient(batch, one)
    )
    return {
        "pretraining": forward(batch, every)
        + input_gradient(batch, every[1:])
        + kernel_gradient(batch, every),
        "skill": skill,
        "critics and skill": skill + critic_products(batch),
        "context": forward(batch, every)
        + input_gradient(batch, adapted[1:])
        + forward(batch, bank)
        + input_gradient(batch, bank[1:])
        + forward(batch, context)
        + input_gradient(batch, context[1:])
        + kernel_gradient(batch, context),
    }


def critic_products(batch: int) -> list[Product]:
    """Those of one update of V and two Qs, and of the weights that they give."""
    value = [(OBSERVATIONS, 256), (256, 256), (256, 1)]
    q = [(OBSERVATIONS + ACTIONS, 256), *value[1:]]

    def descent(layers: list[tuple[int, int]]) -> list[Product]:
        gradients = input_gradient(batch, layers[1:]) + kernel_gradient(batch, layers)
        return forward(batch, layers) + gradients

    seen = 2 * forward(batch, q) + forward(batch, value)
    return descent(value) + 2 * descent(q) + 2 * seen


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
    return psec.Skill(deltas, adapter, psec.fingerprint(base))


def with_skills(base: Policy, count: int, rank: int = 8) -> Policy:
    skills = {f"skill-{i}": random_skill(base, rank, i) for i in range(count)}
    return base.with_bank(psec.Bank.of(skills))


def composed(base: Policy, count: int) -> psec.ComposedPolicy:
    policy = with_skills(base, count)
    return psec.ComposedPolicy.create(
        policy, ContextNetwork(count), "parameter", jax.random.key(0)
    )


def learning(base: Policy, data: psec.TransitionDataset, batch: int, repeats: int) -> dict:
    """Updates per second of each learner, and the arithmetic rate that they mean."""
    steps, rank, skills = 200, 8, 2
    optimisation = psec.Optimisation(steps=steps)
    skill = SkillLearner(base, psec.Adapter(rank=rank), optimisation)
    learners = {
        "pretraining": PolicyLearner(base, optimisation),
        "skill": skill,
        "critics and skill": GuidedLearner(
            {"return": CriticLearner(base.statistics, psec.Return(), optimisation)},
            skill,
            (("skill", psec.AdvantageWeights()),),
        ),
        "context": ContextLearner(composed(base, skills), optimisation),
    }
    products = learner_products(base, batch, rank, skills)
    section = {}
    for name, learner in learners.items():
        run = partial(fit, learner, data, steps=steps, batch_size=batch, key=jax.random.key(0))
        updates = steps / best_seconds(run, repeats)
        bare = product_seconds(products[name], repeats)
        rate = flops(products[name]) * updates / 1e9
        bare_rate = flops(products[name]) / bare / 1e9
        section[name] = {
            "updates_per_second": round(updates, 1),
            "gflops_per_second": round(rate, 1),
            "same_shape_products_gflops_per_second": round(bare_rate, 1),
            "share": round(rate / bare_rate, 3),
        }
    return section


def acting(base: Policy, data: psec.TransitionDataset, repeats: int) -> dict:
    """Actions per second for one and for ten walkers, alone and with the simulators stepped."""
    key = jax.random.key(0)
    section: dict = {}
    rates = {}
    for walkers in (1, 10):
        observations = data.observations[:walkers]
        seconds = best_seconds(lambda o=observations: base.act(key, o), repeats, 200)
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
        call = partial(psec.evaluate, base, vector, episodes=walkers, key=key)
        seconds = best_seconds(call, max(1, repeats // 3))
        vector.close()
        rates[walkers] = walkers * 1000 / seconds
        section[f"with_simulators_{walkers}"] = {"steps_per_second": round(rates[walkers], 1)}
    section["with_simulators_10_over_1"] = round(rates[10] / rates[1], 2)
    return section


def composition(base: Policy, data: psec.TransitionDataset, batch: int, repeats: int) -> dict:
    """The cost of k skills mixed by a context network, relative to none, for ten walkers, for a
    batch, and for fixed weights merged into the kernels."""
    key = jax.random.key(0)
    section: dict = {}
    bare = {}
    for rows in (10, batch):
        observations = data.observations[:rows]
        bare[rows] = best_seconds(lambda o=observations: base.act(key, o), repeats, 50)
    for count in (1, 2, 4, 8, 16, 32):
        agent = composed(base, count)
        entry = {}
        for rows in (10, batch):
            observations = data.observations[:rows]
            seconds = best_seconds(lambda o=observations, a=agent: a.act(key, o), repeats, 50)
            entry[f"{rows}_at_once"] = round(seconds / bare[rows], 3)
        merged = agent.base.merged(np.full(count, 1 / count))
        observations = data.observations[:10]
        seconds = best_seconds(lambda o=observations, a=merged: a.act(key, o), repeats, 50)
        entry["10_at_once_merged"] = round(seconds / bare[10], 3)
        section[f"k={count}"] = entry
    section["k=32 over k=1"] = {
        name: round(section["k=32"][name] / section["k=1"][name], 2) for name in section["k=1"]
    }
    return section


def bare_dm_control() -> tuple[Callable, Callable]:
    from psec_jax.envs.dm_control import suite

    simulator = suite.load("walker", "walk")
    return simulator.reset, lambda action: simulator.step(action).last()


def bare_gymnasium(env_id: str) -> tuple[Callable, Callable]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulator = gymnasium.make(env_id)
    return simulator.reset, lambda action: any(simulator.step(action)[2:4])


def bare_bullet() -> tuple[Callable, Callable]:
    envs.make("bullet/carrun", 1).close()  # registers the package's own ids
    return bare_gymnasium("SafetyCarRun-v0")


def bare_metadrive() -> tuple[Callable, Callable]:
    from metadrive.engine.base_engine import BaseEngine
    from metadrive.envs.safe_metadrive_env import SafeMetaDriveEnv

    from psec_jax.envs.metadrive import config

    BaseEngine.try_pull_asset = staticmethod(lambda: None)
    simulator = SafeMetaDriveEnv(config("easymean"))
    return simulator.reset, lambda action: any(simulator.step(action)[2:4])


BARE = {
    "dm_control/walker-walk-v0": bare_dm_control,
    "mujoco/halfcheetah-v5": partial(bare_gymnasium, "HalfCheetah-v5"),
    "mujoco/walker2d-v5": partial(bare_gymnasium, "Walker2d-v5"),
    "bullet/carrun": bare_bullet,
    "metadrive/easymean": bare_metadrive,
}


def stepping(repeats: int, steps: int = 600) -> dict:
    """Steps per second of one and of four copies of an environment under random actions, resets
    included, and the share of the bare simulator's rate, from pairs of turns one after another."""
    section: dict = {}
    for env_id, make_bare in BARE.items():
        reset, step = make_bare()
        reset()

        def bare_rate(actions: np.ndarray, reset=reset, step=step) -> float:
            start = time.perf_counter()
            for action in actions:
                if step(action):
                    reset()
            return len(actions) / (time.perf_counter() - start)

        def rate(vector: VectorEnv, actions: np.ndarray) -> float:
            taken, over = 0, np.zeros(vector.num_envs, bool)
            start = time.perf_counter()
            for action in actions:
                _, _, terminations, truncations, _ = vector.step(action)
                taken += np.count_nonzero(~over)
                over |= terminations | truncations
                if over.all():
                    vector.reset()
                    over[:] = False
            return taken / (time.perf_counter() - start)

        for copies in (1, 4):
            vector = envs.make(env_id, copies)
            vector.reset(seed=0)
            shape = (steps // copies, *vector.action_space.shape)
            actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
            flat = actions.reshape(-1, shape[-1])
            pairs = [(rate(vector, actions), bare_rate(flat)) for _ in range(repeats + 1)][1:]
            vector.close()
            section.setdefault(env_id, {})[f"{copies}_at_once"] = {
                "steps_per_second": round(max(ours for ours, _ in pairs), 1),
                "bare_steps_per_second": round(max(bare for _, bare in pairs), 1),
                "share": round(float(np.median([ours / bare for ours, bare in pairs])), 3),
            }
    return section


# Run in a process of its own, whose peak memory (VmHWM, of Linux) is then that of loading.
LOAD = """
import json, re, sys, time
import psec_jax as psec
import psec_jax.data.hdf5
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
before, start = peak(), time.perf_counter()
data = psec.load_dataset(sys.argv[1])
print(json.dumps([time.perf_counter() - start, peak() - before, len(data)]))
"""


def loading(size: int = 1_000_000) -> dict:
    """Loading a walker2d-sized file in D4RL's layout: seconds, and peak memory over its size."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "walker2d.hdf5"
        observations = generator.normal(size=(size, 17)).astype(np.float32)
        data = psec.TransitionDataset(
            observations=observations,
            actions=np.tanh(generator.normal(size=(size, 6))),
            rewards=generator.normal(size=size),
            terminations=np.zeros(size, bool),
            truncations=np.arange(size) % 1000 == 999,
        )
        write_hdf5(file, data)
        bytes_in_file = file.stat().st_size
        runs = [
            json.loads(subprocess.check_output([sys.executable, "-c", LOAD, str(file)]))
            for _ in range(3)
        ]
    return {
        "transitions": runs[0][2],
        "file_megabytes": round(bytes_in_file / 1e6, 1),
        "seconds": round(min(seconds for seconds, _, _ in runs), 2),
        "peak_memory_over_file_size": round(max(peak for _, peak, _ in runs) / bytes_in_file, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("section", nargs="*", help="learning, acting, …; all of them where none")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    data = random_data()
    backbone = psec.DiffusionBackbone(ACTIONS, Denoiser(dropout=0.0))
    base = Policy.create(backbone, psec.Statistics.of(data.observations), jax.random.key(0))
    device = jax.devices()[0]
    report = {
        "device": f"{device.platform}: {device.device_kind}",
        "machine": f"{platform.machine()}, {len(jax.devices())} device(s)",
        "jax": jax.__version__,
        "batch": chosen.batch,
    }
    sections = {
        "learning": partial(learning, base, data, chosen.batch, chosen.repeats),
        "acting": partial(acting, base, data, chosen.repeats),
        "composition": partial(composition, base, data, chosen.batch, chosen.repeats),
        "stepping": partial(stepping, chosen.repeats),
        "loading": loading,
    }
    if unknown := sorted(set(chosen.section) - set(sections)):
        parser.error(f"unknown section {unknown}; choose from {', '.join(sections)}")
    report |= {name: sections[name]() for name in chosen.section or sections}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
