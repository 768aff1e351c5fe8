import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct, traverse_util
from gymnasium.vector import SyncVectorEnv

from psec_jax import GaussianBackbone, Policy, Statistics, envs, evaluate
from psec_jax.composition import ComposedPolicy, homing
from psec_jax.data.behavior import BehaviorPolicy
from psec_jax.data.registry import local_datasets
from psec_jax.evaluation import trace_weights
from psec_jax.learners import Purpose
from psec_jax.networks import ConstantWeights, ContextNetwork, Critic, GaussianActor

KEY = jax.random.key(8)


class Short(gymnasium.Env):
    """Ends after ``seed % 7 + 1`` steps; a step is worth its number plus the first action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, log):
        self.log, self.seed = log, 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed = seed
            self.log["seeds"].append(seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self):
        return np.float32([self.steps, self.seed % 10, 1, -1, 0]) / 10

    def step(self, action):
        self.log["actions"].append(action)
        assert len(self.log["actions"]) < 1000, "nobody notices that episodes are over"
        self.steps += 1
        over = self.steps >= self.seed % 7 + 1
        reward = self.steps + float(action[0])
        return self.observe(), reward, over and self.seed % 2 == 0, over and self.seed % 2 == 1, {}

    def close(self):
        self.log["closed"] += 1


@pytest.fixture
def log(monkeypatch):
    """What happened in the environments that ``evaluate`` makes."""
    log = {"seeds": [], "actions": [], "sizes": [], "closed": 0}

    def make(env_id, num_envs):
        log["sizes"].append(num_envs)
        return SyncVectorEnv([lambda: Short(log)] * num_envs, copy=False)

    monkeypatch.setattr(envs, "make", make)
    return log


@struct.dataclass
class Still:
    """Acts by zeros."""

    observation_size: int = struct.field(pytree_node=False, default=5)
    action_size: int = struct.field(pytree_node=False, default=2)

    def sample(self, key, observations, weights=None):
        return jnp.zeros((len(observations), self.action_size))


@struct.dataclass
class Noise(Still):
    """Acts by its random key alone."""

    def sample(self, key, observations, weights=None):
        return jax.random.uniform(key, (len(observations), self.action_size), minval=-1)


@pytest.mark.parametrize(
    ("episodes", "parallel"), [(1, 50), (4, 4), (7, 3), (5, 2), (6, 1), (23, 50)]
)
def test_returns_are_the_sums_of_rewards_until_each_episode_ends(log, episodes, parallel):
    """The first n whole numbers add up to n (n + 1)/2."""
    result = evaluate(Still(), "short", episodes=episodes, key=KEY, parallel=parallel)
    assert result.returns.shape == result.lengths.shape == (episodes,)
    np.testing.assert_array_equal(result.returns, result.lengths * (result.lengths + 1) / 2)
    (size,) = log["sizes"]
    assert size <= parallel
    rounds = -(-episodes // size)
    assert len(log["seeds"]) == rounds * size
    count = [min(size, episodes - size * i) for i in range(rounds)]
    used = [s for i, n in enumerate(count) for s in log["seeds"][i * size : i * size + n]]
    np.testing.assert_array_equal(result.lengths, [seed % 7 + 1 for seed in used])
    assert len(set(used)) == episodes
    assert log["closed"] == size


@pytest.mark.parametrize(("episodes", "parallel"), [(3, 50), (5, 2), (4, 9)])
def test_policies_evaluated_at_once_are_each_evaluated_as_alone(log, episodes, parallel):
    """Noise of two kinds, which do not stack, and keys of their own."""
    options = {"episodes": episodes, "parallel": parallel}
    policies, keys = [Noise(), Still(), Noise(), Noise()], jax.random.split(KEY, 4)
    together = evaluate(policies, "short", key=keys, **options)
    (size,) = log["sizes"]
    assert size <= parallel
    for policy, key, found in zip(policies, keys, together, strict=True):
        log["actions"].clear()
        expected = evaluate(policy, "short", key=key, **options)
        np.testing.assert_allclose(found.returns, expected.returns, rtol=1e-6)
        np.testing.assert_array_equal(found.lengths, expected.lengths)


def test_one_policy_may_be_evaluated_with_several_keys(log):
    keys = jax.random.split(KEY, 2)
    found = evaluate(Noise(), "short", episodes=3, key=keys)
    expected = [evaluate(Noise(), "short", episodes=3, key=key) for key in keys]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.returns, other.returns, rtol=1e-6)
    with pytest.raises(ValueError, match="policy is a list of 3, but there are keys of 2 seed"):
        evaluate([Noise()] * 3, "short", episodes=3, key=keys)


def test_the_mean_and_deviation_are_those_of_the_returns(log):
    result = evaluate(Still(), "short", episodes=9, key=KEY)
    assert result.std > 0
    assert str(result) == (
        f"{result.returns.mean():.1f} ± {result.returns.std():.1f} over 9 episodes"
    )


def test_the_same_key_gives_the_same_returns_and_another_key_others(log):
    one, again, other = (
        evaluate(Noise(), "short", episodes=6, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.returns, again.returns)
    assert not set(one.returns) & set(other.returns)
    assert log["seeds"][:6] == log["seeds"][6:12]
    assert not set(log["seeds"][:6]) & set(log["seeds"][12:])


def test_no_random_number_is_used_twice(log):
    evaluate(Noise(), "short", episodes=7, key=KEY, parallel=3)
    actions = np.array(log["actions"])
    assert len(actions) > 20
    assert len(np.unique(actions[:, 0])) == len(actions)


@pytest.mark.parametrize("sizes", [(9, 2), (5, 9)])
def test_a_policy_that_does_not_fit_is_refused_and_the_environment_closed(log, sizes):
    message = rf"short has .* sizes \(5, 2\), but the policy was made for \({sizes[0]}, {sizes[1]}"
    for use in (
        lambda: evaluate(Still(*sizes), "short", episodes=3, key=KEY),
        lambda: trace_weights(Still(*sizes), "short", key=KEY),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert log["closed"] == sum(log["sizes"]) == 4


class Plain:
    """No pytree."""

    observation_size, action_size = 5, 2

    def sample(self, key, observations, weights=None):
        return jnp.zeros((len(observations), 2))


def test_an_agent_that_is_no_pytree_is_refused(log):
    with pytest.raises(TypeError, match=r"Plain is no pytree.*@flax.struct.dataclass"):
        evaluate(Plain(), lambda: Short(log), episodes=1, key=KEY)


@pytest.mark.parametrize(
    "options", [{"episodes": 0}, {"episodes": -1}, {"parallel": 0}, {"parallel": -2}]
)
def test_counts_below_one_are_refused(log, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, not {value}"):
        evaluate(Still(), "short", **{"episodes": 3, "key": KEY, **options})


def test_weights_are_traced_along_one_episode(log, gaussian, make_bank):
    policy = gaussian.with_bank(make_bank(gaussian))
    composed = ComposedPolicy.create(policy, ContextNetwork(3, (8,)), "parameter", KEY)
    composed = composed.with_context(jax.tree.map(lambda p: p + 0.1, composed.context_params))
    trace = trace_weights(composed, "short", key=jax.random.key(0))
    weights, rewards = trace.weights, trace.rewards
    (seed,) = log["seeds"]
    steps = seed % 7 + 1
    assert steps > 2
    states = np.float32([[t, seed % 10, 1, -1, 0] for t in range(steps)]) / 10
    np.testing.assert_allclose(weights, composed.weights(states), atol=1e-6)
    assert np.ptp(weights, axis=0).min() > 1e-4
    first = [composed.act(KEY, state[None])[0, 0] for state in states]
    np.testing.assert_allclose(rewards, np.arange(steps) + 1 + first, atol=1e-5)


def test_of_an_agent_that_goes_home_the_bases_reward_is_traced(log, gaussian, make_bank):
    network = Critic(hidden=())
    kernel = jnp.zeros((5, 1)).at[0].set(1.0)
    params = {"value": {"kernel": kernel, "bias": jnp.full(1, 0.5)}}
    purpose = Purpose(params, jnp.float32(2.0), gaussian.statistics, network)
    policy = gaussian.with_bank(make_bank(gaussian))
    composed = ComposedPolicy.create(policy, ConstantWeights(3, start=1.0), "parameter", KEY)
    trace = trace_weights(homing(composed, purpose, 0.2, 0.6), "short", key=jax.random.key(0))
    (seed,) = log["seeds"]
    steps = np.arange(seed % 7 + 1)
    states = np.float32([[t, seed % 10, 1, -1, 0] for t in steps]) / 10
    np.testing.assert_allclose(trace.home_rewards, purpose.reward(states) / 2, atol=1e-5)
    assert trace.switch == (0.2, 0.6)
    gate = np.clip((np.array(trace.home_rewards) - 0.2) / 0.4, 0, 1)
    np.testing.assert_allclose(trace.weights, np.tile(gate[:, None], 3), atol=1e-5)
    plain = trace_weights(composed, "short", key=jax.random.key(0))
    assert plain.home_rewards is None and plain.switch is None


def test_of_weights_by_layer_the_means_are_traced(log, gaussian, make_bank):
    policy = gaussian.with_bank(make_bank(gaussian))
    composed = ComposedPolicy.create(policy, ContextNetwork(3, (8,)), "parameter", KEY)
    first, *rest = policy.bank.layers
    weights = {path: np.zeros((3, 1)) for path in rest} | {first: np.eye(3)[:, :2]}
    trace = trace_weights(composed.with_fixed(weights), "short", key=jax.random.key(0))
    mean = np.float32([0.5, 0.5, 0]) / len(weights)
    np.testing.assert_allclose(trace.weights, np.tile(mean, (len(trace.rewards), 1)))


def test_pictures_are_taken_at_every_so_many_steps(log, gaussian, make_bank, monkeypatch):
    policy = gaussian.with_bank(make_bank(gaussian))
    composed = ComposedPolicy.create(policy, ContextNetwork(3, (8,)), "parameter", KEY)
    made = envs.make

    def with_pictures(*arguments):
        vector = made(*arguments)
        vector.render = lambda: (np.zeros((2, 2, 3)),)
        return vector

    monkeypatch.setattr(envs, "make", with_pictures)
    trace = trace_weights(composed, "short", key=jax.random.key(0), picture_every=2)
    assert [step for step, _ in trace.pictures] == list(range(0, len(trace.rewards), 2))
    assert trace_weights(composed, "short", key=jax.random.key(0)).pictures == ()


def test_a_known_actor_reaches_its_known_return():
    """Observations, their order and the scale of actions are those of its training."""
    known = local_datasets()["local/walker-stand-expert"]
    weights = BehaviorPolicy.load(known.folder, "walker-stand").weights
    backbone = GaussianBackbone(6, GaussianActor(6))
    params = traverse_util.unflatten_dict(weights, sep="/")
    policy = Policy(params, Statistics.identity(24), None, backbone)
    result = evaluate(policy, known.environment, episodes=1, key=KEY)
    np.testing.assert_array_equal(result.lengths, [1000])
    assert result.mean == pytest.approx(known.return_mean, rel=0.1)


def test_an_open_environment_gives_the_same_evaluation_again_and_stays_open():
    policy = Still(24, 6)
    vector = envs.make("dm_control/walker-walk-v0", 2)
    fresh = evaluate(policy, "dm_control/walker-walk-v0", episodes=2, key=KEY)
    for _ in range(2):
        again = evaluate(policy, vector, episodes=2, key=KEY)
        np.testing.assert_array_equal(again.returns, fresh.returns)
    assert not vector.closed
    vector.close()
