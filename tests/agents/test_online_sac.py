"""Soft actor-critic within one lifetime: it learns, and its parts are what the papers say."""

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import distributions as dist
from gla.agents import online_sac
from gla.agents.base import Agent
from gla.agents.online_sac import Batch, OnlineSAC, OnlineSACConfig, sac
from gla.errors import GlaError

OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
CONTINUOUS = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
TWO = gymnasium.spaces.Discrete(2)
SPACES = {"continuous": CONTINUOUS, "discrete": TWO}
SMALL = OnlineSACConfig(
    start=20, batch=16, capacity=300, hidden=16, learning_rate=1e-2, tau=0.05, gamma=0.8
)


def keys_of(rows, step):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(5), i), step))(
        jnp.arange(rows)
    )


def live(agent, space, rows, steps):
    """Live on a probe: observes 9 or 11, x more or less than 10, earns -(action - 0.7 x)^2.

    Discrete actions count as -1 and 1. Returns the last state, actions and rewards [steps, rows].
    """

    def one(carry, step):
        state, side, reward = carry
        done = jnp.broadcast_to(step > 0, (rows,))  # episodes have one step
        no = jnp.zeros(rows, bool)
        state, action = agent.act(state, side + 10.0, reward, done, no, keys_of(rows, 2 * step + 1))
        chosen = action[:, 0] if action.ndim == 2 else 2.0 * action - 1.0
        reward = -((chosen - 0.7 * side[:, 0]) ** 2)
        side = jax.vmap(lambda k: jax.random.rademacher(k, (1,), jnp.float32))(
            keys_of(rows, 2 * step + 2)
        )
        return (state, side, reward), (action, reward)

    @jax.jit
    def run():
        state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, space)
        carry = (state, jnp.ones((rows, 1)), jnp.zeros(rows))
        (state, _, _), record = jax.lax.scan(one, carry, jnp.arange(steps))
        return state, *record

    return jax.tree.map(np.asarray, run())


@pytest.mark.parametrize(("kind", "best"), [("continuous", 0.0), ("discrete", -0.09)])
def test_it_learns_what_the_observation_asks_for(kind, best):
    _, action, reward = live(OnlineSAC(SMALL), SPACES[kind], 2, 600)
    assert (reward[:20].mean(0) < best - 0.4).all()
    assert (reward[-100:].mean(0) > best - 0.15).all()
    if kind == "continuous":
        assert action.dtype == np.float32 and action.shape == (600, 2, 1)
        assert np.abs(action).max() <= 1.0
    else:
        assert action.dtype == np.int32 and action.shape == (600, 2)


def draw(rng, steps, rows):
    """Things that an agent might be shown, all kinds of ends among them."""
    ends = rng.random((steps, rows))
    shown = (
        rng.normal(size=(steps, rows, 1)).astype(np.float32),
        rng.normal(size=(steps, rows)).astype(np.float32),
        ends < 0.2,
        ends > 0.8,
    )
    for part in shown[1:]:
        part[0] = 0  # nothing comes with the first observation
    return shown


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_buffer_holds_the_last_steps_as_they_were_shown(kind):
    config = OnlineSACConfig(start=30, capacity=7, batch=4, hidden=4)
    agent, rows, steps = OnlineSAC(config), 2, 18
    shown = draw(np.random.default_rng(0), steps, rows)
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, SPACES[kind])
    act, actions = jax.jit(agent.act), []
    for t in range(steps):
        state, action = act(state, *(part[t] for part in shown), keys_of(rows, t))
        actions.append(np.asarray(action, np.float32).reshape(rows, 1))
    observation, reward, terminated, truncated = shown
    for t in range(steps - 8, steps - 1):  # the last but the one under way
        # What a truncated episode ended in is not shown: what was seen before stands in.
        cut = truncated[t + 1][:, None]
        following = np.where(cut, observation[t], observation[t + 1])
        expected = np.concatenate(
            [observation[t], actions[t], reward[t + 1][:, None], terminated[t + 1][:, None],
             following], -1,
        )  # fmt: skip
        np.testing.assert_allclose(state.buffer[t % 7], expected, rtol=1e-6)
    moments = state.statistics.observation
    np.testing.assert_allclose(moments.mean, observation.mean(0), atol=1e-3)
    np.testing.assert_allclose(moments.variance, observation.var(0), rtol=1e-3)
    # Discounted returns, each from the beginning of its episode.
    returns, running = [], np.zeros(rows)
    for t in range(1, steps):
        running = running * config.gamma + reward[t]
        returns.append(running)
        running = np.where(terminated[t] | truncated[t], 0.0, running)
    np.testing.assert_allclose(state.statistics.returns.mean, np.mean(returns, 0), atol=1e-3)
    np.testing.assert_allclose(state.statistics.returns.variance, np.var(returns, 0), rtol=1e-3)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_it_acts_uniformly_until_it_learns(kind):
    config = OnlineSACConfig(start=5, batch=4, capacity=20, hidden=4)
    agent, rows = OnlineSAC(config), 200
    shown = draw(np.random.default_rng(0), 6, rows)
    first = state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, SPACES[kind])
    act = jax.jit(agent.act)
    for t in range(6):
        state, action = act(state, *(part[t] for part in shown), keys_of(rows, t + 1))
        same = jax.tree.map(lambda a, b: (a == b).all(), state.learner, first.learner)
        assert all(jax.tree.leaves(same)) == (t < 5)
        if t < 5 and kind == "continuous":
            assert np.abs(action).max() <= 1 and np.std(action) == pytest.approx(3**-0.5, rel=0.15)
        elif t < 5:
            assert set(np.asarray(action)) == {0, 1} and abs(np.mean(action) - 0.5) < 0.15


def test_a_squashed_gaussian_has_the_density_that_it_says():
    rng = np.random.default_rng(0)
    outputs = rng.uniform(-1.5, 1.5, (50, 6)).astype(np.float32)
    noise = rng.normal(size=(50, 3)).astype(np.float32)
    action, log_prob = online_sac.squashed_gaussian(outputs, noise)
    mean, log_std = outputs[:, :3], outputs[:, 3:]
    np.testing.assert_allclose(action, np.tanh(mean + np.exp(log_std) * noise), rtol=1e-5)
    inside = (np.abs(action) < 0.99).all(-1)
    expected = dist.tanh_gaussian_log_prob(action, mean, log_std)
    np.testing.assert_allclose(log_prob[inside], expected[inside], rtol=1e-3, atol=1e-3)
    far, density = online_sac.squashed_gaussian(jnp.array([40.0, 1.0]), jnp.zeros(1))
    assert far == 1.0 and np.isfinite(density)


def linear(*rows):
    """A network of one layer without bias."""
    weight = jnp.asarray(rows, jnp.float32)
    return ((weight, jnp.zeros(weight.shape[1])),)


def test_soft_values_by_hand():
    observation = jnp.ones((1, 1))
    critics = (linear([1.0, 4.0]), linear([2.0, 3.0]))  # the lesser: 1 and 3
    p = np.array([0.25, 0.75])
    entropy = -(p * np.log(p)).sum()
    value, found = online_sac.soft_value(
        linear(np.log(p)), critics, jnp.float32(0.5), observation, None
    )
    np.testing.assert_allclose(value, 0.25 * 1 + 0.75 * 3 + 0.5 * entropy, rtol=1e-5)
    np.testing.assert_allclose(found, entropy, rtol=1e-5)
    # Continuous: mean 0.5, standard deviation 1, the sample 0.5 + 1 * 0.2.
    noise, policy = jnp.full((1, 1), 0.2), linear([0.5, 0.0])
    action = np.tanh(0.7)
    log_prob = -0.5 * 0.2**2 - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)
    critics = (linear([1.0], [2.0]), linear([3.0], [-1.0]))
    least = min(1 + 2 * action, 3 - action)
    value, found = online_sac.soft_value(policy, critics, jnp.float32(0.5), observation, noise)
    np.testing.assert_allclose(value, least - 0.5 * log_prob, rtol=1e-5)
    np.testing.assert_allclose(found, -log_prob, rtol=1e-5)


def test_every_loss_moves_its_own_network():
    networks = online_sac.Networks(
        linear([0.2, -0.1]), (linear([1.0, 2.0]), linear([0.5, 3.0])), jnp.log(jnp.float32(0.1))
    )
    targets = (linear([4.0, 6.0]), linear([5.0, 5.0]))
    p = np.exp([0.2, -0.1]) / np.exp([0.2, -0.1]).sum()
    entropy = -(p * np.log(p)).sum()
    one = jnp.ones((2, 1))
    batch = Batch(one, jnp.array([0, 1]), jnp.array([1.0, 2.0]), jnp.array([False, True]), one)
    grads = jax.grad(online_sac._loss)(networks, targets, batch, None, 0.5, 0.3)
    # The lesser target is 4 for action 0 and 5 for action 1; nothing follows the second step.
    goal = np.array([1 + 0.5 * (p @ [4.0, 5.0] + 0.1 * entropy), 2.0])
    for critic, gradient in zip([[1.0, 2.0], [0.5, 3.0]], grads.critics, strict=True):
        # Each action was done in one of the two steps.
        np.testing.assert_allclose(gradient[0][0][0], (critic - goal) / 2, rtol=1e-5)
    # Downhill for the policy is uphill for p @ (0.5, 2) + 0.1 entropy; logits by the chain rule.
    worth = np.array([0.5, 2.0]) - 0.1 * np.log(p)
    np.testing.assert_allclose(grads.policy[0][0][0], -p * (worth - p @ worth), rtol=1e-4)
    # More entropy than asked for: the temperature falls.
    np.testing.assert_allclose(grads.log_temperature, entropy - 0.3, rtol=1e-5)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_targets_follow_the_critics(kind):
    state, _, _ = live(OnlineSAC(SMALL), SPACES[kind], 1, 100)
    after, _, _ = live(OnlineSAC(SMALL), SPACES[kind], 1, 101)
    jax.tree.map(
        lambda old, new, critic: np.testing.assert_allclose(
            new, 0.95 * old + 0.05 * critic, rtol=1e-4, atol=1e-5
        ),
        state.learner.targets, after.learner.targets, after.learner.networks.critics,
    )  # fmt: skip


def test_a_lifetime_is_the_same_in_any_company():
    agent = OnlineSAC(SMALL)
    _, alone, earned = live(agent, TWO, 1, 60)
    _, together, also = live(agent, TWO, 3, 60)
    np.testing.assert_array_equal(together[:, :1], alone)
    np.testing.assert_allclose(also[:, :1], earned, rtol=1e-5)
    assert (together[:, 1] != together[:, 0]).any()


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_it_is_traced_once(kind):
    agent, rows = OnlineSAC(SMALL), 2
    chex.clear_trace_counter()
    act = jax.jit(chex.assert_max_traces(agent.act, n=1), donate_argnums=0)
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, SPACES[kind])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    shown = draw(np.random.default_rng(1), SMALL.start + 2, rows)
    for t in range(SMALL.start + 2):
        state, action = act(state, *(part[t] for part in shown), keys_of(rows, t))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == shapes
    assert action.shape == ((rows,) if kind == "discrete" else (rows, 1))
    assert int(state.step) == SMALL.start + 2


def test_without_rewards_it_stays_finite():
    agent, rows = OnlineSAC(SMALL), 2
    act = jax.jit(agent.act)
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, CONTINUOUS)
    no, nothing = np.zeros(rows, bool), np.zeros((rows, 1), np.float32)
    for t in range(2 * SMALL.start):
        state, action = act(state, nothing, no * np.float32(1), no, no, keys_of(rows, t))
    assert np.isfinite(action).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.learner))


def test_the_factory_gives_an_agent():
    agent = sac()
    assert isinstance(agent, Agent) and agent.name == "SAC, online"
    assert agent.jittable and agent.view is None and agent.config == OnlineSACConfig()


@pytest.mark.parametrize(
    "settings",
    [
        {"start": 0},
        {"batch": 0},
        {"capacity": 0},
        {"hidden": 0},
        {"learning_rate": 0.0},
        {"gamma": 1.5},
        {"tau": 0.0},
        {"tau": float("nan")},
        {"target_entropy": float("inf")},
        {"discrete_target_entropy": 1.1},
        {"initial_temperature": 0.0},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match=f"sac {next(iter(settings))}"):
        OnlineSACConfig(**settings)
