"""The verbs: each is a learner plus ``fit``. Whoever needs more takes the learner itself.

Every verb passes further keywords on to ``fit`` (``label``, ``writer``, ``progress``, …), and
takes ``every`` and ``inspect``: after each so many updates, ``inspect(step, what is learnt)``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from psec_jax.backbones import Backbone, DiffusionBackbone
from psec_jax.composition import ComposedPolicy
from psec_jax.data.dataset import TransitionDataset
from psec_jax.learners import ContextLearner, Optimisation, PolicyLearner, SkillLearner
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
    optimisation: Optimisation | None = None,
    batch_size: int = 256,
    **fit_options: Any,
) -> ComposedPolicy:
    """Learn how to mix ``skills`` (all of the library's where None) on ``data``.

    With ``context`` the weights follow from the state through a network with these ``hidden``
    layers; without, constant weights are tuned.
    """
    init_key, fit_key = jax.random.split(key)
    policy = library.base.with_bank(library.bank(skills))
    network = _context(policy.bank.size, context, hidden)
    composed = ComposedPolicy.create(policy, network, level, init_key)
    return _learn_weights(composed, data, steps, fit_key, optimisation, batch_size, fit_options)


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
    return _learn_weights(composed, data, steps, fit_key, optimisation, batch_size, fit_options)


def _context(size: int, context: bool, hidden: tuple[int, ...]) -> nn.Module:
    return ContextNetwork(size, hidden) if context else ConstantWeights(size)


def _learn_weights(composed, data, steps, key, optimisation, batch_size, options):
    _check_sizes(composed, data)
    learner = ContextLearner(composed, _for(steps, optimisation))
    return learner.result(_fit(learner, data, steps, batch_size, key, options))


def _for(steps: int, optimisation: Optimisation | None) -> Optimisation:
    if optimisation is None:
        return Optimisation(steps=steps)
    return dataclasses.replace(optimisation, steps=steps)


def _fit(learner, data, steps, batch_size, key, options):
    """``fit``, stopping every so many updates to show ``inspect(step, result)`` what there is."""
    every = options.pop("every", None) or steps
    inspect = options.pop("inspect", None)
    state = None
    for start in range(0, steps, every):
        stop = min(start + every, steps)
        state = fit(
            learner,
            data,
            steps=stop,
            start=start,
            state=state,
            batch_size=batch_size,
            key=key,
            **options,
        )
        if inspect is not None:
            inspect(stop, learner.result(state))
    return state


def _check_sizes(policy: Policy | ComposedPolicy, data: TransitionDataset) -> None:
    sizes = data.observation_size, data.action_size
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"the data have (observation, action) sizes {sizes}, but the policy was made for "
            f"{expected}; use data of the same robot"
        )
