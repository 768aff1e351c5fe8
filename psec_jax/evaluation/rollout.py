"""Stepping a vector environment under any function from observations to actions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from psec_jax.envs.vector import EpisodeVectorEnv
from psec_jax.envs.vector_adapter import VectorAdapter, autoreset_mode


@dataclass(frozen=True)
class Step:
    """One step of n environments; each array has n rows. ``costs`` are 0 where there are none.
    ``actions`` are those that were executed, also where a driver in the environment took over.

    Only rows where ``active`` holds belong to the episode that began with the reset; those of
    environments whose episode has ended mean nothing.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    next_observations: np.ndarray
    active: np.ndarray


def rollout(
    envs: VectorEnv,
    act: Callable[[np.ndarray], np.ndarray],
    seeds: Sequence[int | None],
    options: dict[str, Any] | None = None,
) -> Iterator[Step]:
    """One episode of each environment, all at once, until the last one ends.

    ``act`` maps observations (n, obs) to actions (n, act); ``seeds`` gives one seed for each of
    the first environments. Those beyond, and those whose seed is None, are never active; those of
    this package are not even stepped. ``options`` go to the reset.

    Environments of each of Gymnasium's autoreset modes give the same episodes. Where they do not
    reset themselves, those that have ended are reset by ``options["reset_mask"]``, Gymnasium's
    convention, as they may not be stepped past their end while others go on.
    Raises ``ValueError`` where the metadata name another mode.
    """
    seeds = [*seeds, *[None] * (envs.num_envs - len(seeds))]
    active = np.array([seed is not None for seed in seeds])
    stay = isinstance(envs, EpisodeVectorEnv)
    begin = {**(options or {}), "reset_mask": active} if stay else options
    reset_by_hand = not stay and autoreset_mode(envs) is AutoresetMode.DISABLED
    numbers: Any = [int(seed or 0) for seed in seeds]  # Gymnasium declares but one for all.
    observations, _ = envs.reset(seed=numbers, options=begin)
    while active.any():
        observations = np.array(observations)
        actions = act(observations)
        following, rewards, terminations, truncations, infos = envs.step(actions)
        yield Step(
            observations,
            infos.get("executed_action", actions),
            np.array(rewards),
            _costs(infos, envs.num_envs),
            np.array(terminations),
            np.array(truncations),
            _reached(following, infos),
            active,
        )
        over = np.array(terminations) | np.array(truncations)
        active = active & ~over
        observations = following
        if reset_by_hand and over.any() and active.any():
            envs.reset(options={**(options or {}), "reset_mask": over})
    if isinstance(envs, VectorAdapter):
        envs.settle()


def _reached(following: np.ndarray, infos: dict) -> np.ndarray:
    """What the step led to, also where the environment was reset within it."""
    reached = np.array(following)
    for index in np.flatnonzero(infos.get("_final_obs", ())):
        reached[index] = infos["final_obs"][index]
    return reached


def _costs(infos: dict, num_envs: int) -> np.ndarray:
    """The costs of one step, where a vector environment puts them: those of an episode's last
    step stand apart if the environment was reset within that step."""
    costs = np.zeros(num_envs)
    final = infos.get("final_info", {})
    if not isinstance(final, dict):
        raise ValueError(
            f"infos['final_info'] is of type {type(final).__name__}; expected a dictionary of "
            "arrays, as since Gymnasium 1.0"
        )
    for group, mask in ((infos, True), (final, infos.get("_final_info", True))):
        if "cost" in group:
            values = np.asarray(group["cost"], float)
            if values.size != num_envs:
                raise ValueError(
                    f"infos['cost'] has shape {values.shape}; expected one number for each of "
                    f"{num_envs} environments"
                )
            costs = np.where(group.get("_cost", mask), values.reshape(num_envs), costs)
    return costs
