"""Libraries and agents made of the checkpoints that the paper's authors published
(arXiv 2502.05932).

Their files are pickled Flax state dicts of whole agents; reading is safe, see
``psec_jax.skills.unpickling``. Parameters keep their values and change their names only, and
everything acts on observations as they are. Three kinds of files:

- *Pretrained*: the averaged policy ``target_score_model`` is π₀.
- *Skills*, which also hold the π₀ that they were trained on. In the safe setting (branches main
  and gymnasium) the averaged LoRA weights ``q_target_lora_model`` and ``qc_target_lora_model``
  are the skills ``reward`` and ``safety``; in the branch dynamic those of ``target_score_model``
  are the skill ``target``. Their scale is the α that the file records (``alpha_r``). The critics
  of either aim lie beside them.
- *Compositions*, which hold π₀, the agent of a skills file (``lora0``) and the context network.
  In the safe setting ``lora0`` has both skills and the critics, so that one file is all. In the
  branch dynamic it has the first skill, named ``lora0`` here; the second is the ``target`` of
  another skills file. What a composition file holds of other skills, and its critics in the safe
  setting, are as they were initialized.

What is theirs, and not the default here. Their sampler adds noise of variance β_t, and so does an
imported base (``noise="posterior"`` for ours). The activation changes between the stages, whereas
a library has one: main and gymnasium pretrained with mish, then trained skills and compositions
with swish on those weights; dynamic pretrained with swish, then trained those with mish. Of N
candidates the safe setting takes the one with the least Q_h, compositions of dynamic the one with
the largest Q, and its skills alone the first. Files record N; theirs were saved with the 64 of
training until an evaluation had set another, which was 1 on MetaDrive and in dynamic, and 1, 8
and 16 on Bullet.

Not everything in that code runs. Acting by a composition fails in the branch dynamic, which asks
V for the weights; here the network that was trained for them, ``composition``, is asked. Its
compositions of π₀ and one skill (``train_ws``) cannot act either, so that its agents are skills
alone. Compositions of noise or of actions mix skills without π₀, which no level here does, and
are refused.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from psec_jax import storage
from psec_jax.composition import ComposedPolicy, ParameterLevel
from psec_jax.errors import BrokenFile
from psec_jax.learners.critics import Critics
from psec_jax.networks import ConstantWeights, ContextNetwork
from psec_jax.policies import BestOf, Policy
from psec_jax.skills.bank import Bank, Skill
from psec_jax.skills.library import SkillLibrary
from psec_jax.skills.published_file import BASE, FIRST, AgentState
from psec_jax.skills.published_networks import context_of, policy_of
from psec_jax.skills.published_run import (
    SKILLS,
    TARGET,
    PathLike,
    Run,
    skills_of,
    trained_critics,
)

__all__ = ["SKILLS", "import_published", "read_agent", "read_base", "read_critics", "read_skills"]


def import_published(
    path: PathLike,
    base: PathLike | None,
    activation: str,
    skills: PathLike | None = None,
    composition: PathLike | None = None,
    *,
    noise: str = "beta",
    report: Callable[[str], None] | None = None,
) -> SkillLibrary:
    """A new library in ``path``: π₀, and the skills of the files ``skills`` and ``composition``.

    π₀ is that of the file ``base``, or the one that another file holds. ``report`` is told, a
    line each, what of each file was taken, what else ``read_agent`` and ``read_critics`` read,
    and what was left out. Raises ``FileExistsError`` if ``path`` is taken, ``BrokenFile`` for a
    file that is damaged, asks for more than arrays, or is not built like the published ones, and
    ``BaseMismatch`` for files of different policies; then nothing is written.
    """
    run = Run.read(base, skills, composition, activation, noise)
    lines = [line for file in run.files for line in _account(file, run)]
    library = _create(storage.expanded(path), run.base, run.skills)
    if report is not None:
        for line in lines:
            report(line)
    return library


def read_agent(
    composition: PathLike | None = None,
    skills: PathLike | None = None,
    base: PathLike | None = None,
    *,
    skill: str | None = None,
    activation: str | None = None,
    candidates: int | None = None,
) -> BestOf | ComposedPolicy:
    """The agent in the file of a composition, or one ``skill`` of a skills file, acting as it did.

    That is on raw observations, with noise of variance β_t, with the activation that skills and
    compositions were trained with unless another is given, and by the best of the recorded number
    of ``candidates`` by its critics; without critics where it acted without, unless a number is
    given. A composition of the branch dynamic needs the file ``skills`` of its second skill.
    Raises what ``import_published`` raises, and ``ValueError`` for arguments that do not fit.
    """
    if composition is None and skills is None:
        raise ValueError("give the file of a composition, or of skills, to read an agent from")
    if composition is not None and skill is not None:
        raise ValueError(f"give composition or skill={skill!r}, not both: it mixes its skills")
    run = Run.read(base, skills, composition, activation, "beta")
    policy = _alone(run, skill) if run.composition is None else _composed(run)
    critics = _choosing(run, candidates)
    if critics is None:
        return policy
    return BestOf(policy, critics, _candidates(run) if candidates is None else candidates)


def read_base(file: PathLike, activation: str, noise: str = "beta") -> Policy:
    """The averaged policy of a pretrained file; observations enter it as they are."""
    return policy_of(AgentState.read(file), BASE, activation, noise)


def read_skills(file: PathLike, base: Policy) -> dict[str, Skill]:
    """The skills of a skills file, on ``base``.

    The file holds the policy that they were learned on; where it does, it must be ``base``.
    """
    return skills_of(AgentState.read(file), base)


def read_critics(file: PathLike) -> dict[str, Critics]:
    """The trained critics of a file by their aim, ``reward`` or ``safety``, where it has them."""
    return trained_critics(AgentState.read(file))


def _alone(run: Run, name: str | None) -> ComposedPolicy:
    if name is None and len(run.skills) == 1:
        name = next(iter(run.skills))
    if name is None or name not in run.skills:
        raise ValueError(
            f"skill {name!r} is not in {run.acting.file}; choose one with skill= from "
            f"{list(run.skills)}"
        )
    params = {"weights": jnp.ones(1)}
    return _mixed(run.base, {name: run.skills[name]}, ConstantWeights(1), params)


def _composed(run: Run) -> ComposedPolicy:
    agent = run.acting
    names = (FIRST, TARGET) if agent.is_dynamic else tuple(SKILLS)
    if missing := [name for name in names if name not in run.skills]:
        raise ValueError(
            f"{agent.file} mixes the skills {list(names)} and does not hold {missing}; give the "
            "file of its second skill as skills"
        )
    skills = {name: run.skills[name] for name in names}
    scales = np.array([skill.adapter.scale for skill in skills.values()], np.float32)
    return _mixed(run.base, skills, *_context(agent, run.base, scales))


def _context(agent: AgentState, base: Policy, scales: np.ndarray) -> tuple[ContextNetwork, dict]:
    entry = "composition" if agent.is_dynamic else "value"
    return context_of(agent, entry, scales, base.observation_size)


def _mixed(
    base: Policy, skills: Mapping[str, Skill], context: nn.Module, params: dict
) -> ComposedPolicy:
    carrying = base.with_bank(Bank.of(skills))
    return ComposedPolicy(carrying, (), params, context, ParameterLevel(), tuple(skills))


def _choosing(run: Run, candidates: int | None) -> Critics | None:
    """What chooses among candidates, or None where the first one is taken."""
    agent = run.acting
    if agent.is_dynamic and run.composition is None and candidates is None:
        return None
    aim = "reward" if agent.is_dynamic else "safety"
    critics = trained_critics(agent, (run.base.observation_size, run.base.action_size))
    if aim not in critics and candidates is not None:
        raise ValueError(
            f"{agent.file} holds no critics to choose the best of {candidates} candidates by"
        )
    return critics.get(aim)


def _candidates(run: Run) -> int:
    """N, as the file records it."""
    agent = run.acting
    recorded = agent.number("N")
    if recorded is None or recorded < 1 or recorded != int(recorded):
        raise BrokenFile(
            f"{agent.file} records {recorded} as N, the number of candidates to choose among, "
            "expected a positive integer; give candidates"
        )
    return int(recorded)


def _account(file: AgentState, run: Run) -> list[str]:
    """What was taken of a file, what else can be read of it, and what was left out."""
    taken = set(file.taken)
    trained_critics(file, (run.base.observation_size, run.base.action_size))
    if file is not run.pretrained:
        file.number("N")
    if file is run.composition:
        _context(file, run.base, np.ones(2))
    lines = {
        "taken": taken,
        "for read_agent and read_critics": file.taken - taken,
        "left out": file.left_out(),
    }
    return [
        f"{file.file}: {what}: {', '.join(sorted(names))}"
        for what, names in lines.items()
        if names
    ]


def _create(path: Path, base: Policy, skills: Mapping[str, Skill]) -> SkillLibrary:
    """A library with all of ``skills``, or none at all."""
    with storage.writing_next_to(path):
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    try:
        library = SkillLibrary.create(folder / "library", base)
        for name, skill in skills.items():
            library.add(name, skill)
        storage.move_folder(library.path, path)
    finally:
        shutil.rmtree(folder)
    return SkillLibrary(path, base)
