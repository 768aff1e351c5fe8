"""Rollouts on vector environments, and what they say about a policy."""

from psec_jax.evaluation.evaluate import Evaluation, evaluate
from psec_jax.evaluation.rollout import rollout
from psec_jax.evaluation.tracing import Trace, film, trace_weights

__all__ = ["Evaluation", "Trace", "evaluate", "film", "rollout", "trace_weights"]
