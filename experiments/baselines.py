"""The baselines TD3+BC, CQL and ReBRAC: the part of the schema about them.

What a configuration does not say is as published (``psec_jax.learners``).
"""

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from psec_jax import GaussianBackbone, Policy, Statistics, TransitionDataset
from psec_jax.learners import CQL, TD3BC, AllParameters, ReBRAC
from psec_jax.learners.objectives import Return
from psec_jax.networks import GaussianActor


@dataclass
class ActorPlan:
    """A deterministic actor, and how many samples it is trained on at once."""

    hidden: list[int] = MISSING
    batch_size: int = MISSING
    log_std_bounds: ClassVar[tuple[float, float]] = (-5.0, 2.0)

    def statistics(self, data: TransitionDataset) -> Statistics:
        """What the actor normalizes observations with; CQL's and ReBRAC's see them as they are."""
        return Statistics.identity(data.observation_size)

    def backbone(self, action_size: int) -> GaussianBackbone:
        bounds = self.log_std_bounds
        network = GaussianActor(action_size, tuple(self.hidden), log_std_bounds=bounds)
        return GaussianBackbone(action_size, network)


@dataclass
class Td3bcPlan(ActorPlan):
    # Of Q against imitation.
    alpha: float = MISSING

    def statistics(self, data: TransitionDataset) -> Statistics:
        return Statistics.of(data.observations, 1e-3)

    def build(self, policy: Policy, objective: Return) -> TD3BC:
        return TD3BC(AllParameters(policy), objective, alpha=self.alpha)


@dataclass
class CqlPlan(ActorPlan):
    # Of the conservative loss.
    alpha: float = MISSING
    log_std_bounds: ClassVar[tuple[float, float]] = (-20.0, 2.0)

    def build(self, policy: Policy, objective: Return) -> CQL:
        return CQL(AllParameters(policy), objective, alpha=self.alpha)


@dataclass
class RebracPlan(ActorPlan):
    actor_penalty: float = MISSING
    critic_penalty: float = MISSING

    def build(self, policy: Policy, objective: Return) -> ReBRAC:
        penalties = {
            "actor_penalty": self.actor_penalty,
            "critic_penalty": self.critic_penalty,
        }
        return ReBRAC(AllParameters(policy), objective, **penalties)


@dataclass
class Baselines:
    td3bc: Td3bcPlan = field(default_factory=Td3bcPlan)
    cql: CqlPlan = field(default_factory=CqlPlan)
    rebrac: RebracPlan = field(default_factory=RebracPlan)

    def check(self) -> None:
        """Refuse what cannot be trained."""
        for name, plan in vars(self).items():
            try:
                # A policy has no say in what is checked.
                plan.build(None, Return())
                plan.backbone(1)
            except ValueError as error:
                raise ValueError(f"baselines.{name}.{error}") from None
            for key, sizes in (("batch_size", [plan.batch_size]), ("hidden", plan.hidden)):
                if any(size < 1 for size in sizes):
                    raise ValueError(f"baselines.{name}.{key} must be at least 1, not {sizes}")
