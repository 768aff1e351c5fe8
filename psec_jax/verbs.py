"""The verbs: each is a learner plus ``fit``. Whoever needs more takes the learner itself.

Every verb passes further keywords on to ``fit`` (``label``, ``writer``, ``checkpoints``, …); its
``inspect(step, what is learnt)`` is shown what the verb would return.
"""

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from psec_jax.backbones import Backbone, DiffusionBackbone
from psec_jax.composition import ComposedPolicy
from psec_jax.data.dataset import TransitionDataset
from psec_jax.learners import (
    AdvantageWeights,
    ContextLearner,
    CriticLearner,
    Critics,
    Frozen,
    GuidedLearner,
    Optimisation,
    PolicyLearner,
    Return,
    SkillLearner,
)
from psec_jax.learners.guided import Weigh
from psec_jax.learners.objectives import Objective
from psec_jax.networks import ConstantWeights, ContextNetwork, Critic
from psec_jax.policies import Policy, Statistics
from psec_jax.settings import plain_settings
from psec_jax.skills.bank import Adapter, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.training import fit


def pretrain(
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    backbone: Backbone | None = None,
    statistics: Statistics | None = None,
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> Policy:
    """Clone ``data`` into a new policy: π₀, or a policy from scratch.

    ``statistics`` normalise its observations; those of ``data`` where None.
    """
    backbone = DiffusionBackbone(data.action_size) if backbone is None else backbone
    statistics = Statistics.of(data.observations) if statistics is None else statistics
    init_key, fit_key = jax.random.split(key)
    policy = Policy.create(backbone, statistics, init_key)
    _check_sizes(policy, data)
    learner = PolicyLearner(policy, _for(steps, optimisation))
    return learner.result(_fit(learner, data, steps, batch_size, fit_key, fit_options))


def learn_skill(
    base: Policy,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    adapter: Adapter | None = None,
    rank: int | None = None,
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> Skill:
    """Clone ``data`` into a skill on the frozen ``base``; ``rank`` is a short cut to
    ``adapter=Adapter(rank=rank)``."""
    _check_sizes(base, data)
    if rank is not None and adapter is not None:
        raise ValueError("give rank or adapter, not both")
    if adapter is None:
        adapter = Adapter() if rank is None else Adapter(rank=rank)
    learner = SkillLearner(base, adapter, _for(steps, optimisation))
    state = _fit(learner, data, steps, batch_size, key, fit_options)
    return learner.result(state, steps=steps, batch_size=batch_size)


def learn_skills(
    base: Policy,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    skills: Mapping[str, Weigh | None] | None = None,
    objectives: Mapping[str, Objective] | None = None,
    adapter: Adapter | None = None,
    optimisation: Optimisation | None = None,
    critic_optimisation: Optimisation | None = None,
    expectile: float | Mapping[str, float] = 0.7,
    value_network: Critic | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> tuple[dict[str, Skill], dict[str, Critics]]:
    """Offline RL: skills on the frozen ``base``, side by side with the critics that weigh them.

    ``skills`` names each skill and says how its samples are weighed, by default one called
    ``skill`` by its advantage; ``objectives`` names each critic's, by default ``return``.
    ``expectile`` is one for all critics or one for each by name; ``value_network`` is V's where
    it is another than Q's. Returns skills and critics, by name.
    """
    _check_sizes(base, data)
    skills = {"skill": AdvantageWeights()} if skills is None else skills
    adapter = Adapter() if adapter is None else adapter
    critic_options = steps, critic_optimisation, expectile, value_network
    learner = GuidedLearner(
        _critics(base.statistics, data, objectives, critic_options),
        SkillLearner(base, adapter, _for(steps, optimisation)),
        tuple(skills.items()),
    )
    learnt, critics = learner.result(_fit(learner, data, steps, batch_size, key, fit_options))
    for name, skill in learnt.items():
        facts = {"steps": steps, "batch_size": batch_size, "weights": _named(skills[name])}
        learnt[name] = dataclasses.replace(skill, provenance={**skill.provenance, **facts})
    return learnt, critics


def improve(
    policy: Policy,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    weigh: Weigh | None = None,
    objectives: Mapping[str, Objective] | None = None,
    optimisation: Optimisation | None = None,
    critic_optimisation: Optimisation | None = None,
    expectile: float | Mapping[str, float] = 0.7,
    value_network: Critic | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> tuple[Policy, dict[str, Critics]]:
    """Offline RL on all parameters of ``policy``: fine-tuning, or for a fresh one from scratch.

    As ``learn_skills``, without skills: IQL's policy extraction, by the backbone's own loss.
    """
    _check_sizes(policy, data)
    weigh = AdvantageWeights() if weigh is None else weigh
    critic_options = steps, critic_optimisation, expectile, value_network
    learner = GuidedLearner(
        _critics(policy.statistics, data, objectives, critic_options),
        PolicyLearner(policy, _for(steps, optimisation)),
        (("policy", weigh),),
    )
    learnt, critics = learner.result(_fit(learner, data, steps, batch_size, key, fit_options))
    return learnt["policy"], critics


def compose(
    library: SkillLibrary,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    skills: Sequence[str] | None = None,
    level: str = "parameter",
    context: bool | nn.Module = True,
    base_enters: bool = True,
    through_sampler: bool = False,
    critics: Mapping[str, Critics] | None = None,
    weigh: Weigh | None = None,
    anchor: Sequence[float] | None = None,
    anchor_strength: float = 1.0,
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """Learn how to mix ``skills`` (all of the library's where None) on ``data``.

    With ``context`` the weights follow from the state, through a ``ContextNetwork`` or the given
    module from observations (batch, obs) to weights (batch, skill); with False, constant weights
    are tuned. ``base_enters`` says whether π₀ enters the mixture at the noise and action levels
    (``composition.levels``), ``through_sampler`` and ``anchor`` what the loss is
    (``learners.ContextLearner``). ``weigh`` weighs the samples by ``critics`` that were learnt
    before. Constant weights have an optimiser of their own where None is given, since they must
    reach their values by themselves.
    """
    init_key, fit_key = jax.random.split(key)
    policy = library.base.with_bank(library.bank(skills))
    network = _context(policy.bank.size, context)
    composed = ComposedPolicy.create(policy, network, level, init_key, base_enters)
    anchor = None if anchor is None else tuple(anchor)
    optimisation = _for_weights(network, steps, optimisation)
    learner = ContextLearner(composed, optimisation, anchor, anchor_strength, through_sampler)
    return _learn_weights(learner, data, steps, batch_size, fit_key, critics, weigh, fit_options)


def compose_policies(
    base: Policy,
    policies: Mapping[str, Policy],
    data: TransitionDataset,
    *,
    level: str,
    steps: int,
    key: jax.Array,
    context: bool | nn.Module = True,
    base_enters: bool = True,
    through_sampler: bool = False,
    critics: Mapping[str, Critics] | None = None,
    weigh: Weigh | None = None,
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """``compose`` for policies that share no parameters, at the noise or action level."""
    init_key, fit_key = jax.random.split(key)
    network = _context(len(policies), context)
    composed = ComposedPolicy.of_policies(
        base, tuple(policies.values()), network, level, init_key, tuple(policies), base_enters
    )
    optimisation = _for_weights(network, steps, optimisation)
    learner = ContextLearner(composed, optimisation, through_sampler=through_sampler)
    return _learn_weights(learner, data, steps, batch_size, fit_key, critics, weigh, fit_options)


def _named(weigh: Weigh | None) -> str:
    """In words that do not depend on where in memory it lies."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(weigh))


def _context(size: int, context: bool | nn.Module) -> nn.Module:
    if isinstance(context, nn.Module):
        return plain_settings(context)
    return ContextNetwork(size) if context else ConstantWeights(size)


def _for_weights(
    network: nn.Module, steps: int, optimisation: Optimisation | None
) -> Optimisation:
    """Warns where constants could not get from 0 to 1, so that they would stay untrained."""
    if not isinstance(network, ConstantWeights):
        return _for(steps, optimisation)
    if optimisation is None:
        optimisation = Optimisation(learning_rate=0.03, weight_decay=0.0, ema_rate=0.02)
    optimisation = _for(steps, optimisation)
    if optimisation.reach < 1:
        warnings.warn(
            f"in {steps} updates at learning rate {optimisation.learning_rate:g} constant weights "
            f"move by at most {optimisation.reach:.2g}, and so stay near where they start; raise "
            "steps or the learning rate until their product is at least 2",
            stacklevel=3,
        )
    return optimisation


def _learn_weights(learner, data, steps, batch_size, key, critics, weigh, options):
    _check_sizes(learner.composed, data)
    if weigh is None:
        return learner.result(_fit(learner, data, steps, batch_size, key, options))
    if not critics:
        raise ValueError("weigh needs critics; learn them with learn_skills or improve")
    frozen = {name: Frozen(critic) for name, critic in critics.items()}
    guided = GuidedLearner(frozen, learner, (("context", weigh),))
    learnt, _ = guided.result(_fit(guided, data, steps, batch_size, key, options))
    return learnt["context"]


def _critics(statistics, data, objectives, options):
    steps, optimisation, expectile, value_network = options
    objectives = {"return": Return.scaled_to(data)} if objectives is None else objectives
    if optimisation is None:
        optimisation = Optimisation(weight_decay=0.0, ema_rate=0.005)
    if not isinstance(expectile, Mapping):
        expectile = dict.fromkeys(objectives, expectile)
    if set(expectile) != set(objectives):
        raise ValueError(
            f"expectile names {sorted(expectile)}, but the critics are {sorted(objectives)}; give "
            "one number for all, or one for each"
        )
    return {
        name: CriticLearner(
            statistics,
            objective,
            _for(steps, optimisation),
            expectile[name],
            value_network=value_network,
        )
        for name, objective in objectives.items()
    }


def _for(steps: int, optimisation: Optimisation | None) -> Optimisation:
    if optimisation is None:
        return Optimisation(steps=steps)
    return dataclasses.replace(optimisation, steps=steps)


def _fit(learner, data, steps, batch_size, key, options):
    """``fit``, whose ``inspect`` is shown what the learner's state results in."""
    if (inspect := options.get("inspect")) is not None:
        shown = lambda step, state: inspect(step, learner.result(state))  # noqa: E731
        options = {**options, "inspect": shown}
    return fit(learner, data, steps=steps, batch_size=batch_size, key=key, **options)


def _check_sizes(policy: Policy | ComposedPolicy, data: TransitionDataset) -> None:
    sizes = data.observation_size, data.action_size
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"the data have (observation, action) sizes {sizes}, but the policy was made for "
            f"{expected}; use data of the same robot"
        )
