"""Grid worlds: moves, goals, starts, number of tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.gridworld import Gridworld, GridworldConfig, grid_successors
from gla.envs.random_tabular import TabularState
from gla.errors import GlaError

KEY = jax.random.key(0)
Config = GridworldConfig


def test_moves_stop_at_the_walls():
    # 2 rows of 3 cells: 0 1 2 / 3 4 5; up, right, down, left, stay.
    moves = Gridworld.moves
    expected = [
        [0, 1, 3, 0, 0],
        [1, 2, 4, 0, 1],
        [2, 2, 5, 1, 2],
        [0, 4, 3, 3, 3],
        [1, 5, 4, 3, 4],
        [2, 5, 5, 4, 5],
    ]
    np.testing.assert_array_equal(grid_successors(2, 3, moves), expected)


def test_the_grid_of_the_paper_by_hand():
    env = Gridworld(Config(goal=(2, 2)))
    assert env.observation_space.shape == (9,) and env.action_space.n == 4 and env.horizon == 20
    params = jax.jit(env.sample_params)(KEY)
    state, observation = jax.jit(env.reset)(KEY, params)
    step = jax.jit(env.step)
    cells, rewards, ends = [int(observation.argmax())], [], []
    for action in (3, 1, 2, 1, 2):
        state, ts = step(KEY, state, jnp.int32(action), params)
        cells.append(int(ts.observation.argmax()))
        rewards.append(round(float(ts.reward), 6))
        ends.append(bool(ts.terminated))
    assert cells == [0, 0, 1, 4, 5, 8]
    assert rewards == [-0.05, -0.05, -0.05, -0.05, 1.0]
    assert ends == [False] * 4 + [True]
    assert float(jax.jit(env.solve)(params).expected_return) == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        (Config(), 8),
        (Config(goal=(0, 1)), 1),
        (Config(start="random"), 9),
        (Config(size=4, goal_ends=False, stay=True, observation="coordinates"), 16),
    ],
)
def test_the_number_of_tasks_is_exact_and_the_oracle_best(config, tasks):
    env = Gridworld(config)
    keys = jax.random.split(jax.random.key(4), 256)

    @jax.jit
    @jax.vmap
    def reach(key):
        params = env.sample_params(key)
        state, observation = env.reset(key, params)
        solution = env.solve(params)
        first = state

        def body(state, _):
            action = env.best_action(solution, state, params)
            state, ts = env.step(key, state, action, params)
            return state, (state.number, ts.reward, ts.terminated)

        _, (cells, rewards, ends) = jax.lax.scan(body, state, None, 2 * config.size)
        return first.number, observation, cells, rewards, ends

    first, observations, cells, rewards, ends = map(np.asarray, reach(keys))
    if config.start == "random":
        assert len(set(first)) == config.size**2
    else:
        assert set(first) == {0}
    arrival = (rewards == 1.0).argmax(1)
    assert (rewards == 1.0).any(1).all()
    goals = cells[np.arange(256), arrival]
    assert env.distinct_tasks == tasks == len(set(goals))
    n = config.size
    distance = np.abs(goals // n - first // n) + np.abs(goals % n - first % n)
    # An episode that begins on the goal takes one step to be paid for being there.
    np.testing.assert_array_equal(arrival + 1, np.maximum(distance, 1))
    if config.goal_ends:
        assert (distance > 0).all()
        assert ends[np.arange(256), arrival].all()
    assert not ends.any() or config.goal_ends
    assert env.observation_space.contains(observations[0])
    if config.observation == "coordinates":
        np.testing.assert_array_equal(observations, np.stack([first // n, first % n], 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 1}, "size is 1; expected a whole number of at least 2"),
        ({"size": 0}, "size is 0"),
        ({"goal": (3, 0)}, r"goal is \(3, 0\); expected 'random' or .* from 0 to 2"),
        ({"goal": (1, 1, 1)}, r"goal is \(1, 1, 1\)"),
        ({"goal": "anywhere"}, "goal is 'anywhere'"),
        ({"start": (-1, 0)}, r"start is \(-1, 0\)"),
        ({"goal": (0, 0)}, r"goal and start are both \(0, 0\)"),
        ({"step_reward": 0.1}, "step_reward is 0.1; expected a finite number at most 0"),
        ({"observation": "onehot"}, "observation is 'onehot' .did you mean one-hot"),
        ({"horizon": None}, "horizon is None"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(GlaError, match=message):
        Config(**settings)


def test_the_picture_shows_the_agent_the_goal_and_the_start():
    env = Gridworld(Config(goal=(2, 2)))
    params = jax.jit(env.sample_params)(KEY)
    at = lambda i: env.render(TabularState(np.int32(i), np.int32(0)), params)  # noqa: E731
    assert at(0).shape == (256, 256, 3) and at(0).dtype == np.uint8
    assert (at(0) != at(4)).any()
    other = Gridworld(Config(goal=(0, 2)))
    moved = other.render(TabularState(np.int32(0), np.int32(0)), jax.jit(other.sample_params)(KEY))
    assert (at(0) != moved).any()
