"""Actors: which part of a policy is trained, and by which loss of that policy.

An actor loss is a function ``loss(policy, batch, critics, key) -> (batch,)``: ``policy`` is what
the trained parameters make, ``critics`` are those that guide it, by name (none in plain
imitation). It may differentiate through the critics, as DDPG+BC does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from flax import struct
from jaxtyping import Array, Float

from psec_jax.acting import Actor
from psec_jax.backbones import Batch
from psec_jax.composition import ComposedPolicy
from psec_jax.learners.critics import Critics
from psec_jax.parameters import Params
from psec_jax.policies import Policy, Statistics, fingerprint
from psec_jax.skills.bank import Adapter, Bank, Skill

ActorLoss = Callable[[Policy, Batch, Mapping[str, Critics], jax.Array], Float[Array, "batch"]]


def imitation(
    policy: Policy, batch: Batch, critics: Mapping[str, Critics], key: jax.Array
) -> Float[Array, "batch"]:
    """The backbone's own imitation loss, with dropout; critics have no say."""
    del critics
    loss_key, dropout_key = jax.random.split(key)
    return policy.loss(batch, loss_key, dropout=dropout_key)


class Trained(Protocol):
    """The trained part of a policy: a pytree of what stays frozen."""

    @property
    def statistics(self) -> Statistics:
        """What the policy normalizes observations with."""
        ...

    def init(self, key: jax.Array) -> Params:
        """The parameters that training starts from."""
        ...

    def at(self, params: Params) -> Actor:
        """The policy that acts with these parameters."""
        ...

    def result(self, params: Params) -> Any:
        """What is handed over when training ends."""
        ...


@struct.dataclass
class AllParameters:
    """Every parameter of ``policy``, from its own on; results in a policy."""

    policy: Policy

    @property
    def statistics(self) -> Statistics:
        return self.policy.statistics

    def init(self, key: jax.Array) -> Params:
        del key
        _check_bare(self.policy)
        return self.policy.params

    def at(self, params: Params) -> Policy:
        return dataclasses.replace(self.policy, params=params)

    def result(self, params: Params) -> Policy:
        return self.at(params)


@struct.dataclass
class Deltas:
    """A skill's deltas on the frozen ``policy`` (without a bank), from zero on; results in a
    skill."""

    policy: Policy
    adapter: Adapter = struct.field(pytree_node=False)

    @property
    def statistics(self) -> Statistics:
        return self.policy.statistics

    def init(self, key: jax.Array) -> Params:
        _check_bare(self.policy)
        return self.adapter.fresh(key, self.policy.dense_layers())

    def at(self, params: Params) -> Policy:
        skill = Skill(params, self.adapter, base="")
        return dataclasses.replace(self.policy, bank=Bank.of({"skill": skill}))

    def result(self, params: Params, **provenance: Any) -> Skill:
        return Skill(params, self.adapter, fingerprint(self.policy), provenance)


@struct.dataclass
class ContextParameters:
    """The context parameters of ``composed``, from its own on; results in a composed policy."""

    composed: ComposedPolicy

    @property
    def statistics(self) -> Statistics:
        return self.composed.base.statistics

    def init(self, key: jax.Array) -> Params:
        del key
        return self.composed.context_params

    def at(self, params: Params) -> ComposedPolicy:
        return self.composed.with_context(params)

    def result(self, params: Params) -> ComposedPolicy:
        return self.at(params)


def _check_bare(policy: Policy) -> None:
    if policy.bank is not None:
        raise ValueError(
            f"the policy to train carries the skills {list(policy.bank.names)}, which belong to "
            "its parameters as they are; merge them first (policy.merged()), or train without "
            "them (policy.with_bank(None))"
        )
