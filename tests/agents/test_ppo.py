"""PPO: its arithmetic by hand, and probe environments whose right answer is known."""

from typing import NamedTuple

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla.agents import ppo
from gla.agents.ppo import Moments, PPOConfig
from gla.envs.base import Environment, timestep
from gla.envs.splits import run_keys, task_key
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError

# Advantages by hand, gamma = lambda = 1/2, so later advantages count a quarter:
# deltas 1 + 0.5 * 1 - 0.5 = 1, 2 + 0.5 * 1.5 - 1 = 1.75, 3 + 0.5 * 4 - 1.5 = 3.5.
REWARD = np.array([1.0, 2.0, 3.0], np.float32)
VALUE = np.array([0.5, 1.0, 1.5], np.float32)
NEXT_VALUE = np.array([1.0, 1.5, 4.0], np.float32)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        ((0, 0, 0), (0, 0, 0), (1 + 0.25 * 2.625, 1.75 + 0.25 * 3.5, 3.5)),
        # No value follows a terminated step, and nothing after it counts.
        ((0, 1, 0), (0, 0, 0), (1 + 0.25 * 1.0, 2 - 1.0, 3.5)),
        # The value follows a truncated step, but nothing after it counts.
        ((0, 0, 0), (0, 1, 0), (1 + 0.25 * 1.75, 1.75, 3.5)),
        ((0, 0, 1), (0, 0, 0), (1 + 0.25 * 2.125, 1.75 + 0.25 * 1.5, 1.5)),
        ((0, 0, 0), (0, 0, 1), (1 + 0.25 * 2.625, 1.75 + 0.25 * 3.5, 3.5)),
        # Both at once: the task ended.
        ((0, 1, 0), (0, 1, 0), (1 + 0.25 * 1.0, 1.0, 3.5)),
    ],
)
def test_advantages_by_hand(terminated, truncated, expected):
    ends = [np.array(x, bool) for x in (terminated, truncated)]
    found = ppo.advantages(REWARD, VALUE, NEXT_VALUE, *ends, 0.5, 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Columns do not mix.
    other = np.zeros(3, bool)
    both = ppo.advantages(
        *(np.stack([x, x], 1) for x in (REWARD, VALUE, NEXT_VALUE)),
        *(np.stack([x, other], 1) for x in ends), 0.5, 0.5,
    )  # fmt: skip
    np.testing.assert_allclose(both[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(both[:, 1], (1.65625, 2.625, 3.5), rtol=1e-6)


def test_without_lambda_advantages_are_deltas_and_with_one_they_are_returns():
    ends = np.zeros(3, bool)
    parts = (REWARD, VALUE, NEXT_VALUE, ends, ends)
    np.testing.assert_allclose(ppo.advantages(*parts, 0.5, 0.0), [1.0, 1.75, 3.5], rtol=1e-6)
    # With consistent next values, lambda 1 gives the discounted return less the value.
    parts = (REWARD, VALUE, np.append(VALUE[1:], np.float32(4.0)), ends, ends)
    returns = [1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 4, 2 + 0.5 * 3 + 0.25 * 4, 3 + 0.5 * 4]
    np.testing.assert_allclose(ppo.advantages(*parts, 0.5, 1.0), returns - VALUE, rtol=1e-6)


def test_running_moments_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3.0, 2.0, (size, 2)).astype(np.float32) for size in (1, 7, 20)]
    moments = Moments(jnp.zeros(()), jnp.zeros(2), jnp.zeros(2))
    for batch in batches:
        moments = ppo.merge_moments(moments, batch)
    everything = np.concatenate(batches)
    assert float(moments.weight) == 28
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-5)


def test_rewards_are_scaled_by_the_spread_of_the_discounted_return():
    shape = pol.PolicyShape(1, 1, 2)
    config = PPOConfig(num_envs=2, num_steps=3, minibatches=1, hidden=2)
    state = ppo.init(jax.random.key(0), shape, config)
    state = state._replace(running_return=jnp.asarray([10.0, 0.0]))
    reward = np.array([[1.0, 2.0], [3.0, -1.0], [1000.0, 0.0]], np.float32)
    false = np.zeros((3, 2), bool)
    terminated, truncated = false.copy(), false.copy()
    terminated[0, 0] = truncated[1, 1] = True
    rollout = ppo.Rollout(*[None] * 5, reward, terminated, truncated, None)
    state, scaled = ppo.scale_rewards(state, rollout, 0.5)
    # Left: 10 / 2 + 1 = 6 and the episode ends; 3; 3 / 2 + 1000. Right: 2; 0, cut; 0.
    returns = np.array([[6.0, 2.0], [3.0, 0.0], [1001.5, 0.0]])
    deviation = returns.std()
    expected = reward / deviation
    np.testing.assert_allclose(scaled, expected, rtol=1e-3)
    np.testing.assert_allclose(state.running_return, [1001.5, 0.0], rtol=1e-6)
    assert float(state.return_moments.variance) == pytest.approx(deviation**2, rel=1e-3)
    # Scaled rewards are clipped: nothing varies here, so the scale is huge.
    calm = rollout._replace(reward=np.full((3, 2), 5.0, np.float32), terminated=~false)
    quiet = ppo.init(jax.random.key(0), shape, config)
    np.testing.assert_array_equal(ppo.scale_rewards(quiet, calm, 0.5)[1], 10.0)


# Probes


class ProbeParams(NamedTuple):
    """What the probe rewards: `constant`, plus a coin of +-`coin`, less `weight` (a - target)^2.

    The target is `target`, times the observation if `look`; episodes end after `length` steps.
    """

    constant: float = 0.0
    coin: float = 0.0
    weight: float = 0.0
    target: float = 0.0
    look: bool = False
    length: int = 1


class ProbeState(NamedTuple):
    side: jax.Array
    steps: jax.Array


class Probe(Environment):
    """Observes +-1, drawn anew at every step."""

    name = "Probe"
    horizon = 5
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def sample_params(self, key):
        raise AssertionError("the test gives the task")

    def reset(self, key, params):
        side = jax.random.rademacher(key, (1,), jnp.float32)
        return ProbeState(side, jnp.int32(0)), side

    def step(self, key, state, action, params):
        coin_key, side_key = jax.random.split(key)
        chosen = action[0] if action.ndim else 2.0 * action - 1.0  # discrete actions: -1 or 1
        target = params.target * jnp.where(params.look, state.side[0], 1.0)
        reward = params.constant - params.weight * (chosen - target) ** 2
        reward += params.coin * jax.random.rademacher(coin_key, (), jnp.float32)
        side = jax.random.rademacher(side_key, (1,), jnp.float32)
        after = ProbeState(side, state.steps + 1)
        ends = after.steps >= params.length
        return after, timestep(side, reward, ends, jnp.zeros((), bool))


class DiscreteProbe(Probe):
    action_space = gymnasium.spaces.Discrete(2)


CONFIG = PPOConfig(
    num_envs=8, num_steps=20, num_updates=60, epochs=4, minibatches=2, learning_rate=1e-2,
    gamma=0.8, clip=0.5, hidden=8,
)  # fmt: skip


def make_train(env):
    def train(seed, params):
        keys = run_keys(jax.random.fold_in(task_key("train", 0), seed))
        return ppo.train(keys, Autoreset(TimeLimit(env)), params, CONFIG, CONFIG.num_envs)

    # One program for all tasks and seeds: a second trace would be an error.
    return jax.jit(chex.assert_max_traces(train, n=1))


@pytest.fixture(scope="module")
def train():
    run = make_train(Probe())
    return lambda **params: run(0, jax.tree.map(jnp.asarray, ProbeParams(**params)))


SIDES = jnp.asarray([[-1.0], [1.0]])


def test_the_value_of_one_step_is_its_mean_reward(train):
    # The reward is 0 or 2 at random, so its spread is 1 and scaled rewards are rewards.
    learner, _ = train(constant=1.0, coin=1.0)
    np.testing.assert_allclose(ppo.value_of(learner, SIDES), 1.0, atol=0.25)


def test_a_policy_finds_the_best_constant_action(train):
    learner, record = train(weight=1.0, target=0.6)
    mean, log_std = pol.gaussian(learner.policy, SIDES)
    np.testing.assert_allclose(mean, 0.6, atol=0.15)
    assert float(log_std[0]) < -0.8, "exploring costs reward"
    assert record["mean_return"][-1] > record["mean_return"][0] + 0.5


def test_a_policy_finds_the_action_that_the_observation_asks_for(train):
    learner, _ = train(weight=1.0, target=0.7, look=True)
    mean, _ = pol.gaussian(learner.policy, SIDES)
    np.testing.assert_allclose(mean, [[-0.7], [0.7]], atol=0.15)


def test_truncation_bootstraps_and_termination_does_not(train):
    # A reward of 1 at every step for ever is worth 1 / (1 - 0.8) = 5. Cut off every 5 steps, it
    # still is. Ended every 5 steps, it is worth 1 to 3.36 depending on the step, 2.31 on average.
    returns = np.cumsum(0.8 ** np.arange(5))
    scale = returns.std()
    truncated, record = train(constant=1.0, length=1000)
    assert record["truncated"].any() and not record["terminated"].any()
    np.testing.assert_allclose(ppo.value_of(truncated, SIDES), 5.0 / scale, rtol=0.1)
    terminated, record = train(constant=1.0, length=5)
    assert record["terminated"].any() and not record["truncated"].any()
    np.testing.assert_allclose(ppo.value_of(terminated, SIDES), returns.mean() / scale, rtol=0.15)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_discrete_policy_finds_the_action_that_the_observation_asks_for(seed, discrete_train):
    learner, record = discrete_train(
        seed, jax.tree.map(jnp.asarray, ProbeParams(weight=1.0, target=1.0, look=True))
    )
    p = jax.nn.softmax(pol.output(learner.policy, SIDES))
    assert p[0, 0] > 0.95 and p[1, 1] > 0.95
    assert record["action"].dtype == jnp.int32 and record["distribution"].shape[-1] == 2


@pytest.fixture(scope="module")
def discrete_train():
    return make_train(DiscreteProbe())


def test_the_record_is_what_happened(train):
    learner, record = train(weight=1.0, target=0.6)
    record = jax.tree.map(np.asarray, record)
    stream, shape = (8, 60, 20), pol.PolicyShape(1, 1, 8)
    assert record["observation"].shape == (*stream, 1) and record["action"].shape == (*stream, 1)
    assert record["reward"].shape == stream and record["policy"].shape == (60, shape.size)
    np.testing.assert_allclose(
        record["reward"], -((record["action"][..., 0] - 0.6) ** 2), atol=1e-5
    )
    # Episodes have one step.
    np.testing.assert_allclose(record["mean_return"], record["reward"].mean((0, 2)), rtol=1e-4)
    policies = pol.unflatten(shape, record["policy"])
    # The first policy normalises by nothing, later ones by all that was seen before them.
    assert policies.mean[0] == 0 and policies.std[0] == 1
    for update in (1, 30, 59):
        seen = record["observation"][:, :update]
        np.testing.assert_allclose(policies.mean[update], seen.mean(), atol=1e-3)
        np.testing.assert_allclose(policies.std[update], seen.std(), rtol=1e-3)
    np.testing.assert_allclose(learner.policy.mean, record["observation"].mean(), atol=1e-3)
    np.testing.assert_array_equal(record["log_std"], np.clip(policies.log_std, *pol.LOG_STD_RANGE))


def test_the_normaliser_is_moved_by_what_was_seen_and_by_no_gradient(train):
    learner, _ = train(weight=1.0, target=0.6)
    np.testing.assert_allclose(learner.policy.mean, learner.observation_moments.mean)
    assert learner.critic.mean.tolist() == [0.0] and learner.critic.std.tolist() == [1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_envs": 0},
        {"num_updates": 0},
        {"hidden": -1},
        {"gamma": 1.1},
        {"gae_lambda": -0.1},
        {"learning_rate": 0.0},
        {"clip": float("nan")},
        {"max_grad_norm": -1.0},
        {"num_envs": 3, "num_steps": 5, "minibatches": 4},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match="ppo "):
        PPOConfig(**settings)
