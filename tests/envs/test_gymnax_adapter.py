"""gymnax environments behind our protocol: honest episode ends, new goals, plain errors.

That they give gymnax's numbers is in `test_parity.py`; types, spaces and resets of every id are in
`test_conformance.py`.
"""

import gymnax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from gla.envs.gymnax_adapter import GymnaxEnvironment
from gla.envs.wrappers import Autoreset, TimeLimit, random_action
from gla.errors import GlaError

NAMES = [name for name in gymnax.registered_envs if name.rpartition("-")[2] != "MinAtar"]
NAMES.remove("MNISTBandit-bsuite")  # downloads a data set


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_horizon_are_those_of_gymnax(name):
    simulator, params = gymnax.make(name)
    env = GymnaxEnvironment(name)
    space = simulator.observation_space(params)
    size = space.n if name == "FrozenLake-misc" else int(np.prod(space.shape))
    assert env.observation_space.shape == (size,)
    assert env.horizon == params.max_steps_in_episode and env.distinct_tasks == 1
    # Where steps change the type of a number, the start has the type of the steps.
    key = jax.random.key(0)
    state = jax.eval_shape(env.reset, key, env.sample_params(key))[0]
    action = jnp.zeros(env.action_space.shape)
    after = jax.eval_shape(env.step, key, state, action, env.sample_params(key))[0]
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)


def test_discrete_observations_are_one_hot():
    env = GymnaxEnvironment("FrozenLake-misc", is_slippery=False)
    key = jax.random.key(0)
    params = env.sample_params(key)
    state, first = env.reset(key, params)
    np.testing.assert_array_equal(first, np.eye(16)[0])
    _, ts = env.step(key, state, jnp.int32(2), params)  # right
    np.testing.assert_array_equal(ts.observation, np.eye(16)[1])
    assert env.observation_space.contains(np.asarray(first))


def test_the_clock_of_discounting_chain_runs_by_gymnaxs_limit():
    env = GymnaxEnvironment("DiscountingChain-bsuite")
    key = jax.random.key(0)
    params = env.sample_params(key)
    state, _ = env.reset(key, params)
    _, ts = env.step(key, state, jnp.int32(3), params)
    np.testing.assert_allclose(ts.observation, [3.0, 0.01])


def test_the_limit_in_the_params_never_ends_an_episode():
    env = GymnaxEnvironment("CartPole-v1")
    key = jax.random.key(0)
    params = env.sample_params(key).replace(max_steps_in_episode=jnp.int32(1))
    state, _ = env.reset(key, params)
    for action in (0, 1, 0):
        state, ts = env.step(key, state, jnp.int32(action), params)
        assert not ts.terminated and not ts.truncated


@pytest.mark.parametrize("name", ["Pendulum-v1", "Reacher-misc", "PointRobot-misc"])
def test_the_time_limit_truncates_and_never_terminates(name):
    env = GymnaxEnvironment(name)
    assert env.horizon == gymnax.make(name)[1].max_steps_in_episode
    limited = TimeLimit(env)
    params = env.sample_params(jax.random.key(0))

    def body(states, key):
        action = random_action(key, env.action_space)
        free, free_ts = env.step(key, states[0], action, params)
        state, ts = limited.step(key, states[1], action, params)
        return (free, state), (free_ts, ts)

    start = (env.reset(jax.random.key(0), params)[0], limited.reset(jax.random.key(0), params)[0])
    _, (free, ts) = jax.lax.scan(body, start, jax.random.split(jax.random.key(1), env.horizon + 5))
    assert not free.terminated.any() and not free.truncated.any()
    assert not ts.terminated.any()
    assert int(np.argmax(ts.truncated)) == env.horizon - 1


@pytest.mark.parametrize(
    ("name", "goal"), [("PointRobot-misc", "goal"), ("Reacher-misc", "goal_xy")]
)
def test_goals_are_new_after_every_autoreset(name, goal):
    env = Autoreset(TimeLimit(GymnaxEnvironment(name), 3))
    params = env.sample_params(jax.random.key(0))

    def body(state, key):
        state, ts = env.step(key, state, random_action(key, env.action_space), params)
        return state, getattr(state.inner, goal)

    state, _ = env.reset(jax.random.key(0), params)
    _, goals = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 12))
    # Goals change after steps 3, 6, 9 and 12, and stay in between.
    assert len(np.unique(np.asarray(goals), axis=0)) == 5
    np.testing.assert_array_equal(goals[2], goals[4])


def test_actions_are_clipped_then_scaled():
    env = GymnaxEnvironment("Pendulum-v1")
    np.testing.assert_allclose(env.scale_action(jnp.array([0.5])), [1.0])
    np.testing.assert_allclose(env.scale_action(jnp.array([-7.0])), [-2.0])
    point = GymnaxEnvironment("PointRobot-misc")
    np.testing.assert_allclose(point.scale_action(jnp.array([1.0, -2.0])), [0.1, -0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["Catch-bsuite", "FourRooms-misc", "MetaMaze-misc", "Pong-misc", "Pendulum-v1"]
)
def test_pictures_are_gymnaxs_or_our_own(name):
    env = GymnaxEnvironment(name)
    assert env.can_render
    key = jax.random.key(0)
    params = env.sample_params(key)
    step = jax.jit(env.step)
    state, _ = env.reset(key, params)
    first = env.render(state, params)
    assert first.shape == (256, 256, 3) and first.dtype == np.uint8 and first.std() > 5
    for i in range(8):
        action = random_action(jax.random.key(i), env.action_space)
        state, _ = step(jax.random.key(i), state, action, params)
    assert (env.render(state, params) != first).any()
    assert not plt.get_fignums()  # nothing stays open


def test_the_others_have_no_pictures():
    env = GymnaxEnvironment("MemoryChain-bsuite")
    assert not env.can_render
    with pytest.raises(GlaError, match="MemoryChain-bsuite has no pictures"):
        env.render(None, None)


def test_an_unknown_name_suggests_near_matches():
    with pytest.raises(GlaError, match=r"did you mean .*Pendulum-v1"):
        GymnaxEnvironment("Pendulum-v0")
