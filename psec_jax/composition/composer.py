"""Composers: where the weights of skills come from, at which level skills are mixed, and what the
weights are trained by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from psec_jax import reprs
from psec_jax.composition.agent import ComposedPolicy
from psec_jax.composition.going_home import SWITCH, switch_of
from psec_jax.composition.levels import Level
from psec_jax.networks import ConstantWeights, ContextNetwork
from psec_jax.policies import Policy
from psec_jax.settings import plain_settings, python_number
from psec_jax.skills.bank import Bank
from psec_jax.skills.library import SkillLibrary

# Where weights come from, by name: a module for so many skills.
WEIGHTS = {"context": ContextNetwork, "constant": ConstantWeights, "home": ConstantWeights}
BASE = "base"

Parts = SkillLibrary | Policy | Mapping[str, Policy]


@dataclass(frozen=True)
class Composer:
    """``weights`` are ``context``, the paper's network of the state, ``constant``, ``home``, which
    is constant weights that go home, or any module from normalized observations (batch,
    observation) to weights (batch, skill).

    ``level`` is where skills are mixed (``composition.levels``): ``parameter``, ``noise``,
    ``action``, or a level with its parameters, such as ``NoiseLevel(base_enters=False)``.
    ``anchor`` adds to the loss (``learners.ContextLearner``). ``weigh`` weighs the samples by
    ``critics`` that were learned before (``psec_jax.weights``).

    With a ``purpose`` (of ``learn_purpose``) the mixture goes home: π₀ acts where the reward that
    it is for is low, and ``switch`` says how low (``composition.homing``). ``home`` takes the
    purpose that the library keeps of π₀.
    """

    weights: nn.Module | str = "context"
    level: Level | str = "parameter"
    anchor: Sequence[float] | None = None
    anchor_strength: float = 1.0
    critics: Mapping[str, Any] | None = None
    weigh: Callable[..., Float[Array, "batch"]] | None = None
    purpose: Any = None
    switch: tuple[float, float] = SWITCH

    def __post_init__(self):
        if isinstance(self.weights, nn.Module):
            object.__setattr__(self, "weights", plain_settings(self.weights))
        elif not isinstance(self.weights, str) or self.weights not in WEIGHTS:
            raise ValueError(
                f"composer weights {self.weights!r} are unknown; use one of {list(WEIGHTS)}, or a "
                "Linen module from observations to weights"
            )
        if self.anchor is not None:
            object.__setattr__(self, "anchor", tuple(map(python_number, self.anchor)))
        if not self.anchor_strength >= 0:
            raise ValueError(f"anchor_strength must be at least 0, not {self.anchor_strength!r}")
        if self.critics and self.weigh is None:
            raise ValueError(
                "critics weigh nothing without weigh; give "
                "weigh=psec_jax.weights.AdvantageWeights(), or leave critics out"
            )
        if self.weigh is not None and not self.critics:
            raise ValueError("weigh needs critics; learn them with learn_skills or improve")
        object.__setattr__(self, "switch", switch_of(self.switch))
        if self.switch != SWITCH and not self.goes_home:
            raise ValueError(
                f"switch {self.switch} says when the mixture goes home, but it does not; give "
                "weights 'home' or a purpose, or leave switch out"
            )

    @reprs.brief
    def __repr__(self):
        named = isinstance(self.weights, str)
        yield f"weights {self.weights if named else type(self.weights).__name__}"
        yield f"level {self.level}"
        if self.anchor is not None:
            yield f"anchor {self.anchor} of strength {self.anchor_strength:g}"
        if self.critics:
            yield f"critics {reprs.listed([*self.critics])} of {reprs.values(self.critics)}"
            yield f"weigh {self.weigh}"
        if self.goes_home:
            yield f"goes home between {self.switch[0]:g} and {self.switch[1]:g}"

    @classmethod
    def of(cls, value: "Composer | nn.Module | str") -> "Composer":
        """``value``, or the composer whose weights it is."""
        return value if isinstance(value, Composer) else cls(value)

    def composed(
        self, parts: Parts, skills: Sequence[str] | None, key: jax.Array
    ) -> ComposedPolicy:
        """``skills`` of ``parts``, all where None, in that order, under untrained weights.

        Of a library or a policy that carries a bank these are skills; of a mapping, policies that
        share no parameters, among which ``base`` is π₀. Raises ``KeyError`` for an unknown skill.
        """
        if isinstance(parts, Mapping):
            base, policies = _separate(parts, skills)
            network = self._network(len(policies))
            return ComposedPolicy.of_policies(
                base,
                tuple(policies.values()),
                network,
                self.level,
                key,
                tuple(policies),
            )
        policy, bank = _carrying(parts, skills)
        return ComposedPolicy.create(policy, self._network(bank.size), self.level, key)

    @property
    def goes_home(self) -> bool:
        return self.weights == "home" or self.purpose is not None

    def purpose_in(self, parts: Parts) -> Any:
        """By which the mixture goes home, if it does; raises ``KeyError`` for a library that keeps
        none."""
        if self.purpose is not None or self.weights != "home":
            return self.purpose
        if isinstance(parts, SkillLibrary):
            return parts.purpose()
        raise ValueError(
            "weights 'home' take what π₀ is for from a library; without one, give it as "
            "Composer('home', purpose=psec_jax.learn_purpose(π₀, …))"
        )

    def _network(self, skills: int) -> nn.Module:
        return WEIGHTS[self.weights](skills) if isinstance(self.weights, str) else self.weights


def _carrying(parts: SkillLibrary | Policy, skills: Sequence[str] | None) -> tuple[Policy, Bank]:
    """π₀ with a bank of these skills, and that bank."""
    if isinstance(parts, SkillLibrary):
        bank = parts.bank(skills)
        return parts.base.with_bank(bank), bank
    if not isinstance(parts, Policy):
        raise ValueError(
            "compose takes a SkillLibrary, a Policy that carries a bank of skills, or a mapping "
            f"of policies such as {{'base': π₀, 'walk': policy}}, not {type(parts).__name__}"
        )
    if parts.bank is None:
        raise ValueError("there is nothing to compose: the policy carries no bank of skills")
    bank = parts.bank if skills is None else parts.bank.select(skills)
    return parts if skills is None else parts.with_bank(bank), bank


def _separate(
    policies: Mapping[str, Policy], skills: Sequence[str] | None
) -> tuple[Policy, dict[str, Policy]]:
    """π₀, and the policies that are mixed with it."""
    if BASE not in policies:
        raise ValueError(
            f"the policies {list(policies)} have no entry {BASE!r}, which is π₀; give "
            f"{{{BASE!r}: π₀, …}}"
        )
    names = [name for name in policies if name != BASE]
    if unknown := [name for name in skills or () if name not in names]:
        raise KeyError(f"no policy {unknown[0]!r} to mix; there are {names}")
    chosen = names if skills is None else skills
    if not chosen:
        raise ValueError(f"there is nothing to compose: {BASE!r} is the only policy")
    return policies[BASE], {name: policies[name] for name in chosen}
