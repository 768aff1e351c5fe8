import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psec_jax import DiffusionBackbone, GaussianBackbone, Policy
from psec_jax.diffusion import SCHEDULES
from psec_jax.networks import Denoiser, GaussianActor
from psec_jax.policies import backbone_to_dict, fingerprint

OBSERVATIONS = np.zeros((2000, 5), np.float32)
DDIM = [{"sampler": "ddim", "sampling_steps": steps} for steps in (None, 3, 1)]


def constant_normal(mean, std):
    def predict(observations):
        shape = (len(observations), np.size(mean))
        return jnp.broadcast_to(mean, shape), jnp.broadcast_to(np.log(std), shape)

    return predict


@given(mean=st.floats(-1, 1), std=st.floats(0.2, 0.8), bound=st.floats(-0.95, 0.95))
def test_gaussian_loss_is_minus_the_log_density_of_a_squashed_normal(mean, std, bound):
    """Its integral from −1 up to any bound is the probability of a normal below artanh(bound)."""
    edges = np.linspace(-1 + 2e-4, bound, 2001)
    loss = GaussianBackbone(1).loss(
        constant_normal(mean, std), edges[:, None], edges[:, None], jax.random.key(0)
    )
    integral = np.trapezoid(np.exp(-np.asarray(loss, np.float64)), edges)
    low, high = stats.norm.cdf(np.arctanh(edges[[0, -1]]), mean, std)
    assert integral == pytest.approx(high - low, abs=2e-3)


def test_gaussian_loss_adds_up_over_action_dimensions(close):
    mean, std = np.array([0.1, -0.4, 0.8]), np.array([0.3, 0.5, 1.0])
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (6, 3))
    key = jax.random.key(0)
    together = GaussianBackbone(3).loss(constant_normal(mean, std), actions, actions, key)
    alone = [
        GaussianBackbone(1).loss(constant_normal(m, s), column, column, key)
        for m, s, column in zip(mean, std, actions.T[..., None], strict=True)
    ]
    close(together, sum(alone))


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_gaussian_loss_and_its_gradient_are_finite_at_the_edges(edge):
    def loss(mean):
        return GaussianBackbone(1).loss(
            constant_normal(mean, 0.01), OBSERVATIONS[:1], jnp.full((1, 1), edge), None
        )[0]

    value, gradient = jax.value_and_grad(loss)(0.0)
    assert np.isfinite(value)
    assert np.sign(gradient) == -edge


def test_gaussian_samples_are_squashed_normals():
    mean, std = np.array([0.5, -0.2]), np.array([0.3, 0.1])
    backbone = GaussianBackbone(2, deterministic=False)
    actions = backbone.sample(constant_normal(mean, std), jax.random.key(0), OBSERVATIONS)
    before = np.arctanh(actions)
    n = len(OBSERVATIONS)
    np.testing.assert_array_less(np.abs(before.mean(axis=0) - mean), 4 * std / np.sqrt(n))
    np.testing.assert_array_less(np.abs(before.std(axis=0) - std), 4 * std / np.sqrt(2 * n))


def test_a_deterministic_gaussian_acts_by_its_mode_whatever_the_key(close):
    predict = constant_normal(np.array([0.5, -0.2]), 1.0)
    one, other = (
        GaussianBackbone(2).sample(predict, jax.random.key(seed), OBSERVATIONS[:3])
        for seed in (0, 1)
    )
    close(one, np.tile(np.tanh(np.float32([0.5, -0.2])), (3, 1)))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bounds", [(-5.0, 2.0), (-1.0, -0.5)])
def test_log_deviations_stay_within_their_bounds(bounds):
    actor = GaussianActor(2, hidden=(8,), log_std_bounds=bounds)
    inputs = 1e3 * np.random.default_rng(0).normal(size=(50, 5))
    _, log_std = actor.apply(actor.init(jax.random.key(0), inputs), inputs)
    assert log_std.min() == bounds[0]
    assert log_std.max() == bounds[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "vp"},
        {"schedule": "cosine"},
        {"schedule": "linear", "sampler": "ddim"},
        {"sampler": "ddim", "sampling_steps": 2},
    ],
)
def test_diffusion_actions_stay_in_bounds_whatever_the_network_says(diffusion, settings):
    wild = diffusion.replace(
        backbone=dataclasses.replace(diffusion.backbone, **settings),
        params=jax.tree.map(lambda leaf: 30 * leaf + 1, diffusion.params),
    )
    actions = wild.act(jax.random.key(0), OBSERVATIONS[:50])
    assert jnp.abs(actions).max() == 1


@pytest.mark.parametrize("size", [30, 1e30])
@pytest.mark.parametrize("sampler", [{"sampler": "ddpm"}, *DDIM])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_not_even_huge_noise_predictions_lead_out_of_bounds(schedule, sampler, size):
    backbone = DiffusionBackbone(2, schedule=schedule, **sampler)

    def wild(noisy, time, observations):
        return size * jnp.sin(17 * noisy + time[:, None])

    sample = jax.jit(lambda key: backbone.sample(wild, key, OBSERVATIONS[:200]))
    actions = sample(jax.random.key(0))
    assert actions.max() == 1
    assert actions.min() == -1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_ddim_step_is_the_predicted_clean_action(schedule):
    backbone = DiffusionBackbone(
        2, Denoiser(), schedule, diffusion_steps=8, sampler="ddim", sampling_steps=1
    )
    key = jax.random.key(0)
    start = jax.random.normal(key, (6, 2))

    def predict(noisy, time, observations):
        np.testing.assert_array_equal(noisy.shape, (6, 2))
        return 0.9 * noisy + 0.01 * time[:, None]

    actions = backbone.sample(predict, key, OBSERVATIONS[:6])
    bar = SCHEDULES[schedule](8).alpha_bars[-1]
    clean = (start - np.sqrt(1 - bar) * (0.9 * start + 0.07)) / np.sqrt(bar)
    np.testing.assert_allclose(actions, np.clip(clean, -1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "sigmoid"}, "'sigmoid' is unknown; expected one of .*'cosine'.*'vp'"),
        ({"sampler": "euler"}, "'euler' is unknown; expected one of .*'ddim', 'ddpm'"),
        ({"diffusion_steps": 0}, "diffusion_steps must be an integer of at least 1, not 0"),
        ({"diffusion_steps": True}, "diffusion_steps must be an integer of at least 1, not True"),
        ({"diffusion_steps": 2.5}, "diffusion_steps must be an integer of at least 1, not 2.5"),
        ({"sampler": "ddim", "sampling_steps": 0}, "sampling_steps must be an integer"),
        ({"sampler": "ddpm", "sampling_steps": 3}, "needs sampler='ddim'"),
        ({"sampler": "ddim", "sampling_steps": 6}, "must be at most diffusion_steps=5"),
        ({"noise": "none"}, "noise 'none' is unknown; expected one of .*'beta', 'posterior'"),
        ({"noise": "beta", "sampler": "ddim"}, "noise='beta' needs sampler='ddpm'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffusionBackbone(2, **settings)


def test_the_backbone_adds_the_noise_that_it_names(diffusion):
    """After one of two steps zero predictions leave a₁/√α₂ + σ₂ z, and the last adds nothing."""
    schedule, key = SCHEDULES["vp"](2), jax.random.key(0)
    start_key, noise_key, _ = jax.random.split(key, 3)
    start, z = (jax.random.normal(k, (len(OBSERVATIONS), 2)) for k in (start_key, noise_key))
    alphas = schedule.alphas
    bars = schedule.alpha_bars
    deviations = {
        "beta": np.sqrt(1 - alphas[1]),
        "posterior": np.sqrt((1 - alphas[1]) * (1 - bars[0]) / (1 - bars[1])),
    }
    for noise, deviation in deviations.items():
        backbone = DiffusionBackbone(2, diffusion_steps=2, noise=noise)
        actions = backbone.sample(lambda a, t, s: jnp.zeros_like(a), key, OBSERVATIONS)
        between = np.clip(start / np.sqrt(alphas[1]) + deviation * z, -1, 1)
        expected = np.clip(between / np.sqrt(alphas[0]), -1, 1)
        np.testing.assert_allclose(actions, expected, atol=1e-5)


def test_settings_at_their_defaults_leave_descriptions_as_they_were(diffusion):
    """So what was saved before there was a choice keeps its fingerprint."""
    settings = backbone_to_dict(DiffusionBackbone(2))["settings"]
    assert settings == {
        "action_size": 2,
        "schedule": "vp",
        "diffusion_steps": 5,
        "sampler": "ddpm",
        "sampling_steps": None,
    }
    chosen = dataclasses.replace(diffusion.backbone, noise="beta")
    assert backbone_to_dict(chosen)["settings"]["noise"] == "beta"
    assert fingerprint(diffusion.replace(backbone=chosen)) != fingerprint(diffusion)


def test_dropout_is_active_exactly_when_it_is_given_a_key(statistics):
    network = Denoiser(features=16, blocks=1, time_features=8, time_hidden=8, dropout=0.5)
    policy = Policy.create(DiffusionBackbone(2, network), statistics, jax.random.key(0))
    inputs = [jnp.ones(leaf.shape) for leaf in policy.backbone.example(5)]
    quiet = policy.predict()(*inputs)
    dropped = [policy.predict(dropout=jax.random.key(seed))(*inputs) for seed in (0, 0, 1)]
    still = policy.backbone.network.clone(dropout=0.0).apply({"params": policy.params}, *inputs)
    np.testing.assert_array_equal(quiet, still)
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], quiet)
    assert not np.allclose(dropped[0], dropped[2])


def test_an_unknown_activation_is_refused_with_the_known_ones(statistics):
    backbone = DiffusionBackbone(2, Denoiser(activation="sine"))
    with pytest.raises(ValueError, match=r"unknown activation 'sine'; expected one of .*'swish'"):
        Policy.create(backbone, statistics, jax.random.key(0))
