"""Denoising diffusion over actions: schedules, the training loss, and samplers.

A *denoiser* here is any function ``(noisy_actions, time, observations) -> noise`` with
``noisy_actions`` (batch, action) and ``time`` (batch,), counting diffusion steps from 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

Denoise = Callable[[Array, Array, Array], Array]


@struct.dataclass
class Schedule:
    """How much signal is left after each of T diffusion steps.

    ``alphas`` are α_t = 1 − β_t and ``alpha_bars`` their running products ᾱ_t, both (T,).
    """

    alphas: Float[np.ndarray, "step"]
    alpha_bars: Float[np.ndarray, "step"]

    @classmethod
    def of(cls, betas: np.ndarray) -> "Schedule":
        alphas = 1 - betas
        return cls(alphas.astype(np.float32), np.cumprod(alphas).astype(np.float32))

    @property
    def steps(self) -> int:
        return len(self.alphas)


def vp_schedule(steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Schedule:
    """Variance preserving: α_t = exp(−b_min/T − ½ (b_max − b_min)(2t − 1)/T²), t = 1 … T
    (Xiao et al., 2022; the paper's choice)."""
    t = np.arange(1, steps + 1)
    slope = 0.5 * (beta_max - beta_min) * (2 * t - 1) / steps**2
    return Schedule.of(1 - np.exp(-beta_min / steps - slope))


def cosine_schedule(steps: int, offset: float = 0.008) -> Schedule:
    """ᾱ_t ∝ cos²(½π (t/T + s)/(1 + s)), with β_t at most 0.999 (Nichol and Dhariwal, 2021)."""
    t = np.linspace(0, 1, steps + 1)
    alpha_bars = np.cos(0.5 * np.pi * (t + offset) / (1 + offset)) ** 2
    return Schedule.of(np.minimum(1 - alpha_bars[1:] / alpha_bars[:-1], 0.999))


def linear_schedule(steps: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> Schedule:
    """β_t on a straight line (Ho et al., 2020), whose bounds were chosen for 1000 steps and are
    scaled by 1000/T, up to 0.999, so that few steps reach as much noise."""
    return Schedule.of(np.minimum(np.linspace(beta_min, beta_max, steps) * 1000 / steps, 0.999))


SCHEDULES = {"vp": vp_schedule, "cosine": cosine_schedule, "linear": linear_schedule}


def posterior_noise(schedule: Schedule) -> Float[np.ndarray, "step"]:
    """√β̃_t with the posterior variance β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t), which is 0 at t = 1
    (Ho et al., 2020, eq. 7): right for data at a single point."""
    before = np.concatenate([[1.0], schedule.alpha_bars[:-1]])
    betas = 1 - schedule.alphas
    return np.sqrt(betas * (1 - before) / (1 - schedule.alpha_bars))


def beta_noise(schedule: Schedule) -> Float[np.ndarray, "step"]:
    """√β_t, and 0 at t = 1, where no noise is added: right for standard normal data (Ho et al.,
    2020, section 3.2); what PSEC's published code adds."""
    return np.concatenate([[0.0], np.sqrt(1 - schedule.alphas[1:])])


NOISES = {"posterior": posterior_noise, "beta": beta_noise}


def add_noise(schedule: Schedule, actions: Array, noise: Array, time: Array) -> Array:
    """q(a_t | a) = √ᾱ_t a + √(1 − ᾱ_t) ε, with integer ``time`` (batch,)."""
    alpha_bar = jnp.asarray(schedule.alpha_bars)[time][..., None]
    return jnp.sqrt(alpha_bar) * actions + jnp.sqrt(1 - alpha_bar) * noise


def denoising_loss(
    denoise: Denoise,
    schedule: Schedule,
    actions: Float[Array, "batch action"],
    observations: Float[Array, "batch observation"],
    key: jax.Array,
) -> Float[Array, "batch"]:
    """‖ε − ε_θ(a_t, t, s)‖² summed over action dimensions, at one random t a sample."""
    time_key, noise_key = jax.random.split(key)
    time = jax.random.randint(time_key, actions.shape[:-1], 0, schedule.steps)
    noise = jax.random.normal(noise_key, actions.shape)
    noisy = add_noise(schedule, actions, noise, time)
    predicted = denoise(noisy, time.astype(jnp.float32), observations)
    return jnp.sum(jnp.square(noise - predicted), axis=-1)


def ddpm_sample(
    denoise: Denoise,
    schedule: Schedule,
    key: jax.Array,
    observations: Float[Array, "batch observation"],
    action_size: int,
    clip: bool = True,
    noise: str = "posterior",
) -> Float[Array, "batch action"]:
    """Ancestral sampling from N(0, I) through all T steps, without noise at the last.

    a_{t−1} = (a_t − β_t/√(1 − ᾱ_t) ε_θ)/√α_t + σ_t z, clipped to [−1, 1] after each step, with
    the σ_t that ``noise`` names in ``NOISES``.
    """
    noise_scales = NOISES[noise](schedule)
    slopes = (1 - schedule.alphas) / np.sqrt(1 - schedule.alpha_bars)
    steps = np.arange(schedule.steps)[::-1]
    keys = jax.random.split(key, schedule.steps + 1)

    def step(actions, inputs):
        time, step_key, alpha, slope, noise_scale = inputs
        times = jnp.full(actions.shape[:1], time, jnp.float32)
        mean = (actions - slope * denoise(actions, times, observations)) / jnp.sqrt(alpha)
        actions = mean + noise_scale * jax.random.normal(step_key, actions.shape)
        return (jnp.clip(actions, -1, 1) if clip else actions), None

    start = jax.random.normal(keys[0], (observations.shape[0], action_size))
    inputs = (steps, keys[1:], schedule.alphas[steps], slopes[steps], noise_scales[steps])
    return jax.lax.scan(step, start, jax.tree.map(jnp.asarray, inputs))[0]


def ddim_sample(
    denoise: Denoise,
    schedule: Schedule,
    key: jax.Array,
    observations: Float[Array, "batch observation"],
    action_size: int,
    steps: int | None = None,
    clip: bool = True,
) -> Float[Array, "batch action"]:
    """Deterministic sampling (DDIM, η = 0; Song et al., 2021) through ``steps`` of the T times.

    Random only in where it starts: N(0, I). With ``clip`` the predicted clean action is kept in
    [−1, 1] and the noise is made consistent with it.
    """
    steps = schedule.steps if steps is None else steps
    times = np.linspace(schedule.steps - 1, 0, steps).round().astype(int)
    bars = schedule.alpha_bars[times]
    next_bars = np.append(bars[1:], np.float32(1))
    signals, spreads = np.sqrt(bars), np.sqrt(1 - bars)
    next_signals, next_spreads = np.sqrt(next_bars), np.sqrt(1 - next_bars)

    def step(actions, inputs):
        time, signal, spread, next_signal, next_spread = inputs
        at = jnp.full(actions.shape[:1], time, jnp.float32)
        noise = denoise(actions, at, observations)
        clean = (actions - spread * noise) / signal
        if clip:
            clean = jnp.clip(clean, -1, 1)
            noise = (actions - signal * clean) / spread
        return next_signal * clean + next_spread * noise, None

    start = jax.random.normal(key, (observations.shape[0], action_size))
    inputs = (times, signals, spreads, next_signals, next_spreads)
    return jax.lax.scan(step, start, jax.tree.map(jnp.asarray, inputs))[0]
