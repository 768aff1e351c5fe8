"""What is refused before anything is trained."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from gymnasium.spaces import flatdim
from gymnasium.vector import VectorEnv

import psec_jax as psec
from experiments.config import ConfigError, Setting
from psec_jax.composition.going_home import check_home
from psec_jax.errors import BrokenFile

if TYPE_CHECKING:
    from experiments.stages import Method


def check(config: Setting, methods: "Mapping[str, Method]", columns: Iterable[str]) -> None:
    """Refuse what ``Setting.check`` does, networks that cannot be made, and levels at which the
    backbone cannot be mixed."""
    config.check(methods, columns)
    key, statistics = jax.random.key(0), psec.Statistics.identity(1)
    with naming("backbone"):
        policy = psec.Policy.create(config.backbone(action_size=1), statistics, key)
    weights = config.composer(skills=1).weights
    if weights == "home":
        raise ConfigError(
            "composer.weights 'home' needs what π₀ is for, which no library keeps yet; what goes "
            "home are the methods <row>_home"
        )
    if isinstance(weights, nn.Module):
        with naming("composer.weights"):
            weights.init(key, jnp.zeros((1, 1)))
    for name in config.methods:
        if level := methods[name].level:
            chosen = config.levels[level]
            with naming(f"method {name}"):
                chosen.check((policy,))
                if name.endswith("_home"):
                    check_home(chosen)


@contextmanager
def naming(subject: str) -> Iterator[None]:
    """Raises ``ConfigError`` with the name of data that cannot be used."""
    try:
        yield
    except (BrokenFile, ConfigError):
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{subject}: {error}") from None


def load(name: str, trajectories: int | None = None) -> psec.TransitionDataset:
    """The dataset ``name``; raises ``ConfigError`` or ``BrokenFile`` where it cannot be had."""
    with naming(f"dataset {name}"):
        return psec.load_dataset(name, trajectories)


def check_alike(parts: Mapping[str, Any], vector: VectorEnv) -> None:
    """Raises ``ConfigError`` unless the datasets and policies ``parts`` are of the robot in
    ``vector``."""
    spaces = vector.single_observation_space, vector.single_action_space
    sizes = {"the environment": tuple(flatdim(space) for space in spaces)}
    sizes |= {name: (part.observation_size, part.action_size) for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ConfigError(
            f"(observation, action) sizes differ: {listed}; use data of the same robot"
        )


def check_joined(datasets: Iterable[psec.TransitionDataset]) -> None:
    """Raises ``ConfigError`` where ``datasets`` cannot become one."""
    with naming("data that are trained on together"):
        psec.concatenate([data.take(1) for data in datasets])


def check_purpose(config: Setting, source: psec.TransitionDataset) -> None:
    """Raises ``ConfigError`` where a method goes home, and π₀'s data do not say what it is for."""
    going_home = [name for name in config.methods if name.endswith("_home")]
    if going_home:
        with naming(f"{going_home[0]}, the source's data"):
            data = psec.learners.rewards_ahead(source, config.home.discount)
            statistics = psec.Statistics.identity(source.observation_size)
            psec.learners.PurposeLearner.of(data, statistics, psec.Optimizer())
