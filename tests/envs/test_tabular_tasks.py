"""FrozenLake and CliffWalking against Gymnasium's own tables, Darkroom against its papers."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.random_tabular import TabularState
from gla.envs.tabular_tasks import CliffWalking, Darkroom, FrozenLake
from gla.envs.tasks import count_distinct_tasks
from gla.errors import GlaError

KEY = jax.random.key(0)


def merged(entries):
    """Add up the probabilities of equal outcomes: {(successor, reward, ends): probability}."""
    found = {}
    for probability, *outcome in entries:
        if probability > 0:
            key = (int(outcome[0]), float(outcome[1]), bool(outcome[2]))
            found[key] = found.get(key, 0.0) + float(probability)
    return found


def peers():
    for name in ("4x4", "8x8"):
        for slippery in (True, False):
            peer = gymnasium.make("FrozenLake-v1", map_name=name, is_slippery=slippery)
            yield pytest.param(FrozenLake(name, slippery), peer, id=f"lake-{name}-{slippery}")
    yield pytest.param(CliffWalking(), gymnasium.make("CliffWalking-v1"), id="cliff")


@pytest.mark.parametrize(("env", "peer"), list(peers()))
def test_the_tables_are_those_of_gymnasium(env, peer):
    params = jax.jit(env.sample_params)(KEY)
    p, theirs = jax.tree.map(np.asarray, params), peer.unwrapped
    assert env.states == theirs.observation_space.n
    assert env.action_space == theirs.action_space
    probabilities = np.diff(p.cumulative, prepend=0, axis=-1)
    for state in range(env.states):
        for action in range(4):
            successors = p.successors[state, action]
            ours = merged(
                zip(
                    probabilities[state, action],
                    successors,
                    p.rewards[state, action],
                    p.terminal[successors],
                    strict=True,
                )
            )
            expected = merged(theirs.P[state][action])
            assert ours == pytest.approx(expected, abs=1e-6), (state, action)
    np.testing.assert_array_equal(np.diff(p.starts, prepend=0), theirs.initial_state_distrib)
    assert env.distinct_tasks == 1
    if peer.spec.max_episode_steps:
        horizons = {16: 100, 64: 200}
        assert env.horizon == horizons[env.states]


def best_return(table, states, start, horizon):
    """Backward induction over Gymnasium's own table, in double precision and plain loops."""
    values = np.zeros(states)
    for _ in range(horizon):
        values = np.array(
            [
                max(
                    sum(p * (r + (0.0 if ends else values[s])) for p, s, r, ends in table[state][a])
                    for a in range(4)
                )
                for state in range(states)
            ]
        )
    return values[start]


def test_the_best_policies_are_those_that_are_known():
    lake = gymnasium.make("FrozenLake-v1").unwrapped
    known = best_return(lake.P, 16, 0, 100)
    env = FrozenLake()
    solved = float(jax.jit(lambda: env.solve(env.sample_params(KEY)))().expected_return)
    assert solved == pytest.approx(known, abs=1e-5) == pytest.approx(0.74, abs=0.005)
    dry = FrozenLake(slippery=False)
    solution = jax.jit(lambda: dry.solve(dry.sample_params(KEY)))()
    assert float(solution.expected_return) == 1.0
    cliff = CliffWalking()
    solution = jax.jit(lambda: cliff.solve(cliff.sample_params(KEY)))()
    assert float(solution.expected_return) == -13.0


def test_the_best_policy_of_the_lake_succeeds_as_often_as_it_should():
    env = FrozenLake()
    params = jax.jit(env.sample_params)(KEY)
    solution = jax.jit(env.solve)(params)

    def episode(key):
        state, _ = env.reset(key, params)

        def body(carry, key):
            state, over = carry
            state, ts = env.step(key, state, env.best_action(solution, state, params), params)
            return (state, over | ts.terminated), jnp.where(over, 0.0, ts.reward)

        carry = (state, jnp.zeros((), bool))
        return jnp.sum(jax.lax.scan(body, carry, jax.random.split(key, 100))[1])

    successes = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(KEY, 2000)))
    assert set(successes) <= {0.0, 1.0}
    assert abs(successes.mean() - 0.744) < 4 * np.sqrt(0.744 * 0.256 / 2000)


def walk(env, params, actions):
    """Return the (observation, reward, terminated) of each step of an episode."""
    state, first = jax.jit(env.reset)(KEY, params)
    step = jax.jit(env.step)
    seen = [(np.asarray(first).tolist(), None, None)]
    for action in actions:
        state, ts = step(KEY, state, jnp.int32(action), params)
        seen.append((np.asarray(ts.observation).tolist(), float(ts.reward), bool(ts.terminated)))
    return seen


def test_falling_off_the_cliff_leads_back_to_the_start():
    env = CliffWalking()
    params = jax.jit(env.sample_params)(KEY)
    one_hot = np.eye(48)
    first, *steps = walk(env, params, [1, 0, *[1] * 11, 2])
    assert first[0] == one_hot[36].tolist()
    assert steps[0] == (one_hot[36].tolist(), -100.0, False)
    assert [reward for _, reward, _ in steps[1:]] == [-1.0] * 13
    assert [ends for *_, ends in steps] == [False] * 13 + [True]


def test_the_dark_room_is_that_of_its_paper():
    env = Darkroom(goal=(1, 0))
    params = jax.jit(env.sample_params)(KEY)
    assert env.horizon == 100 and env.action_space.n == 5
    seen = walk(env, params, [0, 4, 1, 1, 2, 3, 0, 2, 0])
    assert seen == [
        ([0.0, 0.0], None, None),
        ([1.0, 0.0], 1.0, False),
        ([1.0, 0.0], 1.0, False),
        ([0.0, 0.0], 0.0, False),
        ([0.0, 0.0], 0.0, False),
        ([0.0, 1.0], 0.0, False),
        ([0.0, 0.0], 0.0, False),
        ([1.0, 0.0], 1.0, False),
        ([1.0, 1.0], 0.0, False),
        ([2.0, 1.0], 0.0, False),
    ]


def test_the_dark_room_has_a_task_for_each_cell_and_the_best_return_by_hand():
    env = Darkroom()
    keys = jax.random.split(jax.random.key(2), 1500)
    assert env.distinct_tasks == count_distinct_tasks(env, keys) == 100

    @jax.jit
    @jax.vmap
    def solve(key):
        params = env.sample_params(key)
        goal = jnp.argmax((params.rewards[..., 4, 0] == 1.0).astype(jnp.int32))
        return goal, env.solve(params).expected_return

    goals, returns = map(np.asarray, solve(keys[:128]))
    distance = goals // 10 + goals % 10
    np.testing.assert_array_equal(returns, np.minimum(101 - distance, 100))


def test_the_dark_rooms_of_algorithm_distillation():
    env = Darkroom(9, 20, goal=(4, 6), start="center", goal_ends=True, observation="one-hot")
    params = jax.jit(env.sample_params)(KEY)
    seen = walk(env, params, [2, 2])
    assert [np.argmax(observation) for observation, *_ in seen] == [40, 41, 42]
    assert seen[-1][1:] == (1.0, True) and env.distinct_tasks == 1
    assert Darkroom(9, 20, start="center", goal_ends=True).distinct_tasks == 80


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrozenLake("4x5"), "map_name is '4x5' .did you mean 4x4"),
        (lambda: FrozenLake(horizon=0), "horizon is 0"),
        (lambda: CliffWalking(horizon=-1), "horizon is -1"),
        (lambda: Darkroom(size=1), "size is 1"),
        (lambda: Darkroom(size="big", start="center"), "size is 'big'"),
        (lambda: Darkroom(goal=(10, 0)), r"goal is \(10, 0\)"),
        (lambda: Darkroom(start="middle"), "start is 'middle'"),
        (lambda: Darkroom(observation="pixels"), "observation is 'pixels'"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(GlaError, match=message):
        make()


@pytest.mark.parametrize("env", [FrozenLake("8x8"), CliffWalking(), Darkroom()])
def test_pictures_show_where_the_agent_is(env):
    params = jax.jit(env.sample_params)(KEY)
    frames = [env.render(TabularState(np.int32(i), np.int32(0)), params) for i in (0, 1)]
    assert frames[0].shape == (256, 256, 3) and frames[0].dtype == np.uint8
    assert (frames[0] != frames[1]).any()
