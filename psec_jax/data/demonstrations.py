"""Rolling behavior policies out into datasets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from psec_jax import envs
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.recipes import Part, Recipe
from psec_jax.evaluation.rollout import Step, rollout

_COLUMNS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "costs",
    "next_observations",
)


def generate(recipe: Recipe, seed: int, parallel: int | None = None) -> TransitionDataset:
    """The trajectories of every part of ``recipe``, part after part.

    The same seed gives the same bytes, however many episodes run at once: ``parallel``, or as many
    as ``envs.copies_at_once`` says. Raises ``RuntimeError`` if return or cost is not what the
    recipe says, beyond what chance allows: then the simulator is not the one it was measured in.
    """
    dataset = roll_out(recipe, seed, parallel)
    _check("return", recipe, dataset.returns, recipe.return_mean, recipe.return_std)
    if recipe.cost_mean is not None:
        _check("cost", recipe, dataset.cost_returns, recipe.cost_mean, recipe.cost_std)
    return dataset


def roll_out(recipe: Recipe, seed: int, parallel: int | None = None) -> TransitionDataset:
    """``generate`` without its check, for a recipe whose return is still to be measured."""
    seeds = np.random.SeedSequence(seed).generate_state(recipe.trajectories).tolist()
    longest = max(part.trajectories for part in recipe.parts)
    width = min(parallel or envs.copies_at_once(recipe.environment, longest), longest)
    trajectories: list[list[np.ndarray]] = []
    vector = envs.make(recipe.environment, width)
    try:
        for part in recipe.parts:
            end = len(trajectories) + part.trajectories
            while len(trajectories) < end:
                batch = seeds[len(trajectories) : end][:width]
                act, options = _acting(recipe, part, batch)
                steps = list(rollout(vector, act, batch, options))
                trajectories += [_trajectory(steps, index) for index in range(len(batch))]
    finally:
        vector.close()
    columns = map(np.concatenate, zip(*trajectories, strict=True))
    arrays = dict(zip(_COLUMNS, columns, strict=True))
    if not recipe.has_costs:
        del arrays["costs"]
    return TransitionDataset(**arrays)


def _acting(
    recipe: Recipe, part: Part, seeds: Sequence[int]
) -> tuple[Callable, dict[str, Any] | None]:
    """What acts in the episodes with these seeds, and the options of their reset."""
    if part.policy in recipe.drivers:
        return _idle, {"driver": recipe.drivers[part.policy], "noise": part.noise}
    policy = BehaviorPolicy.load(recipe.folder, part.policy)
    return _noisy(policy, part.noise, seeds), None


def _idle(observations: np.ndarray) -> np.ndarray:
    """No action: a driver within the environment acts instead."""
    return np.zeros((len(observations), 2), np.float32)


def _noisy(policy: BehaviorPolicy, noise: float, seeds: Sequence[int]) -> Callable:
    """The policy with noise on its actions, drawn for each episode by its own seed."""
    generators = [np.random.default_rng(int(seed)) for seed in seeds]

    def act(observations: np.ndarray) -> np.ndarray:
        actions = policy(observations)
        if noise:
            for action, generator in zip(actions, generators, strict=False):
                action += noise * generator.standard_normal(len(action), np.float32)
        return np.clip(actions, -1, 1)

    return act


def _trajectory(steps: list[Step], index: int) -> list[np.ndarray]:
    steps = [step for step in steps if step.active[index]]
    return [np.array([getattr(step, name)[index] for step in steps]) for name in _COLUMNS]


def _check(
    what: str, recipe: Recipe, measured: np.ndarray, mean: float | None, std: float | None
) -> None:
    assert mean is not None and std is not None, "a recipe that is generated was measured"
    # Returns can have a long tail, so a few trajectories may lie far from the mean.
    tolerance = 0.02 * abs(mean) + max(5 * std, 0.4 * abs(mean)) / np.sqrt(len(measured))
    if abs(measured.mean() - mean) > tolerance:
        raise RuntimeError(
            f"{recipe.about}: the mean {what} in {recipe.environment} is {measured.mean():.1f}, "
            f"but is known to be {mean:.1f} ± {tolerance:.1f}; install the pinned simulator "
            "versions: pip install -c constraints.txt -e ."
        )
