"""What more skills, more seeds and a larger batch cost."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

import psec_jax as psec
from benchmarks.cases import RANK, composed, paper_policy, random_data, with_skills
from benchmarks.learning import learners
from benchmarks.timing import best_seconds
from psec_jax.learners import CriticLearner, GuidedLearner, SkillLearner
from psec_jax.policies import Policy
from psec_jax.training import fit
from psec_jax.training.fit import Learner
from psec_jax.training.seeds import stacked

STEPS = 60
SKILLS, SEEDS, BATCHES = (1, 2, 4, 8, 16), (1, 2, 5), (64, 256, 1024)


def growth(batch: int, repeats: int) -> dict:
    """Updates per second of each learner, and milliseconds of an acting step, as k skills, seeds
    and batch grow.

    With seeds, updates are those of all of them together, so that a row at or above the first
    says that they are no slower side by side than one after another. Each number is the best of
    three repeats at most, as there are many.
    """
    repeats = min(repeats, 3)
    base, data = paper_policy(), random_data()
    observations = jnp.asarray(data.observations)
    acting_skills = with_skills(base, 2)

    def updates(learner: Learner, batch: int = batch, seeds: int = 1) -> float:
        keys = jax.random.split(jax.random.key(0), seeds)
        training = psec.Training(STEPS, batch, chunk=STEPS)
        seconds = best_seconds(partial(fit, learner, data, key=keys, training=training), repeats)
        return round(seeds * STEPS / seconds, 1)

    def milliseconds(act: Callable[[], object]) -> float:
        return round(1000 * best_seconds(act, repeats, 20), 2)

    def three(**options: int) -> dict:
        some = learners(base, STEPS, 2)
        names = "pretraining", "skill", "context"
        return {f"{name}, updates/s": updates(some[name], **options) for name in names}

    def of_skills(count: int) -> dict:
        agent, key = composed(base, count), jax.random.key(0)
        return {
            "critics and k skills, updates/s": updates(guided(base, count)),
            "context, updates/s": updates(learners(base, STEPS, count)["context"]),
            **{
                f"acting, {n} walkers, ms": milliseconds(partial(agent.act, key, observations[:n]))
                for n in (1, 10)
            },
        }

    def of_seeds(count: int) -> dict:
        inputs = stacked(
            [(acting_skills, jax.random.key(i), observations[10 * i :][:10]) for i in range(count)]
        )
        act = type(acting_skills).sample
        act = jax.jit(jax.vmap(act) if count > 1 else act)
        return {
            **three(seeds=count),
            "acting, 10 walkers a seed, ms": milliseconds(partial(act, *inputs)),
        }

    def of_batch(size: int) -> dict:
        act = partial(acting_skills.act, jax.random.key(0), observations[:size])
        return {**three(batch=size), "acting, all at once, ms": milliseconds(act)}

    return {
        "k skills": {f"k = {count}": of_skills(count) for count in SKILLS},
        "seeds": {f"{count}": of_seeds(count) for count in SEEDS},
        "batch": {f"{size}": of_batch(size) for size in BATCHES},
    }


def guided(base: Policy, count: int) -> GuidedLearner:
    optimizer = psec.Optimizer(steps=STEPS)
    return GuidedLearner(
        {"return": CriticLearner(base.statistics, psec.objectives.Return(), optimizer)},
        SkillLearner(base, psec.Adapter(rank=RANK), optimizer),
        tuple((f"skill-{i}", psec.weights.AdvantageWeights()) for i in range(count)),
    )
