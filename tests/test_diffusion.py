import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psec_jax import diffusion
from psec_jax.diffusion import (
    NOISES,
    SCHEDULES,
    add_noise,
    beta_noise,
    cosine_schedule,
    ddim_sample,
    ddpm_sample,
    denoising_loss,
    linear_schedule,
    posterior_noise,
    vp_schedule,
)

OBSERVATIONS = np.zeros((4000, 1), np.float32)
SAMPLERS = {"ddpm": ddpm_sample, "ddim": ddim_sample}


def exact_denoiser(schedule, mean, std):
    """ε* for data N(mean, std²): the posterior mean of the noise, by linear regression."""
    bars = jnp.asarray(schedule.alpha_bars)

    def denoise(noisy, time, observations):
        bar = bars[time.astype(int)][:, None]
        return jnp.sqrt(1 - bar) * (noisy - jnp.sqrt(bar) * mean) / (bar * std**2 + 1 - bar)

    return denoise


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 1000))
def test_signal_falls_strictly_and_is_the_running_product(name, steps):
    schedule = SCHEDULES[name](steps)
    assert schedule.steps == steps
    bars = schedule.alpha_bars.astype(np.float64)
    np.testing.assert_allclose(bars, np.cumprod(schedule.alphas.astype(np.float64)), rtol=2e-4)
    assert ((bars > 0) & (bars < 1)).all()
    assert (np.diff(bars) < 0).all()


@given(steps=st.integers(1, 500), low=st.floats(0.01, 1), high=st.floats(1, 20))
def test_vp_alphas_telescope_to_the_integrated_noise_rate(steps, low, high):
    schedule = vp_schedule(steps, low, high)
    share = np.arange(1, steps + 1) / steps
    expected = np.exp(-low * share - 0.5 * (high - low) * share**2)
    np.testing.assert_allclose(schedule.alpha_bars, expected, rtol=1e-5)


@given(steps=st.integers(2, 500))
def test_cosine_signal_is_a_squared_cosine(steps):
    bars = cosine_schedule(steps).alpha_bars
    angles = np.arange(steps + 1) / steps + 0.008
    curve = np.cos(0.5 * np.pi * angles / 1.008) ** 2
    np.testing.assert_allclose(bars[:-1], (curve / curve[0])[1:-1], rtol=1e-3)
    assert bars[-1] == pytest.approx(bars[-2] * 0.001, rel=1e-3)


def test_linear_schedule_of_1000_steps_is_that_of_ho_et_al():
    schedule = linear_schedule(1000)
    np.testing.assert_allclose(1 - schedule.alphas, np.linspace(1e-4, 0.02, 1000), atol=1e-7)
    assert schedule.alpha_bars[-1] == pytest.approx(4.0358e-5, rel=1e-3)


@given(steps=st.integers(20, 1000))
def test_linear_noise_adds_up_to_the_same_for_any_number_of_steps(steps):
    betas = 1 - linear_schedule(steps).alphas.astype(np.float64)
    assert betas.sum() == pytest.approx(10.05, rel=1e-3)


def test_noisy_actions_have_the_moments_of_q():
    schedule = vp_schedule(5)
    noise = np.random.default_rng(0).normal(size=(5, 20000))
    action = 0.7
    noisy = add_noise(schedule, np.full_like(noise, action), noise, np.arange(5))
    bars = schedule.alpha_bars
    np.testing.assert_allclose(noisy.mean(axis=1), np.sqrt(bars) * action, atol=0.03)
    np.testing.assert_allclose(noisy.std(axis=1), np.sqrt(1 - bars), atol=0.02)


def test_an_oracle_that_knows_the_action_has_no_loss():
    schedule = vp_schedule(5)
    actions = np.random.default_rng(0).uniform(-1, 1, (64, 3)).astype(np.float32)

    def oracle(noisy, time, observations):
        bar = schedule.alpha_bars[time.astype(int)][:, None]
        return (noisy - np.sqrt(bar) * actions) / np.sqrt(1 - bar)

    losses = denoising_loss(oracle, schedule, actions, OBSERVATIONS[:64], jax.random.key(0))
    np.testing.assert_allclose(losses, 0, atol=1e-9)


def test_the_loss_of_predicting_nothing_is_chi_squared():
    times = []

    def nothing(noisy, time, observations):
        times.append(time)
        return jnp.zeros_like(noisy)

    actions = jnp.zeros((4000, 3))
    losses = denoising_loss(nothing, vp_schedule(5), actions, OBSERVATIONS, jax.random.key(0))
    assert losses.shape == (4000,)
    assert losses.mean() == pytest.approx(3, abs=4 * np.sqrt(6 / 4000))
    assert losses.var() == pytest.approx(6, rel=0.2)
    counts = np.bincount(np.asarray(times[0], int), minlength=5)
    assert len(counts) == 5
    np.testing.assert_allclose(counts, 800, atol=4 * np.sqrt(800))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("make_schedule", [cosine_schedule, linear_schedule])
def test_samplers_draw_from_a_normal_given_its_exact_denoiser(sampler, make_schedule):
    schedule, mean, std = make_schedule(400), 0.3, 0.2
    actions = SAMPLERS[sampler](
        exact_denoiser(schedule, mean, std),
        schedule,
        jax.random.key(0),
        OBSERVATIONS,
        1,
        clip=False,
    )
    n = len(OBSERVATIONS)
    assert actions.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(n) + 0.003)
    assert actions.std() == pytest.approx(std, abs=4 * std / np.sqrt(2 * n) + 0.006)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_samplers_hit_a_point_mass_in_any_number_of_steps(schedule, steps, sampler, clip):
    schedule, point = SCHEDULES[schedule](steps), jnp.array([0.4, -0.8])
    denoise = exact_denoiser(schedule, point, 0.0)
    actions = SAMPLERS[sampler](
        denoise, schedule, jax.random.key(0), OBSERVATIONS[:8], 2, clip=clip
    )
    np.testing.assert_allclose(actions, np.broadcast_to(point, (8, 2)), atol=2e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipping_keeps_a_wild_denoiser_in_bounds(sampler):
    schedule = vp_schedule(4)

    def wild(noisy, time, observations):
        return 30 * jnp.sin(17 * noisy)

    def sample(clip):
        return SAMPLERS[sampler](wild, schedule, jax.random.key(0), OBSERVATIONS, 1, clip=clip)

    assert jnp.abs(sample(clip=False)).max() > 2
    assert jnp.abs(sample(clip=True)).max() <= 1


def test_ddim_is_random_only_in_where_it_starts():
    """For normal data the whole chain is one affine map of the start."""
    schedule, key = vp_schedule(10), jax.random.key(3)
    observations = OBSERVATIONS[:50]
    actions = ddim_sample(
        exact_denoiser(schedule, 0.3, 0.2), schedule, key, observations, 1, clip=False
    )
    start = jax.random.normal(key, (50, 1))
    slope, offset = np.polyfit(start[:, 0], actions[:, 0], 1)
    np.testing.assert_allclose(actions, slope * start + offset, atol=1e-5)
    assert 0.1 < slope < 0.3


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
def test_ddim_walks_through_as_many_times_as_asked_from_the_noisiest_down(monkeypatch, steps):
    monkeypatch.setattr(diffusion.jax.lax, "scan", scan_in_python)
    times = []

    def record(noisy, time, observations):
        times.append(int(time[0]))
        return jnp.zeros_like(noisy)

    ddim_sample(record, vp_schedule(10), jax.random.key(0), OBSERVATIONS[:2], 1, steps=steps)
    assert len(times) == steps
    assert times[0] == 9
    assert times == sorted(set(times), reverse=True)
    assert steps == 1 or times[-1] == 0


def test_clipped_ddim_moves_between_a_clean_action_in_bounds_and_the_noise_left(monkeypatch):
    """Two neighbors of the chain, a_t = √ᾱ_t a + √(1 − ᾱ_t) ε with the same a and ε, give a."""
    monkeypatch.setattr(diffusion.jax.lax, "scan", scan_in_python)
    chain = []

    def wild(noisy, time, observations):
        chain.append(noisy)
        return 2 * jnp.cos(9 * noisy)

    schedule = vp_schedule(6)
    last = ddim_sample(wild, schedule, jax.random.key(0), OBSERVATIONS[:50], 1)
    bars = schedule.alpha_bars[::-1].astype(np.float64)
    for bar, following, before, after in zip(bars, bars[1:], chain, chain[1:], strict=False):
        mixing = np.sqrt([[bar, 1 - bar], [following, 1 - following]])
        clean, _ = np.linalg.solve(mixing, np.stack([before[:, 0], after[:, 0]]))
        assert np.abs(clean).max() == pytest.approx(1, abs=1e-4)
    assert np.abs(last).max() <= 1


@pytest.mark.parametrize(
    ("name", "deviations"),
    [("posterior", [0, 0.399, 0.653, 0.813, 0.899]), ("beta", [0, 0.677, 0.797, 0.869, 0.914])],
)
def test_noise_of_the_papers_schedule(name, deviations):
    np.testing.assert_allclose(NOISES[name](vp_schedule(5)), deviations, atol=5e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 1000))
def test_beta_noise_is_the_marginal_noise_that_one_step_adds(name, steps):
    """1 − ᾱ_t = α_t (1 − ᾱ_{t−1}) + β_t, and β̃_t is β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)."""
    schedule = SCHEDULES[name](steps)
    left = 1 - schedule.alpha_bars.astype(np.float64)
    beta, posterior = beta_noise(schedule), posterior_noise(schedule)
    assert beta[0] == posterior[0] == 0
    shrunk = beta[1:] * np.sqrt(left[:-1] / left[1:])
    np.testing.assert_allclose(posterior[1:], shrunk, rtol=1e-5)
    added = left[1:] - schedule.alphas[1:].astype(np.float64) * left[:-1]
    np.testing.assert_allclose(beta[1:] ** 2, added, atol=1e-6)


def test_kinds_of_noise_differ_in_nothing_but_their_size(monkeypatch):
    """The same key draws the same z, and the means are the same."""
    monkeypatch.setattr(diffusion.jax.lax, "scan", scan_in_python)
    schedule, key = vp_schedule(5), jax.random.key(0)

    def chain(noise):
        seen = []

        def record(noisy, time, observations):
            seen.append(noisy)
            return 0.3 * noisy

        last = ddpm_sample(record, schedule, key, OBSERVATIONS[:4], 2, clip=False, noise=noise)
        chain, drawn = [*seen, last], []
        for time, before, after in zip([4, 3, 2, 1, 0], chain, chain[1:], strict=False):
            slope = (1 - schedule.alphas[time]) / np.sqrt(1 - schedule.alpha_bars[time])
            mean = (before - slope * 0.3 * before) / np.sqrt(schedule.alphas[time])
            drawn.append(np.asarray(after - mean))
        return chain[0], drawn

    (start, posterior), (other_start, beta) = chain("posterior"), chain("beta")
    np.testing.assert_array_equal(start, other_start)
    scales = zip(posterior_noise(schedule)[::-1], beta_noise(schedule)[::-1], strict=True)
    for index, (small, large) in enumerate(scales):
        if index < 4:
            np.testing.assert_allclose(
                posterior[index] / small, beta[index] / large, rtol=1e-3, atol=1e-4
            )
        else:
            np.testing.assert_allclose(beta[index], 0, atol=1e-6)


def test_ddpm_walks_through_all_times_with_fresh_noise_at_each(monkeypatch):
    monkeypatch.setattr(diffusion.jax.lax, "scan", scan_in_python)
    seen = []

    def record(noisy, time, observations):
        seen.append((int(time[0]), noisy))
        return jnp.zeros_like(noisy)

    schedule = vp_schedule(5)
    key, observations = jax.random.key(0), OBSERVATIONS[:2]
    last = ddpm_sample(record, schedule, key, observations, 1, clip=False)
    assert [time for time, _ in seen] == [4, 3, 2, 1, 0]
    chain = [*(noisy for _, noisy in seen), last]
    noise = [
        after - before / np.sqrt(schedule.alphas[time])
        for (time, before), after in zip(seen, chain[1:], strict=True)
    ]
    np.testing.assert_allclose(noise[-1], 0, atol=1e-6)
    bars = schedule.alpha_bars
    deviations = np.sqrt((1 - schedule.alphas[1:]) * (1 - bars[:-1]) / (1 - bars[1:]))
    standard = np.array(noise[:-1])[:, :, 0] / deviations[::-1, None]
    assert len(np.unique(standard)) == standard.size
    assert (np.abs(standard) < 4).all()


def scan_in_python(step, carry, inputs):
    for index in range(len(jax.tree.leaves(inputs)[0])):
        carry, _ = step(carry, jax.tree.map(lambda leaf, i=index: leaf[i], inputs))
    return carry, None
