"""Algorithms that own their loop."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import jax
import numpy as np
import pytest

from gla.agents import loops
from gla.agents.base import seeds_of
from gla.agents.loops import LoopAgent
from gla.benchmarks.runner import MetaTestConfig, meta_test
from gla.errors import GlaError

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
SEEN = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def wander(env, seed):
    """Draws from every generator that a loop may use."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset()
    while True:
        draws = (rng.normal(), random.gauss(0, 1), np.random.normal())  # noqa: NPY002
        action = 0.2 * sum(draws) + 0.3 * env.action_space.sample() + 0.1 * observation[:2]
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()


def feed(agent, keys, rewards, ends, space=BOX):
    """Show prescribed rewards f32[T, N] and ends bool[T, N]: actions [T, N, ...].

    The observation is filled with the number of the step, the lifetime's first reward beside it.
    """
    rows = len(keys)
    state = agent.init(keys, rows, SEEN, space)
    actions = []
    try:
        for t, (reward, end) in enumerate(zip(rewards, ends, strict=True)):
            observation = np.full((rows, 3), t, np.float32)
            observation[:, 2] = rewards[0]
            state, action = agent.act(state, observation, reward, end, np.zeros(rows, bool), keys)
            actions.append(action)
    finally:
        agent.close(state)
    return np.stack(actions)


def streams(steps, rows, every=3):
    ends = np.zeros((steps, rows), bool)
    ends[every::every] = True
    return np.random.default_rng(0).normal(size=(steps, rows)).astype("f4"), ends


@pytest.fixture(autouse=True)
def no_threads_left():
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def test_a_loop_learns_in_every_lifetime_of_a_meta_test():
    def try_and_keep(env, seed):
        """Keeps the better of two constant actions, each tried for one episode."""
        returns = {}
        while True:
            action = max(returns, key=returns.get) if len(returns) == 2 else float(len(returns))
            env.reset(seed=seed)
            total, end = 0.0, False
            while not end:
                _, reward, terminated, truncated, _ = env.step(np.array([action], np.float32))
                total, end = total + reward, terminated or truncated
            returns[action] = total

    config = MetaTestConfig(
        "gla/RandomLinear-v0", lifetimes=3, steps=200, masked_twin=False, nulls=False
    )
    agent = LoopAgent(lambda env, seed: try_and_keep(Doubled(env), seed), "better of two")
    (result,) = meta_test(agent, config, progress=False).agents
    assert result.name == "better of two"
    for lifetime in result.lifetimes:
        first, second, third, fourth = lifetime.episode_returns
        # Starts differ between episodes, the better of two actions by far more.
        better = max(first, second)
        assert abs(third - better) < abs(third - min(first, second))
        assert abs(fourth - better) < abs(fourth - min(first, second))


class Doubled(gymnasium.ActionWrapper):
    """One number that is repeated over the axes of the action."""

    def action(self, action):
        return np.repeat(action, self.env.action_space.shape[0])


def test_the_loop_sees_what_any_gymnasium_environment_shows():
    told = []

    def watch(env, seed):
        assert env.observation_space == SEEN and env.action_space == BOX
        told.append(env.reset(seed=seed)[0][0])
        for _ in range(2):
            observation, reward, terminated, truncated, info = env.step([0.0, 0.0])
            told.append((observation[0], reward, terminated, truncated, info))
        told.append(env.reset()[0][0])
        told.append(env.reset()[0][0])  # before the first step that changes nothing
        env.step(np.zeros(2))

    rewards = np.array([[0.0], [1.5], [-2.0]], np.float32)
    ends = np.array([[False], [False], [True]])
    agent = LoopAgent(watch, "watcher")
    feed(agent, keys_of(1), rewards, ends)
    assert told == [
        0.0,
        (1.0, 1.5, False, False, {}),
        # The real last observation is hidden: this is the one that the action was chosen on.
        (1.0, -2.0, True, False, {"final_observation": "unknown"}),
        2.0,
        2.0,
    ]


def test_lifetimes_repeat_whatever_their_company():
    agent, keys = LoopAgent(wander, "wanderer"), keys_of(4)
    rewards, ends = streams(8, 4)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    together = feed(agent, keys, rewards, ends)
    drawn = (random.random(), np.random.random())  # noqa: NPY002
    some = feed(agent, keys[np.array([3, 1])], rewards[:, [3, 1]], ends[:, [3, 1]])
    np.testing.assert_array_equal(some, together[:, [3, 1]])
    assert len({tuple(row) for row in together[0]}) == 4
    assert together.dtype == np.float32 and together.shape == (8, 4, 2)
    random.seed(1)  # what the loops draw is none of the caller's business
    np.random.seed(1)  # noqa: NPY002
    assert drawn == (random.random(), np.random.random())  # noqa: NPY002


def test_two_batches_at_a_time():
    agent, rewards = LoopAgent(wander, "wanderer"), np.zeros(2, np.float32)
    none = np.zeros(2, bool)
    alone = [feed(agent, keys_of(2, s), *streams(2, 2))[0] for s in (0, 1)]
    states = [agent.init(keys_of(2, s), 2, SEEN, BOX) for s in (0, 1)]
    observation = np.zeros((2, 3), np.float32)
    observation[:, 2] = streams(2, 2)[0][0]
    for state, expected in zip(states, alone, strict=True):
        _, action = agent.act(state, observation, rewards, none, none, None)
        np.testing.assert_array_equal(action, expected)
    for state in states:
        agent.close(state)
        agent.close(state)  # once is enough, twice does no harm


def test_batches_in_two_threads_do_not_disturb_each_other():
    agent, (rewards, ends) = LoopAgent(wander, "wanderer"), streams(40, 2)
    alone = [feed(agent, keys_of(2, s), rewards, ends) for s in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        at_once = pool.map(lambda s: feed(agent, keys_of(2, s), rewards, ends), (0, 1))
        for one, expected in zip(at_once, alone, strict=True):
            np.testing.assert_array_equal(one, expected)


def test_whole_numbers():
    def choose(env, seed):
        env.reset()
        while True:
            env.step(env.action_space.sample())

    zeros = np.zeros((5, 2))
    space = gymnasium.spaces.Discrete(4)
    actions = feed(LoopAgent(choose, "chooser"), keys_of(2), zeros, zeros.astype(bool), space)
    assert actions.shape == (5, 2) and np.issubdtype(actions.dtype, np.integer)
    assert len(set(actions.flat)) > 1 and actions.max() < 4


def raise_in_second(env, seed):
    env.reset()
    env.step([0.0, 0.0])
    if seed == seeds_of(keys_of(2))[1]:
        raise ValueError("the matrix\nis singular")
    while True:
        env.step([0.0, 0.0])


def reset_too_soon(env, seed):
    env.reset()
    env.step([0.0, 0.0])
    env.reset()


def no_reset(env, seed):
    env.step([0.0, 0.0])


def step_after_end(env, seed):
    env.reset()
    while True:
        env.step([0.0, 0.0])


def wrong_shape(env, seed):
    env.reset()
    env.step([0.0])


def not_a_number(env, seed):
    env.reset()
    env.step([0.0, np.nan])


@pytest.mark.parametrize(
    "run, message",
    [
        (
            raise_in_second,
            "agent 'x' failed after 1 step of lifetime 1: ValueError: the matrix is singular",
        ),
        (reset_too_soon, "after 1 step of lifetime 0: the algorithm reset .* in mid-episode"),
        (no_reset, "step without a reset, at step 0; expected a reset at the beginning"),
        (step_after_end, "step without a reset, at step 3"),
        (wrong_shape, r"an action that is of shape \(1,\); expected shape \(2,\)"),
        (not_a_number, "an action that is nan"),
        (lambda env, seed: env.reset(), "stopped learning after 0 steps of lifetime 0; expected"),
        (lambda env, seed: exit(3), "failed after 0 steps of lifetime 0: SystemExit: 3"),
    ],
)
def test_what_goes_wrong_in_a_loop_is_told_in_one_line(run, message):
    agent = LoopAgent(run, "x")
    keys = keys_of(2)
    state = agent.init(keys, 2, SEEN, BOX)
    rewards, ends = streams(6, 2)
    with pytest.raises(GlaError, match=message):
        for reward, end in zip(rewards, ends, strict=True):
            agent.act(state, np.zeros((2, 3)), reward, end, np.zeros(2, bool), keys)
    with pytest.raises(GlaError, match="are over"):
        agent.act(state, np.zeros((2, 3)), rewards[0], ends[0], ends[0], keys)


def test_the_cause_of_a_failure_is_kept():
    agent = LoopAgent(raise_in_second, "x")
    with pytest.raises(GlaError) as caught:
        feed(agent, keys_of(2), *streams(3, 2))
    assert isinstance(caught.value.__cause__, ValueError)


def test_loops_end_although_they_catch_exceptions():
    tidied = []

    def stubborn(env, seed):
        env.reset()
        try:
            while True:
                try:
                    env.step([0.0, 0.0])
                except Exception:
                    continue
        finally:
            tidied.append(seed)

    feed(LoopAgent(stubborn, "stubborn"), keys_of(2), *streams(2, 2))
    assert sorted(tidied) == sorted(seeds_of(keys_of(2)))


def test_a_loop_that_does_not_end_is_warned_of(monkeypatch):
    monkeypatch.setattr(loops, "CLOSE_PATIENCE", 0.05)
    let_go = threading.Event()

    def hold(env, seed):
        env.reset()
        try:
            env.step([0.0, 0.0])
        finally:
            let_go.wait(10)

    agent = LoopAgent(hold, "holder")
    state = agent.init(keys_of(1), 1, SEEN, BOX)
    agent.act(state, np.zeros((1, 3)), np.zeros(1), np.zeros(1, bool), np.zeros(1, bool), None)
    with pytest.warns(RuntimeWarning, match="'holder' still runs in lifetime 0"):
        agent.close(state)
    let_go.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(5)
