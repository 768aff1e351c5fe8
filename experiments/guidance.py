"""How critics are learned, and what they guide: the part of the schema about offline RL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from psec_jax import Guidance, Optimizer, TransitionDataset
from psec_jax.learners import Critics, FeasibleFirst
from psec_jax.learners.objectives import DiscountedCost, Feasibility, Objective, Return
from psec_jax.learners.weights import AdvantageWeights, FeasibleWeights, FisorWeights, Weigh
from psec_jax.networks import Critic
from psec_jax.storage import check_name


@dataclass
class IqlPlan:
    """How critics are learned, what they make of each sample, and how they choose actions."""

    expectile: float = MISSING
    discount: float = MISSING
    temperature: float = MISSING
    clip: float = MISSING
    learning_rate: float = MISSING
    target_rate: float = MISSING
    schedule: str = "cosine"
    # LayerNorm on V's input.
    value_norm: bool = False
    # Nothing comes after a timeout either.
    timeouts_terminal: bool = False
    # Samples of which the best by Q is acted; 1 acts without critics.
    candidates: int = MISSING

    def check(self) -> None:
        """Refuse what no critic can be learned with."""
        self.build(Return(self.discount))
        _check_expectile("critics", self.expectile, self.candidates)

    def weigh(self) -> AdvantageWeights:
        return AdvantageWeights("return", self.temperature, self.clip)

    def build(self, objective: Return, weights: Any = None) -> Guidance:
        """By a critic of ``objective``, with ``weights`` or those of its advantage."""
        return Guidance(
            {"return": objective},
            self.weigh() if weights is None else weights,
            expectile=self.expectile,
            **_networks(self),
        )


@dataclass
class CriticPlan:
    """What one critic is the value of; see ``psec_jax.learners.objectives``."""

    objective: str = MISSING
    # Another one than that of all critics.
    expectile: float | None = None
    signal: str = "costs"
    scale: float = 1.0
    unsafe: float = 25.0
    safe: float = -1.0
    threshold: float = 0.0

    def build(self, discount: float, data: TransitionDataset | None = None) -> Objective:
        """The objective; returns are scaled by ``data`` where given."""
        if self.objective == "return":
            if data is None:
                return Return(discount)
            return Return.scaled_to(data, discount=discount)
        if self.objective == "cost":
            return DiscountedCost(discount, self.signal, self.scale)
        if self.objective == "feasibility":
            return Feasibility(discount, self.unsafe, self.safe, self.threshold)
        raise ValueError(
            f"objective {self.objective!r} is unknown; use return, cost or feasibility"
        )


WEIGHTS = {"advantage": AdvantageWeights, "feasible": FeasibleWeights}


@dataclass
class SkillPlan:
    """By which critic a skill's samples are weighed, and how."""

    critic: str = MISSING
    weights: str = MISSING
    temperature: float = MISSING
    clip: float = MISSING

    def build(self) -> Weigh:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights {self.weights!r} are unknown; use {' or '.join(WEIGHTS)}")
        return WEIGHTS[self.weights](self.critic, self.temperature, self.clip)


@dataclass
class FisorPlan:
    """How FISOR weighs samples in feasible states, and in others."""

    temperature: float = MISSING
    safety_temperature: float = MISSING
    clip: float = MISSING

    def build(self) -> FisorWeights:
        return FisorWeights(
            temperature=self.temperature,
            safety_temperature=self.safety_temperature,
            clip=self.clip,
        )


@dataclass
class Objectives:
    critics: dict[str, CriticPlan] = field(default_factory=dict)
    skills: dict[str, SkillPlan] = field(default_factory=dict)
    fisor: FisorPlan = field(default_factory=FisorPlan)
    discount: float = MISSING
    expectile: float = MISSING
    learning_rate: float = MISSING
    target_rate: float = MISSING
    schedule: str = "cosine"
    # LayerNorm on V's input.
    value_norm: bool = False
    # Nothing comes after a timeout either.
    timeouts_terminal: bool = False
    acting: str = MISSING
    candidates: int = MISSING
    among_feasible: str | None = None

    def build(self, weights: Any = None, data: TransitionDataset | None = None) -> Guidance:
        """With ``weights``, by default those of the skills; returns are scaled by ``data`` where
        given."""
        if weights is None:
            weights = {name: plan.build() for name, plan in self.skills.items()}
        objectives = {n: c.build(self.discount, data) for n, c in self.critics.items()}
        return Guidance(objectives, weights, expectile=self.expectiles, **_networks(self))

    @property
    def expectiles(self) -> dict[str, float]:
        """Each critic's own, or that of all."""
        return {
            name: self.expectile if plan.expectile is None else plan.expectile
            for name, plan in self.critics.items()
        }

    def scorer(self, critics: Mapping[str, Critics]) -> Critics | FeasibleFirst:
        """By what the best of some samples is chosen."""
        acting = critics[self.acting]
        if self.among_feasible is None:
            return acting
        return FeasibleFirst(acting, critics[self.among_feasible])

    def check(self) -> None:
        """Refuse critics and skills that cannot be learned."""
        self.fisor.build()
        _check_expectile("objectives", self.expectile, self.candidates)
        for name, expectile in self.expectiles.items():
            _check_expectile(f"objectives.critics.{name}", expectile, self.candidates)
        if not self.skills:
            raise ValueError("objectives.skills needs at least one entry")
        for name, plan in self.skills.items():
            check_name(name)
            if plan.critic not in self.critics:
                raise ValueError(
                    f"objectives.skills.{name} is weighed by critic {plan.critic!r}, but there "
                    f"are {list(self.critics)}"
                )
        self.build()
        chosen_by = {"acting": self.acting}
        if self.among_feasible is not None:
            chosen_by["among_feasible"] = self.among_feasible
        for key, critic in chosen_by.items():
            if critic not in self.critics:
                raise ValueError(
                    f"objectives.{key} {critic!r} is no critic; expected one of "
                    f"{list(self.critics)}"
                )
        if len(chosen_by) > 1 and self.critics[self.acting].objective != "feasibility":
            raise ValueError(
                f"objectives.among_feasible needs acting by a critic of feasibility, not "
                f"{self.acting!r}"
            )


def _networks(plan: IqlPlan | Objectives) -> dict[str, Any]:
    """What any critic is, and how it is trained, as arguments of ``Guidance``."""
    optimizer = Optimizer(
        learning_rate=plan.learning_rate,
        weight_decay=0.0,
        ema_rate=plan.target_rate,
        schedule=plan.schedule,
    )
    network = Critic(input_norm=True) if plan.value_norm else None
    return {"value_network": network, "optimizer": optimizer}


def _check_expectile(where: str, expectile: float, candidates: int) -> None:
    if not 0 < expectile < 1:
        raise ValueError(f"{where}.expectile must be in (0, 1), not {expectile!r}")
    if candidates < 1:
        raise ValueError(f"{where}.candidates must be at least 1, not {candidates!r}")
