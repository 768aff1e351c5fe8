"""The verbs: each is a learner plus ``fit``. Whoever needs more takes the learner itself.

``training`` says how something is trained (``psec_jax.Training``), ``guidance`` what critics do
beside it (``psec_jax.Guidance``), ``composer`` how skills are mixed (``psec_jax.Composer``).

**Several seeds.** With keys of shape (n,), as ``jax.random.split(key, n)`` gives, n seeds are
trained in one program, and a list of n is returned, each one as if it had been trained alone (to
float tolerance). What is given may then be a list of n, one for each seed: data, policies,
libraries, statistics, guidances and composers. Annotations of results are those of one seed, as
types do not tell keys of one shape from another's.
"""

import dataclasses
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from psec_jax.backbones import Backbone, DiffusionBackbone
from psec_jax.composition import ComposedPolicy, Composer, homing
from psec_jax.composition.composer import Parts
from psec_jax.data.dataset import TransitionDataset
from psec_jax.learners import (
    ContextLearner,
    Critics,
    Frozen,
    GuidedLearner,
    PolicyLearner,
    SkillLearner,
    imitation,
)
from psec_jax.learners.guidance import Guidance
from psec_jax.learners.optimizer import Optimizer, Transformation, optimizer_of
from psec_jax.learners.purpose import Purpose, PurposeLearner, rewards_ahead
from psec_jax.policies import Policy, Statistics
from psec_jax.skills.bank import Adapter, Skill
from psec_jax.training import Training, fit
from psec_jax.training.seeds import PerSeed, for_each_seed, seed_count
from psec_jax.training.training import check_training

P = TypeVar("P", bound=Parts)

ADAPTER = Adapter()
OPTIMIZER = Optimizer()
# Constants must reach their values by themselves.
CONSTANTS = Optimizer(learning_rate=0.03, weight_decay=0.0, ema_rate=0.02)
PURPOSE = Optimizer(learning_rate=1e-3, ema_rate=0.01)


def pretrain(
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    backbone: Backbone | None = None,
    statistics: PerSeed[Statistics] | None = None,
) -> Policy:
    """Clone ``data`` into a new policy: π₀, or a policy from scratch.

    ``statistics`` normalize its observations; those of ``data`` where None.
    """

    def prepare(key, data, statistics):
        chosen = DiffusionBackbone(data.action_size) if backbone is None else backbone
        if statistics is None:
            statistics = Statistics.of(data.observations)
        init_key, fit_key = jax.random.split(key)
        policy = Policy.create(chosen, statistics, init_key)
        _check_sizes(policy, data)
        learner = PolicyLearner(policy, _optimizer(training))
        return learner, data, fit_key, learner.result

    return _trained(prepare, key, {"data": data, "statistics": statistics}, training)


def learn_purpose(
    policy: PerSeed[Policy],
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    discount: float = 0.0,
) -> Purpose:
    """The reward that ``policy`` is for, as a function of the state, from the data that it was
    learned from (``composition.going_home``). With a ``discount`` its value: the average reward of
    about the next 1 / (1 − discount) steps.

    For a skill, ``policy`` is its base. Raises ``ValueError`` where the data have no rewards, the
    same everywhere, or a usual one that is not positive.
    """

    def prepare(key, policy, data):
        _check_sizes(policy, data)
        optimizer = _optimizer(training, PURPOSE)
        if discount:
            data = rewards_ahead(data, discount)
        learner = PurposeLearner.of(data, policy.statistics, optimizer)
        return learner, data, key, learner.result

    return _trained(prepare, key, {"policy": policy, "data": data}, training)


def learn_skill(
    base: PerSeed[Policy],
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    adapter: Adapter = ADAPTER,
) -> Skill:
    """Clone ``data`` into a skill on the frozen ``base``."""

    def prepare(key, base, data):
        _check_sizes(base, data)
        learner = SkillLearner(base, adapter, _optimizer(training))
        return learner, data, key, partial(learner.result, **_provenance(training))

    return _trained(prepare, key, {"base": base, "data": data}, training)


def learn_skills(
    base: PerSeed[Policy],
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    guidance: PerSeed[Guidance] | None = None,
    adapter: Adapter = ADAPTER,
) -> tuple[dict[str, Skill], dict[str, Critics]]:
    """Offline RL: skills on the frozen ``base``, side by side with the critics that weigh them.

    ``guidance`` names the skills and the critics, by default ``skill`` and ``return``. Returns
    skills and critics, by name.
    """

    def prepare(key, base, data, guidance):
        _check_sizes(base, data)
        loss = guidance.loss or imitation
        actor = SkillLearner(base, adapter, _optimizer(training), loss)
        critics = guidance.critics(base.statistics, data, training.steps)
        weights = guidance.weights_of("skill")
        learner = GuidedLearner(critics, actor, tuple(weights.items()))
        return learner, data, key, partial(result, learner)

    def result(learner, state):
        skills, critics = learner.result(state)
        loss = learner.learner.loss
        common = _provenance(training)
        common |= {} if loss is imitation else {"loss": _named(loss)}
        for name, weigh in learner.weighs:
            provenance = {**skills[name].provenance, **common, "weights": _named(weigh)}
            skills[name] = dataclasses.replace(skills[name], provenance=provenance)
        return skills, critics

    parts = {"base": base, "data": data, "guidance": _guidance(guidance)}
    return _trained(prepare, key, parts, training)


def improve(
    policy: PerSeed[Policy],
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    guidance: PerSeed[Guidance] | None = None,
) -> tuple[Policy, dict[str, Critics]]:
    """Offline RL on all parameters of ``policy``: fine-tuning, or for a fresh one from scratch.

    As ``learn_skills``, without skills: IQL's policy extraction, by the backbone's own loss.
    """

    def prepare(key, policy, data, guidance):
        _check_sizes(policy, data)
        if isinstance(guidance.weights, Mapping):
            raise ValueError(
                "improve trains one policy, but the guidance has weights of "
                f"{list(guidance.weights)}; give one function of the critics, such as "
                "psec_jax.weights.AdvantageWeights()"
            )
        actor = PolicyLearner(policy, _optimizer(training), guidance.loss or imitation)
        critics = guidance.critics(policy.statistics, data, training.steps)
        weights = guidance.weights_of("policy")
        learner = GuidedLearner(critics, actor, tuple(weights.items()))
        return learner, data, key, partial(result, learner)

    def result(learner, state):
        policies, critics = learner.result(state)
        return policies["policy"], critics

    parts = {"policy": policy, "data": data, "guidance": _guidance(guidance)}
    return _trained(prepare, key, parts, training)


def compose(
    parts: PerSeed[P],
    data: PerSeed[TransitionDataset],
    *,
    key: jax.Array,
    training: Training,
    skills: Sequence[str] | None = None,
    composer: PerSeed[Composer | nn.Module | str] = "context",
) -> ComposedPolicy:
    """Learn how to mix ``skills`` on ``data``: all that there are where None.

    ``parts`` is a library, a policy that carries a bank, or a mapping of policies that share no
    parameters, ``{"base": π₀, "walk": policy, …}``, for the noise and action levels.

    A module or a name as the ``composer`` stands for ``Composer(weights=…)``. Constant weights
    have an optimizer of their own where ``training`` has none. With a ``purpose``, or by the name
    ``home``, the mixture is trained without going home, and then goes home
    (``composition.going_home``).
    """

    def prepare(key, parts, data, composer):
        init_key, fit_key = jax.random.split(key)
        composer = Composer.of(composer)
        composed = composer.composed(parts, skills, init_key)
        _check_sizes(composed, data)
        purpose = composer.purpose_in(parts)
        anchor = None if composer.anchor is None else tuple(composer.anchor)
        learner = ContextLearner(
            composed, _for_weights(composed, training), anchor, composer.anchor_strength
        )

        def finished(agent):
            return agent if purpose is None else homing(agent, purpose, *composer.switch)

        finished(composed)  # Refuses before training what cannot go home.
        if composer.weigh is None or composer.critics is None:
            return learner, data, fit_key, lambda state: finished(learner.result(state))
        frozen = {name: Frozen(critics) for name, critics in composer.critics.items()}
        guided = GuidedLearner(frozen, learner, (("context", composer.weigh),))
        return guided, data, fit_key, lambda state: finished(guided.result(state)[0]["context"])

    given = {"parts": parts, "data": data, "composer": composer}
    return _trained(prepare, key, given, training)


def _trained(
    prepare: Callable, key: jax.Array, parts: Mapping[str, Any], training: Training
) -> Any:
    """``prepare(key, *parts)`` gives a learner, its data and key, and what becomes of its final
    state, which is returned; for several seeds a list, or of pairs two lists."""
    check_training(training)
    several = seed_count(key)
    keys = [key] if several is None else list(key)
    each = [for_each_seed(part, len(keys), name) for name, part in parts.items()]
    prepared = [prepare(*arguments) for arguments in zip(keys, *each, strict=True)]
    learners, data, fit_keys, result = (list(column) for column in zip(*prepared, strict=True))

    def results(states):
        if several is None:
            return result[0](states)
        each = [of(state) for of, state in zip(result, states, strict=True)]
        if isinstance(each[0], tuple):
            return tuple(list(column) for column in zip(*each, strict=True))
        return each

    given = training.inspect
    inspect = None if given is None else lambda step, states: given(step, results(states))
    how = dataclasses.replace(training, optimizer=None, inspect=inspect)
    if several is None:
        return results(fit(learners[0], data[0], key=fit_keys[0], training=how))
    return results(fit(learners, data, key=jnp.stack(fit_keys), training=how))


def _guidance(guidance: PerSeed[Guidance] | None) -> PerSeed[Guidance]:
    return Guidance() if guidance is None else guidance


def _provenance(training: Training) -> dict[str, int]:
    return {"steps": training.steps, "batch_size": training.batch_size}


def _named(function: Callable | None) -> str:
    """In words that do not depend on where in memory it lies."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(function))


def _optimizer(training: Training, default: Optimizer = OPTIMIZER) -> Optimizer | Transformation:
    """What ``training`` says, or ``default``, whose average a bare optax transformation takes."""
    given = default if training.optimizer is None else training.optimizer
    return optimizer_of(given, default.ema_rate).over(training.steps)


def _for_weights(composed: ComposedPolicy, training: Training) -> Optimizer | Transformation:
    """Warns where constants could not get from 0 to 1, so that they would stay untrained."""
    if not composed.has_fixed_weights:
        return _optimizer(training)
    optimizer = _optimizer(training, CONSTANTS)
    if isinstance(optimizer, Optimizer) and optimizer.reach < 1:
        warnings.warn(
            f"in {training.steps} updates at learning rate {optimizer.learning_rate:g} constant "
            f"weights move by at most {optimizer.reach:.2g}, and so stay near where they start; "
            "raise steps or the learning rate until their product is at least 2",
            stacklevel=6,
        )
    return optimizer


def _check_sizes(policy: Policy | ComposedPolicy, data: TransitionDataset) -> None:
    sizes = data.observation_size, data.action_size
    expected = policy.observation_size, policy.action_size
    if sizes != expected:
        raise ValueError(
            f"the data have (observation, action) sizes {sizes}, but the policy was made for "
            f"{expected}; use data of the same robot"
        )
