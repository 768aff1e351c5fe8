"""Training behavior policies online with sbx-rl, from checkpoint to checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium
import numpy as np
from flax import linen as nn

from experiments.config import check_seed
from psec_jax import envs, storage
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.envs.in_process import InProcessVectorEnv
from psec_jax.settings import integer_of

ALGORITHMS = {"ppo": "PPO", "sac": "SAC"}
_ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}
# What a checkpoint holds: sbx-rl's own files, and ours.
_MODEL, _REPLAY, _STATISTICS, _POLICY = (
    "model.zip",
    "replay.pkl",
    "statistics.safetensors",
    "actor",
)


@dataclass
class Training:
    """How policies are trained; ``options`` and ``policy_options`` go to sbx-rl's algorithm, and a
    checkpoint comes after each ``every`` environment steps."""

    algorithm: Literal["ppo", "sac"]
    hidden: list[int]
    activation: Literal["relu", "tanh"]
    every: int
    num_envs: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    policy_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        integer_of("every", self.every)
        check_seed("training.seed", self.seed)


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
    cost_weight: float = 0.0,
    report: Callable[[int], None] = lambda step: None,
) -> None:
    """Train for ``steps`` environment steps on reward less ``cost_weight`` times cost, from the
    newest checkpoint in ``folder`` on that is not beyond them.

    A checkpoint is a folder ``step_<n>`` that appears whole or not at all, one for the last step
    among them; ``report(n)`` is told of each. sbx-rl unpickles its own part of them, so ``folder``
    must be one that this function wrote.
    """
    step = max((n for n in checkpoints(folder) if n <= steps), default=0)
    if step == steps:
        return
    algorithm = algorithm_class(training.algorithm)
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    simulators = cast(InProcessVectorEnv, envs.make(env_id, training.num_envs))
    environments = [PenalizedReward(env, cost_weight) for env in simulators.envs]
    vector = VecNormalize(
        DummyVecEnv([lambda env=env: env for env in environments]),
        clip_obs=np.inf,
        norm_reward=training.algorithm == "ppo",
        gamma=training.options.get("gamma", 0.99),
    )
    try:
        if step:
            path = checkpoint(folder, step)
            read_statistics(vector, path)
            model = algorithm.load(path / _MODEL, vector, device="cpu")
            if training.algorithm == "sac":
                model.load_replay_buffer(path / _REPLAY)
        else:
            model = algorithm(
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
        while step < steps:
            goal = min(steps, step - step % training.every + training.every)
            model.learn(goal - step, reset_num_timesteps=False)
            step = goal
            with storage.new_folder(checkpoint(folder, step)) as new:
                model.save(new / _MODEL)
                if training.algorithm == "sac":
                    model.save_replay_buffer(new / _REPLAY)
                storage.write_tensors(new / _STATISTICS, _statistics(vector))
                _actor(model, vector, training).save(new, _POLICY)
            report(step)
    finally:
        vector.close()


def trained_policy(folder: Path, step: int) -> BehaviorPolicy:
    """The actor in a checkpoint of ``train``, which acts as it did without exploring."""
    return BehaviorPolicy.load(checkpoint(folder, step), _POLICY)


def checkpoint(folder: Path, step: int) -> Path:
    return folder / f"step_{step:09d}"


def checkpoints(folder: Path) -> list[int]:
    """The steps at which there are checkpoints."""
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


def algorithm_class(name: str) -> type:
    """That of sbx-rl; raises ``ImportError`` naming the extra where it is missing."""
    try:
        import sbx
    except ImportError as error:
        raise ImportError(
            "training behavior policies needs an extra, after a CPU build of torch: "
            f"pip install -e '.[collect]' ({error})"
        ) from error
    return getattr(sbx, ALGORITHMS[name])


def read_statistics(vector: Any, path: Path) -> None:
    """Set those of a ``VecNormalize`` to what ``train`` wrote into a checkpoint."""
    tensors, _ = storage.read_tensors(path / _STATISTICS, dtypes=(np.float64,))
    for name, value in tensors.items():
        moments, _, kind = name.partition("/")
        setattr(getattr(vector, moments), kind, value)


def _statistics(vector: Any) -> dict[str, np.ndarray]:
    return {
        f"{moments}/{kind}": np.asarray(getattr(getattr(vector, moments), kind), np.float64)
        for moments in ("obs_rms", "ret_rms")
        for kind in ("mean", "var", "count")
    }


def _actor(model: Any, vector: Any, training: Training) -> BehaviorPolicy:
    layers = model.policy.actor_state.params["params"]
    names = [*(f"hidden_{index}" for index in range(len(training.hidden))), "mean"]
    weights = {
        f"{name}/{kind}": np.asarray(layers[f"Dense_{index}"][kind], np.float64)
        for index, name in enumerate(names)
        for kind in ("kernel", "bias")
    }
    # The normalization (s − μ) / √(σ² + ε) goes into the first layer.
    scale = 1 / np.sqrt(vector.obs_rms.var + vector.epsilon)
    kernel = weights[f"{names[0]}/kernel"]
    weights[f"{names[0]}/bias"] -= (vector.obs_rms.mean * scale) @ kernel
    weights[f"{names[0]}/kernel"] = scale[:, None] * kernel
    return BehaviorPolicy(
        {name: value.astype(np.float32) for name, value in weights.items()},
        training.activation,
        "tanh" if training.algorithm == "sac" else "clip",
        {},
    )
