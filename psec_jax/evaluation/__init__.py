"""Rollouts on vector environments, and what they say about a policy."""

from psec_jax.evaluation.evaluate import Evaluation, Trace, evaluate, film, trace_weights
from psec_jax.evaluation.rollout import rollout

__all__ = ["Evaluation", "Trace", "evaluate", "film", "rollout", "trace_weights"]
