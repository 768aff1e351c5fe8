"""Training behavior policies online with sbx-rl, from checkpoint to checkpoint."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from psec_jax import envs, storage
from psec_jax.data.behavior import BehaviorPolicy

try:
    from flax import linen as nn
    from sbx import PPO, SAC
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
except ImportError as error:
    raise ImportError(
        "training behavior policies needs an extra, after a CPU build of torch: "
        f"pip install -e '.[collect]' ({error})"
    ) from error

ALGORITHMS = {"ppo": PPO, "sac": SAC}
_ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}


@dataclass
class Training:
    """How one behavior policy is trained.

    ``options`` go to the algorithm as sbx-rl has it. The reward is the environment's less
    ``cost_weight`` times its cost, and a checkpoint comes after each ``every`` steps.
    """

    algorithm: str = "ppo"
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    cost_weight: float = 0.0
    num_envs: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    policy_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    every: int = 50_000


class PenalizedReward(gymnasium.Wrapper):
    """Reward less ``weight`` times the cost."""

    def __init__(self, env: gymnasium.Env, weight: float):
        super().__init__(env)
        self.weight = weight

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward) - self.weight * info.get("cost", 0.0)
        return observation, reward, terminated, truncated, info


def train(
    env_id: str,
    training: Training,
    steps: int,
    folder: Path,
    report: Callable[[int], None] = lambda step: None,
) -> None:
    """Train for ``steps`` environment steps, from the newest checkpoint in ``folder`` on that is
    not beyond them.

    A checkpoint is a folder ``step_<n>`` that appears whole or not at all, one for the last step
    among them; ``report(n)`` is told of each. sbx-rl keeps them as pickles, so ``folder`` must be
    one that this function wrote.
    """
    done = max((step for step in checkpoints(folder) if step <= steps), default=0)
    if done == steps:
        return
    simulators = envs.make(env_id, training.num_envs)
    singles = [PenalizedReward(env, training.cost_weight) for env in simulators.envs]
    vector = DummyVecEnv([lambda env=env: env for env in singles])
    try:
        if done:
            place = checkpoint(folder, done)
            vector = VecNormalize.load(str(place / "normalizer.pkl"), vector)
            model = ALGORITHMS[training.algorithm].load(place / "model.zip", vector, device="cpu")
            if training.algorithm == "sac":
                model.load_replay_buffer(place / "replay.pkl")
        else:
            vector = VecNormalize(
                vector,
                clip_obs=np.inf,
                norm_reward=training.algorithm == "ppo",
                gamma=training.options.get("gamma", 0.99),
            )
            model = ALGORITHMS[training.algorithm](
                "MlpPolicy",
                vector,
                seed=training.seed,
                device="cpu",
                policy_kwargs={
                    "net_arch": list(training.hidden),
                    "activation_fn": _ACTIVATIONS[training.activation],
                    **training.policy_options,
                },
                **training.options,
            )
        while done < steps:
            goal = min(steps, done - done % training.every + training.every)
            model.learn(goal - done, reset_num_timesteps=False)
            done = goal
            with storage.new_folder(checkpoint(folder, done)) as new:
                model.save(new / "model.zip")
                vector.save(str(new / "normalizer.pkl"))
                if training.algorithm == "sac":
                    model.save_replay_buffer(new / "replay.pkl")
            report(done)
    finally:
        vector.close()


def checkpoint(folder: Path, step: int) -> Path:
    return folder / f"step_{step:09d}"


def checkpoints(folder: Path) -> list[int]:
    """The steps at which there are checkpoints."""
    return sorted(int(place.name.removeprefix("step_")) for place in folder.glob("step_*"))


def export(folder: Path, training: Training, step: int) -> BehaviorPolicy:
    """The actor in a checkpoint of ``train`` as a policy of ours, which acts as it did without
    exploring."""
    place = checkpoint(folder, step)
    model = ALGORITHMS[training.algorithm].load(place / "model.zip", device="cpu")
    normalizer = read_normalizer(place)
    layers = model.policy.actor_state.params["params"]
    names = [*(f"hidden_{index}" for index in range(len(training.hidden))), "mean"]
    weights = {
        f"{name}/{kind}": np.asarray(layers[f"Dense_{index}"][kind], np.float64)
        for index, name in enumerate(names)
        for kind in ("kernel", "bias")
    }
    # The normalization (s − μ) / √(σ² + ε) goes into the first layer.
    scale = 1 / np.sqrt(normalizer.obs_rms.var + normalizer.epsilon)
    kernel = weights[f"{names[0]}/kernel"]
    weights[f"{names[0]}/bias"] -= (normalizer.obs_rms.mean * scale) @ kernel
    weights[f"{names[0]}/kernel"] = scale[:, None] * kernel
    return BehaviorPolicy(
        {name: value.astype(np.float32) for name, value in weights.items()},
        training.activation,
        "tanh" if training.algorithm == "sac" else "clip",
        {},
    )


def read_normalizer(place: Path) -> VecNormalize:
    """The statistics of observations in a checkpoint that ``train`` wrote."""
    with (place / "normalizer.pkl").open("rb") as file:
        return pickle.load(file)
