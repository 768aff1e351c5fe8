"""Libraries made of the checkpoints that the paper's authors published (arXiv 2502.05932).

Their files are pickled Flax state dicts of whole agents. Of the pretrained file the averaged
policy ``target_score_model`` becomes π₀; of the skills file the averaged LoRA weights
``q_target_lora_model`` and ``qc_target_lora_model`` become the skills ``reward`` and ``safety``,
with the α that it records (``alpha_r``) as their scale. Parameters keep their values and change
their names only: ``Denoiser`` computes what the published network computes. Reading is safe, see
``psec_jax.skills.unpickling``.

Two things to know. In the safe setting they pretrained with mish and learnt the skills, on those
weights, with swish, whereas a library has one activation: with ``mish`` π₀ acts as it was
pretrained, with ``swish`` the skills act as they were learnt. And their sampler adds noise of
variance β_t, ours (``diffusion.ddpm_sample``) of the posterior's. Critics are left out, and so is
the file of a composition, whose context network mixes the skills: learn one with
``psec_jax.compose``.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from psec_jax import storage
from psec_jax.backbones import DiffusionBackbone
from psec_jax.diffusion import vp_schedule
from psec_jax.errors import BaseMismatch, BrokenFile
from psec_jax.networks import Denoiser
from psec_jax.policies import Policy, Statistics, fingerprint
from psec_jax.skills.bank import Adapter, Skill
from psec_jax.skills.deltas import LowRank
from psec_jax.skills.library import SkillLibrary
from psec_jax.skills.unpickling import Leaf, read_state

State = Mapping[str, Leaf]
Tensors = dict[str, np.ndarray]

# The averaged weights of each network, which are what acts.
BASE = "target_score_model"
SKILLS = {"reward": "q_target_lora_model", "safety": "qc_target_lora_model"}

_FREQUENCIES = "time/fourier/frequencies"
_LORA = ("lora_a", "lora_b")  # beside the input (d_in, n); beside the output (n, d_out)


def import_published(
    path: str | Path, base: str | Path, activation: str, skills: str | Path | None = None
) -> SkillLibrary:
    """A new library in ``path``: π₀ from the file ``base``, two skills from the file ``skills``.

    Raises ``FileExistsError`` if ``path`` is taken, ``BrokenFile`` for a file that is damaged,
    asks for more than arrays, or is not built like the published ones, and ``BaseMismatch`` for
    skills that were learnt on another policy; then nothing is written.
    """
    policy = read_base(Path(base), activation)
    learnt = {} if skills is None else read_skills(Path(skills), policy)
    return _create(Path(path), policy, learnt)


def read_base(file: Path, activation: str) -> Policy:
    """The averaged policy of a pretrained file; observations enter it as they are."""
    return _policy(read_state(file), "", activation, file)


def read_skills(file: Path, base: Policy) -> dict[str, Skill]:
    """The skills ``reward`` and ``safety`` of a skills file, on ``base``.

    The file holds the policy that they were learnt on; where it does, it must be ``base``.
    """
    state = read_state(file)
    if any(name.startswith(f"pretrain_weights/{BASE}/") for name in state):
        own = _policy(state, "pretrain_weights/", base.backbone.network.activation, file)
        if (theirs := fingerprint(own)) != (ours := fingerprint(base)):
            raise BaseMismatch(f"{file}", theirs, "the given base", ours)
    facts = {
        "source": "published checkpoint, arXiv 2502.05932",
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    return {
        name: _skill(state, entry, base, {**facts, "entry": entry}, file)
        for name, entry in SKILLS.items()
    }


def _create(path: Path, base: Policy, skills: Mapping[str, Skill]) -> SkillLibrary:
    """A library with all of ``skills``, or none at all."""
    with storage.writing_beside(path):
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    try:
        library = SkillLibrary.create(folder / "library", base)
        for name, skill in skills.items():
            library.add(name, skill)
        storage.move_folder(library.path, path)
    finally:
        shutil.rmtree(folder)
    return SkillLibrary(path, base)


def _policy(state: State, prefix: str, activation: str, file: Path) -> Policy:
    """The policy of the pretrained agent that lies under ``prefix`` in ``state``."""
    tensors = _tensors(state, f"{prefix}{BASE}", file)
    what = f"{file}: {prefix}{BASE}/params"
    blocks = {name.split("/")[1] for name in tensors if "/MLPResNetBlock_" in name}
    names = _parameter_names(max(1, len(blocks)))
    _check_names(tensors, names, what)
    steps = _diffusion_steps(state.get(f"{prefix}betas"), file)
    backbone, observation_size = _architecture(tensors, len(blocks), activation, steps)
    statistics = Statistics.identity(observation_size)
    fresh = jax.eval_shape(lambda: Policy.create(backbone, statistics, jax.random.key(0)))
    shapes = {k: v.shape for k, v in traverse_util.flatten_dict(fresh.params, sep="/").items()}
    shapes[_FREQUENCIES] += (1,)
    _check_shapes(tensors, {theirs: shapes[ours] for theirs, ours in names.items()}, what)
    params = {ours: jnp.asarray(tensors[theirs]) for theirs, ours in names.items()}
    params[_FREQUENCIES] = params[_FREQUENCIES][:, 0]
    return Policy(traverse_util.unflatten_dict(params, sep="/"), statistics, None, backbone)


def _architecture(
    tensors: Tensors, blocks: int, activation: str, steps: int
) -> tuple[DiffusionBackbone, int]:
    """The backbone and the observation size that the kernels' shapes tell."""
    inputs, features = tensors["MLPResNet_0/Dense_0/kernel"].shape
    action_size = tensors["MLPResNet_0/Dense_1/kernel"].shape[1]
    time_hidden = tensors["MLP_0/Dense_1/kernel"].shape[1]
    wide = tensors["MLPResNet_0/MLPResNetBlock_0/Dense_0/kernel"].shape[1]
    network = Denoiser(
        features=features,
        blocks=blocks,
        expansion=max(1, wide // features),
        activation=activation,
        time_features=2 * tensors["FourierFeatures_0/kernel"].shape[0],
        time_hidden=time_hidden,
    )
    backbone = DiffusionBackbone(action_size, network, diffusion_steps=steps)
    return backbone, max(1, inputs - action_size - time_hidden)


def _diffusion_steps(betas: Leaf | None, file: Path) -> int:
    """T, where the file records its noise schedule; otherwise the paper's 5."""
    if betas is None:
        return 5
    steps = np.size(betas)
    if not steps or not np.allclose(np.ravel(betas), 1 - vp_schedule(steps).alphas, atol=1e-4):
        raise BrokenFile(f"{file}: betas are not the paper's vp schedule of {steps} steps")
    return steps


def _skill(state: State, entry: str, base: Policy, facts: Mapping[str, str], file: Path) -> Skill:
    """The low-rank skill whose train state is ``entry``, on ``base``."""
    tensors, what = _tensors(state, entry, file), f"{file}: {entry}/params"
    blocks = base.backbone.network.blocks
    for layers in _lora_names(blocks):
        if tensors.keys() == {f"{layer}/{part}" for layer in layers for part in _LORA}:
            break
    else:
        raise BrokenFile(
            f"{what} are not the LoRA layers of a base of {blocks} block(s); they hold "
            f"{sorted(tensors)}"
        )
    rank = tensors[f"{next(iter(layers))}/lora_a"].shape[1]
    expected, shapes = {}, base.dense_layers()
    for theirs, ours in layers.items():
        d_in, d_out = shapes[ours]
        expected |= {f"{theirs}/lora_a": (d_in, rank), f"{theirs}/lora_b": (rank, d_out)}
    _check_shapes(tensors, expected, what)
    deltas = {
        ours: LowRank(
            jnp.asarray(tensors[f"{theirs}/lora_a"]),
            jnp.asarray(tensors[f"{theirs}/lora_b"]),
            (rank,),
        )
        for theirs, ours in layers.items()
    }
    adapter = Adapter(rank=rank, scale=_scale(state, rank, file), targets=".*")
    return Skill(deltas, adapter, fingerprint(base), facts)


def _scale(state: State, rank: int, file: Path) -> float:
    """α: what the file records, else the paper's 16, which goes with rank 8."""
    recorded = state.get("alpha_r")
    if recorded is not None and np.size(recorded) == 1:
        return float(np.ravel(recorded)[0])
    if recorded is None and rank == 8:
        return 16.0
    raise BrokenFile(
        f"{file} records no α for its skills of rank {rank}: alpha_r must be one number (where it "
        "is missing the paper's 16 is taken, at rank 8 only)"
    )


def _tensors(state: State, entry: str, file: Path) -> Tensors:
    """The parameters of one train state: finite float32, the kernels matrices."""
    prefix = f"{entry}/params/"
    tensors = {
        name.removeprefix(prefix): np.asarray(value)
        for name, value in state.items()
        if name.startswith(prefix)
    }
    if not tensors:
        held = sorted({name.split("/")[0] for name in state})
        raise BrokenFile(f"{file} holds no {entry}/params; it holds {held}")
    for name, value in tensors.items():
        matrix = name.endswith(("kernel", "lora_a", "lora_b"))
        if value.dtype != np.float32 or 0 in value.shape or (matrix and value.ndim != 2):
            raise BrokenFile(
                f"{file}: {prefix}{name} is {value.dtype} of shape {value.shape}, expected a "
                f"float32 {'matrix' if matrix else 'vector'}"
            )
        if not np.isfinite(value).all():
            raise BrokenFile(f"{file}: {prefix}{name} holds values that are not finite")
    return tensors


def _check_names(tensors: Tensors, expected: Mapping[str, object], what: str) -> None:
    missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unknown:
        raise BrokenFile(
            f"{what} are not those of a published policy: missing {sorted(missing)[:4]}, unknown "
            f"{sorted(unknown)[:4]}"
        )


def _check_shapes(tensors: Tensors, expected: Mapping[str, tuple], what: str) -> None:
    wrong = [
        f"{name} is {value.shape}, expected {expected[name]}"
        for name, value in tensors.items()
        if value.shape != expected[name]
    ]
    if wrong:
        raise BrokenFile(f"{what} do not fit together: {'; '.join(wrong[:4])}")


def _dense_names(blocks: int) -> dict[str, str]:
    """Dense layers: the published path → ours."""
    names = {
        "MLP_0/Dense_0": "time/in",
        "MLP_0/Dense_1": "time/out",
        "MLPResNet_0/Dense_0": "in",
        "MLPResNet_0/Dense_1": "out",
    }
    for index in range(blocks):
        block = f"MLPResNet_0/MLPResNetBlock_{index}"
        names[f"{block}/Dense_0"] = f"block_{index}/up"
        names[f"{block}/Dense_1"] = f"block_{index}/down"
    return names


def _parameter_names(blocks: int) -> dict[str, str]:
    """Parameters of the policy: the published path → ours."""
    names = {"FourierFeatures_0/kernel": _FREQUENCIES}
    for theirs, ours in _dense_names(blocks).items():
        names |= {f"{theirs}/{part}": f"{ours}/{part}" for part in ("kernel", "bias")}
    for index in range(blocks):
        norm = f"MLPResNet_0/MLPResNetBlock_{index}/LayerNorm_0"
        names |= {f"{norm}/{part}": f"block_{index}/norm/{part}" for part in ("scale", "bias")}
    return names


def _lora_names(blocks: int) -> list[dict[str, str]]:
    """LoRA layers: the published path → ours, in each form that is understood.

    Nested in blocks, as the published code names them (or with the S of the frozen network's
    ``ResNet``), or all in one row in the order of the forward pass. No two forms share a set of
    names, so names decide.
    """
    dense = _dense_names(blocks)
    nested = {
        theirs.replace("MLPResNetBlock", "LoRAResnetBlock")
        .replace("MLPResNet_", "LoRAResNet_")
        .replace("MLP_", "LoRA_MLP_")
        .replace("Dense_", "LoRALayer_"): ours
        for theirs, ours in dense.items()
    }
    renamed = {theirs.replace("Resnet", "ResNet"): ours for theirs, ours in nested.items()}
    inside = [f"block_{index}/{part}" for index in range(blocks) for part in ("up", "down")]
    row = {f"LoRA_MLP_0/LoRALayer_{i}": ours for i, ours in enumerate(["time/in", "time/out"])}
    for index, ours in enumerate(["in", *inside, "out"]):
        row[f"LoRAResNet_0/LoRALayer_{index}"] = ours
    return [nested, renamed, row]
