"""Updates per second."""

from functools import partial

import jax

import psec_jax as psec
from benchmarks.cases import RANK, composed, paper_policy, random_data
from benchmarks.products import flops, learner_products, product_seconds
from benchmarks.timing import best_seconds
from psec_jax.learners import (
    ContextLearner,
    CriticLearner,
    GuidedLearner,
    PolicyLearner,
    SkillLearner,
)
from psec_jax.policies import Policy
from psec_jax.training import fit
from psec_jax.training.fit import Learner


def learners(base: Policy, steps: int, skills: int) -> dict[str, Learner]:
    optimizer = psec.Optimizer(steps=steps)
    skill = SkillLearner(base, psec.Adapter(rank=RANK), optimizer)
    return {
        "pretraining": PolicyLearner(base, optimizer),
        "skill": skill,
        "critics and skill": GuidedLearner(
            {"return": CriticLearner(base.statistics, psec.objectives.Return(), optimizer)},
            skill,
            (("skill", psec.weights.AdvantageWeights()),),
        ),
        "context": ContextLearner(composed(base, skills), optimizer),
    }


def learning(batch: int, repeats: int) -> dict:
    """Updates per second of each learner, and the arithmetic rate that they mean."""
    steps, skills = 200, 2
    base, data = paper_policy(), random_data()
    products = learner_products(base, batch, RANK, skills)
    training, section = psec.Training(steps, batch), {}
    for name, learner in learners(base, steps, skills).items():
        run = partial(fit, learner, data, key=jax.random.key(0), training=training)
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
