"""The functional wrappers, on an environment small enough to know every number of."""

from typing import NamedTuple

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import projection as proj
from gla.envs import registry
from gla.envs.augmentations import (
    ActionDelay,
    ObservationNoise,
    Permutation,
    RewardMask,
    SignFlip,
    augment,
)
from gla.envs.base import Environment, timestep
from gla.envs.wrappers import (
    Autoreset,
    Normalized,
    Projected,
    TimeLimit,
    normalize_observation,
    normalize_reward,
    random_action,
    statistics_of,
)
from gla.errors import GlaError
from gla.normalization import expanded


class CountState(NamedTuple):
    start: jax.Array
    steps: jax.Array


class Counting(Environment):
    """Observes (start, steps, 100 + 5 * action); start is drawn at reset; ends at params steps."""

    name = "Counting"
    horizon = 4

    def __init__(self, ends_at=1000):
        self.ends_at = ends_at
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def sample_params(self, key):
        return jnp.int32(self.ends_at)

    def reset(self, key, params):
        state = CountState(jax.random.uniform(key), jnp.int32(0))
        return state, jnp.stack([state.start, 0.0, 100.0])

    def step(self, key, state, action, params):
        steps = state.steps + 1
        observation = jnp.stack([state.start, steps.astype(jnp.float32), 100.0 + 5.0 * action[0]])
        reward = jax.lax.convert_element_type(3.0 * action[1], jnp.float32)
        return CountState(state.start, steps), timestep(
            observation, reward, steps >= params, jnp.zeros((), bool)
        )


def roll(env, steps, seed=0, params=None):
    """Roll random actions; returns (first observation, timesteps, actions)."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = jax.jit(env.sample_params)(keys[0]) if params is None else params
    state, first = jax.jit(env.reset)(keys[1], params)

    def body(state, key):
        action_key, key = jax.random.split(key)
        action = random_action(action_key, env.action_space)
        state, ts = env.step(key, state, action, params)
        return state, (ts, action)

    _, (ts, actions) = jax.lax.scan(body, state, jax.random.split(keys[2], steps))
    return first, jax.tree.map(np.asarray, ts), actions


def test_the_time_limit_truncates_at_the_limit():
    _, ts, _ = roll(TimeLimit(Counting()), 4)
    assert ts.truncated.tolist() == [False, False, False, True]
    assert not ts.terminated.any()
    _, ts, _ = roll(TimeLimit(Counting(), 2), 2)
    assert ts.truncated.tolist() == [False, True]


def test_an_end_at_the_limit_is_a_termination_not_a_truncation():
    _, ts, _ = roll(TimeLimit(Counting(ends_at=4)), 4)
    assert ts.terminated.tolist() == [False, False, False, True]
    assert not ts.truncated.any()


@pytest.mark.parametrize("horizon", [0, -3])
def test_a_time_limit_below_one_is_refused(horizon):
    with pytest.raises(GlaError, match="at least 1"):
        TimeLimit(Counting(), horizon)


def test_a_time_limit_is_needed_where_there_is_none():
    env = Counting()
    env.horizon = None
    with pytest.raises(GlaError, match="Counting"):
        TimeLimit(env)


def test_autoreset_truly_resets_and_keeps_the_final_observation():
    first, ts, _ = roll(Autoreset(TimeLimit(Counting())), 12)
    starts, steps = ts.observation[:, 0], ts.observation[:, 1]
    assert steps.tolist() == [1, 2, 3, 0] * 3
    assert ts.final_observation[:, 1].tolist() == [1, 2, 3, 4] * 3
    # Each episode has a start of its own; the final observation still belongs to the old one.
    assert len({float(first[0]), *map(float, starts)}) == 4
    assert ts.final_observation[3, 0] == first[0]
    assert ts.final_observation[7, 0] == starts[3] != starts[7]


def count_traces(env):
    """Step an environment by feeding outputs back in; fails on a second trace."""
    chex.clear_trace_counter()
    key = jax.random.key(0)
    params = jax.jit(env.sample_params)(key)
    step = jax.jit(chex.assert_max_traces(env.step, n=1))
    state, _ = jax.jit(env.reset)(key, params)
    action = random_action(key, env.action_space)
    for _ in range(3):
        state, ts = step(key, state, action, params)
    return ts


# One id of every factory; those that simulate bodies in JAX take minutes and are tested elsewhere.
FACTORIES = {spec.factory: spec.id for spec in registry.TABLE.values() if spec.kind == "functional"}
FUNCTIONAL = [id for id in FACTORIES.values() if "Brax" not in id and "RandomAnt" not in id]


@pytest.mark.parametrize("id", FUNCTIONAL)
def test_steps_return_the_types_that_resets_do_so_that_callers_compile_once(id):
    env = Autoreset(TimeLimit(registry.make_functional(id)))
    key = jax.random.key(0)
    params = jax.eval_shape(env.sample_params, key)
    action = jax.eval_shape(lambda k: random_action(k, env.action_space), key)

    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    state, observation = jax.eval_shape(env.reset, key, params)
    next_state, ts = jax.eval_shape(env.step, key, state, action, params)
    assert types(next_state) == types(state)
    assert types(ts.observation) == types(observation) == types(ts.final_observation)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((next_state, ts)))


def test_the_whole_stack_of_wrappers_traces_once():
    count_traces(Autoreset(Projected(Normalized(TimeLimit(Counting()), window=8))))


def test_augmentations_trace_once():
    stack = (
        ActionDelay((1, 3), seed=None),
        Permutation(seed=None),
        SignFlip(),
        ObservationNoise(),
        RewardMask(),
    )
    ts = count_traces(Autoreset(augment(TimeLimit(Counting()), stack)))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(ts))


class Known(Counting):
    """Counting with an oracle and pictures that show what they are given."""

    distinct_tasks = 3.0
    can_render = has_oracle = True

    def render(self, state, params):
        return np.full((1, 1, 3), int(state.steps) + int(params), np.uint8)

    def solve(self, params):
        return params * 2

    def best_action(self, solution, state, params):
        return jnp.stack([solution, state.steps + params]).astype(jnp.float32)


def whole_stack(augmentations):
    inner = Normalized(TimeLimit(Known(ends_at=100)), window=4)
    return Autoreset(augment(inner, augmentations))


def test_pictures_and_oracles_pass_through_wrappers():
    env = whole_stack((SignFlip(actions=False), ObservationNoise()))
    assert env.can_render and env.has_oracle and env.distinct_tasks == 3.0

    @jax.jit
    def play(key):
        params = env.sample_params(key)
        state, _ = env.reset(key, params)
        state, _ = env.step(key, state, jnp.zeros(2), params)
        return state, params, env.best_action(env.solve(params), state, params)

    state, params, best = play(jax.random.key(0))
    assert env.render(state, params).tolist() == [[[101] * 3]]
    assert best.tolist() == [200.0, 101.0]


@pytest.mark.parametrize("augmentation", [SignFlip(), ActionDelay(), RewardMask(), Permutation()])
def test_an_oracle_stops_where_actions_or_rewards_change(augmentation):
    env = whole_stack((augmentation,))
    assert env.can_render and not env.has_oracle
    with pytest.raises(GlaError, match="Counting has no oracle"):
        env.solve(None)
    with pytest.raises(GlaError, match="Counting has no oracle"):
        env.best_action(None, None, None)


def test_an_environment_without_pictures_says_so_through_its_wrappers():
    env = Autoreset(TimeLimit(Counting()))
    assert not env.can_render and not env.has_oracle
    state, _ = env.reset(jax.random.key(0), jnp.int32(9))
    with pytest.raises(GlaError, match="Counting has no pictures"):
        env.render(state, jnp.int32(9))


def test_statistics_by_hand():
    s = statistics_of(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([2.0, -2.0]))
    np.testing.assert_allclose(s.observation_mean, [2.0, 5.0])
    np.testing.assert_allclose(s.observation_std, [1.0, 1e-3])
    assert float(s.reward_scale) == 2.0
    np.testing.assert_allclose(normalize_observation(s, jnp.array([4.0, 6.0])), [2.0, 10.0])
    assert float(normalize_reward(s, jnp.float32(-1.0))) == -0.5
    assert float(statistics_of(np.zeros((2, 1)), np.full(2, 7.0)).reward_scale) == 1.0


def test_a_logarithm_tells_large_numbers_apart():
    s = statistics_of(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([2.0, -2.0]))
    seen = jnp.array([[4.0, 6.0], [0.0, 105.0]])
    clipped = normalize_observation(s, seen)
    assert clipped[0, 1] == clipped[1, 1] == 10.0
    shown = normalize_observation(s, seen, True)
    np.testing.assert_allclose(
        shown, [[np.log(3.0), np.log(1001.0)], [-np.log(3.0), np.log(100001.0)]], rtol=1e-5
    )
    np.testing.assert_allclose(expanded(shown), [[2.0, 1000.0], [-2.0, 100000.0]], rtol=1e-4)
    assert float(normalize_reward(s, jnp.float32(-60.0), True)) == pytest.approx(-np.log(31.0))
    for flag in (True, False):  # also as an array, as agents' lenses have it
        np.testing.assert_array_equal(
            normalize_observation(s, seen, jnp.asarray(flag)), shown if flag else clipped
        )


def test_normalized_observations_are_about_standard_under_random_actions():
    env = Autoreset(Normalized(TimeLimit(Counting()), window=400))
    _, ts, _ = roll(env, 400, seed=3)
    np.testing.assert_allclose(ts.observation.mean(0), 0.0, atol=0.25)
    np.testing.assert_allclose(ts.observation.std(0), 1.0, atol=0.2)
    # Rewards are scaled only: 3 u with u uniform in [-1, 1] has a standard deviation of sqrt(3).
    np.testing.assert_allclose(np.abs(ts.reward).max(), np.sqrt(3.0), rtol=0.1)


def test_a_projected_environment_is_the_same_task_seen_through_its_maps():
    inner = Autoreset(TimeLimit(Counting()))
    env = Projected(inner, proj.ProjectionConfig(8, 5))
    params = jax.jit(env.sample_params)(jax.random.key(5))
    first, ts, actions = roll(env, 10, params=params)
    lowered = proj.lower_action(params.augmentation, actions)
    # Replay: the same keys, the lowered actions, the bare task.
    keys = jax.random.split(jax.random.key(0), 3)
    state, observation = inner.reset(keys[1], params.inner)
    step = jax.jit(inner.step)
    project = lambda o: proj.project_observation(params.augmentation, o)  # noqa: E731
    np.testing.assert_allclose(first, project(observation), rtol=1e-5, atol=1e-5)
    for t, key in enumerate(jax.random.split(keys[2], 10)):
        state, bare = step(jax.random.split(key)[1], state, lowered[t], params.inner)
        for seen, true in (
            (ts.observation, bare.observation),
            (ts.final_observation, bare.final_observation),
        ):
            np.testing.assert_allclose(seen[t], project(true), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ts.reward[t], bare.reward, rtol=1e-4, atol=1e-5)
        assert ts.truncated[t] == bare.truncated


def test_a_projection_seed_fixes_the_projection_and_not_the_task():
    config = proj.ProjectionConfig(8, 5)

    def maps(env):
        draw = jax.jit(lambda key: env.parameters(env.sample_params(key)).observation_map)
        return [draw(jax.random.key(i)) for i in range(2)]

    a, b = maps(Projected(Counting(), config, projection_seed=3))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, proj.sample(jax.random.key(3), config, 3, 2).observation_map)
    a, b = maps(Projected(Counting(), config))
    assert not np.allclose(a, b)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (proj.ProjectionConfig(2, 5), "Counting has observations of 3 .* observation_dim"),
        (proj.ProjectionConfig(8, 1), "Counting has actions of 2 .* action_dim"),
    ],
)
def test_a_task_larger_than_the_projection_is_refused(config, message):
    with pytest.raises(GlaError, match=message):
        Projected(Counting(), config)
