"""gymnax environments behind our protocol: the same numbers, honest episode ends, new goals."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.gymnax_adapter import GymnaxEnvironment
from gla.envs.wrappers import Autoreset, TimeLimit, random_action
from gla.errors import GlaError

NAMES = [
    "Pendulum-v1",
    "Reacher-misc",
    "PointRobot-misc",
    "MountainCarContinuous-v0",
    "CartPole-v1",
]


def ours(name, keys, actions):
    """Steps with resets at termination, through the adapter."""
    env = GymnaxEnvironment(name)
    params = env.sample_params(keys[0])

    def body(state, inputs):
        key, action = inputs
        state, ts = env.step(key, state, action, params)
        fresh, _ = env.reset(key, params)
        state = jax.tree.map(lambda a, b: jnp.where(ts.terminated, a, b), fresh, state)
        return state, (ts.observation, ts.reward, ts.terminated)

    return jax.lax.scan(body, env.reset(keys[0], params)[0], (keys, actions))[1]


def theirs(name, keys, actions):
    """The same with gymnax's own functions and default parameters."""
    env, params = gymnax.make(name)

    def body(state, inputs):
        key, action = inputs
        observation, state, reward, done, _ = env.step_env(key, state, action, params)
        _, fresh = env.reset_env(key, params)
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, state)
        return state, (observation, reward, done)

    _, state = env.reset_env(keys[0], params)
    state = jax.tree.map(jnp.asarray, state)
    return jax.lax.scan(body, state, (keys, actions))[1]


@pytest.mark.parametrize(
    ("name", "scale", "steps"),
    [
        ("Pendulum-v1", 2.0, 1000),
        ("CartPole-v1", None, 1000),
        ("Reacher-misc", 1.0, 200),
        ("PointRobot-misc", 0.1, 200),
        ("MountainCarContinuous-v0", 1.0, 200),
    ],
)
def test_parity_with_gymnax_under_shared_actions_and_keys(name, scale, steps):
    action_key, step_key = jax.random.split(jax.random.key(1))
    keys = jax.random.split(step_key, steps)
    space = GymnaxEnvironment(name).action_space
    actions = random_action(action_key, space, (steps,))
    simulator_actions = actions if scale is None else actions * scale
    ours_, theirs_ = ours(name, keys, actions), theirs(name, keys, simulator_actions)
    assert bool(np.any(theirs_[2])) == (name == "CartPole-v1")
    for mine, reference in zip(ours_, theirs_, strict=True):
        # Their parameters are Python numbers, ours float32 arrays, so rounding may differ.
        np.testing.assert_allclose(mine, reference, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_reset_and_step_return_the_same_strong_types(name):
    env = GymnaxEnvironment(name)
    key = jax.random.key(0)
    params = env.sample_params(key)
    state, observation = env.reset(key, params)
    next_state, ts = env.step(key, state, random_action(key, env.action_space), params)
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, next_state)
    assert jax.typeof(observation) == jax.typeof(ts.observation)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((params, state, observation, ts)))
    assert observation.shape == env.observation_space.shape
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == (jnp.float32, bool, bool)


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


def test_an_unknown_name_suggests_near_matches():
    with pytest.raises(GlaError, match=r"did you mean .*Pendulum-v1"):
        GymnaxEnvironment("Pendulum-v0")
