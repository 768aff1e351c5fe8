"""The verbs: each is a learner plus ``fit``. Whoever needs more takes the learner itself.

Every verb passes further keywords on to ``fit`` (``label``, ``writer``, ``checkpoints``, …); its
``inspect(step, what is learnt)`` is shown what the verb would return.
"""

import dataclasses
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
from psec_jax.networks import ConstantWeights, ContextNetwork
from psec_jax.policies import Policy, Statistics
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
    expectile: float = 0.7,
    batch_size: int = 256,
    **fit_options: Any,
) -> tuple[dict[str, Skill], dict[str, Critics]]:
    """Offline RL: skills on the frozen ``base``, side by side with the critics that weigh them.

    ``skills`` names each skill and says how its samples are weighed, by default one called
    ``skill`` by its advantage; ``objectives`` names each critic's, by default ``return``.
    Returns both, by name.
    """
    _check_sizes(base, data)
    skills = {"skill": AdvantageWeights()} if skills is None else skills
    adapter = Adapter() if adapter is None else adapter
    learner = GuidedLearner(
        _critics(base.statistics, data, objectives, steps, critic_optimisation, expectile),
        SkillLearner(base, adapter, _for(steps, optimisation)),
        tuple(skills.items()),
    )
    learnt, critics = learner.result(_fit(learner, data, steps, batch_size, key, fit_options))
    for name, skill in learnt.items():
        facts = {"steps": steps, "batch_size": batch_size, "weights": str(skills[name])}
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
    expectile: float = 0.7,
    batch_size: int = 256,
    **fit_options: Any,
) -> tuple[Policy, dict[str, Critics]]:
    """Offline RL on all parameters of ``policy``: fine-tuning, or for a fresh one from scratch.

    As ``learn_skills``, without skills: IQL's policy extraction, by the backbone's own loss.
    """
    _check_sizes(policy, data)
    weigh = AdvantageWeights() if weigh is None else weigh
    learner = GuidedLearner(
        _critics(policy.statistics, data, objectives, steps, critic_optimisation, expectile),
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
    context: bool = True,
    hidden: tuple[int, ...] = (256, 256),
    critics: Mapping[str, Critics] | None = None,
    weigh: Weigh | None = None,
    anchor: Sequence[float] | None = None,
    anchor_strength: float = 1.0,
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """Learn how to mix ``skills`` (all of the library's where None) on ``data``.

    With ``context`` the weights follow from the state through a network with these ``hidden``
    layers; without, constant weights are tuned. ``weigh`` weighs the samples by ``critics`` that
    were learnt before; ``anchor`` holds mean weights near given values, one a skill.
    """
    init_key, fit_key = jax.random.split(key)
    policy = library.base.with_bank(library.bank(skills))
    network = _context(policy.bank.size, context, hidden)
    composed = ComposedPolicy.create(policy, network, level, init_key)
    anchor = None if anchor is None else tuple(anchor)
    learner = ContextLearner(composed, _for(steps, optimisation), anchor, anchor_strength)
    return _learn_weights(learner, data, steps, batch_size, fit_key, critics, weigh, fit_options)


def compose_policies(
    base: Policy,
    policies: Mapping[str, Policy],
    data: TransitionDataset,
    *,
    level: str,
    steps: int,
    key: jax.Array,
    context: bool = True,
    hidden: tuple[int, ...] = (256, 256),
    critics: Mapping[str, Critics] | None = None,
    weigh: Weigh | None = None,
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """``compose`` for policies that share no parameters, at the noise or action level."""
    init_key, fit_key = jax.random.split(key)
    network = _context(len(policies), context, hidden)
    composed = ComposedPolicy.of_policies(
        base, tuple(policies.values()), network, level, init_key, names=tuple(policies)
    )
    learner = ContextLearner(composed, _for(steps, optimisation))
    return _learn_weights(learner, data, steps, batch_size, fit_key, critics, weigh, fit_options)


def _context(size: int, context: bool, hidden: tuple[int, ...]) -> nn.Module:
    return ContextNetwork(size, hidden) if context else ConstantWeights(size)


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


def _critics(statistics, data, objectives, steps, optimisation, expectile):
    objectives = {"return": Return.scaled_to(data)} if objectives is None else objectives
    if optimisation is None:
        optimisation = Optimisation(weight_decay=0.0, ema_rate=0.005)
    return {
        name: CriticLearner(statistics, objective, _for(steps, optimisation), expectile)
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
