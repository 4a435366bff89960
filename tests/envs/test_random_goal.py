import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.random_goal import GoalState, RandomGoal, RandomGoalConfig
from gla.envs.telling import telling
from gla.errors import GlaError

KEY = jax.random.key(0)


def plain(env, **changes):
    """A task without lag, costs and turned observations, whose goal is shown."""
    d = env.config.dims
    params = env.sample_params(jax.random.key(3))._replace(
        crossing=jnp.float32(20.0), lag=jnp.float32(1e-3), motors=jnp.ones(d), turn=jnp.eye(d),
        width=jnp.float32(0.2), offset=jnp.zeros(d), seen=jnp.float32(1.0), goal=jnp.zeros(d),
        objective=jnp.array([1.0, 0.0, 0.0]), shift=jnp.float32(0.0), cost=jnp.float32(0.0),
    )  # fmt: skip
    return params._replace(**changes)


def at(*q, v=(0.0, 0.0), goal=(0.0, 0.0)):
    return GoalState(jnp.array(q), jnp.array(v), jnp.array(goal))


def test_tasks_and_trajectories_stay_what_they_were_and_can_be_drawn():
    env = RandomGoal()
    assert env.distinct_tasks == math.inf and env.can_render and not env.has_oracle
    params = jax.jit(env.sample_params)(jax.random.key(1))
    state, first = jax.jit(env.reset)(jax.random.key(2), params)
    before = env.render(state, params)
    step = jax.jit(env.step)
    for _ in range(5):
        state, ts = step(KEY, state, jnp.full(2, -2.0), params)
    # Stored histories rely on these.
    np.testing.assert_allclose(first, [0.28158, 0.8012, 0.18603, -0.69309, 0.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(
        ts.observation, [0.34904, 0.75167, 0.21268, -0.77243, 0.52011, -0.38188], atol=1e-4
    )
    np.testing.assert_allclose(ts.reward, -0.39675, atol=1e-4)
    after = env.render(state, params)
    assert before.shape == after.shape == (256, 256, 3) and after.dtype == np.uint8
    assert (before != after).any(-1).mean() > 0.001


def test_a_full_push_crosses_in_as_many_steps_as_are_told_and_walls_stop_it():
    env = RandomGoal()
    params = plain(env, motors=jnp.array([1.0, -0.5]))
    state, step = (
        at(-1.0, 1.0),
        jax.jit(lambda state: env.step(KEY, state, jnp.full(2, 7.0), params)),
    )
    for _ in range(20):
        state, _ = step(state)
    np.testing.assert_allclose(state.q, [1.0, 0.0], atol=1e-4)
    for _ in range(30):
        state, ts = step(state)
    np.testing.assert_allclose(state.q, [1.0, -1.0], atol=1e-5)
    np.testing.assert_allclose(state.v, 0.0, atol=1e-6)
    np.testing.assert_allclose(ts.observation[4:], 0.0, atol=1e-6)


def test_speed_follows_within_the_lag_and_dies_without_a_push():
    env = RandomGoal()
    params = plain(env, lag=jnp.float32(5.0))
    state, _ = env.step(KEY, at(0.0, 0.0, v=(0.05, 0.0)), jnp.array([0.0, 1.0]), params)
    kept = math.exp(-0.2)
    np.testing.assert_allclose(state.v, [0.05 * kept, 0.1 * (1.0 - kept)], rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "shift", "cost", "expected"),
    [
        (0, 0.0, 0.0, (1.0, 0.0)),
        (0, -1.0, 0.1, (-0.05, -1.05)),
        (1, 0.0, 0.0, (math.exp(-0.25), math.exp(-4.0))),
        (2, 0.0, 0.0, (-0.1 / math.sqrt(8.0), -0.4 / math.sqrt(8.0))),
    ],
)
def test_rewards_are_what_the_objective_says(objective, shift, cost, expected):
    env = RandomGoal()
    params = plain(
        env, objective=jax.nn.one_hot(objective, 3), shift=jnp.float32(shift),
        cost=jnp.float32(cost), crossing=jnp.float32(1e9),
    )  # fmt: skip
    action = jnp.array([1.0, 0.0])
    for away, reward in zip((0.1, 0.4), expected, strict=True):
        _, ts = env.step(KEY, at(0.3 + away, -0.5, goal=(0.3, -0.5)), action, params)
        np.testing.assert_allclose(ts.reward, reward, rtol=1e-4, atol=1e-6)


def test_a_goal_is_seen_and_new_in_every_episode_or_stays_and_is_not():
    shown, hidden = (RandomGoal(RandomGoalConfig(seen=p)) for p in (1.0, 0.0))
    for env, moves in ((shown, True), (hidden, False)):
        params = env.sample_params(jax.random.key(5))
        states = [env.reset(jax.random.key(i), params) for i in range(2)]
        same = np.allclose(states[0][0].goal, states[1][0].goal)
        assert same is not moves
        views = np.stack([observation[2:4] for _, observation in states])
        assert views.any() == moves
    # At the goal there is to be seen the task's own offset, wherever the goal is.
    params = shown.sample_params(jax.random.key(6))
    for i in range(3):
        state, _ = shown.reset(jax.random.key(i), params)
        state = state._replace(q=state.goal)
        _, ts = shown.step(KEY, state, jnp.zeros(2), params)
        np.testing.assert_allclose(ts.observation[2:4], params.offset, atol=1e-6)


def test_what_is_told_turns_the_view_and_the_motors_back():
    env = RandomGoal()
    params = plain(env, turn=jnp.array([[0.0, 1.0], [-1.0, 0.0]]), offset=jnp.array([0.3, 0.1]),
                   motors=jnp.array([-0.7, 0.6]))  # fmt: skip
    told = telling(env, params)
    _, ts = env.step(KEY, at(0.5, 0.1, goal=(0.2, 0.4)), jnp.zeros(2), params)
    view = (told.frame @ ts.observation)[2:4] - told.numbers[2:4]
    np.testing.assert_allclose(view, [0.3, -0.3], atol=1e-6)
    np.testing.assert_array_equal(told.signs, [-1.0, 1.0])


@pytest.mark.parametrize("dims", [1, 3])
def test_there_may_be_fewer_or_more_coordinates(dims):
    env = RandomGoal(RandomGoalConfig(dims=dims))
    params = env.sample_params(KEY)
    state, observation = env.reset(KEY, params)
    assert observation.shape == (3 * dims,) and env.action_space.shape == (dims,)
    assert env.render(state, params).shape == (256, 256, 3)
    assert telling(env, params).frame.shape == (3 * dims, 3 * dims)


def test_actions_may_be_free():
    env = RandomGoal(RandomGoalConfig(costly=0.0, cheap=0.0))
    params = env.sample_params(KEY)
    assert params.cost == 0.0
    assert np.isfinite(telling(env, params).numbers).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dims": 0}, "dims is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"crossing": (0.5, 9.0)}, "crossing"),
        ({"lag": (3.0, 1.0)}, "lag"),
        ({"width": (0.1, 3.0)}, "width"),
        ({"seen": 1.5}, "seen is 1.5"),
        ({"costly": -0.5}, "costly is -0.5"),
        ({"cost": (0.0, 1.0)}, "cost"),
        ({"cheap": -0.1}, "cheap is -0.1"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(GlaError, match=message):
        RandomGoalConfig(**wrong)
