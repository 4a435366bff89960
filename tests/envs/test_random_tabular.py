"""Random tabular tasks: their tables, their steps, and the exact oracle."""

import hashlib
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.random_tabular import (
    RandomTabular,
    RandomTabularConfig,
    TabularEnvironment,
    TabularParams,
    TabularState,
    cumulative,
)
from gla.errors import GlaError

CONFIGS = {
    "default": RandomTabularConfig(),
    "deterministic": RandomTabularConfig(successors=1, reward_share=1.0),
    "goal": RandomTabularConfig(reward_share=0.0, starts=3, spread=0.05),
    "smallest": RandomTabularConfig(2, 1, 2, starts=2, reward_share=1e-9),
}
TASKS = 48


@pytest.fixture(scope="module")
def tables():
    """The params of 48 tasks of each configuration, as numpy arrays."""

    def draw(config):
        keys = jax.random.split(jax.random.key(1), TASKS)
        sample = jax.jit(jax.vmap(RandomTabular(config).sample_params))
        return jax.tree.map(np.asarray, sample(keys))

    return {name: draw(config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tables_are_those_of_a_markov_decision_process(tables, name):
    c, p = CONFIGS[name], tables[name]
    assert p.successors.shape == (TASKS, c.states, c.actions, c.successors)
    assert p.successors.min() >= 0 and p.successors.max() < c.states
    ordered = np.sort(p.successors, -1)
    assert (np.diff(ordered, axis=-1) > 0).all(), "successors of one step are different states"
    probabilities = np.diff(p.cumulative, prepend=0, axis=-1)
    assert (probabilities >= 0).all() and (p.cumulative[..., -1] == 1).all()
    assert (probabilities[..., 0] >= 1 / c.successors - 1e-5).all(), "the first is the likeliest"
    starts = np.diff(p.starts, prepend=0, axis=-1)
    np.testing.assert_allclose(np.sort(starts)[:, -c.starts :], 1 / c.starts, rtol=1e-5)
    np.testing.assert_allclose(starts.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_rewards_are_as_sparse_as_asked_for_and_bounded(tables, name):
    c, p = CONFIGS[name], tables[name]
    if name == "goal":
        assert (p.terminal.sum(-1) == 1).all()
        arrives = np.take_along_axis(p.terminal, p.successors.reshape(TASKS, -1), 1)
        expected = np.where(arrives, 1.0, -1 / c.horizon)
        np.testing.assert_allclose(p.rewards.reshape(TASKS, -1), expected, rtol=1e-6)
        starts = np.diff(p.starts, prepend=0, axis=-1) > 0
        assert not (starts & p.terminal).any()
    else:
        assert not p.terminal.any()
        pays = (p.rewards > 0).all(-1)
        assert (pays == (p.rewards > 0).any(-1)).all()
        paying = max(1, round(c.reward_share * c.states * c.actions))
        assert (pays.sum((1, 2)) == paying).all()
        assert (p.rewards.max((1, 2, 3)) == 1).all() and (p.rewards >= 0).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_state_is_reachable_through_likely_transitions(tables, name):
    """The transitive closure of the likeliest transitions alone, in plain numpy."""
    c, p = CONFIGS[name], tables[name]
    for task in range(TASKS):
        edges = np.zeros((c.states, c.states), bool)
        for state in range(c.states):
            if not p.terminal[task, state]:
                edges[state, p.successors[task, state, :, 0]] = True
        reached = edges | np.eye(c.states, dtype=bool)
        for _ in range(c.states.bit_length()):
            reached = (reached.astype(int) @ reached.astype(int)) > 0
        starts = np.diff(p.starts[task], prepend=0) > 0
        assert reached[starts].any(0).all()
        if name != "goal":
            assert reached.all(), "irreducible"


def test_numbers_of_states_tell_nothing(tables):
    """Start states, goals and the place of the cycle are spread over all indices."""
    p = tables["goal"]
    assert len(set(p.terminal.argmax(-1))) > 6
    assert len(set((np.diff(tables["default"].starts, prepend=0) > 0).argmax(-1))) > 6
    following = (p.successors[:, :, :, 0] - np.arange(10)[:, None]) % 10
    assert np.bincount(following.ravel(), minlength=10).min() > 0.05 * following.size


def test_steps_follow_the_tables(tables):
    p = jax.tree.map(lambda leaf: leaf[5], tables["default"])
    env, key, params = RandomTabular(), jax.random.key(3), jax.tree.map(jnp.asarray, p)
    state, action, n = TabularState(jnp.int32(4), jnp.int32(9)), jnp.int32(2), 4000

    @jax.jit
    def many(keys):
        first, _ = jax.vmap(env.reset, (0, None))(keys, params)
        return first, *jax.vmap(env.step, (0, None, None, None))(keys, state, action, params)

    first, after, ts = jax.tree.map(np.asarray, many(jax.random.split(key, n)))

    def compare(values, probabilities):
        counted = np.bincount(values, minlength=10) / n
        assert (np.abs(counted - probabilities) <= 4 * np.sqrt(probabilities / n)).all()

    compare(first.number, np.diff(p.starts, prepend=0))
    expected = np.zeros(10)
    expected[p.successors[4, 2]] = np.diff(p.cumulative[4, 2], prepend=0)
    compare(after.number, expected)
    assert (after.steps == 10).all() and (first.steps == 0).all()
    np.testing.assert_array_equal(ts.observation, np.eye(10)[after.number])
    np.testing.assert_array_equal(ts.reward, np.full(n, p.rewards[4, 2, 0]))
    assert not ts.terminated.any() and not ts.truncated.any()


def test_reward_noise_is_bounded_and_zero_in_the_mean(tables):
    noisy = RandomTabular(RandomTabularConfig(reward_noise=0.5))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), tables["default"])
    state, keys = (
        TabularState(jnp.int32(0), jnp.int32(0)),
        jax.random.split(jax.random.key(1), 3000),
    )
    step = jax.jit(jax.vmap(lambda key: noisy.step(key, state, jnp.int32(1), params)[1].reward))
    deviations = np.asarray(step(keys)) - float(params.rewards[0, 1, 0])
    assert np.abs(deviations).max() <= 0.5 and np.abs(deviations).max() > 0.49
    assert abs(deviations.mean()) < 4 * 0.5 / np.sqrt(3 * 3000)


def test_the_environment_traces_once_and_its_outputs_are_strongly_typed(tables):
    env, key = RandomTabular(CONFIGS["goal"]), jax.random.key(0)
    chex.clear_trace_counter()
    drawn = jax.eval_shape(env.sample_params, key)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), tables["goal"])
    step = jax.jit(chex.assert_max_traces(env.step, n=1))
    state, observation = jax.jit(env.reset)(key, params)
    for _ in range(2):
        state, ts = step(key, state, jnp.int32(0), params)
    for leaf in jax.tree.leaves((drawn, state, observation, ts)):
        assert not leaf.weak_type
    assert ts.observation.dtype == ts.reward.dtype == jnp.float32
    assert env.distinct_tasks == math.inf


class Written(TabularEnvironment):
    """A task written down in a test, of two states and two actions."""

    def __init__(self, horizon, params):
        super().__init__("Written", states=2, actions=2, horizon=horizon)
        self.params = params

    def sample_params(self, key):
        return self.params


def task(successors, rewards, starts, probabilities=None, terminal=()):
    """Write a task by hand; without probabilities it is deterministic."""
    successors = jnp.asarray(successors, jnp.int32)
    states = len(successors)
    if probabilities is None:
        successors = successors[..., None]
        probabilities = jnp.ones(successors.shape)
    rewards = jnp.broadcast_to(jnp.asarray(rewards, jnp.float32)[..., None], successors.shape)
    ends = jnp.zeros(states, bool).at[jnp.array(terminal, int)].set(True)
    return TabularParams(
        successors, cumulative(jnp.asarray(probabilities)), rewards, ends, cumulative(starts)
    )


def test_the_oracle_by_hand_depends_on_the_steps_that_are_left():
    """State 0: stay for 0.3, or move to 1 for 0; state 1: go back for 1, or stay for 0.4."""
    params = task([[0, 1], [0, 1]], [[0.3, 0.0], [1.0, 0.4]], jnp.array([0.5, 0.5]))
    env = Written(3, params)
    solution = jax.jit(env.solve)(params)
    # One step left: 0.3 and 1. Two: max(0.6, 1.0) and max(1.3, 1.4). Three: max(1.3, 1.4) and
    # max(2.0, 1.8).
    np.testing.assert_array_equal(solution.actions, [[1, 0], [1, 1], [0, 0]])
    np.testing.assert_allclose(solution.values, [1.4, 2.0], rtol=1e-6)
    np.testing.assert_allclose(solution.expected_return, 1.7, rtol=1e-6)
    for steps, best in ((0, 1), (2, 0), (3, 0), (100, 0)):
        state = TabularState(jnp.int32(0), jnp.int32(steps))
        assert int(env.best_action(solution, state, params)) == best


def test_the_oracle_by_hand_weighs_chances_and_stops_at_the_end():
    """A sure 0.5 that ends the episode, or a 0.25 that ends it with a chance of 1/4."""
    params = task(
        [[[1, 1], [0, 1]], [[0, 0], [0, 0]]],
        [[0.5, 0.25], [9.0, 9.0]],
        jnp.array([1.0, 0.0]),
        [[[1.0, 0.0], [0.75, 0.25]], [[1.0, 0.0], [1.0, 0.0]]],
        terminal=[1],
    )
    solution = jax.jit(Written(2, params).solve)(params)
    # Last step: 0.5. First: stop for 0.5, or 0.25 now and 3/4 of 0.5 later = 0.625; the 9 beyond
    # the end is never paid.
    np.testing.assert_array_equal(solution.actions[:, 0], [1, 0])
    np.testing.assert_allclose(solution.expected_return, 0.625, rtol=1e-6)


def test_the_best_policy_earns_what_the_oracle_says(tables):
    env, key = RandomTabular(), jax.random.key(11)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf[7]), tables["default"])
    solution = jax.jit(env.solve)(params)

    def episode(key):
        state, _ = env.reset(key, params)

        def body(state, key):
            state, ts = env.step(key, state, env.best_action(solution, state, params), params)
            return state, ts.reward

        return jnp.sum(jax.lax.scan(body, state, jax.random.split(key, env.horizon))[1])

    returns = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(key, 1000)))
    error = returns.std() / np.sqrt(1000)
    assert abs(returns.mean() - float(solution.expected_return)) < 4 * error
    assert error < 0.1 * returns.mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"states": 1}, "states is 1; expected .* at least 2"),
        ({"states": 2.5}, "states is 2.5"),
        ({"actions": 0}, "actions is 0"),
        ({"successors": 11}, "successors is 11 with 10 states"),
        ({"spread": 0.0}, "spread is 0.0; expected a finite number at least 0.01"),
        ({"spread": float("nan")}, "spread is nan"),
        ({"reward_share": 1.5}, "reward_share is 1.5; .* at least 0 and at most 1"),
        ({"reward_share": "half"}, "reward_share is 'half'"),
        ({"reward_noise": -0.1}, "reward_noise is -0.1"),
        ({"starts": 10, "reward_share": 0.0}, "starts is 10 .* at most 9"),
        ({"horizon": True}, "horizon is True"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(GlaError, match=message):
        RandomTabularConfig(**settings)


def test_rounding_gives_no_share_to_what_never_happens():
    p = jnp.concatenate([jnp.full(10, 0.1), jnp.zeros(3)])
    assert (np.asarray(cumulative(p))[9:] == 1).all()


def test_the_picture_shows_the_agent(tables):
    env = RandomTabular(CONFIGS["goal"])
    params = jax.tree.map(lambda leaf: leaf[0], tables["goal"])
    frames = [env.render(TabularState(np.int32(i), np.int32(0)), params) for i in range(2)]
    assert frames[0].shape == (256, 256, 3) and frames[0].dtype == np.uint8
    assert (frames[0] != frames[1]).any(-1).mean() > 0.01


# Traps, chains and step rewards


@pytest.fixture(scope="module")
def trapped():
    """48 searches for a goal on a chain with traps beside it."""
    config = RandomTabularConfig(
        states=14, successors=2, reward_share=0.0, traps=4, reach=2, step_reward=-0.25, horizon=30
    )
    keys = jax.random.split(jax.random.key(2), TASKS)
    tasks = jax.jit(jax.vmap(RandomTabular(config).sample_params))(keys)
    return config, jax.tree.map(np.asarray, tasks)


def test_traps_end_an_episode_and_pay_as_any_step(trapped):
    c, p = trapped
    assert (p.terminal.sum(-1) == c.traps + 1).all()
    for task in range(TASKS):
        paid = {float(x) for x in np.unique(p.rewards[task])}
        assert paid == {-0.25, 1.0}
        goal = set(p.successors[task][p.rewards[task] == 1.0].tolist())
        assert len(goal) == 1 and p.terminal[task, goal.pop()]


def test_a_goal_beyond_traps_can_be_reached_and_a_chain_is_long(trapped):
    """Breadth first through likeliest steps: the goal is there, and not nearer than it may be."""
    c, p = trapped
    for task in range(TASKS):
        goal = p.successors[task][p.rewards[task] == 1.0][0]
        frontier = set(np.flatnonzero(np.diff(p.starts[task], prepend=0) > 0).tolist())
        seen, steps = set(frontier), 0
        while goal not in frontier:
            following = {int(x) for s in frontier for x in p.successors[task, s, :, 0]}
            frontier = {s for s in following - seen if not p.terminal[task, s] or s == goal}
            seen |= frontier
            steps += 1
            assert frontier, "the goal is cut off"
        # Ten states on the cycle, the goal the last of them, at most two further with a step.
        assert steps >= 5


def test_pairs_that_pay_are_never_those_of_traps():
    config = RandomTabularConfig(states=6, traps=3, reward_share=0.5)
    p = RandomTabular(config).sample_params(jax.random.key(0))
    pays = np.asarray(p.rewards > 0).any(-1)
    assert pays.sum() == 12 and not pays[np.asarray(p.terminal)].any()
    full = RandomTabular(RandomTabularConfig(states=6, traps=3, reward_share=1.0))
    pays = np.asarray(full.sample_params(jax.random.key(0)).rewards > 0).any(-1)
    assert pays.sum() == 12, "all pairs but those of traps"


def test_uniform_actions_earn_what_is_computed(trapped):
    """Against the occupancy of states, pushed forward in numpy."""
    c, p = trapped
    env = RandomTabular(c)
    found = jax.jit(jax.vmap(env.uniform_return))(jax.tree.map(jnp.asarray, p))
    for task in range(0, TASKS, 12):
        share = np.diff(p.cumulative[task], prepend=0, axis=-1) / c.actions
        there, total = np.diff(p.starts[task], prepend=0).astype(float), 0.0
        for _ in range(c.horizon):
            flow = there[:, None, None] * share
            total += (flow * p.rewards[task]).sum()
            there = np.bincount(p.successors[task].ravel(), flow.ravel(), c.states)
            there[p.terminal[task]] = 0.0
        np.testing.assert_allclose(found[task], total, rtol=1e-4)


def test_with_the_defaults_tasks_are_what_they_always_were():
    """References and stored results are of these tasks."""
    default, goal = (
        RandomTabular(CONFIGS[name]).sample_params(jax.random.key(7))
        for name in ("default", "goal")
    )
    for table, digest in (
        (default.successors, "d1efe0fb4a42a046"),
        (goal.terminal, "13c6a7b85fcb0443"),
    ):
        assert hashlib.sha256(np.asarray(table).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"traps": -1}, "traps is -1"),
        ({"traps": 9}, "traps is 9 with 10 states"),
        ({"reach": 1}, "reach is 1 with 3 successors"),
        ({"reach": True}, "reach is True"),
        ({"step_reward": 0.5, "reward_share": 0.0}, "step_reward is 0.5"),
        ({"step_reward": 0.0}, "reward_share 0, a search for a goal"),
        ({"traps": 5, "starts": 6}, "5 states that are no traps"),
    ],
)
def test_traps_and_chains_that_cannot_be_are_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        RandomTabularConfig(**settings)
