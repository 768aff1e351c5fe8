"""The published files of one run, read together and checked to belong together."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jax
import numpy as np

from psec_jax.backbones import DiffusionBackbone
from psec_jax.errors import BaseMismatch, BrokenFile
from psec_jax.learners.critics import Critics
from psec_jax.networks import Denoiser
from psec_jax.policies import Policy, fingerprint
from psec_jax.skills.bank import Skill
from psec_jax.skills.published_file import BASE, FIRST, PRETRAINED, AgentState
from psec_jax.skills.published_networks import critics_of, policy_of, skill_of

PathLike = str | Path

# The averaged weights, which are what acts: of the skills of the safe setting, and of the one
# that a file of the branch dynamic holds.
SKILLS = {"reward": "q_target_lora_model", "safety": "qc_target_lora_model"}
TARGET = "target"

# By their aim: Q by its target networks, V, and whether greater is better.
_CRITICS = {
    "reward": ("target_critic", "value", True),
    "safety": ("safe_target_critic", "safe_value", False),
}


@dataclass(frozen=True)
class Run:
    """π₀, the skills by name, and the agent in each of the files that were given."""

    base: Policy
    skills: dict[str, Skill]
    pretrained: AgentState | None
    alone: AgentState | None
    composition: AgentState | None

    @classmethod
    def read(
        cls,
        base: PathLike | None,
        skills: PathLike | None,
        composition: PathLike | None,
        activation: str | None,
        noise: str,
    ) -> "Run":
        """The files of a pretrained agent, of skills on it, and of a composition of these.

        ``activation`` is that of skill learning where None. Raises ``BrokenFile`` for a file that
        is not built like the published ones, ``BaseMismatch`` for files of different policies, and
        ``ValueError`` for none at all or different skills of one name.
        """
        pretrained, alone, composed = (
            None if file is None else AgentState.read(file) for file in (base, skills, composition)
        )
        if alone is not None:
            _check_skills(alone)
        if composed is not None:
            _check_composition(composed)
        policy = _base([pretrained, alone, composed], activation, noise)
        learned = {} if composed is None else _first_skills(composed, policy)
        for name, skill in ({} if alone is None else skills_of(alone, policy)).items():
            if name in learned and not _same(skill, learned[name]):
                files = " and ".join(str(agent.file) for agent in (alone, composed) if agent)
                raise ValueError(
                    f"{files} hold different skills {name!r}; give the files of one run"
                )
            learned[name] = skill
        return cls(policy, learned, pretrained, alone, composed)

    @property
    def acting(self) -> AgentState:
        """The agent that acts: that of the composition, or else of the skills alone."""
        acting = self.alone if self.composition is None else self.composition
        assert acting is not None, "a pretrained file alone holds no agent"
        return acting

    @property
    def files(self) -> tuple[AgentState, ...]:
        files = (self.pretrained, self.alone, self.composition)
        return tuple(agent for agent in files if agent is not None)


def skills_of(agent: AgentState, base: Policy) -> dict[str, Skill]:
    """The skills of one agent, on ``base``, which must be the policy that it was trained on."""
    _check_skills(agent)
    _check_belongs(agent, base)
    provenance = {
        "source": "published checkpoint, arXiv 2502.05932",
        "file": agent.file.name,
        "sha256": hashlib.sha256(agent.file.read_bytes()).hexdigest(),
    }
    entries = {TARGET: BASE} if agent.is_dynamic else SKILLS
    return {
        name: skill_of(agent, entry, base, {**provenance, "entry": f"{agent.prefix}{entry}"})
        for name, entry in entries.items()
    }


def trained_critics(agent: AgentState, sizes: tuple[int, int] | None = None) -> dict[str, Critics]:
    """The critics of a file by their aim, where it has them.

    Those of a composition in the safe setting are as they were initialized: they are the first
    skills' instead. ``sizes`` are those that a state and an action must have.
    """
    if agent.holds(FIRST) and not agent.is_dynamic:
        agent = agent.inside(FIRST)
    return {
        aim: critics_of(agent, q, value, greater_is_better, sizes)
        for aim, (q, value, greater_is_better) in _CRITICS.items()
        if agent.holds(q) and agent.holds(value)
    }


def _base(agents: list[AgentState | None], activation: str | None, noise: str) -> Policy:
    """π₀: the pretrained agent's, or else that which another holds."""
    given = [agent for agent in agents if agent is not None]
    if not given:
        raise ValueError("give at least one file: base, skills or composition")
    if activation is None:
        activation = "mish" if given[-1].is_dynamic else "swish"
    if agents[0] is not None:
        return policy_of(agents[0], BASE, activation, noise)
    for agent in given:
        if agent.holds(f"{PRETRAINED}/{BASE}"):
            return policy_of(agent.inside(PRETRAINED), BASE, activation, noise)
    raise BrokenFile(f"{given[0].file} holds no {PRETRAINED}/{BASE}; give the pretrained file too")


def _first_skills(composition: AgentState, base: Policy) -> dict[str, Skill]:
    """The skills of the agent that a composition holds, checked to be on its own π₀."""
    _check_belongs(composition, base)
    first = skills_of(composition.inside(FIRST), base)
    return {FIRST: first[TARGET]} if composition.is_dynamic else first


def _check_skills(agent: AgentState) -> None:
    if agent.holds(FIRST):
        raise BrokenFile(
            f"{agent.file} is the file of a composition, whose own skills are as they were "
            "initialized; give it as composition"
        )
    output = agent.leaves.get(f"{agent.prefix}value/params/OutputVDense/kernel")
    if output is not None and np.ndim(output) == 2 and np.shape(output)[1] > 1:
        raise BrokenFile(
            f"{agent.file} is a composition of noise or of actions: it mixes skills without π₀, "
            "which no level of composition here does, and its own are as they were initialized; "
            "give the file of the skills"
        )


def _check_composition(agent: AgentState) -> None:
    if not agent.holds(FIRST):
        raise BrokenFile(
            f"{agent.file} is not the file of a composition: it holds no agent {FIRST!r} of its "
            "first skills; give a file of skills as skills"
        )


def _check_belongs(agent: AgentState, base: Policy) -> None:
    """Raise unless ``agent`` was trained on ``base``, as far as it holds what it was trained on,
    and samples by the same steps."""
    backbone = cast(DiffusionBackbone, base.backbone)
    if agent.holds(f"{PRETRAINED}/{BASE}"):
        activation = cast(Denoiser, backbone.network).activation
        pretrained = policy_of(agent.inside(PRETRAINED), BASE, activation, backbone.noise)
        if (expected := fingerprint(pretrained)) != (actual := fingerprint(base)):
            what = f"{agent.file}" + (f" ({agent.prefix[:-1]})" if agent.prefix else "")
            raise BaseMismatch(what, expected, "the given base", actual)
    steps = agent.diffusion_steps()
    if steps not in (None, backbone.diffusion_steps):
        raise BrokenFile(
            f"{agent.file}: {agent.prefix}betas are those of {steps} diffusion steps, but the "
            f"policy was pretrained with {backbone.diffusion_steps}"
        )


def _same(one: Skill, other: Skill) -> bool:
    pairs = zip(jax.tree.leaves(one.deltas), jax.tree.leaves(other.deltas), strict=True)
    return one.adapter == other.adapter and all(np.array_equal(a, b) for a, b in pairs)
