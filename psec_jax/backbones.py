"""Backbones: what a policy's network predicts, how it is trained, and how actions are drawn.

A backbone is a frozen description (hashable, so static under ``jit``) that owns a Linen network
and is handed a *predict* function, ``predict(*inputs) -> output``, in which skills may already be
injected. It therefore knows nothing of skills either. Any frozen dataclass that is a ``Backbone``
will do: one of your own needs no change here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from psec_jax import diffusion
from psec_jax.networks import Denoiser, GaussianActor
from psec_jax.settings import integer_of, is_frozen_dataclass

# The network as a function of its inputs, with its parameters and skills in it.
Predict = Callable[..., Any]
# The data of some transitions, (batch, …) by the name of the column.
Batch = dict[str, Array]
COMPUTE = ("float32", "bfloat16")


class Backbone(Protocol):
    """What a policy asks of its backbone, a frozen dataclass.

    The network's inputs are those of ``example``, observations last. Optional: ``compute``, the
    type in which the network computes (float32 where absent), and ``noise_process``, what the
    network's outputs must have in common to be mixed at the noise level: any value that can be
    compared, the same for all that are mixed. Without it (or where it is None) they cannot be.
    """

    @property
    def action_size(self) -> int: ...

    @property
    def network(self) -> nn.Module: ...

    def example(self, observation_size: int) -> tuple[Array, ...]:
        """Inputs of the network with a batch of one, to initialize or trace it."""
        ...

    def loss(
        self,
        predict: Predict,
        observations: Float[Array, "batch observation"],
        actions: Float[Array, "batch action"],
        key: jax.Array,
    ) -> Float[Array, "batch"]:
        """The imitation loss of each sample."""
        ...

    def sample(
        self, predict: Predict, key: jax.Array, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch action"]:
        """Actions in [−1, 1]."""
        ...


def check_backbone(backbone: Any) -> None:
    """Raise ``TypeError`` for what is no backbone, naming what it lacks."""
    kind, needed = type(backbone).__name__, ("action_size", "network", "example", "loss", "sample")
    if lacking := [name for name in needed if not hasattr(backbone, name)]:
        raise TypeError(f"{kind} is no backbone: it lacks {lacking}; a backbone has {needed}")
    if not is_frozen_dataclass(type(backbone)):
        raise TypeError(
            f"the backbone {kind} must be a frozen dataclass, so that it can be compiled into "
            "programs and stored; decorate it with @dataclass(frozen=True)"
        )
    if not isinstance(backbone.network, nn.Module):
        raise TypeError(f"{kind}.network is {backbone.network!r}, but must be a flax.linen Module")


@dataclass(frozen=True)
class DiffusionBackbone:
    """A denoising diffusion policy; ``network(noisy_actions, time, observations) -> noise``.

    ``sampler`` is ``ddpm`` (ancestral, always all ``diffusion_steps``) or ``ddim``
    (deterministic, in ``sampling_steps`` of them; all where None). ``compute`` is the type in
    which the network computes, ``float32`` or ``bfloat16``; parameters and losses stay float32.
    ``noise`` is what ``ddpm`` adds at each step but the last: ``posterior``, of the posterior's
    variance, or ``beta``, of variance β_t, as PSEC's published code does.
    """

    action_size: int
    network: nn.Module = field(default_factory=Denoiser)
    schedule: str = "vp"
    diffusion_steps: int = 5
    sampler: str = "ddpm"
    sampling_steps: int | None = None
    compute: str = "float32"
    noise: str = "posterior"

    def __post_init__(self):
        _check_at_least_one("action_size", self.action_size)
        _check_choice("compute", self.compute, COMPUTE)
        _check_choice("schedule", self.schedule, diffusion.SCHEDULES)
        _check_choice("sampler", self.sampler, ("ddpm", "ddim"))
        _check_choice("noise", self.noise, diffusion.NOISES)
        if self.sampler == "ddim" and self.noise != "posterior":
            raise ValueError(
                f"noise={self.noise!r} needs sampler='ddpm': ddim adds no noise; leave noise at "
                "'posterior'"
            )
        _check_at_least_one("diffusion_steps", self.diffusion_steps)
        if self.sampling_steps is not None:
            _check_at_least_one("sampling_steps", self.sampling_steps)
            if self.sampler == "ddpm" and self.sampling_steps != self.diffusion_steps:
                raise ValueError(
                    f"sampling_steps={self.sampling_steps} needs sampler='ddim': ddpm walks "
                    f"through all {self.diffusion_steps} diffusion steps"
                )
            if self.sampling_steps > self.diffusion_steps:
                raise ValueError(
                    f"sampling_steps={self.sampling_steps} must be at most diffusion_steps="
                    f"{self.diffusion_steps}"
                )

    @property
    def noise_process(self) -> tuple[str, int]:
        """Noise predictions can be mixed where they are of one schedule."""
        return self.schedule, self.diffusion_steps

    def example(self, observation_size: int) -> tuple[Array, ...]:
        """Inputs of the network with a batch of one, to initialize or trace it."""
        return jnp.zeros((1, self.action_size)), jnp.zeros(1), jnp.zeros((1, observation_size))

    def loss(
        self,
        predict: Predict,
        observations: Float[Array, "batch observation"],
        actions: Float[Array, "batch action"],
        key: jax.Array,
    ) -> Float[Array, "batch"]:
        schedule = diffusion.SCHEDULES[self.schedule](self.diffusion_steps)
        return diffusion.denoising_loss(predict, schedule, actions, observations, key)

    def sample(
        self, predict: Predict, key: jax.Array, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch action"]:
        schedule = diffusion.SCHEDULES[self.schedule](self.diffusion_steps)
        if self.sampler == "ddim":
            return diffusion.ddim_sample(
                predict, schedule, key, observations, self.action_size, self.sampling_steps
            )
        return diffusion.ddpm_sample(
            predict, schedule, key, observations, self.action_size, noise=self.noise
        )


@dataclass(frozen=True)
class GaussianBackbone:
    """A tanh-squashed normal; ``network(observations) -> (mean, log_std)``.

    Acts by its mode tanh(mean) where ``deterministic``, else by a sample. ``compute`` is the
    network's, as in ``DiffusionBackbone``.
    """

    action_size: int
    # None stands for GaussianActor(action_size).
    network: nn.Module = None  # pyright: ignore[reportAssignmentType]
    deterministic: bool = True
    compute: str = "float32"

    def __post_init__(self):
        _check_at_least_one("action_size", self.action_size)
        _check_choice("compute", self.compute, COMPUTE)
        if self.network is None:
            object.__setattr__(self, "network", GaussianActor(self.action_size))

    def example(self, observation_size: int) -> tuple[Array, ...]:
        """Inputs of the network with a batch of one, to initialize or trace it."""
        return (jnp.zeros((1, observation_size)),)

    def loss(
        self,
        predict: Predict,
        observations: Float[Array, "batch observation"],
        actions: Float[Array, "batch action"],
        key: jax.Array,
    ) -> Float[Array, "batch"]:
        """−log π(a|s), with actions kept 1e-4 inside (−1, 1), where tanh has an inverse."""
        del key
        mean, log_std = predict(observations)
        inside = jnp.clip(actions, -1 + 1e-4, 1 - 1e-4)
        before = jnp.arctanh(inside)
        log_normal = jax.scipy.stats.norm.logpdf(before, mean, jnp.exp(log_std))
        return -jnp.sum(log_normal - jnp.log1p(-jnp.square(inside)), axis=-1)

    def sample(
        self, predict: Predict, key: jax.Array, observations: Float[Array, "batch observation"]
    ) -> Float[Array, "batch action"]:
        mean, log_std = predict(observations)
        if self.deterministic:
            return jnp.tanh(mean)
        return jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))


def _check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown; expected one of {sorted(choices)}")


def _check_at_least_one(name: str, value: int) -> None:
    integer_of(name, value)
