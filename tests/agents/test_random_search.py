"""Random search within one lifetime: what is kept, what is tried, and that it gets somewhere."""

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.agents.base import Agent
from gla.agents.random_search import RandomSearch, RandomSearchConfig, judge, random_search
from gla.errors import GlaError

OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
CONTINUOUS = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
TWO = gymnasium.spaces.Discrete(2)
SPACES = {"continuous": CONTINUOUS, "discrete": TWO}
LENGTH = 6  # steps of the probe's episodes


def keys_of(rows, step):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(5), i), step))(
        jnp.arange(rows)
    )


def live(agent, space, rows, steps, ends="terminated"):
    """Live on a probe: observes 9 or 11, x more or less than 10, earns -(action - 0.7 x)^2.

    Discrete actions count as -1 and 1. Returns the last state, and actions, rewards and numbers of
    trials [steps, rows].
    """

    def one(carry, step):
        state, side, reward = carry
        done = jnp.broadcast_to((step > 0) & (step % LENGTH == 0), (rows,))
        flags = [done & (ends == name) for name in ("terminated", "truncated")]
        state, action = agent.act(state, side + 10.0, reward, *flags, keys_of(rows, 2 * step + 1))
        chosen = action[:, 0] if action.ndim == 2 else 2.0 * action - 1.0
        reward = -((chosen - 0.7 * side[:, 0]) ** 2)
        side = jax.vmap(lambda k: jax.random.rademacher(k, (1,), jnp.float32))(
            keys_of(rows, 2 * step + 2)
        )
        return (state, side, reward), (action, reward, state.trial)

    @jax.jit
    def run():
        state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, space)
        carry = (state, jnp.ones((rows, 1)), jnp.zeros(rows))
        (state, _, _), record = jax.lax.scan(one, carry, jnp.arange(steps))
        return state, *record

    return jax.tree.map(np.asarray, run())


@pytest.mark.parametrize(("kind", "best"), [("continuous", 0.0), ("discrete", -0.09)])
@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_it_finds_what_the_observation_asks_for(kind, best, ends):
    rows = 8
    _, action, reward, trial = live(RandomSearch(), SPACES[kind], rows, 1200, ends)
    np.testing.assert_array_equal(trial, np.arange(1200)[:, None] // LENGTH + np.zeros(rows))
    np.testing.assert_array_equal(action[:LENGTH], 0)
    assert reward[:LENGTH].mean() < best - 0.35
    playing_the_incumbent = trial[:, 0] % RandomSearchConfig().period == 0
    assert reward[-200:][playing_the_incumbent[-200:]].mean() > best - 0.12
    assert np.abs(action).max() <= 1
    shape, dtype = ((1200, rows, 1), np.float32) if kind == "continuous" else ((1200, rows), "i4")
    assert action.shape == shape and action.dtype == dtype


@pytest.mark.parametrize("ends", ["terminated", "never"])
def test_a_trial_ends_where_the_episode_does_not(ends):
    agent = RandomSearch(RandomSearchConfig(longest=4))
    _, _, reward, trial = live(agent, CONTINUOUS, 8, 600, ends)
    numbers = np.arange(600) // 4
    if ends == "terminated":  # episodes of 6 steps: trials of 4 and 2
        numbers = 2 * (np.arange(600) // 6) + (np.arange(600) % 6 >= 4)
    np.testing.assert_array_equal(trial[:, 0], numbers)
    if ends == "never":
        assert reward[-100:].mean() > reward[:20].mean() + 0.1


# One lifetime by hand

CONFIG = RandomSearchConfig(scale=1.0, grow=2.0, shrink=0.5, smallest=0.2, period=4)


def fresh():
    state = RandomSearch(CONFIG).init(keys_of(1, 0), 1, OBSERVATIONS, CONTINUOUS)
    return jax.tree.map(lambda leaf: leaf[0], state)


def end(state, total, key=0):
    """End a trial in which so much was earned."""
    return judge(state._replace(total=jnp.float32(total)), jax.random.key(key), CONFIG)


def test_the_incumbent_comes_first_and_then_now_and_then():
    state, played = fresh(), []
    for trial in range(12):
        assert int(state.trial) == trial
        played.append(bool((state.change == 0).all()))
        state = end(state, -1.0, trial)
    assert played == [trial % 4 == 0 for trial in range(12)]
    assert (state.weights == 0).all() and float(state.mean) == -1 and float(state.plays) == 3


def test_a_change_that_earns_more_is_kept():
    state = end(fresh(), 1.0)
    after = end(state, 2.0)
    np.testing.assert_allclose(after.weights, state.change)
    assert float(after.mean) == 2 and float(after.plays) == 1 and float(after.scale) == 2
    assert float(after.total) == 0 and int(after.steps) == 0
    assert (after.change != 0).all() and not np.allclose(np.abs(after.change), abs(state.change))


def test_after_a_failure_comes_the_opposite_and_then_something_else():
    state = end(fresh(), 1.0)
    failed = end(state, 0.5, 1)
    np.testing.assert_array_equal(failed.change, -state.change)
    assert (failed.weights == 0).all() and float(failed.mean) == 1 and float(failed.scale) == 0.5
    again = end(failed, 0.5, 2)
    assert not np.allclose(np.abs(again.change), np.abs(state.change))
    assert float(again.scale) == 0.25
    assert float(end(end(again, 0.5), 0.5).scale) == np.float32(CONFIG.smallest)


def test_a_lucky_episode_does_not_last():
    state = end(end(fresh(), 0.0), 100.0)
    lucky = state.weights
    for trial in range(2, 5):  # two other changes, then the incumbent itself
        state = end(state, 0.0, trial)
    assert float(state.mean) == 50 and float(state.plays) == 2
    for trial in range(5, 79):
        state = end(state, 0.0, trial)
    np.testing.assert_array_equal(state.weights, lucky)
    assert float(state.mean) == pytest.approx(100 / 20)
    assert (end(state, 6.0).weights != lucky).any()


def test_changes_have_the_scale_that_is_said():
    state = end(fresh(), 1.0)._replace(scale=jnp.float32(3.0), trial=jnp.int32(4))
    changes = jax.vmap(lambda key: judge(state, key, CONFIG).change)(
        jax.random.split(jax.random.key(0), 2000)
    )
    # Outputs add up one observation of unit size and a bias.
    assert np.std(np.sum(changes, 1)) == pytest.approx(3.0, rel=0.1)


def test_a_lifetime_is_the_same_in_any_company():
    _, alone, earned, _ = live(RandomSearch(), TWO, 1, 200)
    _, together, also, _ = live(RandomSearch(), TWO, 3, 200)
    np.testing.assert_array_equal(together[:, :1], alone)
    np.testing.assert_allclose(also[:, :1], earned, rtol=1e-5)
    assert (together[:, 1] != together[:, 0]).any()


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_it_is_traced_once(kind):
    agent, rows = RandomSearch(), 2
    chex.clear_trace_counter()
    act = jax.jit(chex.assert_max_traces(agent.act, n=1), donate_argnums=0)
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, SPACES[kind])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    seen, no = np.ones((rows, 1), np.float32), np.zeros(rows, bool)
    for t in range(4):
        state, action = act(state, seen, no * np.float32(1), ~no, no, keys_of(rows, t))
        assert action.shape == ((rows,) if kind == "discrete" else (rows, 1))
        action = np.asarray(action)  # the state holds it too, and is given up
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == shapes


def test_the_factory_gives_an_agent():
    agent = random_search()
    assert isinstance(agent, Agent) and agent.name == "random search"
    assert agent.jittable and agent.view is None and agent.config == RandomSearchConfig()


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 0.0},
        {"scale": 0.01},
        {"grow": 0.9},
        {"shrink": 0.0},
        {"shrink": 1.1},
        {"smallest": 0.0},
        {"smallest": float("nan")},
        {"period": 1},
        {"longest": 0},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match="random search "):
        RandomSearchConfig(**settings)
