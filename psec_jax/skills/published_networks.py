"""The published networks as ours: parameters keep their values and change their names.

``Denoiser``, ``ContextNetwork`` and ``Critic`` compute what the published networks compute.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from psec_jax.backbones import DiffusionBackbone
from psec_jax.errors import BrokenFile
from psec_jax.learners.critics import Critics
from psec_jax.networks import ContextNetwork, Critic, Denoiser
from psec_jax.parameters import by_name
from psec_jax.policies import Policy, Statistics, fingerprint
from psec_jax.skills.bank import Adapter, Skill
from psec_jax.skills.deltas import LowRank
from psec_jax.skills.published_file import AgentState, Tensors

_FREQUENCIES = "time/fourier/frequencies"
_LORA = ("lora_a", "lora_b")  # beside the input (d_in, n); beside the output (n, d_out)


def policy_of(agent: AgentState, entry: str, activation: str, noise: str) -> Policy:
    """The pretrained policy in a train state; observations enter it as they are.

    It has the paper's 5 diffusion steps where the file does not record them.
    """
    tensors, what = agent.tensors(entry), f"{agent.file}: {agent.prefix}{entry}/params"
    blocks = len({name.split("/")[1] for name in tensors if "/MLPResNetBlock_" in name})
    names = _parameter_names(max(1, blocks))
    _check_names(tensors, names, what, "policy")
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
    steps = agent.diffusion_steps()
    backbone = DiffusionBackbone(
        action_size, network, diffusion_steps=5 if steps is None else steps, noise=noise
    )
    statistics = Statistics.identity(max(1, inputs - action_size - time_hidden))
    fresh = jax.eval_shape(lambda: Policy.create(backbone, statistics, jax.random.key(0)))
    shapes = {k: v.shape for k, v in by_name(fresh.params).items()}
    shapes[_FREQUENCIES] += (1,)
    _check_shapes(tensors, {published: shapes[path] for published, path in names.items()}, what)
    params = _renamed(tensors, names)
    params["time"]["fourier"]["frequencies"] = params["time"]["fourier"]["frequencies"][:, 0]
    return Policy(params, statistics, None, backbone)


def skill_of(agent: AgentState, entry: str, base: Policy, provenance: Mapping[str, str]) -> Skill:
    """The low-rank skill in a train state, on ``base``."""
    tensors, what = agent.tensors(entry), f"{agent.file}: {agent.prefix}{entry}/params"
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
    for published, path in layers.items():
        d_in, d_out = shapes[path]
        expected |= {f"{published}/lora_a": (d_in, rank), f"{published}/lora_b": (rank, d_out)}
    _check_shapes(tensors, expected, what)
    down, up = _LORA
    deltas = {
        path: LowRank(
            jnp.asarray(tensors[f"{published}/{down}"]),
            jnp.asarray(tensors[f"{published}/{up}"]),
            (rank,),
        )
        for published, path in layers.items()
    }
    adapter = Adapter(rank=rank, scale=_scale(agent, rank), targets=".*")
    return Skill(deltas, adapter, fingerprint(base), provenance)


def context_of(
    agent: AgentState, entry: str, scales: np.ndarray, observation_size: int
) -> tuple[ContextNetwork, dict]:
    """The context network in a train state, and its parameters.

    The published one says what α replaces the skills' own; ours says what it multiplies theirs
    by, so the output layer is divided by the skills' ``scales``.
    """
    tensors, what = agent.tensors(entry), f"{agent.file}: {agent.prefix}{entry}/params"
    depth = len({name.split("/")[1] for name in tensors if name.startswith("MLP_0/Dense_")})
    names = _mlp_names(depth, norm=False, output=("OutputVDense", "weights"))
    _check_names(tensors, names, what, "context network")
    hidden = tuple(tensors[f"MLP_0/Dense_{i}/bias"].shape[0] for i in range(depth))
    network = ContextNetwork(len(scales), hidden)
    _check_fit(tensors, names, what, network, (observation_size,))
    params = _renamed(tensors, names)
    params["weights"] = {part: value / scales for part, value in params["weights"].items()}
    return network, params


def critics_of(
    agent: AgentState,
    q_entry: str,
    value_entry: str,
    greater_is_better: bool,
    sizes: tuple[int, int] | None = None,
) -> Critics:
    """An ensemble of Q networks and V in two train states.

    ``sizes`` are those that a state and an action must have.
    """
    q_network, q_params, inputs = _critic(agent, q_entry, "VmapStateActionValue_0/", "Dense_0")
    value_network, value_params, size = _critic(agent, value_entry, "", "OutputVDense")
    if inputs <= size or sizes not in (None, (size, inputs - size)):
        raise BrokenFile(
            f"{agent.file}: {agent.prefix}{q_entry} takes {inputs} numbers and "
            f"{agent.prefix}{value_entry} {size}, expected those of a state and an action, "
            f"{'more' if sizes is None else sum(sizes)}, and those of a state"
            + ("" if sizes is None else f", {sizes[0]}")
        )
    return Critics(
        value_params,
        q_params,
        Statistics.identity(size),
        q_network,
        greater_is_better,
        None if value_network == q_network else value_network,
    )


def _critic(agent: AgentState, entry: str, inside: str, output: str) -> tuple[Critic, dict, int]:
    """A critic's network, its parameters, and the number of its inputs."""
    stacked = int(bool(inside))
    tensors, what = agent.tensors(entry, stacked), f"{agent.file}: {agent.prefix}{entry}/params"
    dense = {name.split("/")[-2] for name in tensors if name.startswith(f"{inside}MLP_0/Dense_")}
    norm = f"{inside}MLP_0/LayerNorm_0/scale" in tensors
    names = _mlp_names(len(dense), norm, (output, "value"), inside)
    _check_names(tensors, names, what, "critic")
    biases = [tensors[f"{inside}MLP_0/Dense_{i}/bias"] for i in range(len(dense))]
    network = Critic(tuple(bias.shape[-1] for bias in biases), "relu", norm)
    first = f"{inside}MLP_0/Dense_0/kernel" if dense else f"{inside}{output}/kernel"
    inputs = tensors[first].shape[-2]
    ensemble = tensors[first].shape[:stacked]
    _check_fit(tensors, names, what, network, (inputs,), ensemble)
    return network, _renamed(tensors, names), inputs


def _scale(agent: AgentState, rank: int) -> float:
    """α: what the file records, else the paper's 16, which goes with rank 8."""
    recorded = agent.leaves.get(f"{agent.prefix}alpha_r")
    single = recorded is not None and np.size(recorded) == 1
    if single and (scale := agent.number("alpha_r")) is not None:
        return scale
    if recorded is None and rank == 8:
        return 16.0
    raise BrokenFile(
        f"{agent.file} records no α for its skills of rank {rank}: {agent.prefix}alpha_r must be "
        "one number (where it is missing the paper's 16 is taken, at rank 8 only)"
    )


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> dict:
    flat = {path: jnp.asarray(tensors[published]) for published, path in names.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def _check_names(tensors: Tensors, expected: Mapping[str, object], what: str, kind: str) -> None:
    missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unknown:
        raise BrokenFile(
            f"{what} are not those of a published {kind}: missing {sorted(missing)[:4]}, unknown "
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


def _check_fit(
    tensors: Tensors,
    names: Mapping[str, str],
    what: str,
    network: ContextNetwork | Critic,
    inputs: tuple[int, ...],
    ensemble: tuple[int, ...] = (),
) -> None:
    """Raise ``BrokenFile`` unless the shapes are those of ``network``, for each of an ensemble."""
    example = [jnp.zeros((1, size)) for size in inputs]
    fresh = jax.eval_shape(network.init, jax.random.key(0), *example)["params"]
    shapes = {k: v.shape for k, v in by_name(fresh).items()}
    _check_shapes(
        tensors, {published: ensemble + shapes[path] for published, path in names.items()}, what
    )


def _mlp_names(
    depth: int, norm: bool, output: tuple[str, str], inside: str = ""
) -> dict[str, str]:
    """Parameters of an MLP with ``depth`` hidden layers: the published path → ours."""
    layers = {f"MLP_0/Dense_{i}": f"hidden_{i}" for i in range(depth)} | dict([output])
    names = {
        f"{inside}{published}/{part}": f"{path}/{part}"
        for published, path in layers.items()
        for part in ("kernel", "bias")
    }
    if norm:
        for part in ("scale", "bias"):
            names[f"{inside}MLP_0/LayerNorm_0/{part}"] = f"norm/{part}"
    return names


def _dense_names(blocks: int) -> dict[str, str]:
    """Dense layers of the policy: the published path → ours."""
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
    for published, path in _dense_names(blocks).items():
        names |= {f"{published}/{part}": f"{path}/{part}" for part in ("kernel", "bias")}
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
        published.replace("MLPResNetBlock", "LoRAResnetBlock")
        .replace("MLPResNet_", "LoRAResNet_")
        .replace("MLP_", "LoRA_MLP_")
        .replace("Dense_", "LoRALayer_"): path
        for published, path in dense.items()
    }
    renamed = {published.replace("Resnet", "ResNet"): path for published, path in nested.items()}
    inside = [f"block_{index}/{part}" for index in range(blocks) for part in ("up", "down")]
    row = {f"LoRA_MLP_0/LoRALayer_{i}": path for i, path in enumerate(["time/in", "time/out"])}
    for index, path in enumerate(["in", *inside, "out"]):
        row[f"LoRAResNet_0/LoRALayer_{index}"] = path
    return [nested, renamed, row]
