"""The verbs: each is a learner plus ``fit``. Whoever needs more takes the learner itself.

Every verb passes further keywords on to ``fit`` (``label``, ``writer``, ``checkpoints``, …); its
``inspect(step, what is trained)`` is shown what the verb would return.

**Several seeds.** With keys of shape (n,), as ``jax.random.split(key, n)`` gives, n seeds are
trained in one program, and a list of n is returned, each one as if it had been trained alone (to
float tolerance). What is given may then be a list of n, one for each seed: data, policies,
libraries, statistics, objectives and critics.
"""

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from psec_jax.backbones import Backbone, DiffusionBackbone
from psec_jax.composition import ComposedPolicy
from psec_jax.data.dataset import TransitionDataset
from psec_jax.learners import (
    ActorLoss,
    AdvantageWeights,
    ContextLearner,
    CriticLearner,
    Critics,
    Frozen,
    GuidedLearner,
    Optimizer,
    PolicyLearner,
    Return,
    SkillLearner,
    imitation,
)
from psec_jax.learners.guided import Weigh
from psec_jax.learners.objectives import Objective
from psec_jax.networks import ConstantWeights, ContextNetwork, Critic
from psec_jax.policies import Policy, Statistics
from psec_jax.settings import plain_settings
from psec_jax.skills.bank import Adapter, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.storage import check_name
from psec_jax.training import fit
from psec_jax.training.seeds import for_each_seed, seed_count


def pretrain(
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    backbone: Backbone | None = None,
    statistics: Statistics | None = None,
    optimizer: Optimizer | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> Policy:
    """Clone ``data`` into a new policy: π₀, or a policy from scratch.

    ``statistics`` normalize its observations; those of ``data`` where None.
    """

    def learner(key, data, statistics):
        own = DiffusionBackbone(data.action_size) if backbone is None else backbone
        if statistics is None:
            statistics = Statistics.of(data.observations)
        init_key, fit_key = jax.random.split(key)
        policy = Policy.create(own, statistics, init_key)
        _check_sizes(policy, data)
        return PolicyLearner(policy, _for(steps, optimizer)), data, fit_key

    parts = {"data": data, "statistics": statistics}
    return _trained(learner, key, parts, steps, batch_size, fit_options)


def learn_skill(
    base: Policy,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    adapter: Adapter | None = None,
    rank: int | None = None,
    optimizer: Optimizer | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> Skill:
    """Clone ``data`` into a skill on the frozen ``base``; ``rank`` is a short cut to
    ``adapter=Adapter(rank=rank)``."""
    if rank is not None and adapter is not None:
        raise ValueError("give rank or adapter, not both")
    if adapter is None:
        adapter = Adapter() if rank is None else Adapter(rank=rank)

    def learner(key, base, data):
        _check_sizes(base, data)
        return SkillLearner(base, adapter, _for(steps, optimizer)), data, key

    facts = {"steps": steps, "batch_size": batch_size}
    parts = {"base": base, "data": data}
    return _trained(learner, key, parts, steps, batch_size, fit_options, facts)


def learn_skills(
    base: Policy,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    skills: Mapping[str, Weigh | None] | None = None,
    objectives: Mapping[str, Objective] | None = None,
    loss: ActorLoss | None = None,
    adapter: Adapter | None = None,
    optimizer: Optimizer | None = None,
    critic_optimizer: Optimizer | None = None,
    expectile: float | Mapping[str, float] = 0.7,
    value_network: Critic | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> tuple[dict[str, Skill], dict[str, Critics]]:
    """Offline RL: skills on the frozen ``base``, side by side with the critics that weigh them.

    ``skills`` names each skill and says how its samples are weighed, by default one called
    ``skill`` by its advantage; ``objectives`` names each critic's, by default ``return``.
    ``loss`` takes the place of imitation (``learners.actors``), and then nothing is weighed unless
    asked for. ``expectile`` is one for all critics or one for each by name; ``value_network`` is
    V's where it is another than Q's. Returns skills and critics, by name.
    """
    if skills is None:
        skills = {"skill": AdvantageWeights() if loss is None else None}
    adapter = Adapter() if adapter is None else adapter
    for name in skills:
        check_name(name)

    def learner(key, base, data, objectives):
        _check_sizes(base, data)
        critic_options = steps, critic_optimizer, expectile, value_network
        critics = _critics(base.statistics, data, objectives, critic_options)
        actor = SkillLearner(base, adapter, _for(steps, optimizer), loss or imitation)
        return GuidedLearner(critics, actor, tuple(skills.items())), data, key

    parts = {"base": base, "data": data, "objectives": objectives}
    found = _trained(learner, key, parts, steps, batch_size, fit_options)
    facts = {"steps": steps, "batch_size": batch_size}
    facts |= {} if loss is None else {"loss": _named(loss)}
    several = isinstance(found, list)
    for trained, _ in found if several else [found]:
        for name, skill in trained.items():
            said = {**skill.provenance, **facts, "weights": _named(skills[name])}
            trained[name] = dataclasses.replace(skill, provenance=said)
    return _apart(found) if several else found


def improve(
    policy: Policy,
    data: TransitionDataset,
    *,
    steps: int,
    key: jax.Array,
    weigh: Weigh | None = None,
    objectives: Mapping[str, Objective] | None = None,
    loss: ActorLoss | None = None,
    optimizer: Optimizer | None = None,
    critic_optimizer: Optimizer | None = None,
    expectile: float | Mapping[str, float] = 0.7,
    value_network: Critic | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> tuple[Policy, dict[str, Critics]]:
    """Offline RL on all parameters of ``policy``: fine-tuning, or for a fresh one from scratch.

    As ``learn_skills``, without skills: IQL's policy extraction, by the backbone's own loss.
    """
    if weigh is None and loss is None:
        weigh = AdvantageWeights()

    def learner(key, policy, data, objectives):
        _check_sizes(policy, data)
        critic_options = steps, critic_optimizer, expectile, value_network
        critics = _critics(policy.statistics, data, objectives, critic_options)
        actor = PolicyLearner(policy, _for(steps, optimizer), loss or imitation)
        return GuidedLearner(critics, actor, (("policy", weigh),)), data, key

    parts = {"policy": policy, "data": data, "objectives": objectives}
    found = _trained(learner, key, parts, steps, batch_size, fit_options)
    if isinstance(found, list):
        return _apart([(trained["policy"], critics) for trained, critics in found])
    return found[0]["policy"], found[1]


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
    optimizer: Optimizer | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """Learn how to mix ``skills`` (all of the library's where None) on ``data``.

    With ``context`` the weights follow from the state, through a ``ContextNetwork`` or the given
    module from observations (batch, obs) to weights (batch, skill); with False, constant weights
    are tuned. ``base_enters`` says whether π₀ enters the mixture at the noise and action levels
    (``composition.levels``), ``through_sampler`` and ``anchor`` what the loss is
    (``learners.ContextLearner``). ``weigh`` weighs the samples by ``critics`` that were learned
    before. Constant weights have an optimizer of their own where None is given, since they must
    reach their values by themselves.
    """
    anchor = None if anchor is None else tuple(anchor)

    def learner(key, library, data, critics):
        init_key, fit_key = jax.random.split(key)
        policy = library.base.with_bank(library.bank(skills))
        network = _context(policy.bank.size, context)
        composed = ComposedPolicy.create(policy, network, level, init_key, base_enters)
        how = _for_weights(network, steps, optimizer)
        own = ContextLearner(composed, how, anchor, anchor_strength, through_sampler)
        _check_sizes(composed, data)
        return _weighed(own, critics, weigh), data, fit_key

    parts = {"library": library, "data": data, "critics": critics}
    return _mixed(_trained(learner, key, parts, steps, batch_size, fit_options))


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
    optimizer: Optimizer | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """``compose`` for policies that share no parameters, at the noise or action level."""

    def learner(key, base, policies, data, critics):
        init_key, fit_key = jax.random.split(key)
        network = _context(len(policies), context)
        composed = ComposedPolicy.of_policies(
            base, tuple(policies.values()), network, level, init_key, tuple(policies), base_enters
        )
        how = _for_weights(network, steps, optimizer)
        own = ContextLearner(composed, how, through_sampler=through_sampler)
        _check_sizes(composed, data)
        return _weighed(own, critics, weigh), data, fit_key

    parts = {"base": base, "policies": policies, "data": data, "critics": critics}
    return _mixed(_trained(learner, key, parts, steps, batch_size, fit_options))


def _trained(make, key, parts, steps, batch_size, options, facts=None):
    """What the learner results in that ``make(key, *parts)`` gives with its data and key, for one
    seed or a list for several."""
    several = seed_count(key)
    keys = [key] if several is None else list(key)
    each = [for_each_seed(part, len(keys), name) for name, part in parts.items()]
    made = [make(*own) for own in zip(keys, *each, strict=True)]
    learners, data, fit_keys = (list(found) for found in zip(*made, strict=True))

    def results(states):
        if several is None:
            return learners[0].result(states, **(facts or {}))
        return [
            own.result(state, **(facts or {})) for own, state in zip(learners, states, strict=True)
        ]

    options = {**options, "steps": steps, "batch_size": batch_size}
    if (inspect := options.get("inspect")) is not None:
        options["inspect"] = lambda step, states: inspect(step, results(states))
    if several is None:
        return results(fit(learners[0], data[0], key=fit_keys[0], **options))
    return results(fit(learners, data, key=jnp.stack(fit_keys), **options))


def _apart(pairs: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """The first and the second of each seed's pair, in lists."""
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


def _weighed(learner: ContextLearner, critics, weigh: Weigh | None) -> Any:
    if weigh is None and critics:
        raise ValueError(
            "critics weigh nothing without weigh; give weigh=AdvantageWeights(), or leave critics "
            "out"
        )
    if weigh is None:
        return learner
    if not critics:
        raise ValueError("weigh needs critics; learn them with learn_skills or improve")
    frozen = {name: Frozen(critic) for name, critic in critics.items()}
    return GuidedLearner(frozen, learner, (("context", weigh),))


def _mixed(found: Any) -> Any:
    """The composed policies, where critics weighed their samples or not."""
    if isinstance(found, list):
        return [_mixed(one) for one in found]
    return found[0]["context"] if isinstance(found, tuple) else found


def _named(weigh: Weigh | ActorLoss | None) -> str:
    """In words that do not depend on where in memory it lies."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(weigh))


def _context(size: int, context: bool | nn.Module) -> nn.Module:
    if isinstance(context, nn.Module):
        return plain_settings(context)
    return ContextNetwork(size) if context else ConstantWeights(size)


def _for_weights(network: nn.Module, steps: int, optimizer: Optimizer | None) -> Optimizer:
    """Warns where constants could not get from 0 to 1, so that they would stay untrained."""
    if not isinstance(network, ConstantWeights):
        return _for(steps, optimizer)
    if optimizer is None:
        optimizer = Optimizer(learning_rate=0.03, weight_decay=0.0, ema_rate=0.02)
    optimizer = _for(steps, optimizer)
    if optimizer.reach < 1:
        warnings.warn(
            f"in {steps} updates at learning rate {optimizer.learning_rate:g} constant weights "
            f"move by at most {optimizer.reach:.2g}, and so stay near where they start; raise "
            "steps or the learning rate until their product is at least 2",
            stacklevel=5,
        )
    return optimizer


def _critics(statistics, data, objectives, options):
    steps, optimizer, expectile, value_network = options
    objectives = {"return": Return.scaled_to(data)} if objectives is None else objectives
    if optimizer is None:
        optimizer = Optimizer(weight_decay=0.0, ema_rate=0.005)
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
            _for(steps, optimizer),
            expectile[name],
            value_network=value_network,
        )
        for name, objective in objectives.items()
    }


def _for(steps: int, optimizer: Optimizer | None) -> Optimizer:
    if optimizer is None:
        return Optimizer(steps=steps)
    return dataclasses.replace(optimizer, steps=steps)


def _check_sizes(policy: Policy | ComposedPolicy, data: TransitionDataset) -> None:
    sizes = data.observation_size, data.action_size
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"the data have (observation, action) sizes {sizes}, but the policy was made for "
            f"{expected}; use data of the same robot"
        )
