"""States of exactly the published structure, and the published forward passes in plain NumPy."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from psec_jax.diffusion import vp_schedule
from psec_jax.skills.published import SKILLS

OBSERVATION, ACTION, BLOCKS, RANK, ALPHA = 5, 2, 2, 3, 6
FEATURES, EXPANSION, FOURIER, HIDDEN = 8, 3, 4, 6  # of the network; of the time embedding
ACTIVATIONS = {
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def dense_shapes():
    """Published names of the dense layers, and their kernels' shapes, in forward order."""
    yield "MLP_0/Dense_0", (FOURIER, HIDDEN)
    yield "MLP_0/Dense_1", (HIDDEN, HIDDEN)
    yield "MLPResNet_0/Dense_0", (ACTION + OBSERVATION + HIDDEN, FEATURES)
    for index in range(BLOCKS):
        block = f"MLPResNet_0/MLPResNetBlock_{index}"
        yield f"{block}/Dense_0", (FEATURES, EXPANSION * FEATURES)
        yield f"{block}/Dense_1", (EXPANSION * FEATURES, FEATURES)
    yield "MLPResNet_0/Dense_1", (FEATURES, ACTION)


def lora_name(name):
    """The published name of the LoRA layer on a dense layer."""
    time = name.startswith("MLP_0")
    parts = name.replace("Dense", "LoRALayer").replace("MLPResNetBlock", "LoRAResnetBlock")
    return parts.replace("MLP_0", "LoRA_MLP_0") if time else parts.replace("MLP", "LoRA", 1)


def random_base(seed):
    generator = np.random.default_rng(seed)
    params = {"FourierFeatures_0/kernel": generator.normal(size=(FOURIER // 2, 1))}
    for name, shape in dense_shapes():
        params[f"{name}/kernel"] = generator.normal(size=shape) / shape[0] ** 0.5
        params[f"{name}/bias"] = generator.normal(size=shape[1])
    for index in range(BLOCKS):
        for part in ("scale", "bias"):
            name = f"MLPResNet_0/MLPResNetBlock_{index}/LayerNorm_0/{part}"
            params[name] = generator.normal(size=FEATURES)
    return {name: value.astype(np.float32) for name, value in params.items()}


def random_skill(seed, rank=RANK):
    generator, params = np.random.default_rng(seed), {}
    for name, (d_in, d_out) in dense_shapes():
        params[f"{lora_name(name)}/lora_a"] = generator.normal(size=(d_in, rank)) / 8
        params[f"{lora_name(name)}/lora_b"] = generator.normal(size=(rank, d_out)) / 8
    return {name: value.astype(np.float32) for name, value in params.items()}


def layer_norm(x, scale, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return scale * centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6) + bias


def reference(base, loras, alphas, activation, actions, time, observations):
    """The published forward pass, dropout off, with each of ``loras`` times its α, a number or
    one a sample."""
    activate = ACTIVATIONS[activation]

    def dense(name, x):
        y = x @ base[f"{name}/kernel"] + base[f"{name}/bias"]
        for lora, alpha in zip(loras, alphas, strict=True):
            a, b = (lora[f"{lora_name(name)}/{part}"] for part in ("lora_a", "lora_b"))
            y = y + np.reshape(alpha, (-1, 1)) * ((x @ a) @ b)
        return y

    angles = 2 * np.pi * time[:, None] @ base["FourierFeatures_0/kernel"].T
    embedding = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    embedding = dense("MLP_0/Dense_1", activate(dense("MLP_0/Dense_0", embedding)))
    x = np.concatenate([actions, observations, embedding], axis=-1)
    x = dense("MLPResNet_0/Dense_0", x)
    for index in range(BLOCKS):
        block = f"MLPResNet_0/MLPResNetBlock_{index}"
        norm = (base[f"{block}/LayerNorm_0/{part}"] for part in ("scale", "bias"))
        h = layer_norm(x, *norm)
        x = x + dense(f"{block}/Dense_1", activate(dense(f"{block}/Dense_0", h)))
    return dense("MLPResNet_0/Dense_1", activate(x))


def agent(networks, array, container, **facts):
    """The state dict of an agent: ``networks`` (name → flat parameters) and numbers beside.

    A network whose average is named ``target`` is stored beside it, with other weights and the
    state of its optimizer; any other has its own optimizer.
    """
    state = {"actor": None, "rng": array(np.zeros(2, np.uint32)), "discount": 0.99, **facts}
    for name, flat in networks.items():
        nested = traverse_util.unflatten_dict(flat, sep="/")
        params = container(jax.tree.map(array, nested))
        other = jax.tree.map(lambda x: jnp.asarray(x + 1), nested)
        moments = flax.serialization.to_state_dict(optax.adamw(1e-3).init(other))
        if "target_" in name:
            state[name] = {"step": 1, "params": params, "opt_state": None}
            network = {"step": jnp.int32(1), "params": other, "opt_state": moments}
            state[name.replace("target_", "")] = network
        else:
            state[name] = {"step": jnp.int32(1), "params": params, "opt_state": moments}
    return state


def base_state(base=None, array=np.asarray, container=dict, steps=5):
    networks = {"target_score_model": random_base(0) if base is None else base}
    return agent(networks, array, container, betas=array(1 - vp_schedule(steps).alphas))


def skills_state(reward=None, array=np.asarray, container=dict, base=None):
    reward = random_skill(1) if reward is None else reward
    networks = {"q_target_lora_model": reward, "qc_target_lora_model": random_skill(2)}
    facts = {"alpha_r": array(np.int32(ALPHA)), "pretrain_weights": base or base_state()}
    return agent(networks, array, container, **facts)


def random_mlp(seed, sizes, output, inside="", norm=False, ensemble=()):
    """A critic's or context network's parameters; ``sizes`` from the inputs to the outputs."""
    generator, params = np.random.default_rng(seed), {}
    hidden = [f"MLP_0/Dense_{i}" for i in range(len(sizes) - 2)]
    layers = zip([*hidden, output], sizes, sizes[1:], strict=False)
    for name, d_in, d_out in layers:
        params[f"{inside}{name}/kernel"] = generator.normal(size=(*ensemble, d_in, d_out)) / 2
        params[f"{inside}{name}/bias"] = generator.normal(size=(*ensemble, d_out))
    if norm:
        for part in ("scale", "bias"):
            params[f"{inside}MLP_0/LayerNorm_0/{part}"] = generator.normal(size=sizes[0])
    return {name: value.astype(np.float32) for name, value in params.items()}


def mlp(params, output, x):
    """Its forward pass."""
    if "MLP_0/LayerNorm_0/scale" in params:
        x = layer_norm(x, params["MLP_0/LayerNorm_0/scale"], params["MLP_0/LayerNorm_0/bias"])
    for index in range(2):
        name = f"MLP_0/Dense_{index}"
        x = np.maximum(x @ params[f"{name}/kernel"] + params[f"{name}/bias"], 0)
    return x @ params[f"{output}/kernel"] + params[f"{output}/bias"]


def random_context(seed):
    params = random_mlp(seed, (OBSERVATION, 7, 6, 2), "OutputVDense")
    return {name: value / (4 if "Output" in name else 1) for name, value in params.items()}


def random_value(seed, norm):
    return random_mlp(seed, (OBSERVATION, 7, 7, 1), "OutputVDense", norm=norm)


def random_q(seed):
    sizes = (OBSERVATION + ACTION, 7, 7, 1)
    return random_mlp(seed, sizes, "Dense_0", "VmapStateActionValue_0/", ensemble=(2,))


def q_values(params, observations, actions):
    """Of each of the ensemble, (2, batch)."""
    params = {name.removeprefix("VmapStateActionValue_0/"): v for name, v in params.items()}
    x = np.concatenate([observations, actions], axis=-1)
    return np.stack(
        [mlp({n: v[i] for n, v in params.items()}, "Dense_0", x)[..., 0] for i in range(2)]
    )


def critic_networks(seed, norm=True):
    """The trained critics of both aims."""
    return {
        "target_critic": random_q(seed),
        "value": random_value(seed + 1, norm),
        "safe_target_critic": random_q(seed + 2),
        "safe_value": random_value(seed + 3, norm),
    }


def safe_skills_state(candidates=64, **facts):
    """Skills of the safe setting with their critics."""
    networks = {SKILLS["reward"]: random_skill(1), SKILLS["safety"]: random_skill(2)}
    facts = {"N": np.int32(candidates), "alpha_r": np.int32(ALPHA), **facts}
    facts |= {"pretrain_weights": base_state(), "betas": 1 - vp_schedule(5).alphas}
    return agent({**networks, **critic_networks(10)}, np.asarray, dict, **facts)


def safe_composition_state(candidates=4):
    """A composition of the safe setting: all but the context network is as it was initialized."""
    networks = {"target_lora_model": random_skill(8), **critic_networks(20, norm=False)}
    networks["value"] = random_context(5)
    facts = {"N": np.int32(candidates), "alpha_r": np.int32(ALPHA), "ddpm_temperature": 1.0}
    facts |= {"pretrain_weights": base_state(), "lora0": safe_skills_state()}
    return agent(networks, np.asarray, dict, **facts)


def dynamic_skill_state(seed, alpha=ALPHA):
    networks = {"target_score_model": random_skill(seed), "target_critic": random_q(seed + 30)}
    networks["value"] = random_value(seed + 40, norm=False)
    facts = {"N": np.int32(3), "alpha_r": np.int32(alpha), "pretrain_weights": base_state()}
    return agent(networks, np.asarray, dict, **facts)


def dynamic_composition_state():
    networks = {
        "target_score_model": random_skill(9),
        "target_critic": random_q(33),
        "value": random_value(34, norm=False),
        "composition": random_context(6),
    }
    facts = {"N": np.int32(3), "alpha_r": np.int32(ALPHA), "pretrain_weights": base_state()}
    return agent(networks, np.asarray, dict, lora0=dynamic_skill_state(1), **facts)
